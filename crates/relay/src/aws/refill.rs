//! The event store's table on DynamoDB, for a refill.

use std::collections::HashMap;

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use millrace_aws::{AwsError, Segment};
use millrace_core::Timestamp;
use millrace_event_store::stored_from_item;

use super::undecoded::undecoded;
use crate::{
    refill::{Refill, RefillPage},
    stream::{Content, Sequence},
};

type Item = HashMap<String, AttributeValue>;

const AGGREGATE_ID: &str = "AggregateId";
const VERSION: &str = "Version";

/// The event store's table, scanned page by page. A scan reads every stored event, so it is for emergencies only.
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
    async fn page(
        &self,
        since: Timestamp,
        segment: Segment,
        from: Option<&Sequence>,
    ) -> Result<RefillPage, AwsError> {
        let reply = self
            .client
            .scan()
            .table_name(&self.table)
            .consistent_read(true)
            .segment(segment.number())
            .total_segments(segment.total())
            // Timestamps sort the same as text.
            .filter_expression("#time >= :since")
            .expression_attribute_names("#time", "Timestamp")
            .expression_attribute_values(":since", AttributeValue::S(since.to_string()))
            .set_exclusive_start_key(from.and_then(key))
            .send()
            .await?;
        let contents = reply.items().iter().map(|item| match stored_from_item(item) {
            Ok(stored) => Content::Event(Box::new(stored.envelope)),
            Err(error) => undecoded(item, &error),
        });
        let contents = contents.collect();
        let next = match &reply.last_evaluated_key {
            None => None,
            Some(key) => Some(place(key).ok_or_else(|| {
                // Ending the scan here would lose the rest of the table.
                AwsError::InvalidResponse("a scan that ends at a key of another table".to_owned())
            })?),
        };
        Ok(RefillPage { contents, next })
    }
}

/// An item's key as a place, `<version> <aggregate>`, as stored in the lease table.
fn place(key: &Item) -> Option<Sequence> {
    let version = key.get(VERSION)?.as_n().ok()?;
    let aggregate = key.get(AGGREGATE_ID)?.as_s().ok()?;
    Some(Sequence(format!("{version} {aggregate}")))
}

/// The inverse of [`place`].
fn key(Sequence(place): &Sequence) -> Option<Item> {
    let (version, aggregate) = place.split_once(' ')?;
    Some(Item::from([
        (VERSION.to_owned(), AttributeValue::N(version.to_owned())),
        (AGGREGATE_ID.to_owned(), AttributeValue::S(aggregate.to_owned())),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_place() {
        let item = Item::from([
            (VERSION.to_owned(), AttributeValue::N("17".to_owned())),
            (AGGREGATE_ID.to_owned(), AttributeValue::S("acme#user#of any text".to_owned())),
        ]);
        assert_eq!(place(&item).as_ref().and_then(key), Some(item));
    }
}
