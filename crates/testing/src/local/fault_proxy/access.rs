//! The permissions that a request needs from IAM: actions on resources.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use serde_json::Value;

/// An action on a resource, as a policy would name them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// Such as `dynamodb:PutItem`.
    pub action: String,
    /// The part of its ARN after the account, such as `table/orders/index/by-user`; of a queue, its name.
    pub resource: String,
}

/// The permissions of a request (Service Authorization Reference).
///
/// A transaction needs those of each of its parts, and a batch on a queue those of a single request.
pub(super) fn asked(service: &str, operation: &str, body: &[u8]) -> BTreeSet<Access> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let (service, resources) = match service.split('_').next().unwrap_or_default() {
        "DynamoDB" if operation == "TransactWriteItems" => return transacted(&body),
        "DynamoDB" => ("dynamodb", tables(&body)),
        "DynamoDBStreams" => ("dynamodb", vec![stream(&body)]),
        "AmazonSQS" => ("sqs", vec![queue(&body)]),
        "AWSEvents" => ("events", buses(&body)),
        other => (other, vec![String::new()]),
    };
    let operation = if service == "sqs" { operation.trim_end_matches("Batch") } else { operation };
    let action = format!("{service}:{operation}");
    resources.into_iter().map(|resource| Access { action: action.clone(), resource }).collect()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn tables(body: &Value) -> Vec<String> {
    if let Some(requests) = body["RequestItems"].as_object() {
        return requests.keys().map(|table| format!("table/{table}")).collect();
    }
    let table = format!("table/{}", text(body, "TableName"));
    vec![match body["IndexName"].as_str() {
        Some(index) => format!("{table}/index/{index}"),
        None => table,
    }]
}

fn transacted(body: &Value) -> BTreeSet<Access> {
    let parts = body["TransactItems"].as_array().into_iter().flatten().filter_map(Value::as_object).flatten();
    let access = |(kind, part): (&String, &Value)| {
        let action = format!("dynamodb:{kind}Item");
        Access { action, resource: format!("table/{}", text(part, "TableName")) }
    };
    parts.map(access).collect()
}

/// The stream of a request. An iterator is opaque to clients, but not to IAM: AWS's begins with the stream's ARN, and the
/// emulator's is JSON in base64 with it.
fn stream(body: &Value) -> String {
    let iterator = text(body, "ShardIterator");
    let within = URL_SAFE.decode(iterator).ok().and_then(|json| serde_json::from_slice::<Value>(&json).ok());
    let within = within.unwrap_or_default();
    let arn =
        body["StreamArn"].as_str().or_else(|| within["arn"].as_str()).or_else(|| iterator.split('|').next());
    arn.and_then(|arn| arn.splitn(6, ':').nth(5)).unwrap_or_default().to_owned()
}

fn queue(body: &Value) -> String {
    let name = body["QueueName"].as_str().or_else(|| text(body, "QueueUrl").rsplit('/').next());
    name.unwrap_or_default().to_owned()
}

fn buses(body: &Value) -> Vec<String> {
    let entries = body["Entries"].as_array().into_iter().flatten();
    entries.map(|entry| format!("event-bus/{}", text(entry, "EventBusName"))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(service: &str, operation: &str, body: Value) -> Vec<String> {
        let asked = asked(service, operation, body.to_string().as_bytes());
        asked.into_iter().map(|access| format!("{} {}", access.action, access.resource)).collect()
    }

    #[test]
    fn a_request_asks_for_what_a_policy_names() {
        let dynamodb = "DynamoDB_20120810";
        assert_eq!(of(dynamodb, "PutItem", json!({"TableName": "t"})), ["dynamodb:PutItem table/t"]);
        let query = json!({"TableName": "t", "IndexName": "i"});
        assert_eq!(of(dynamodb, "Query", query), ["dynamodb:Query table/t/index/i"]);
        let batch = json!({"RequestItems": {"a": {}, "b": {}}});
        assert_eq!(
            of(dynamodb, "BatchGetItem", batch),
            ["dynamodb:BatchGetItem table/a", "dynamodb:BatchGetItem table/b"]
        );
        let parts = json!({"TransactItems": [
            {"Put": {"TableName": "a"}}, {"Delete": {"TableName": "b"}}, {"ConditionCheck": {"TableName": "c"}},
        ]});
        assert_eq!(
            of(dynamodb, "TransactWriteItems", parts),
            [
                "dynamodb:ConditionCheckItem table/c",
                "dynamodb:DeleteItem table/b",
                "dynamodb:PutItem table/a"
            ]
        );
        let arn = "arn:aws:dynamodb:us-east-1:1:table/t/stream/2026-01-01T00:00:00.000";
        let expected = "table/t/stream/2026-01-01T00:00:00.000";
        assert_eq!(
            of("DynamoDBStreams_20120810", "DescribeStream", json!({ "StreamArn": arn })),
            [format!("dynamodb:DescribeStream {expected}")]
        );
        let within = URL_SAFE.encode(json!({ "arn": arn }).to_string());
        for iterator in [format!("{arn}|1|AAAA"), within] {
            assert_eq!(
                of("DynamoDBStreams_20120810", "GetRecords", json!({ "ShardIterator": iterator })),
                [format!("dynamodb:GetRecords {expected}")]
            );
        }
        let url = json!({"QueueUrl": "http://localhost/1/q", "Entries": []});
        assert_eq!(of("AmazonSQS", "DeleteMessageBatch", url), ["sqs:DeleteMessage q"]);
        assert_eq!(of("AmazonSQS", "GetQueueUrl", json!({"QueueName": "q"})), ["sqs:GetQueueUrl q"]);
        let entries = json!({"Entries": [{"EventBusName": "b"}, {"EventBusName": "b"}]});
        assert_eq!(of("AWSEvents", "PutEvents", entries), ["events:PutEvents event-bus/b"]);
    }
}
