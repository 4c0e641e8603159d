//! Millrace's read models.
//!
//! A read model is a table of rows, one row an aggregate, each the fold of its stream up to a version. What events
//! change in a row is a [`Change`], which is written under one condition: that the row is at the version the change
//! starts from. So a row goes through the versions of its stream in order and never back, whatever is delivered twice,
//! late or out of turn. In the same write a row gets the [`Provenance`] of its newest event.
//!
//! [`WriteRows`] is the projector's side; [`ReadUsers`] and [`ReadOrders`] are the query service's. [`DynamoUsers`] and
//! [`DynamoOrders`] keep them on DynamoDB, [`MemoryUsers`] and [`MemoryOrders`] in memory; behind the feature
//! `contract` stands the suite that both pass. Behind the feature `audit` stands what an operator's audit needs besides,
//! to find rows that are wrong and to put them right.

#[cfg(any(test, feature = "audit"))]
mod audit;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod dynamo;
mod list;
mod memory;
mod order;
mod provenance;
mod user;

use std::future::Future;

#[cfg(any(test, feature = "audit"))]
pub use audit::{AuditRows, FoundRows, ListedRows};
#[cfg(any(test, feature = "audit"))]
pub use dynamo::DynamoRow;
pub use dynamo::{DynamoOrders, DynamoUsers};
pub use list::{Among, ListPart, MOST_EXAMINED, OrderList, Times};
pub use memory::{MemoryOrders, MemoryUsers};
use millrace_aws::AwsError;
use millrace_domain::{Email, OrderId, StreamId, TenantId, UserId};
pub use order::{OrderChange, OrderRow, Placed, Position};
pub use provenance::Provenance;
pub use user::{UserChange, UserRow};

/// What consecutive events of one stream change in its row.
pub trait Change: Clone + Send + Sync + 'static {
    /// The stream whose row it changes.
    fn stream(&self) -> StreamId;

    /// The version that the row must have; 0 where there must be no row yet.
    fn from(&self) -> u64;

    /// The version that the row gets, which is newer than [`from`](Self::from).
    fn to(&self) -> u64;

    /// The newest of the events, and what it came of: the row gets it with the version.
    fn provenance(&self) -> &Provenance;

    /// The two in one, to be written at once. `None` unless `next` starts where this one ends, on the same row.
    fn then(self, next: Self) -> Option<Self>;
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The row is as the change leaves it.
    Applied,
    /// Nothing was written: the row is at this version, or there is none (0). A version that is not older than the
    /// change's own can mean that an earlier attempt wrote it and its reply was lost.
    Found(u64),
}

/// Writing rows.
pub trait WriteRows<C: Change>: Clone + Send + Sync + 'static {
    /// Writes a change if the row is at the version that the change starts from; one request.
    ///
    /// A change that would leave a row without one of its values is [`AwsError::Refused`] and is not sent.
    fn write(&self, change: &C) -> impl Future<Output = Result<Written, AwsError>> + Send;
}

/// The most rows that one call reads by their keys (DynamoDB API Reference, `BatchGetItem`).
pub const MOST_ROWS: usize = 100;

/// Whether a reading must see what was written before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// It must.
    Strong,
    /// It may be a moment behind, for half the price.
    Eventual,
}

/// A row's key.
pub type Key<I> = (TenantId, I);

/// Rows that were asked for by their keys. A key that stands nowhere in here has no row.
#[derive(Debug, Clone)]
pub struct Many<I, R> {
    /// Those that there are. One that cannot be read is an error of its own.
    pub found: Vec<(Key<I>, Result<R, AwsError>)>,
    /// Those that there was no answer for, as when AWS throttles or the answer would be too large: to be asked for
    /// again.
    pub left: Vec<Key<I>>,
    /// The read units that AWS says it took; 0 where it does not say.
    pub read_units: f64,
}

/// Reading users' profiles.
pub trait ReadUsers: Clone + Send + Sync + 'static {
    /// A user, strongly consistent: what was written before the call is seen.
    fn get(
        &self,
        tenant: &TenantId,
        user_id: UserId,
    ) -> impl Future<Output = Result<Option<UserRow>, AwsError>> + Send;

    /// Up to [`MOST_ROWS`] users, each named once; one request.
    fn get_many(
        &self,
        keys: &[Key<UserId>],
        consistency: Consistency,
    ) -> impl Future<Output = Result<Many<UserId, UserRow>, AwsError>> + Send;

    /// Who holds an address, in whatever case, from an index that lags behind the rows. While the address moves from one
    /// user to another the index may show both; the one who changed last comes first, and is the likely holder.
    fn by_email(
        &self,
        tenant: &TenantId,
        email: &Email,
    ) -> impl Future<Output = Result<Vec<UserRow>, AwsError>> + Send;
}

/// Reading order summaries.
pub trait ReadOrders: Clone + Send + Sync + 'static {
    /// An order, strongly consistent: what was written before the call is seen.
    fn get(
        &self,
        tenant: &TenantId,
        order_id: OrderId,
    ) -> impl Future<Output = Result<Option<OrderRow>, AwsError>> + Send;

    /// Up to [`MOST_ROWS`] orders, each named once; one request.
    fn get_many(
        &self,
        keys: &[Key<OrderId>],
        consistency: Consistency,
    ) -> impl Future<Output = Result<Many<OrderId, OrderRow>, AwsError>> + Send;

    /// The newest part of a list below the place `before`, or of all of it, from an index that lags behind the rows: at
    /// most `limit` orders, and one or more.
    ///
    /// A part may be shorter, or even empty, and yet not reach the list's end, which [`ListPart::end`] tells: the orders
    /// are large, the shards of the index hold unlike numbers of them, or [`MOST_EXAMINED`] orders of a user were looked
    /// at for those in a status. It always comes further than `before`. One request for each key of the index, which is
    /// one for a user and one for each shard for a status, and at most one more.
    fn part(
        &self,
        list: &OrderList,
        before: Option<&Position>,
        limit: u16,
    ) -> impl Future<Output = Result<ListPart, AwsError>> + Send;
}

/// A change that must not be written, since the row would not be one that the history had.
fn flawed(why: &str) -> AwsError {
    AwsError::Refused(format!("a change is flawed: {why}"))
}
