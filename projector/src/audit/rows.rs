//! One projection under audit: its rows, held against what its events come to.

use std::{
    collections::{HashMap, hash_map::Entry},
    marker::PhantomData,
    sync::Arc,
};

use futures::{FutureExt as _, future::BoxFuture};
use millrace_aws::Segment;
use millrace_domain::{AggregateType, StreamId};
use millrace_event_store::{MOST_STREAMS, Met, ScanEvents};
use millrace_read_models::{AuditRows, MOST_ROWS};
use tokio::sync::mpsc;

use super::{
    Shared, Suspect,
    finding::{Finding, Kind, Place},
    fold::Fold,
};
use crate::{pace::Halt, projection::Projection};

/// What is done by a call, should it fail.
const READ: &str = "reading rows";
const BEGUN: &str = "looking for the first events of rows";

/// A projection under audit.
pub(super) trait Audited: Send + Sync {
    /// The kind of aggregate that it shows.
    fn kind(&self) -> AggregateType;

    /// A new lane for one reader of the event store.
    fn lane(self: Arc<Self>) -> Box<dyn Lane>;

    /// Looks at a suspect more closely, reports what is wrong with it, and repairs it where that is asked for.
    fn settle<'a>(&'a self, suspect: &'a Suspect) -> BoxFuture<'a, Result<(), Halt>>;

    /// Goes through a segment of the rows, and suspects those whose stream has not begun.
    fn list(
        self: Arc<Self>,
        segment: Segment,
        suspects: mpsc::Sender<Suspect>,
    ) -> BoxFuture<'static, Result<(), Halt>>;

    /// About how many rows there are, if AWS says it.
    fn count(&self) -> BoxFuture<'_, Option<u64>>;
}

/// The events of one projection on their way from a scan to their rows. It folds one stream at a time, and holds what
/// came of some until their rows are read together: at most [`MOST_ROWS`].
pub(super) trait Lane: Send {
    /// Takes what was met of a stream.
    fn take(&mut self, stream: StreamId, met: &Met);

    /// Whether it holds so many that their rows must be read.
    fn is_full(&self) -> bool;

    /// Tells it that the scan is at its end, and so is the last stream.
    fn end(&mut self);

    /// Reads the rows of what it holds, and hands back those that are to be looked at more closely.
    fn compare(&mut self) -> BoxFuture<'_, Result<Vec<Suspect>, Halt>>;
}

/// The rows of a projection and the events that they are made of.
pub(super) struct Checked<P, W, E> {
    pub(super) rows: W,
    pub(super) events: E,
    pub(super) shared: Arc<Shared>,
    projection: PhantomData<fn() -> P>,
}

impl<P: Projection, W: AuditRows<P::Change>, E: ScanEvents> Checked<P, W, E> {
    pub(super) fn new(rows: W, events: E, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { rows, events, shared, projection: PhantomData })
    }

    /// The rows of some streams, strongly consistent.
    pub(super) async fn read(&self, streams: Vec<StreamId>) -> Result<HashMap<StreamId, W::Row>, Halt> {
        let mut rows = HashMap::new();
        let (mut wanted, mut failures) = (streams, 0);
        while !wanted.is_empty() {
            let read = self.shared.call(READ, || self.rows.rows(&wanted)).await?;
            self.shared.took(read.read_units);
            if read.left.len() < wanted.len() {
                failures = 0;
            } else {
                self.shared.starved(READ, &mut failures).await?;
            }
            rows.extend(read.found);
            wanted = read.left;
        }
        Ok(rows)
    }

    /// In what a row differs from what its events come to.
    pub(super) fn differences(&self, row: &W::Row, expected: &P::Change) -> Result<Vec<&'static str>, Halt> {
        self.rows.differences(row, expected).map_err(|error| Halt::Aws("comparing a row", error))
    }

    /// Of some streams, those that have not begun, as far as a weak read can tell.
    async fn unbegun(&self, streams: &[StreamId]) -> Result<Vec<StreamId>, Halt> {
        let mut unbegun: Vec<_> = streams.to_vec();
        let (mut wanted, mut failures) = (streams.to_vec(), 0);
        while !wanted.is_empty() {
            let answer = self.shared.call(BEGUN, || self.events.begun(&wanted)).await?;
            self.shared.took(answer.read_units);
            if answer.left.len() < wanted.len() {
                failures = 0;
            } else {
                self.shared.starved(BEGUN, &mut failures).await?;
            }
            unbegun.retain(|stream| !answer.begun.contains(stream));
            wanted = answer.left;
        }
        Ok(unbegun)
    }

    async fn list_all(
        self: Arc<Self>,
        segment: Segment,
        suspects: mpsc::Sender<Suspect>,
    ) -> Result<(), Halt> {
        let mut from = None;
        loop {
            let page =
                self.shared.call("scanning a read model", || self.rows.list(segment, from.as_ref())).await?;
            self.shared.took(page.read_units);
            self.shared.report.tally.rows(page.listed.len());
            let mut streams = Vec::new();
            for listed in page.listed {
                match listed {
                    Ok(stream) => streams.push(stream),
                    // No query asks for it and no event leads to it. What it is, a person has to find out.
                    Err(key) => self.shared.report.finding(&Finding::new(
                        Kind::Orphaned,
                        Some(P::NAME),
                        Place::Key(key),
                    ))?,
                }
            }
            for streams in streams.chunks(MOST_STREAMS) {
                for stream in self.unbegun(streams).await? {
                    let home = Arc::clone(&self) as Arc<dyn Audited>;
                    self.shared.suspect(&suspects, Suspect { home, stream, due: None }).await?;
                }
            }
            from = page.next;
            if from.is_none() {
                return Ok(());
            }
        }
    }
}

