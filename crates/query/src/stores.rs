//! Stores of any kind behind one pointer, so that adapters name none. That costs an allocation a request, which is
//! negligible.

use std::ops::RangeInclusive;

use futures::{FutureExt as _, future::BoxFuture};
use millrace_aws::AwsError;
use millrace_core::{
    StreamId, TenantId,
    row::{LookupSchema, Position, RowKey, StoredRow},
};
use millrace_event_store::{Direction, Found, HistoryPage, ReadHistory, Search};
use millrace_rows::{Consistency, ListPage, ListQuery, ReadRows, RowBatch};

/// The reply of a store.
pub(crate) type Reply<'a, T> = BoxFuture<'a, Result<T, AwsError>>;

/// [`ReadRows`] of any kind.
pub(crate) trait AnyRows: Send + Sync + 'static {
    fn get<'a>(&'a self, key: &'a RowKey) -> Reply<'a, Option<StoredRow>>;

    fn get_many<'a>(&'a self, keys: &'a [RowKey], consistency: Consistency) -> Reply<'a, RowBatch>;

    fn applied_version<'a>(&'a self, stream: &'a StreamId) -> Reply<'a, u64>;

    fn lookup<'a>(
        &'a self,
        lookup: &'static LookupSchema,
        tenant: &'a TenantId,
        value: &'a str,
    ) -> Reply<'a, Vec<StoredRow>>;

    fn page<'a>(
        &'a self,
        query: &'a ListQuery,
        before: Option<&'a Position>,
        limit: u16,
    ) -> Reply<'a, ListPage>;
}

impl<S: ReadRows> AnyRows for S {
    fn get<'a>(&'a self, key: &'a RowKey) -> Reply<'a, Option<StoredRow>> {
        ReadRows::get(self, key).boxed()
    }

    fn get_many<'a>(&'a self, keys: &'a [RowKey], consistency: Consistency) -> Reply<'a, RowBatch> {
        ReadRows::get_many(self, keys, consistency).boxed()
    }

    fn applied_version<'a>(&'a self, stream: &'a StreamId) -> Reply<'a, u64> {
        ReadRows::applied_version(self, stream).boxed()
    }

    fn lookup<'a>(
        &'a self,
        lookup: &'static LookupSchema,
        tenant: &'a TenantId,
        value: &'a str,
    ) -> Reply<'a, Vec<StoredRow>> {
        ReadRows::lookup(self, lookup, tenant, value).boxed()
    }

    fn page<'a>(
        &'a self,
        query: &'a ListQuery,
        before: Option<&'a Position>,
        limit: u16,
    ) -> Reply<'a, ListPage> {
        ReadRows::page(self, query, before, limit).boxed()
    }
}

/// [`ReadHistory`] of any kind.
pub(crate) trait AnyHistory: Send + Sync + 'static {
    fn history<'a>(
        &'a self,
        stream: &'a StreamId,
        versions: RangeInclusive<u64>,
        direction: Direction,
        limit: u16,
    ) -> Reply<'a, HistoryPage>;

    fn search<'a>(&'a self, search: &'a Search, limit: u16) -> Reply<'a, Option<Found>>;
}

impl<E: ReadHistory> AnyHistory for E {
    fn history<'a>(
        &'a self,
        stream: &'a StreamId,
        versions: RangeInclusive<u64>,
        direction: Direction,
        limit: u16,
    ) -> Reply<'a, HistoryPage> {
        ReadHistory::history(self, stream, versions, direction, limit).boxed()
    }

    fn search<'a>(&'a self, search: &'a Search, limit: u16) -> Reply<'a, Option<Found>> {
        ReadHistory::search(self, search, limit).boxed()
    }
}
