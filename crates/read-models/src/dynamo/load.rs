//! Filling a table with many rows at once, for tests.

use aws_sdk_dynamodb::types::{PutRequest, WriteRequest};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use millrace_aws::AwsError;

use super::{DynamoOrders, audit::Expected, audit::InTable as _};
use crate::{OrderChange, flawed};

/// The most items that one request writes (DynamoDB API Reference, `BatchWriteItem`).
const MOST_ITEMS: usize = 25;

/// How many requests are made at the same time.
const AT_ONCE: usize = 8;

impl DynamoOrders {
    /// Writes the rows that changes make, whatever was there before. Each change makes another row, from version 0 on.
    pub async fn load(&self, changes: &[OrderChange]) -> Result<(), AwsError> {
        stream::iter(changes.chunks(MOST_ITEMS).map(<[_]>::to_vec))
            .map(Ok)
            .try_for_each_concurrent(AT_ONCE, |changes| async move { self.load_some(&changes).await })
            .await
    }

    async fn load_some(&self, changes: &[OrderChange]) -> Result<(), AwsError> {
        let put = |change| {
            let put = PutRequest::builder().set_item(Some(Expected::of(self, change)?.item(self.table())));
            let put = put.build().map_err(|error| flawed(&error.to_string()))?;
            Ok(WriteRequest::builder().put_request(put).build())
        };
        let mut left = changes.iter().map(put).collect::<Result<Vec<_>, AwsError>>()?;
        while !left.is_empty() {
            let sent = self.table().client.batch_write_item().request_items(&*self.table().name, left).send();
            let unprocessed = sent.await?.unprocessed_items.unwrap_or_default();
            left = unprocessed.into_values().flatten().collect();
        }
        Ok(())
    }
}
