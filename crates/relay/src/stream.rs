//! The event store's stream, for the relay.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use millrace_aws::AwsError;
use millrace_core::{AggregateType, Envelope, StreamId};
use serde_json::{Map, Value};

/// How long DynamoDB keeps a stream's records (Developer Guide, "Change data capture for DynamoDB Streams").
pub const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// The most records that one read brings (DynamoDB API Reference, `GetRecords`).
pub const FULL_PAGE: usize = 1_000;

/// A shard's name, unique over all streams whose leases share a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(Arc<str>);

impl ShardId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Into<Arc<str>>> From<T> for ShardId {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A record's place in its shard. Opaque: its text has no order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sequence(pub String);

/// Part of the stream.
///
/// As a rule the records of one aggregate are in one shard, then in that shard's children; so reading children after
/// their parents keeps the order of an aggregate's events. DynamoDB promises that order for the changes of one *item*
/// alone (Developer Guide, "Change data capture for DynamoDB Streams"), and each event is an item of its own. A table
/// without a local secondary index may have the items of one hash key in several partitions, and so in several shards
/// that are not each other's ancestors. Then order is lost, but no event: every shard is relayed by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its name.
    pub id: ShardId,
    /// The shard that it continues.
    pub parent: Option<ShardId>,
}

/// A page of the stream's shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shards {
    /// The shards, closed ones too.
    pub shards: Vec<Shard>,
    /// The shard behind which the next page begins; `None` on the last page.
    pub next: Option<ShardId>,
}

/// A position in a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// The oldest record that the stream still has.
    TrimHorizon,
    /// The record after this one.
    After(Sequence),
}

/// One change of the event store's table.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its place.
    pub sequence: Sequence,
    /// Its content.
    pub content: Content,
}

/// The content of a record, or of an item of the table.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A new event.
    Event(Box<Envelope>),
    /// No new event: an item was removed or changed, which Millrace itself never does.
    Skip,
    /// An item that this release cannot read as an event.
    Undecodable(Box<Undecoded>),
}

/// An item that could not be read as an event, as far as it could be read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Undecoded {
    /// The reason, without any of the item's data.
    pub reason: String,
    /// The stream that its key names.
    pub stream: Option<StreamId>,
    /// The aggregate's type by the item's key, or else by its attribute. The bus routes the item by it.
    pub aggregate_type: Option<AggregateType>,
    /// The version that its key names.
    pub version: Option<u64>,
    /// The item in DynamoDB's JSON.
    pub item: Option<Map<String, Value>>,
}

/// The result of a read.
#[derive(Debug, Clone)]
pub struct Records<C> {
    /// The records, in order. An empty list does not mean that the shard has ended.
    pub records: Vec<Record>,
    /// The next cursor; `None` at the end of a closed shard.
    pub next: Option<C>,
}

/// Why a shard could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StreamError {
    /// The stream has dropped records after the position.
    #[error("the stream has dropped records that were not read")]
    Trimmed,
    /// The cursor is too old; the shard is to be opened again.
    #[error("the cursor has expired")]
    Expired,
    /// There is no such shard, or no such stream.
    #[error("the shard does not exist")]
    Gone,
    /// The call failed.
    #[error(transparent)]
    Failed(#[from] AwsError),
}

/// Reading a stream shard by shard.
pub trait ShardStream: Clone + Send + Sync + 'static {
    /// A reader's position within a shard.
    type Cursor: Clone + Send + Sync;

    /// The first page of the shards that the stream lists, or the page behind a shard. One call of `DescribeStream`.
    fn shards(&self, from: Option<&ShardId>) -> impl Future<Output = Result<Shards, AwsError>> + Send;

    /// The shards that continue a closed shard. One call of `DescribeStream`.
    fn children(&self, shard: &ShardId) -> impl Future<Output = Result<Vec<Shard>, AwsError>> + Send;

    /// A cursor at a position of a shard.
    fn open(
        &self,
        shard: &ShardId,
        position: &Position,
    ) -> impl Future<Output = Result<Self::Cursor, StreamError>> + Send;

    /// The next records, without waiting for new ones.
    fn read(
        &self,
        cursor: &Self::Cursor,
    ) -> impl Future<Output = Result<Records<Self::Cursor>, StreamError>> + Send;
}
