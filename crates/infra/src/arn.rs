//! ARNs of resources by their names, as texts for `Fn::Sub`.

/// A table of DynamoDB.
pub(crate) fn table(name: &str) -> String {
    of("dynamodb", &format!("table/{name}"))
}

/// An index of a table.
pub(crate) fn index(table: &str, index: &str) -> String {
    of("dynamodb", &format!("table/{table}/index/{index}"))
}

/// The streams of a table: each activation makes one with an ARN of its own.
pub(crate) fn streams(table: &str) -> String {
    of("dynamodb", &format!("table/{table}/stream/*"))
}

/// A queue of SQS.
pub(crate) fn queue(name: &str) -> String {
    of("sqs", name)
}

/// An event bus.
pub(crate) fn event_bus(name: &str) -> String {
    of("events", &format!("event-bus/{name}"))
}

/// The rules of an event bus.
pub(crate) fn rules(bus: &str) -> String {
    of("events", &format!("rule/{bus}/*"))
}

fn of(service: &str, resource: &str) -> String {
    format!("arn:${{AWS::Partition}}:{service}:${{AWS::Region}}:${{AWS::AccountId}}:{resource}")
}