impl<P: Projection, W: AuditRows<P::Change>, E: ScanEvents> Audited for Checked<P, W, E> {
    fn kind(&self) -> AggregateType {
        P::AGGREGATE
    }

    fn lane(self: Arc<Self>) -> Box<dyn Lane> {
        Box::new(Folding { home: self, current: None, done: HashMap::new() })
    }

    fn settle<'a>(&'a self, suspect: &'a Suspect) -> BoxFuture<'a, Result<(), Halt>> {
        self.settle_one(suspect).boxed()
    }

    fn list(
        self: Arc<Self>,
        segment: Segment,
        suspects: mpsc::Sender<Suspect>,
    ) -> BoxFuture<'static, Result<(), Halt>> {
        self.list_all(segment, suspects).boxed()
    }

    fn count(&self) -> BoxFuture<'_, Option<u64>> {
        async { self.rows.count().await.ok() }.boxed()
    }
}

/// A projection's lane.
struct Folding<P: Projection, W, E> {
    home: Arc<Checked<P, W, E>>,
    current: Option<(StreamId, Fold<P>)>,
    done: HashMap<StreamId, Fold<P>>,
}

impl<P: Projection, W: AuditRows<P::Change>, E: ScanEvents> Lane for Folding<P, W, E> {
    fn take(&mut self, stream: StreamId, met: &Met) {
        if self.current.as_ref().is_none_or(|(current, _)| *current != stream) {
            self.end();
            self.current = Some((stream, Fold::default()));
        }
        if let Some((_, fold)) = &mut self.current {
            fold.add(met);
        }
    }

    fn is_full(&self) -> bool {
        self.done.len() >= MOST_ROWS
    }

    fn end(&mut self) {
        if let Some((stream, fold)) = self.current.take() {
            self.home.shared.report.tally.aggregate();
            match self.done.entry(stream) {
                Entry::Vacant(place) => drop(place.insert(fold)),
                // Its items did not come together.
                Entry::Occupied(mut place) => place.get_mut().is_in_parts(&fold),
            }
        }
    }

    fn compare(&mut self) -> BoxFuture<'_, Result<Vec<Suspect>, Halt>> {
        let folds = std::mem::take(&mut self.done);
        let home = Arc::clone(&self.home);
        async move {
            // What cannot be folded as it came is loaded once more in any case.
            let readable = folds.iter().filter(|(_, fold)| fold.obstacle.is_none());
            let rows = home.read(readable.map(|(stream, _)| stream.clone()).collect()).await?;
            let mut suspects = Vec::new();
            for (stream, fold) in folds {
                let is_right = match (fold.change, rows.get(&stream)) {
                    (Some(change), Some(row)) if fold.obstacle.is_none() => {
                        W::version(row) == Some(fold.folded) && home.differences(row, &change)?.is_empty()
                    }
                    (Some(_) | None, Some(_) | None) => false,
                };
                if !is_right {
                    let home = Arc::clone(&home) as Arc<dyn Audited>;
                    suspects.push(Suspect { home, stream, due: Some(fold.newest) });
                }
            }
            Ok(suspects)
        }
        .boxed()
    }
}
