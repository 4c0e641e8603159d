//! Filling a table with many rows at once, for tests.

use aws_sdk_dynamodb::types::{PutRequest, WriteRequest};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use millrace_aws::AwsError;
use millrace_core::projection::RowUpdate;

use super::{DynamoRows, incomplete};
use crate::audit::Expected;

/// The most items that one request writes (DynamoDB API Reference, `BatchWriteItem`).
const MAX_ITEMS: usize = 25;

/// How many requests are made at the same time.
const AT_ONCE: usize = 8;

impl DynamoRows {
    /// Writes the rows that updates make, whatever was there before. Each update makes another row, from version 0 on.
    /// Where rows sum up aggregates, these are parts alone.
    pub async fn load(&self, updates: &[RowUpdate]) -> Result<(), AwsError> {
        stream::iter(updates.chunks(MAX_ITEMS).map(<[_]>::to_vec))
            .map(Ok)
            .try_for_each_concurrent(AT_ONCE, async |updates| self.load_some(&updates).await)
            .await
    }

    async fn load_some(&self, updates: &[RowUpdate]) -> Result<(), AwsError> {
        let put = |update| {
            let item = super::audit::item(Expected::of(&self.layout, update)?);
            let put = PutRequest::builder().set_item(Some(item)).build().map_err(incomplete)?;
            Ok(WriteRequest::builder().put_request(put).build())
        };
        let mut left = updates.iter().map(put).collect::<Result<Vec<_>, AwsError>>()?;
        while !left.is_empty() {
            let sent = self.client.batch_write_item().request_items(&*self.table, left).send();
            let unprocessed = sent.await?.unprocessed_items.unwrap_or_default();
            left = unprocessed.into_values().flatten().collect();
        }
        Ok(())
    }
}
