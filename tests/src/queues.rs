//! An account's queues, past the projector.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_sqs::{
    Client,
    types::{
        Message, MessageSystemAttributeName,
        QueueAttributeName::{
            ApproximateNumberOfMessages, ApproximateNumberOfMessagesDelayed,
            ApproximateNumberOfMessagesNotVisible,
        },
        SendMessageBatchRequestEntry,
    },
};

use crate::{AwsStack, eventually};

/// Hands on queues, each of which is named by its URL.
#[derive(Debug, Clone)]
pub struct Queues(Client);

impl Queues {
    /// The queues of a stack.
    pub async fn of(stack: &AwsStack) -> Self {
        Self(stack.aws().await.sqs(Duration::from_secs(1)))
    }

    /// The number of a queue's receivable messages, and of its hidden or delayed ones.
    pub async fn counts(&self, queue: &str) -> (u64, u64) {
        let names = [
            ApproximateNumberOfMessages,
            ApproximateNumberOfMessagesNotVisible,
            ApproximateNumberOfMessagesDelayed,
        ];
        let request = self.0.get_queue_attributes().queue_url(queue);
        let reply = request.set_attribute_names(Some(names.clone().into())).send().await.unwrap();
        let counts = reply.attributes.unwrap();
        let [visible, hidden, delayed] = names.map(|name| counts[&name].parse::<u64>().unwrap());
        (visible, hidden + delayed)
    }

    /// Waits until a queue has nothing in it, messages in flight included.
    pub async fn drained(&self, queue: &str) {
        let empty = async || (self.counts(queue).await == (0, 0)).then_some(());
        eventually(&format!("an empty queue {queue}"), empty).await;
    }

    /// Sends messages.
    pub async fn send(&self, queue: &str, bodies: &[impl AsRef<str>]) {
        for batch in bodies.chunks(10) {
            let entries = batch.iter().enumerate().map(|(n, body)| {
                let entry = SendMessageBatchRequestEntry::builder().id(n.to_string());
                entry.message_body(body.as_ref()).build().unwrap()
            });
            let sent = self.0.send_message_batch().queue_url(queue).set_entries(Some(entries.collect()));
            let sent = sent.send().await.unwrap();
            assert!(sent.failed().is_empty(), "{sent:?}");
        }
    }

    /// Some of a queue's messages, which can be received again at once.
    pub async fn look(&self, queue: &str) -> Vec<Message> {
        let request = self.0.receive_message().queue_url(queue).visibility_timeout(0).wait_time_seconds(0);
        let request = request.max_number_of_messages(10).message_attribute_names("All");
        let request = request.message_system_attribute_names(MessageSystemAttributeName::All);
        request.send().await.unwrap().messages.unwrap_or_default()
    }

    /// A queue's messages, once there are so many; they stay where they are.
    pub async fn messages(&self, queue: &str, count: usize) -> Vec<Message> {
        let mut found: BTreeMap<String, Message> = BTreeMap::new();
        eventually(&format!("{count} messages in {queue}"), async || {
            let some = self.look(queue).await.into_iter();
            found.extend(some.map(|message| (message.message_id.clone().unwrap(), message)));
            (found.len() >= count).then_some(())
        })
        .await;
        found.into_values().collect()
    }
}

/// An attribute of a message; empty where it has none of that name.
pub fn attribute(message: &Message, name: &str) -> String {
    let attributes = message.message_attributes.as_ref();
    attributes.and_then(|all| all.get(name)?.string_value.clone()).unwrap_or_default()
}
