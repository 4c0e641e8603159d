//! Queues on SQS.

mod dead_letters;

use std::{collections::HashMap, time::Duration};

use aws_sdk_sqs::{
    Client,
    error::BuildError,
    types::{
        BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
        MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName,
    },
};
use millrace_aws::{Aws, AwsError};
use millrace_core::Timestamp;
use millrace_server::clock;
use serde::Deserialize;
use serde_json::Value;

use super::{Cause, Depth, MAX_MESSAGES, Message, Queue, QueueAddress, ReceiptHandle, Rules};

/// With less time than this, messages would come back while they are worked on.
const SHORTEST_VISIBILITY: Duration = Duration::from_secs(5);

/// The longest text of a reason in a dead letter.
const MAX_REASON: usize = 1024;

/// Why a queue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It has no dead-letter queue.
    #[error(
        "the queue {0} has no dead-letter queue: set its RedrivePolicy to a JSON object with the deadLetterTargetArn of \
         another queue and a maxReceiveCount"
    )]
    NoDeadLetterQueue(String),
    /// Its redrive policy makes no sense.
    #[error("the queue {0} has a RedrivePolicy without a usable deadLetterTargetArn or maxReceiveCount")]
    BadRedrivePolicy(String),
    /// AWS did not report its attributes.
    #[error("the queue {0} cannot be used: {1}")]
    Aws(String, AwsError),
}

/// A queue of SQS with its dead-letter queue.
#[derive(Debug, Clone)]
pub struct SqsQueue {
    client: Client,
    /// A client whose time-out allows long polling.
    receiver: Client,
    wait: Duration,
    url: String,
    dead_letter_url: String,
    rules: Rules,
}

/// `RedrivePolicy` (SQS API Reference, `SetQueueAttributes`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RedrivePolicy {
    dead_letter_target_arn: String,
    /// A number, or a number in quotes.
    max_receive_count: Value,
}

impl RedrivePolicy {
    /// The account and the name of the dead-letter queue, and how often a message is received.
    fn parts(&self) -> Option<(&str, &str, u32)> {
        // arn:<partition>:sqs:<region>:<account>:<name>
        let parts: Vec<_> = self.dead_letter_target_arn.split(':').collect();
        let &["arn", _, "sqs", _, account, name] = parts.as_slice() else { return None };
        let count = match &self.max_receive_count {
            Value::Number(count) => u32::try_from(count.as_u64()?).ok()?,
            Value::String(count) => count.parse().ok()?,
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
        };
        (count > 0).then_some((account, name, count))
    }
}

impl SqsQueue {
    /// Opens a queue: finds its rules and its dead-letter queue. A receiving waits `wait` for messages: whole seconds, up
    /// to 20 (SQS API Reference, `ReceiveMessage`).
    pub async fn open(aws: &Aws, address: &QueueAddress, wait: Duration) -> Result<Self, Unusable> {
        let client = aws.sqs(Duration::ZERO);
        let unusable = |error: AwsError| Unusable::Aws(address.to_string(), error);
        let url = match address {
            QueueAddress::Url(url) => url.clone(),
            QueueAddress::Name(name) => {
                let reply = client.get_queue_url().queue_name(name).send().await;
                let url = reply.map_err(|error| unusable(error.into()))?.queue_url;
                url.ok_or_else(|| unusable(AwsError::InvalidResponse("the queue has no URL".to_owned())))?
            }
        };
        let reply = client
            .get_queue_attributes()
            .queue_url(&url)
            .attribute_names(QueueAttributeName::RedrivePolicy)
            .attribute_names(QueueAttributeName::VisibilityTimeout)
            .send()
            .await
            .map_err(|error| unusable(error.into()))?;
        let attribute = |name| reply.attributes().and_then(|attributes| attributes.get(&name));
        let Some(policy) = attribute(QueueAttributeName::RedrivePolicy) else {
            return Err(Unusable::NoDeadLetterQueue(url));
        };
        let policy = serde_json::from_str::<RedrivePolicy>(policy).ok();
        let Some((account, name, max_receives)) = policy.as_ref().and_then(RedrivePolicy::parts) else {
            return Err(Unusable::BadRedrivePolicy(url));
        };
        let seconds =
            attribute(QueueAttributeName::VisibilityTimeout).and_then(|seconds| seconds.parse().ok());
        let visibility = Duration::from_secs(seconds.unwrap_or(30)).max(SHORTEST_VISIBILITY);
        let dead_letters = client
            .get_queue_url()
            .queue_name(name)
            .queue_owner_aws_account_id(account)
            .send()
            .await
            .map_err(|error| unusable(error.into()))?;
        let Some(dead_letter_url) = dead_letters.queue_url else {
            let nonsense = AwsError::InvalidResponse("the dead-letter queue has no URL".to_owned());
            return Err(unusable(nonsense));
        };
        Ok(Self {
            receiver: aws.sqs(wait),
            client,
            wait,
            url,
            dead_letter_url,
            rules: Rules { visibility, max_receives },
        })
    }

