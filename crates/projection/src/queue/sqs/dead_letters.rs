//! Dead letters on SQS.

use std::time::Duration;

use aws_sdk_sqs::types::{Message, MessageAttributeValue, MessageSystemAttributeName};
use millrace_aws::AwsError;
use millrace_core::Timestamp;

use super::{MAX_MESSAGES, ReceiptHandle, SqsQueue, total, whole_seconds};
use crate::redrive::letters::{DeadLetters, HIDDEN, Letter};

impl DeadLetters for SqsQueue {
    async fn receive(&self) -> Result<Vec<Letter>, AwsError> {
        let reply = self
            .receiver
            .receive_message()
            .queue_url(&self.dead_letter_url)
            .max_number_of_messages(i32::try_from(MAX_MESSAGES).unwrap_or(10))
            .wait_time_seconds(whole_seconds(self.wait))
            .visibility_timeout(whole_seconds(HIDDEN))
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .message_attribute_names("All")
            .send()
            .await?;
        Ok(reply.messages.unwrap_or_default().into_iter().filter_map(letter).collect())
    }

    async fn send_back(&self, letter: &Letter) -> Result<(), AwsError> {
        self.client.send_message().queue_url(&self.url).message_body(&letter.body).send().await?;
        Ok(())
    }

    async fn delete(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), AwsError>> {
        self.delete_from(&self.dead_letter_url, receipts).await
    }

    async fn count(&self) -> Result<u64, AwsError> {
        self.counts(&self.dead_letter_url).await.map(total)
    }

    async fn show(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), AwsError>> {
        let at_once: Vec<_> = receipts.iter().map(|receipt| (receipt.clone(), Duration::ZERO)).collect();
        self.hide_in(&self.dead_letter_url, &at_once).await
    }
}

/// Reads a letter. A letter without a receipt could not be deleted; SQS sends none.
fn letter(message: Message) -> Option<Letter> {
    let sent_at = message.attributes.as_ref().and_then(|attributes| {
        let millis: i64 = attributes.get(&MessageSystemAttributeName::SentTimestamp)?.parse().ok()?;
        Some(Timestamp::from_unix_micros(millis.checked_mul(1_000)?))
    });
    let attributes = message.message_attributes.unwrap_or_default();
    let text =
        |name: &str| attributes.get(name).and_then(MessageAttributeValue::string_value).map(str::to_owned);
    Some(Letter {
        receipt: ReceiptHandle(message.receipt_handle?.into()),
        id: message.message_id.unwrap_or_default(),
        body: message.body.unwrap_or_default(),
        sent_at,
        reason: text("Reason"),
        attempts: text("Attempts").and_then(|attempts| attempts.parse().ok()),
        projection: text("Projection"),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_letter_says_why_it_was_given_up_as_far_as_it_says_so() {
        let bare = Message::builder().receipt_handle("r").message_id("m").body("b").build();
        let read = letter(bare.clone()).unwrap();
        assert_eq!((read.id.as_str(), read.body.as_str(), read.sent_at, read.reason), ("m", "b", None, None));
        assert!(letter(Message::builder().body("b").build()).is_none(), "it could not be deleted");

        let value = |text: &str| {
            MessageAttributeValue::builder().data_type("String").string_value(text).build().unwrap()
        };
        let attributes = [("Reason", "not JSON"), ("Attempts", "5"), ("Projection", "user-profiles")];
        let attributes: HashMap<_, _> = attributes.map(|(name, text)| (name.to_owned(), value(text))).into();
        let mut whole = bare;
        whole.message_attributes = Some(attributes);
        let sent = (MessageSystemAttributeName::SentTimestamp, "1767225600123".to_owned());
        whole.attributes = Some([sent].into());
        let read = letter(whole).unwrap();
        assert_eq!(read.sent_at.unwrap().to_string(), "2026-01-01T00:00:00.123000Z");
        assert_eq!((read.reason.as_deref(), read.attempts), (Some("not JSON"), Some(5)));
        assert_eq!(read.projection.as_deref(), Some("user-profiles"));
    }
}
