//! The event store's table on DynamoDB, for a refill.

use std::collections::HashMap;

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use millrace_aws::AwsError;
use millrace_core::Timestamp;
use millrace_event_store::stored_from_item;

use super::undecoded::undecoded;
use crate::{
    refill::{Refill, RefillPage},
    stream::Content,
};

/// The event store's table, scanned page by page. This reads every event there is, so it is for emergencies only.
#[derive(Debug, Clone)]
pub struct DynamoRefill {
    client: Client,
    table: String,
}

impl DynamoRefill {
    /// The table called `table`.
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        Self { client, table: table.into() }
    }
}

impl Refill for DynamoRefill {
    type Token = HashMap<String, AttributeValue>;

    async fn page(
        &self,
        since: Timestamp,
        from: Option<&Self::Token>,
    ) -> Result<RefillPage<Self::Token>, AwsError> {
        let reply = self
            .client
            .scan()
            .table_name(&self.table)
            .consistent_read(true)
            // Times as text sort as times do.
            .filter_expression("#time >= :since")
            .expression_attribute_names("#time", "Timestamp")
            .expression_attribute_values(":since", AttributeValue::S(since.to_string()))
            .set_exclusive_start_key(from.cloned())
            .send()
            .await?;
        let contents = reply.items().iter().map(|item| match stored_from_item(item) {
            Ok(stored) => Content::Event(Box::new(stored.envelope)),
            Err(error) => undecoded(item, &error),
        });
        Ok(RefillPage { contents: contents.collect(), next: reply.last_evaluated_key })
    }
}