    /// How many messages of a queue are visible, hidden and delayed.
    async fn counts(&self, url: &str) -> Result<[u64; 3], AwsError> {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        let request = self.client.get_queue_attributes().queue_url(url);
        let reply = request.set_attribute_names(Some(names.to_vec())).send().await?;
        // A missing count is not zero: with zero, a redrive would take the queue for empty.
        let count = |name| {
            let count = reply.attributes().and_then(|attributes| attributes.get(name)?.parse().ok());
            count.ok_or_else(|| AwsError::InvalidResponse(format!("a queue that does not tell its {name}")))
        };
        let [waiting, hidden, delayed] = &names;
        Ok([count(waiting)?, count(hidden)?, count(delayed)?])
    }
}

impl Queue for SqsQueue {
    fn rules(&self) -> Rules {
        self.rules
    }

    async fn receive(&self) -> Result<Vec<Message>, AwsError> {
        let reply = self
            .receiver
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(i32::try_from(MAX_MESSAGES).unwrap_or(10))
            .wait_time_seconds(whole_seconds(self.wait))
            .visibility_timeout(whole_seconds(self.rules.visibility))
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateFirstReceiveTimestamp)
            .send()
            .await?;
        let now = clock::now();
        Ok(reply.messages.unwrap_or_default().into_iter().filter_map(|each| message(each, now)).collect())
    }

    async fn delete(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), AwsError>> {
        self.delete_from(&self.url, receipts).await
    }

    async fn hide(&self, receipts: &[(ReceiptHandle, Duration)]) -> Vec<Result<(), AwsError>> {
        self.hide_in(&self.url, receipts).await
    }

    async fn depth(&self) -> Result<Depth, AwsError> {
        let (queue, dead) =
            futures::future::try_join(self.counts(&self.url), self.counts(&self.dead_letter_url)).await?;
        let [waiting, hidden, delayed] = queue;
        Ok(Depth { waiting: total([waiting, delayed]), hidden, dead: total(dead) })
    }

    async fn dead_letter(&self, message: &Message, cause: &Cause) -> Result<(), AwsError> {
        let mut attributes = HashMap::from([
            ("Reason".to_owned(), attribute("String", printable(&cause.reason))?),
            ("Attempts".to_owned(), attribute("Number", message.attempts.to_string())?),
            ("Projection".to_owned(), attribute("String", cause.projection.to_owned())?),
            ("OriginalMessageId".to_owned(), attribute("String", message.id.clone())?),
        ]);
        if let Some(trace_parent) = cause.trace_parent {
            attributes.insert("TraceParent".to_owned(), attribute("String", trace_parent.to_string())?);
        }
        self.client
            .send_message()
            .queue_url(&self.dead_letter_url)
            .message_body(&message.body)
            .set_message_attributes(Some(attributes))
            .send()
            .await?;
        Ok(())
    }
}

impl SqsQueue {
    async fn delete_from(&self, url: &str, receipts: &[ReceiptHandle]) -> Vec<Result<(), AwsError>> {
        let entries = receipts.iter().enumerate().map(|(place, receipt)| {
            DeleteMessageBatchRequestEntry::builder()
                .id(place.to_string())
                .receipt_handle(&*receipt.0)
                .build()
        });
        let entries: Result<Vec<_>, BuildError> = entries.collect();
        let request = self.client.delete_message_batch().queue_url(url);
        let reply = match entries {
            Ok(entries) => request.set_entries(Some(entries)).send().await.map_err(AwsError::from),
            Err(error) => Err(AwsError::Refused(error.to_string())),
        };
        per_entry(receipts.len(), reply.map(|reply| reply.failed))
    }

    async fn hide_in(&self, url: &str, receipts: &[(ReceiptHandle, Duration)]) -> Vec<Result<(), AwsError>> {
        let entries = receipts.iter().enumerate().map(|(place, (receipt, time))| {
            ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(place.to_string())
                .receipt_handle(&*receipt.0)
                .visibility_timeout(whole_seconds(*time))
                .build()
        });
        let entries: Result<Vec<_>, BuildError> = entries.collect();
        let request = self.client.change_message_visibility_batch().queue_url(url);
        let reply = match entries {
            Ok(entries) => request.set_entries(Some(entries)).send().await.map_err(AwsError::from),
            Err(error) => Err(AwsError::Refused(error.to_string())),
        };
        per_entry(receipts.len(), reply.map(|reply| reply.failed))
    }
}

/// The sum of a queue's counts. It saturates: AWS's numbers are no reason to panic.
fn total<const N: usize>(counts: [u64; N]) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}

