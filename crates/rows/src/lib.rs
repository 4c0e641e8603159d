//! Stores of rows: the read models that projections write and queries read.
//!
//! A store knows rows as attributes ([`StoredRow`]) under a [`RowSchema`](millrace_core::row::RowSchema). Every write has
//! one condition: the row is at the version that the update starts from. So a row goes through the versions of its
//! stream in order and never back, however often, late or out of turn events are delivered. The same write gives the row
//! the provenance of its newest event.
//!
//! [`WriteRows`] is the projector's side, [`ReadRows`] the query service's. [`DynamoRows`] keeps rows on DynamoDB,
//! [`MemoryRows`] in memory; behind the feature `contract` stands the suite that both pass. Behind the feature `audit`
//! stands the operator's side ([`AuditRows`]), to find rows that are wrong and to put them right.
//!
//! ```
//! use millrace_core::{projection::{ProjectionSpec, RowUpdate}, row::StoredRow};
//! use millrace_rows::{MemoryRows, ReadRows as _, WriteError, WriteOutcome, WriteRows as _};
//!
//! /// Writes an update twice, as a queue may deliver it.
//! async fn write_twice(spec: &ProjectionSpec, update: &RowUpdate) -> Result<Option<StoredRow>, WriteError> {
//!     let rows = MemoryRows::new(spec);
//!     assert_eq!(rows.write(update).await?, WriteOutcome::Applied);
//!     assert_eq!(rows.write(update).await?, WriteOutcome::VersionMismatch(update.to_version));
//!     Ok(rows.get(&update.key).await?)
//! }
//! ```

#[cfg(any(test, feature = "audit"))]
mod audit;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod dynamo;
mod layout;
mod list;
mod memory;
mod provenance;
mod sum;

use std::future::Future;

#[cfg(any(test, feature = "audit"))]
pub use audit::{AuditRows, FoundRows, ListedRow, ListedRows, Sum};
#[cfg(any(test, feature = "audit"))]
pub use dynamo::DynamoRow;
pub use dynamo::DynamoRows;
pub use layout::{IndexShards, KEY, TARGET, TARGET_INDEX};
pub use list::{Filter, ListPage, ListQuery, MAX_EXAMINED, TimeRange};
pub use memory::MemoryRows;
#[cfg(any(test, feature = "audit"))]
pub use memory::{MemoryCursor, MemoryRow};
use millrace_aws::AwsError;
use millrace_core::{
    StreamId, TenantId,
    projection::{ProjectionError, RowUpdate},
    row::{LookupSchema, Position, RowKey, StoredRow},
};

/// The outcome of a write that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The row is as the update leaves it.
    Applied,
    /// Nothing was written: the row is at this version, or there is none (0). A version that is not older than the
    /// update's own can mean that an earlier attempt wrote it and its reply was lost.
    VersionMismatch(u64),
}

/// The reason that a write failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// A call to AWS failed.
    #[error(transparent)]
    Aws(#[from] AwsError),
    /// The update does not fit the row. Nothing was written.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    /// Other writers changed the same row at each of several attempts. To be tried again.
    #[error("other writers keep changing the row")]
    Contended,
}

/// Writing rows.
pub trait WriteRows: Clone + Send + Sync + 'static {
    /// Writes an update if the row is at the version that the update starts from.
    ///
    /// One request for a blind update; a read before it where the update folds; for an aggregating projection a read of
    /// the part, a read of its row, and one transaction.
    fn write(&self, update: &RowUpdate) -> impl Future<Output = Result<WriteOutcome, WriteError>> + Send;
}

/// The most rows that one call reads by their keys (DynamoDB API Reference, `BatchGetItem`).
pub const MAX_ROWS: usize = 100;

/// The most rows that a look-up returns. One row has the value, as a rule; others appear only while the index or a
/// projection lags behind a change of hands.
pub const MAX_FOUND: u16 = 16;

/// Whether a reading must see all that was written before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// It must.
    Strong,
    /// It may be a moment behind, for half the price.
    Eventual,
}

/// Rows requested by their keys. A key in neither list has no row.
#[derive(Debug, Clone)]
pub struct RowBatch {
    /// The existing rows. An unreadable one is an error of its own.
    pub found: Vec<(RowKey, Result<StoredRow, AwsError>)>,
    /// The keys without an answer, as when AWS throttles or the answer would be too large: to be requested again.
    pub left: Vec<RowKey>,
    /// The read units that AWS reports; 0 where it reports none.
    pub read_units: f64,
}

/// Reading rows.
pub trait ReadRows: Clone + Send + Sync + 'static {
    /// A row, strongly consistent: the call sees every earlier write. `None` where there is neither a row nor a version
    /// in its place.
    fn get(&self, key: &RowKey) -> impl Future<Output = Result<Option<StoredRow>, AwsError>> + Send;

    /// Up to [`MAX_ROWS`] rows, each named once; one request.
    fn get_many(
        &self,
        keys: &[RowKey],
        consistency: Consistency,
    ) -> impl Future<Output = Result<RowBatch, AwsError>> + Send;

    /// The version up to which the events of a stream are in the rows, strongly consistent; 0 where none is. A
    /// read-after token is compared with it: the version of the aggregate's own row, or of its part.
    fn applied_version(&self, stream: &StreamId) -> impl Future<Output = Result<u64, AwsError>> + Send;

    /// The rows that have a value, from an index that lags behind the rows, newest first where the look-up has an order;
    /// one request, which shows at most [`MAX_FOUND`] of them. `value` is the text of an [`IndexValue`](millrace_core::IndexValue).
    fn lookup(
        &self,
        lookup: &'static LookupSchema,
        tenant: &TenantId,
        value: &str,
    ) -> impl Future<Output = Result<Vec<StoredRow>, AwsError>> + Send;

    /// The newest part of a list below the place `before`, or of all of it, from an index that lags behind the rows: at
    /// most `limit` rows, and one or more.
    ///
    /// A page may be shorter, or even empty, and yet not reach the list's end, which [`ListPage::end`] reports: rows
    /// are large, the shards of the index hold unlike numbers of them, or [`MAX_EXAMINED`] rows were looked at for
    /// those that pass a filter. It always comes further than `before`. One request for each key of the index, which is
    /// one, or one for each shard of a sharded list, and at most one more.
    fn page(
        &self,
        query: &ListQuery,
        before: Option<&Position>,
        limit: u16,
    ) -> impl Future<Output = Result<ListPage, AwsError>> + Send;
}
