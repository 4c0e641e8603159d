//! Stores and rows with rare but permitted behaviour.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use millrace_aws::{AwsError, Segment};
use millrace_core::{
    StreamId, TenantId,
    projection::RowUpdate,
    row::{LookupSchema, Position, RowKey, StoredRow},
};
use millrace_event_store::{
    Begun, IndexRange, MemoryPlace, MemoryStore, Page, ReadEvents, ScanEvents, Scanned, ScannedItem, Touched,
};
use millrace_rows::{
    AuditRows, Consistency, FoundRows, ListPage, ListQuery, ListedRow, ListedRows, MemoryRows, ReadRows,
    RowBatch, Sum, WriteError, WriteOutcome, WriteRows,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use super::{super::world::counter, Bench};

/// The permitted behaviour.
#[derive(Debug, Clone, Default)]
pub(super) struct Whims {
    /// A scan hands out its items in any order, in pages of any size.
    pub(super) disorder: bool,
    /// A batch of reads leaves some out.
    pub(super) leaves: bool,
    /// A batch of reads leaves all out.
    pub(super) leaves_all: bool,
    /// So many of a hundred calls fail with this error.
    pub(super) fails: Option<(u32, AwsError)>,
    /// Other tasks may run before and after a call.
    pub(super) gives_way: bool,
    /// This row, which sums up aggregates, is missing.
    pub(super) lost: Option<RowKey>,
}

/// A store, or rows, with whims.
#[derive(Clone)]
pub(super) struct Unruly<T> {
    pub(super) inner: T,
    whims: Whims,
    chance: Arc<Mutex<StdRng>>,
    /// The items of a segment, in the order in which they are handed out.
    scans: Arc<Mutex<HashMap<u32, Vec<ScannedItem>>>>,
}

impl<T> Unruly<T> {
    pub(super) fn new(inner: T, whims: Whims, seed: u64) -> Self {
        Self { inner, whims, chance: Arc::new(StdRng::seed_from_u64(seed).into()), scans: Arc::default() }
    }

    fn below(&self, bound: u32) -> u32 {
        self.chance.lock().unwrap().random_range(0..bound)
    }

    async fn give_way(&self) {
        let turns = if self.whims.gives_way { self.below(4) } else { 0 };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }

    /// Makes a call, with whims.
    async fn call<R>(&self, call: impl Future<Output = Result<R, AwsError>>) -> Result<R, AwsError> {
        self.give_way().await;
        if let Some((percent, error)) = &self.whims.fails
            && self.below(100) < *percent
        {
            return Err(error.clone());
        }
        let result = call.await;
        self.give_way().await;
        result
    }

    /// Splits the keys into those answered and those left out.
    fn part<K: Clone>(&self, asked: &[K]) -> (Vec<K>, Vec<K>) {
        if self.whims.leaves_all {
            return (vec![], asked.to_vec());
        }
        asked.iter().cloned().partition(|_| !self.whims.leaves || self.below(2) == 0)
    }
}

impl ReadEvents for Unruly<MemoryStore> {
    async fn page(&self, stream: &StreamId, after: u64, limit: u16) -> Result<Page, AwsError> {
        self.call(self.inner.page(stream, after, limit)).await
    }
}

impl ScanEvents for Unruly<MemoryStore> {
    type Place = MemoryPlace;

    async fn scan(
        &self,
        segment: Segment,
        from: Option<&MemoryPlace>,
    ) -> Result<Scanned<MemoryPlace>, AwsError> {
        if !self.whims.disorder {
            return self.call(self.inner.scan(segment, from)).await;
        }
        if from.is_none() {
            let (mut all, mut from) = (Vec::new(), None);
            loop {
                let page = self.inner.scan(segment, from.as_ref()).await?;
                all.extend(page.items);
                from = page.next;
                if from.is_none() {
                    break;
                }
            }
            all.shuffle(&mut *self.chance.lock().unwrap());
            self.scans.lock().unwrap().insert(segment.number, all);
        }
        // The number of items that were handed out.
        let from = from.map_or(0, |from| usize::try_from(from.version).unwrap());
        let size = usize::try_from(self.below(5)).unwrap();
        let scans = self.scans.lock().unwrap();
        let all = &scans[&segment.number];
        let items: Vec<_> = all.iter().skip(from).take(size).cloned().collect();
        let place = |n| MemoryPlace { stream: counter(0), version: u64::try_from(n).unwrap() };
        let next = (from + size < all.len()).then_some(place(from + size));
        Ok(Scanned { items, next, read_units: 1.0 })
    }

    async fn look(
        &self,
        stream: &StreamId,
        from: Option<&MemoryPlace>,
    ) -> Result<Scanned<MemoryPlace>, AwsError> {
        self.call(self.inner.look(stream, from)).await
    }

    async fn touched(
        &self,
        range: &IndexRange,
        from: Option<&MemoryPlace>,
    ) -> Result<Touched<MemoryPlace>, AwsError> {
        self.call(self.inner.touched(range, from)).await
    }

    async fn begun(&self, streams: &[StreamId]) -> Result<Begun, AwsError> {
        let (asked, left) = self.part(streams);
        Ok(Begun { left, ..self.call(self.inner.begun(&asked)).await? })
    }

    async fn count(&self) -> Result<u64, AwsError> {
        self.inner.count().await
    }
}

impl Unruly<MemoryRows> {
    /// All rows of a bench, with whims.
    pub(super) fn all(bench: &Bench, whims: &Whims, seed: u64) -> (Self, Self, Self) {
        let rows = |rows: &MemoryRows, seed| Self::new(rows.clone(), whims.clone(), seed);
        (rows(&bench.cards, seed + 1), rows(&bench.totals, seed + 2), rows(&bench.groups, seed + 3))
    }
}

impl<W: WriteRows> WriteRows for Unruly<W> {
    async fn write(&self, update: &RowUpdate) -> Result<WriteOutcome, WriteError> {
        self.call(async { Ok(self.inner.write(update).await) }).await?
    }
}

impl<W: ReadRows> ReadRows for Unruly<W> {
    async fn get(&self, key: &RowKey) -> Result<Option<StoredRow>, AwsError> {
        self.call(self.inner.get(key)).await
    }

    async fn get_many(&self, keys: &[RowKey], consistency: Consistency) -> Result<RowBatch, AwsError> {
        let (asked, left) = self.part(keys);
        let mut batch = self.call(self.inner.get_many(&asked, consistency)).await?;
        batch.found.retain(|(key, _)| self.whims.lost.as_ref() != Some(key));
        Ok(RowBatch { left, ..batch })
    }

    async fn applied_version(&self, stream: &StreamId) -> Result<u64, AwsError> {
        self.call(self.inner.applied_version(stream)).await
    }

    async fn lookup(
        &self,
        lookup: &'static LookupSchema,
        tenant: &TenantId,
        value: &str,
    ) -> Result<Vec<StoredRow>, AwsError> {
        self.call(self.inner.lookup(lookup, tenant, value)).await
    }

    async fn page(
        &self,
        query: &ListQuery,
        before: Option<&Position>,
        limit: u16,
    ) -> Result<ListPage, AwsError> {
        self.call(self.inner.page(query, before, limit)).await
    }
}

impl<W: AuditRows> AuditRows for Unruly<W> {
    type Row = W::Row;
    type Cursor = W::Cursor;

    async fn rows(&self, streams: &[StreamId]) -> Result<FoundRows<W::Row>, AwsError> {
        let (asked, left) = self.part(streams);
        Ok(FoundRows { left, ..self.call(self.inner.rows(&asked)).await? })
    }

    fn version(row: &W::Row) -> Option<u64> {
        W::version(row)
    }

    fn differences(&self, row: &W::Row, expected: &RowUpdate) -> Result<Vec<String>, AwsError> {
        self.inner.differences(row, expected)
    }

    async fn list(
        &self,
        segment: Segment,
        from: Option<&W::Cursor>,
    ) -> Result<ListedRows<W::Cursor>, AwsError> {
        let mut page = self.call(self.inner.list(segment, from)).await?;
        page.listed.retain(|listed| match listed {
            ListedRow::Sum(key) => self.whims.lost.as_ref() != Some(key),
            ListedRow::Stream(_) | ListedRow::Unreadable(_) => true,
        });
        Ok(page)
    }

    async fn replace(&self, row: &W::Row, with: &RowUpdate) -> Result<bool, AwsError> {
        self.call(self.inner.replace(row, with)).await
    }

    async fn delete(&self, row: &W::Row) -> Result<bool, AwsError> {
        self.call(self.inner.delete(row)).await
    }

    async fn count(&self) -> Result<u64, AwsError> {
        self.inner.count().await
    }

    async fn sum(&self, key: &RowKey) -> Result<Sum<W::Row>, AwsError> {
        let sum = self.call(self.inner.sum(key)).await?;
        let is_lost = self.whims.lost.as_ref() == Some(key);
        Ok(if is_lost { Sum { row: None, ..sum } } else { sum })
    }

    async fn replace_sum(&self, sum: &Sum<W::Row>) -> Result<bool, AwsError> {
        self.call(self.inner.replace_sum(sum)).await
    }
}
