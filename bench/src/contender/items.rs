//! Items of the peers' tables.

use std::collections::HashMap;

use anyhow::ensure;
use aws_sdk_dynamodb::{
    Client,
    types::{AttributeValue, PutRequest, WriteRequest},
};

/// An item of a table.
pub(super) type Item = HashMap<String, AttributeValue>;

/// Writes items without conditions, as fast as can be.
pub(super) async fn write_all(
    client: &Client,
    table: &str,
    items: impl Iterator<Item = Item>,
) -> anyhow::Result<()> {
    /// The most that one request holds (DynamoDB API Reference, BatchWriteItem).
    const BATCH: usize = 25;
    let mut requests = Vec::with_capacity(BATCH);
    let mut items = items.peekable();
    while let Some(item) = items.next() {
        let put = PutRequest::builder().set_item(Some(item)).build()?;
        requests.push(WriteRequest::builder().put_request(put).build());
        if requests.len() == BATCH || items.peek().is_none() {
            let batch = std::mem::take(&mut requests);
            let reply = client.batch_write_item().request_items(table, batch).send().await?;
            let left = reply.unprocessed_items.unwrap_or_default();
            ensure!(left.is_empty(), "the local AWS left items of {table} out");
        }
    }
    Ok(())
}

/// An item of these attributes.
pub(super) fn item<const N: usize>(attributes: [(&str, AttributeValue); N]) -> Item {
    attributes.map(|(name, value)| (name.to_owned(), value)).into()
}

pub(super) fn text(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

pub(super) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}