/// Reads a message received at `now`. A message without a receipt could not be deleted; SQS sends none.
fn message(message: aws_sdk_sqs::types::Message, now: Timestamp) -> Option<Message> {
    let attribute = |name| message.attributes().and_then(|attributes| attributes.get(&name));
    let attempts = attribute(MessageSystemAttributeName::ApproximateReceiveCount);
    let first = attribute(MessageSystemAttributeName::ApproximateFirstReceiveTimestamp);
    // Without the attribute, or with a clock ahead of this one: it was received just now.
    let waited = first
        .and_then(|millis| u64::try_from(now.unix_micros() / 1000).ok()?.checked_sub(millis.parse().ok()?))
        .map_or(Duration::ZERO, Duration::from_millis);
    let attempts = attempts.and_then(|count| count.parse().ok()).unwrap_or(1);
    Some(Message {
        receipt: ReceiptHandle(message.receipt_handle?.into()),
        id: message.message_id.unwrap_or_default(),
        body: message.body.unwrap_or_default(),
        attempts,
        waited,
    })
}

/// The result of each entry of a batch, given the entries that failed.
fn per_entry(
    entries: usize,
    reply: Result<Vec<BatchResultErrorEntry>, AwsError>,
) -> Vec<Result<(), AwsError>> {
    let failed = match reply {
        Ok(failed) => failed,
        Err(error) => return vec![Err(error); entries],
    };
    let mut results = vec![Ok(()); entries];
    for entry in failed {
        let Some(result) = entry.id.parse().ok().and_then(|place: usize| results.get_mut(place)) else {
            continue;
        };
        *result = Err(match entry {
            entry if AwsError::is_throttling(&entry.code) => AwsError::Throttled(entry.code),
            entry if entry.sender_fault => AwsError::Refused(entry.code),
            entry => AwsError::Unreachable(entry.code),
        });
    }
    results
}

fn attribute(data_type: &str, value: String) -> Result<MessageAttributeValue, AwsError> {
    MessageAttributeValue::builder()
        .data_type(data_type)
        .string_value(value)
        .build()
        .map_err(|error| AwsError::Refused(error.to_string()))
}

/// Text in the form of an SQS attribute: not empty, without control characters, of bounded length.
fn printable(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.chars().map(clean).take(MAX_REASON).collect();
    if text.is_empty() { "unknown".to_owned() } else { text }
}

/// Seconds as SQS counts them, up to twelve hours; fractions are rounded up.
fn whole_seconds(time: Duration) -> i32 {
    const MOST: Duration = Duration::from_secs(12 * 60 * 60);
    let time = time.min(MOST);
    let up = u64::from(time.subsec_nanos() > 0);
    i32::try_from(time.as_secs() + up).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(policy: &str) -> Option<(String, String, u32)> {
        let policy: RedrivePolicy = serde_json::from_str(policy).ok()?;
        policy.parts().map(|(account, name, count)| (account.to_owned(), name.to_owned(), count))
    }

    #[test]
    fn a_redrive_policy_names_the_dead_letter_queue_and_the_attempts() {
        for count in ["5", "\"5\""] {
            let policy = format!(
                "{{\"deadLetterTargetArn\":\"arn:aws-cn:sqs:cn-north-1:111122223333:dead\",\"maxReceiveCount\":{count}}}"
            );
            assert_eq!(parts(&policy), Some(("111122223333".to_owned(), "dead".to_owned(), 5)));
        }
        for (arn, count) in
            [("dead", "5"), ("arn:aws:sns:r:1:dead", "5"), ("arn:aws:sqs:r:1:dead", "0"), ("", "[]")]
        {
            let policy = format!("{{\"deadLetterTargetArn\":\"{arn}\",\"maxReceiveCount\":{count}}}");
            assert_eq!(parts(&policy), None, "{policy}");
        }
    }

    #[test]
    fn counts_that_cannot_be_are_many() {
        assert_eq!(total([1, 2, 3]), 6);
        assert_eq!(total([u64::MAX, 1]), u64::MAX);
    }

    #[test]
    fn an_entry_that_failed_fails_alone() {
        let entry = |id: &str, code: &str, sender_fault| {
            BatchResultErrorEntry::builder().id(id).code(code).sender_fault(sender_fault).build().unwrap()
        };
        let failed = vec![
            entry("1", "ReceiptHandleIsInvalid", true),
            entry("3", "InternalError", false),
            entry("4", "RequestThrottled", true),
            entry("99", "x", true),
            entry("?", "x", true),
        ];
        let results = per_entry(5, Ok(failed));
        assert!(matches!(
            results.as_slice(),
            [
                Ok(()),
                Err(AwsError::Refused(_)),
                Ok(()),
                Err(AwsError::Unreachable(_)),
                Err(AwsError::Throttled(_))
            ]
        ));
        let all = per_entry(2, Err(AwsError::Unreachable("x".to_owned())));
        assert!(all.iter().all(Result::is_err) && all.len() == 2);
    }

    #[test]
    fn a_time_is_rounded_up_and_bounded() {
        assert_eq!(whole_seconds(Duration::ZERO), 0);
        assert_eq!(whole_seconds(Duration::from_millis(500)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(60)), 60);
        assert_eq!(whole_seconds(Duration::MAX), 43_200);
    }

    #[test]
    fn a_reason_is_fit_for_an_attribute() {
        assert_eq!(printable(""), "unknown");
        assert_eq!(printable("a\nb\u{0}c"), "a b c");
        assert_eq!(printable(&"é".repeat(5000)).chars().count(), MAX_REASON);
    }
}
