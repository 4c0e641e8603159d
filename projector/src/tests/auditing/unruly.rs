//! Stores and rows that do what they may do, however seldom they do it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use millrace_aws::{AwsError, Segment};
use millrace_domain::StreamId;
use millrace_event_store::{Begun, MemoryStore, Met, Page, ReadEvents, ScanEvents, Scanned};
use millrace_read_models::{AuditRows, Change, FoundRows, ListedRows, WriteRows, Written};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

/// What is allowed to happen.
#[derive(Debug, Clone, Default)]
pub(super) struct Whims {
    /// A scan hands out its items in any order, in pages of any size.
    pub(super) disorder: bool,
    /// A batch of reads leaves some out.
    pub(super) leaves: bool,
    /// A batch of reads leaves all out.
    pub(super) leaves_all: bool,
    /// Of a hundred calls so many fail with this error.
    pub(super) fails: Option<(u32, AwsError)>,
    /// Before and after a call, others may have their turn.
    pub(super) gives_way: bool,
}

/// A store, or rows, with whims.
#[derive(Clone)]
pub(super) struct Unruly<T> {
    pub(super) inner: T,
    whims: Whims,
    chance: Arc<Mutex<StdRng>>,
    /// The items of a segment, in the order in which they are handed out.
    scans: Arc<Mutex<HashMap<u32, Vec<Met>>>>,
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

    /// Of what was asked for: what is answered, and what is left out.
    fn part(&self, asked: &[StreamId]) -> (Vec<StreamId>, Vec<StreamId>) {
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
    type Place = usize;

    async fn scan(&self, segment: Segment, from: Option<&usize>) -> Result<Scanned<usize>, AwsError> {
        if !self.whims.disorder {
            return self.call(self.inner.scan(segment, from)).await;
        }
        if from.is_none() {
            let (mut all, mut from) = (Vec::new(), None);
            loop {
                let page = self.inner.scan(segment, from.as_ref()).await?;
                all.extend(page.met);
                from = page.next;
                if from.is_none() {
                    break;
                }
            }
            all.shuffle(&mut *self.chance.lock().unwrap());
            self.scans.lock().unwrap().insert(segment.number, all);
        }
        let from = from.copied().unwrap_or_default();
        let size = usize::try_from(self.below(5)).unwrap();
        let scans = self.scans.lock().unwrap();
        let all = &scans[&segment.number];
        let met: Vec<_> = all.iter().skip(from).take(size).cloned().collect();
        let next = (from + size < all.len()).then_some(from + size);
        Ok(Scanned { met, next, read_units: 1.0 })
    }

    async fn look(&self, stream: &StreamId, from: Option<&usize>) -> Result<Scanned<usize>, AwsError> {
        self.call(self.inner.look(stream, from)).await
    }

    async fn begun(&self, streams: &[StreamId]) -> Result<Begun, AwsError> {
        let (asked, left) = self.part(streams);
        Ok(Begun { left, ..self.call(self.inner.begun(&asked)).await? })
    }

    async fn count(&self) -> Result<u64, AwsError> {
        self.inner.count().await
    }
}

impl<C: Change, W: WriteRows<C>> WriteRows<C> for Unruly<W> {
    async fn write(&self, change: &C) -> Result<Written, AwsError> {
        self.call(self.inner.write(change)).await
    }
}

impl<C: Change, W: AuditRows<C>> AuditRows<C> for Unruly<W> {
    type Row = W::Row;
    type Place = W::Place;

    async fn rows(&self, streams: &[StreamId]) -> Result<FoundRows<W::Row>, AwsError> {
        let (asked, left) = self.part(streams);
        Ok(FoundRows { left, ..self.call(self.inner.rows(&asked)).await? })
    }

    fn version(row: &W::Row) -> Option<u64> {
        W::version(row)
    }

    fn differences(&self, row: &W::Row, expected: &C) -> Result<Vec<&'static str>, AwsError> {
        self.inner.differences(row, expected)
    }

    async fn list(
        &self,
        segment: Segment,
        from: Option<&W::Place>,
    ) -> Result<ListedRows<W::Place>, AwsError> {
        self.call(self.inner.list(segment, from)).await
    }

    async fn replace(&self, row: &W::Row, with: &C) -> Result<bool, AwsError> {
        self.call(self.inner.replace(row, with)).await
    }

    async fn delete(&self, row: &W::Row) -> Result<bool, AwsError> {
        self.call(self.inner.delete(row)).await
    }

    async fn count(&self) -> Result<u64, AwsError> {
        self.inner.count().await
    }
}
