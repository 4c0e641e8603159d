//! The store on DynamoDB.

mod append;
mod cancelled;
mod command_blocks;
mod history;
mod load;
mod scan;
mod snapshots;

use std::{num::NonZeroU32, sync::Arc};

use aws_sdk_dynamodb::Client;
pub(crate) use command_blocks::to_item as block_item;
use millrace_aws::{AwsError, Segment};
use millrace_core::StreamId;
pub(crate) use snapshots::to_item as snapshot_item;

use crate::{
    Begun, Entry, IndexRange, LoadEvents, Page, ReadEvents, ScanEvents, Scanned, Touched,
    item::{AGGREGATE_ID, Item, ItemError, VERSION, number, stored_from_item, text},
};

/// The names of the store's tables.
#[derive(Debug, Clone)]
pub struct Tables {
    /// Events: hash `AggregateId` (S), range `Version` (N).
    pub events: String,
    /// Unique keys: hash `Key` (S).
    pub unique_keys: String,
    /// Snapshots: hash `AggregateId` (S).
    pub snapshots: String,
}

/// The reading half of the store: all that a process which must not append can reach.
#[derive(Debug, Clone)]
pub struct DynamoReader {
    client: Client,
    events: Arc<str>,
    index_shards: Option<NonZeroU32>,
}

impl DynamoReader {
    /// Reads the events of a table.
    pub fn new(client: Client, events_table: impl Into<Arc<str>>) -> Self {
        Self { client, events: events_table.into(), index_shards: None }
    }

    /// Also reads the table's index by type and time, which has this number of shards, if it has one.
    pub fn with_index(self, shards: Option<NonZeroU32>) -> Self {
        Self { index_shards: shards, ..self }
    }
}

impl ReadEvents for DynamoReader {
    async fn page(&self, stream: &StreamId, after: u64, limit: u16) -> Result<Page, AwsError> {
        let output = self
            .client
            .query()
            .table_name(&*self.events)
            .consistent_read(true)
            .key_condition_expression("#stream = :stream AND #version > :after")
            .expression_attribute_names("#stream", AGGREGATE_ID)
            .expression_attribute_names("#version", VERSION)
            .expression_attribute_values(":stream", text(stream))
            .expression_attribute_values(":after", number(after))
            .limit(i32::from(limit).max(1))
            .send()
            .await?;
        let more = output.last_evaluated_key().is_some_and(|key| !key.is_empty());
        let events = output
            .items()
            .iter()
            .map(|item| stored_from_item(item).map_err(|error| no_event(stream, item, &error)));
        Page::checked(stream, after, events.collect::<Result<_, _>>()?, more)
    }
}

fn no_event(stream: &StreamId, item: &Item, error: &ItemError) -> AwsError {
    let version = item.get(VERSION).and_then(|v| v.as_n().ok()).map_or("?", String::as_str);
    AwsError::InvalidResponse(format!("version {version} of stream {stream} is no event: {error}"))
}

/// The whole store.
#[derive(Debug, Clone)]
pub struct DynamoStore {
    reader: DynamoReader,
    unique_keys: Arc<str>,
    snapshots: Arc<str>,
}

impl DynamoStore {
    /// The store in `tables`. With `index_shards`, 1 to 1,024, events carry the key of the index by type and time, and
    /// every writer and reader of that index must agree on the number. Without, events stay out of the index, and an
    /// append costs half.
    ///
    /// The client is one of [`Aws`](millrace_aws::Aws), which reports unanswered attempts: with another one, it is
    /// never known for certain that a key is taken.
    pub fn new(client: Client, tables: Tables, index_shards: Option<NonZeroU32>) -> Self {
        Self {
            reader: DynamoReader::new(client, tables.events).with_index(index_shards),
            unique_keys: tables.unique_keys.into(),
            snapshots: tables.snapshots.into(),
        }
    }
}

impl ReadEvents for DynamoStore {
    async fn page(&self, stream: &StreamId, after: u64, limit: u16) -> Result<Page, AwsError> {
        self.reader.page(stream, after, limit).await
    }
}

impl LoadEvents for DynamoStore {
    async fn newest(&self, stream: &StreamId, after: u64, limit: u16) -> Result<Vec<Entry>, AwsError> {
        self.reader.newest(stream, after, limit).await
    }

    async fn between(&self, stream: &StreamId, after: u64, before: u64) -> Result<Vec<Entry>, AwsError> {
        self.reader.between(stream, after, before).await
    }
}

impl ScanEvents for DynamoStore {
    type Place = <DynamoReader as ScanEvents>::Place;

    async fn scan(
        &self,
        segment: Segment,
        from: Option<&Self::Place>,
    ) -> Result<Scanned<Self::Place>, AwsError> {
        self.reader.scan(segment, from).await
    }

    async fn look(
        &self,
        stream: &StreamId,
        from: Option<&Self::Place>,
    ) -> Result<Scanned<Self::Place>, AwsError> {
        self.reader.look(stream, from).await
    }

    async fn touched(
        &self,
        range: &IndexRange,
        from: Option<&Self::Place>,
    ) -> Result<Touched<Self::Place>, AwsError> {
        self.reader.touched(range, from).await
    }

    async fn begun(&self, streams: &[StreamId]) -> Result<Begun, AwsError> {
        self.reader.begun(streams).await
    }

    async fn count(&self) -> Result<u64, AwsError> {
        self.reader.count().await
    }
}
