//! Queues of SQS and their policies.

use crate::{
    template::resource,
    yaml::{Yaml, arn_of, flag, list, map, number, reference, sub, text},
};

/// As long as SQS allows, 14 days. A message keeps its age when it becomes a dead letter, so both kinds of queue keep
/// messages that long.
const RETENTION_SECONDS: u32 = 1_209_600;

/// The least that SQS allows.
const SHORTEST_RETENTION_SECONDS: u32 = 60;

/// A queue that services consume. Messages that are received too often move to `dead_letters`.
pub(crate) fn consumed(name: &str, dead_letters: &str) -> Yaml {
    let redrive = map([
        ("deadLetterTargetArn", arn_of(dead_letters)),
        ("maxReceiveCount", reference("MaxReceiveCount")),
    ]);
    queue(
        name,
        RETENTION_SECONDS,
        [
            ("ReceiveMessageWaitTimeSeconds", number(20)),
            ("VisibilityTimeout", reference("QueueVisibilitySeconds")),
            ("RedrivePolicy", redrive),
        ],
    )
}

/// A queue where messages wait for an operator.
pub(crate) fn letters(name: &str) -> Yaml {
    queue(name, RETENTION_SECONDS, [])
}

/// A queue whose messages are only counted.
pub(crate) fn counted(name: &str) -> Yaml {
    queue(name, SHORTEST_RETENTION_SECONDS, [])
}

/// Deleting the queue deletes its messages: the event store has the events.
fn queue<const N: usize>(name: &str, retention_seconds: u32, others: [(&str, Yaml); N]) -> Yaml {
    let properties = [
        ("QueueName", sub(name)),
        ("SqsManagedSseEnabled", flag(true)),
        ("MessageRetentionPeriod", number(retention_seconds)),
    ];
    map([
        ("Type", text("AWS::SQS::Queue")),
        ("DeletionPolicy", text("Delete")),
        ("UpdateReplacePolicy", text("Delete")),
        ("Properties", map(properties.into_iter().chain(others))),
    ])
}

/// The policy of a queue to which EventBridge sends, from `rules` (a condition on their ARN) and nowhere else.
pub(crate) fn policy_for_rules(queue: &str, sid: &str, rules: Yaml) -> Yaml {
    let send = map([
        ("Sid", text(sid)),
        ("Effect", text("Allow")),
        ("Principal", map([("Service", text("events.amazonaws.com"))])),
        ("Action", text("sqs:SendMessage")),
        ("Resource", arn_of(queue)),
        ("Condition", rules),
    ]);
    policy(queue, [send, only_over_tls(queue)])
}

/// The policy of dead letters. The redrive policies of SQS and the policies of IAM decide which senders are allowed.
pub(crate) fn policy_for_letters(queue: &str) -> Yaml {
    policy(queue, [only_over_tls(queue)])
}

fn policy(queue: &str, statements: impl IntoIterator<Item = Yaml>) -> Yaml {
    let document = map([("Version", text("2012-10-17")), ("Statement", list(statements))]);
    resource("AWS::SQS::QueuePolicy", [("Queues", list([reference(queue)])), ("PolicyDocument", document)])
}

fn only_over_tls(queue: &str) -> Yaml {
    map([
        ("Sid", text("OnlyOverTls")),
        ("Effect", text("Deny")),
        ("Principal", text("*")),
        ("Action", text("sqs:*")),
        ("Resource", arn_of(queue)),
        ("Condition", map([("Bool", map([("aws:SecureTransport", text("false"))]))])),
    ])
}
