//! The alarm of a stopped relay, the rule for items that it cannot decode, and the queue of events without a consumer.
//!
//! CloudWatch has no age of a stream that Lambda does not read. The relay itself reports it (`relay_behind_seconds`);
//! CloudWatch can see that events are stored and that no queue receives one.

use crate::{
    Stack,
    alarms::{MAX_METRICS, MathAlarm, all_of, dimension, metric},
    names,
    parameters::value,
    queues,
    template::{Draft, PREFIX, resource},
    yaml::{Yaml, arn_of, list, map, number, sub, text, texts},
};

const DESCRIPTION: &str = "Events are stored, but none arrives in a queue.";

/// Seconds over which both are summed.
const PERIOD: u32 = 300;

/// The alarm over the queues of all consumers and that of events without a consumer, with logical names; nothing where
/// there are no queues.
///
/// An alarm combines ten metrics at most. Where there are more queues, each of several alarms watches a part of them,
/// and one that combines them is raised when no part receives anything.
pub(crate) fn stopped(stack: &Stack) -> Vec<(String, Yaml)> {
    let unconsumed = (!stack.unconsumed().is_empty()).then(|| names::unconsumed(PREFIX));
    let queues: Vec<String> = stack.consumers().map(|consumer| consumer.queue).chain(unconsumed).collect();
    let name = format!("{PREFIX}-relay-stopped");
    // One metric is that of the event store.
    let parts: Vec<&[String]> = queues.chunks(MAX_METRICS - 1).collect();
    match parts[..] {
        [] => Vec::new(),
        [queues] => vec![("RelayStoppedAlarm".to_owned(), silent(name, queues, true))],
        [..] => combined(name, &parts),
    }
}

/// An alarm for each part of the queues, and the one that combines them.
fn combined(name: String, parts: &[&[String]]) -> Vec<(String, Yaml)> {
    let (logical, parts): (Vec<String>, Vec<Yaml>) = parts
        .iter()
        .zip(1..)
        .map(|(queues, part)| {
            let alarm = silent(format!("{name}-part-{part}"), queues, false);
            (format!("RelayStoppedPart{part}Alarm"), alarm)
        })
        .unzip();
    let all = ("RelayStoppedAlarm".to_owned(), all_of(name, DESCRIPTION, &logical));
    logical.into_iter().zip(parts).chain([all]).collect()
}

/// The rule that brings to the undelivered events what the relay hands on undecoded, be its aggregate known or not. So
/// the alarm of that queue tells of it.
pub(crate) fn undecodable() -> Yaml {
    let pattern = map([
        ("source", list([value("EventSource")])),
        ("detail-type", texts([millrace_core::names::UNDECODABLE])),
    ]);
    let target = map([("Id", text("queue")), ("Arn", arn_of("UndeliveredQueue"))]);
    resource(
        "AWS::Events::Rule",
        [
            ("Name", sub(names::undecodable_rule(PREFIX))),
            ("Description", text("Items of the event store that no relay could decode.")),
            ("EventBusName", sub(names::bus(PREFIX))),
            ("EventPattern", pattern),
            ("State", text("ENABLED")),
            ("Targets", list([target])),
        ],
    )
}

/// Where no projection takes the events of some aggregates, a rule brings these to a queue that nobody reads. Its number
/// of messages is what the alarm of a stopped relay needs: otherwise a quarter of an hour in which only these aggregates
/// changed would raise it.
pub(crate) fn count_unconsumed(stack: &Stack, draft: &mut Draft) {
    let sources = stack.unconsumed();
    if sources.is_empty() {
        return;
    }
    let pattern =
        map([("source", list([value("EventSource")])), ("detail", map([("AggregateType", texts(sources))]))]);
    let name = names::unconsumed(PREFIX);
    // A retry counts no better, and an event that is not counted is no lost one.
    let retry = map([("MaximumRetryAttempts", number(0))]);
    let target = map([("Id", text("queue")), ("Arn", arn_of("UnconsumedQueue")), ("RetryPolicy", retry)]);
    let rule = resource(
        "AWS::Events::Rule",
        [
            ("Name", sub(&name)),
            ("Description", text("Events that no projection takes, to be counted.")),
            ("EventBusName", sub(names::bus(PREFIX))),
            ("EventPattern", pattern),
            ("State", text("ENABLED")),
            ("Targets", list([target])),
        ],
    );
    let only_the_rule = map([("ArnEquals", map([("aws:SourceArn", arn_of("UnconsumedRule"))]))]);
    draft.resource("UnconsumedQueue", queues::counted(&name));
    draft.resource("UnconsumedRule", rule);
    draft.resource(
        "UnconsumedQueuePolicy",
        queues::policy_for_rules("UnconsumedQueue", "OnlyTheRuleSends", only_the_rule),
    );
}

/// An alarm that is raised while events are stored and none of some queues receives one.
fn silent(name: String, queues: &[String], notifies: bool) -> Yaml {
    let sent = (0..queues.len()).map(|place| format!("FILL(sent{place}, 0)"));
    let sum = sent.collect::<Vec<_>>().join(" + ");
    let stored = metric(
        "stored",
        ("AWS/DynamoDB", "ConsumedWriteCapacityUnits"),
        PERIOD,
        [dimension("TableName", sub(names::events(PREFIX)))],
    );
    let sent = queues.iter().enumerate().map(|(place, queue)| {
        let of_queue = [dimension("QueueName", sub(queue))];
        metric(&format!("sent{place}"), ("AWS/SQS", "NumberOfMessagesSent"), PERIOD, of_queue)
    });
    let alarm = MathAlarm {
        name,
        description: DESCRIPTION,
        expression: format!("IF((FILL(stored, 0) > 0) AND (({sum}) == 0), 1, 0)"),
        metrics: [stored].into_iter().chain(sent).collect(),
        periods: 3,
        notifies,
    };
    alarm.resource()
}
