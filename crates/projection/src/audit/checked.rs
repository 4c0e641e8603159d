//! One projection under audit: its rows, held against the folds of their events.

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{FutureExt as _, future::BoxFuture};
use millrace_aws::{Place as _, Segment};
use millrace_core::{
    AggregateType, StreamId,
    projection::{Aggregation, ProjectionKind, ProjectionSpec, RowUpdate},
    row::{Attributes, RowKey},
};
use millrace_event_store::{MAX_STREAMS, ScanEvents, ScannedItem};
use millrace_rows::{AuditRows, Consistency, ListedRow, MAX_ROWS};
use tokio::sync::mpsc;

use super::{
    Part, Shared, Subject, Suspect,
    finding::{Finding, Kind, Place},
    fold::Fold,
};
use crate::pace::Halt;

/// The names of the calls, for failures.
const READ: &str = "reading rows";
const BEGUN: &str = "looking for the first events of rows";

/// The most absent rows that are remembered. Beyond, one is reported once for each hundred of its parts.
const MAX_REMEMBERED: usize = 100_000;

/// A pass through the keys of a table of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Rows of streams, of which some may not have begun.
    Streams,
    /// Rows that sum up aggregates, once their parts are settled.
    Sums,
}

impl Pass {
    /// The name of a part of the pass.
    pub(super) fn part(self, projection: &str, segment: Segment) -> String {
        let pass = match self {
            Self::Streams => "rows",
            Self::Sums => "sums",
        };
        format!("{pass}/{projection}/{}", segment.number)
    }
}

/// A projection under audit.
pub(super) trait Audited: Send + Sync {
    /// Its name and version.
    fn name(&self) -> &str;

    /// The aggregate type whose events it takes.
    fn source(&self) -> &AggregateType;

    /// Whether its rows sum up aggregates.
    fn has_sums(&self) -> bool;

    /// A new lane for one reader of the event store.
    fn lane(self: Arc<Self>, part: Arc<Part>) -> Box<dyn Lane>;

    /// Looks at a suspect more closely, and repairs a wrong row where that is asked for. Returns the findings.
    fn settle<'a>(&'a self, subject: &'a Subject) -> BoxFuture<'a, Result<Vec<Finding>, Halt>>;

    /// Goes through a segment of the rows, and suspects those that the pass is about.
    fn list(
        self: Arc<Self>,
        pass: Pass,
        segment: Segment,
        part: Arc<Part>,
        suspects: mpsc::Sender<Suspect>,
    ) -> BoxFuture<'static, Result<(), Halt>>;

    /// The approximate number of rows, if AWS reports it.
    fn count(&self) -> BoxFuture<'_, Option<u64>>;
}

/// The events of one projection on their way from a scan to their rows. It folds one stream at a time, and holds the
/// folds of some until their rows are read together: at most [`MAX_ROWS`].
pub(super) trait Lane: Send {
    /// Takes the next item of a stream.
    fn take(&mut self, stream: StreamId, item: &ScannedItem);

    /// Whether it holds so many that their rows must be read.
    fn is_full(&self) -> bool;

    /// Tells it that its stream is at the end, unless it is this one.
    fn end_unless(&mut self, goes_on: Option<&StreamId>);

    /// Reads the rows of its folds, and returns the suspects.
    fn compare(&mut self) -> BoxFuture<'_, Result<Suspected, Halt>>;
}

/// Suspects and their projections.
pub(super) type Suspected = Vec<(Arc<dyn Audited>, Subject)>;

/// The rows of a projection and the events that they are made of.
pub(super) struct Checked<W, E> {
    pub(super) spec: ProjectionSpec,
    name: String,
    pub(super) label: &'static str,
    pub(super) rows: W,
    pub(super) events: E,
    pub(super) shared: Arc<Shared>,
    /// Rows that sum up aggregates and are suspects already: each is met by many of its parts.
    missed: Mutex<HashSet<RowKey>>,
}

impl<W: AuditRows, E: ScanEvents> Checked<W, E> {
    pub(super) fn new(
        spec: ProjectionSpec,
        label: &'static str,
        rows: W,
        events: E,
        shared: Arc<Shared>,
    ) -> Self {
        let name = spec.name.to_string();
        Self { spec, name, label, rows, events, shared, missed: Mutex::default() }
    }

    /// The rows of some streams, strongly consistent.
    pub(super) async fn read(&self, streams: Vec<StreamId>) -> Result<HashMap<StreamId, W::Row>, Halt> {
        let mut rows = HashMap::new();
        let (mut wanted, mut failures) = (streams, 0);
        while !wanted.is_empty() {
            let read = self.shared.call(READ, || self.rows.rows(&wanted)).await?;
            self.shared.took(read.read_units);
            self.shared.progress(READ, &mut failures, read.left.len() < wanted.len()).await?;
            rows.extend(read.found);
            wanted = read.left;
        }
        Ok(rows)
    }

    /// The attributes in which a row differs from the fold of its events.
    pub(super) fn differences(&self, row: &W::Row, expected: &RowUpdate) -> Result<Vec<String>, Halt> {
        self.rows.differences(row, expected).map_err(|error| Halt::Aws("comparing a row", error))
    }

    pub(super) fn aggregation(&self) -> Option<&Aggregation> {
        match &self.spec.kind {
            ProjectionKind::Aggregating(aggregation) => Some(aggregation),
            ProjectionKind::Blind | ProjectionKind::Fold => None,
        }
    }

    /// The row that a part belongs to, where rows sum up aggregates and the stream has a part.
    fn target(&self, update: &RowUpdate) -> Option<RowKey> {
        let part = update.change.resolve(&Attributes::new()).ok().filter(|part| !part.is_empty())?;
        let id = (self.aggregation()?.row_of)(&part).ok()?;
        Some(RowKey { tenant: update.key.tenant.clone(), id })
    }

    /// The keys, out of these, of rows to look at that were not met before. A whole audit lists rows later, unless they
    /// do not exist.
    async fn sums_of(&self, mut keys: BTreeSet<RowKey>) -> Result<BTreeSet<RowKey>, Halt> {
        keys.retain(|key| !self.missed().contains(key));
        if self.shared.settings.index.is_some() {
            let mut met = self.missed();
            if met.len() >= MAX_REMEMBERED {
                met.clear();
            }
            met.extend(keys.iter().cloned());
            return Ok(keys);
        }
        let mut absent = keys.clone();
        let (mut wanted, mut failures) = (keys.into_iter().collect::<Vec<_>>(), 0);
        while !wanted.is_empty() {
            let rest = wanted.split_off(wanted.len().min(MAX_ROWS));
            let read = self.shared.call(READ, || self.rows.get_many(&wanted, Consistency::Eventual)).await?;
            self.shared.took(read.read_units);
            self.shared.progress(READ, &mut failures, read.left.len() < wanted.len()).await?;
            // A row that cannot be read exists; the closer look at its sum shows the fault.
            read.found.iter().for_each(|(key, _)| _ = absent.remove(key));
            wanted = [read.left, rest].concat();
        }
        let mut missed = self.missed();
        if missed.len() < MAX_REMEMBERED {
            absent.retain(|key| missed.insert(key.clone()));
        }
        Ok(absent)
    }

    fn missed(&self) -> MutexGuard<'_, HashSet<RowKey>> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The streams, out of these, that have not begun, as far as a weak read can tell.
    async fn unbegun(&self, streams: &[StreamId]) -> Result<Vec<StreamId>, Halt> {
        let mut unbegun: Vec<_> = streams.to_vec();
        let (mut wanted, mut failures) = (streams.to_vec(), 0);
        while !wanted.is_empty() {
            let answer = self.shared.call(BEGUN, || self.events.begun(&wanted)).await?;
            self.shared.took(answer.read_units);
            self.shared.progress(BEGUN, &mut failures, answer.left.len() < wanted.len()).await?;
            unbegun.retain(|stream| !answer.begun.contains(stream));
            wanted = answer.left;
        }
        Ok(unbegun)
    }

    async fn list_all(
        self: Arc<Self>,
        pass: Pass,
        segment: Segment,
        part: Arc<Part>,
        suspects: mpsc::Sender<Suspect>,
    ) -> Result<(), Halt> {
        let mut from = part.cursor().as_deref().and_then(W::Cursor::from_text);
        while !part.is_done() {
            let page =
                self.shared.call("scanning a read model", || self.rows.list(segment, from.as_ref())).await?;
            self.shared.took(page.read_units);
            let is_of_pass = |listed: &ListedRow| matches!(listed, ListedRow::Sum(_)) == (pass == Pass::Sums);
            let listed: Vec<_> = page.listed.into_iter().filter(is_of_pass).collect();
            let rows = u64::try_from(listed.len()).unwrap_or(u64::MAX);
            part.count(|counts| counts.rows += rows);
            let (mut streams, mut subjects) = (Vec::new(), Vec::new());
            for listed in listed {
                match listed {
                    ListedRow::Stream(stream) => streams.push(stream),
                    ListedRow::Sum(key) => subjects.push(Subject::Sum(key)),
                    // No query asks for it and no event leads to it. A person has to find out where it came from.
                    ListedRow::Unreadable(key) => {
                        let finding = Finding::new(Kind::Orphaned, Some(self.label), Place::Key(key));
                        self.shared.report.finding(&finding)?;
                        part.count(|counts| counts.finding(&finding));
                    }
                }
            }
            for streams in streams.chunks(MAX_STREAMS) {
                let unbegun = self.unbegun(streams).await?;
                subjects.extend(unbegun.into_iter().map(|stream| Subject::Stream { stream, due: None }));
            }
            for subject in subjects {
                self.shared.suspect(&suspects, &part, Arc::clone(&self) as Arc<dyn Audited>, subject).await?;
            }
            from = page.next;
            self.shared.reached(&part, from.as_ref().map(W::Cursor::to_text), None).await?;
        }
        Ok(())
    }
}

impl<W: AuditRows, E: ScanEvents> Audited for Checked<W, E> {
    fn name(&self) -> &str {
        &self.name
    }

    fn source(&self) -> &AggregateType {
        &self.spec.source
    }

    fn has_sums(&self) -> bool {
        self.aggregation().is_some()
    }

    fn lane(self: Arc<Self>, part: Arc<Part>) -> Box<dyn Lane> {
        Box::new(Folding { home: self, part, current: None, done: HashMap::new() })
    }

    fn settle<'a>(&'a self, subject: &'a Subject) -> BoxFuture<'a, Result<Vec<Finding>, Halt>> {
        match subject {
            Subject::Stream { stream, due } => self.settle_stream(stream, *due).boxed(),
            Subject::Sum(key) => self.settle_sum(key).boxed(),
        }
    }

    fn list(
        self: Arc<Self>,
        pass: Pass,
        segment: Segment,
        part: Arc<Part>,
        suspects: mpsc::Sender<Suspect>,
    ) -> BoxFuture<'static, Result<(), Halt>> {
        self.list_all(pass, segment, part, suspects).boxed()
    }

    fn count(&self) -> BoxFuture<'_, Option<u64>> {
        async { self.rows.count().await.ok() }.boxed()
    }
}

/// A projection's lane.
struct Folding<W, E> {
    home: Arc<Checked<W, E>>,
    part: Arc<Part>,
    current: Option<(StreamId, Fold)>,
    done: HashMap<StreamId, Fold>,
}

impl<W: AuditRows, E: ScanEvents> Lane for Folding<W, E> {
    fn take(&mut self, stream: StreamId, item: &ScannedItem) {
        if self.current.as_ref().is_none_or(|(current, _)| *current != stream) {
            self.end_unless(None);
            self.home.shared.report.tally.hold(1);
            self.current = Some((stream, Fold::default()));
        }
        if let Some((_, fold)) = &mut self.current {
            fold.add(&self.home.spec, item);
        }
    }

    fn is_full(&self) -> bool {
        self.done.len() >= MAX_ROWS
    }

    fn end_unless(&mut self, goes_on: Option<&StreamId>) {
        if let Some((stream, fold)) = self.current.take_if(|(stream, _)| Some(&*stream) != goes_on) {
            self.part.count(|counts| counts.aggregates += 1);
            match self.done.entry(stream) {
                Entry::Vacant(place) => drop(place.insert(fold)),
                // The stream's items did not come together.
                Entry::Occupied(mut place) => {
                    place.get_mut().is_in_parts(&fold);
                    self.home.shared.report.tally.let_go(1);
                }
            }
        }
    }

    fn compare(&mut self) -> BoxFuture<'_, Result<Suspected, Halt>> {
        let folds = std::mem::take(&mut self.done);
        let home = Arc::clone(&self.home);
        async move {
            // A stream that cannot be folded as it came is read again in any case.
            let readable = folds.iter().filter(|(_, fold)| fold.obstacle.is_none());
            let rows = home.read(readable.map(|(stream, _)| stream.clone()).collect()).await?;
            let held = u64::try_from(folds.len()).unwrap_or(u64::MAX);
            let (mut subjects, mut targets) = (Vec::new(), BTreeSet::new());
            for (stream, fold) in folds {
                let is_right = match (&fold.update, rows.get(&stream)) {
                    (Some(update), Some(row)) if fold.obstacle.is_none() => {
                        W::version(row) == Some(fold.folded) && home.differences(row, update)?.is_empty()
                    }
                    (Some(_) | None, Some(_) | None) => false,
                };
                if is_right {
                    targets.extend(fold.update.as_ref().and_then(|update| home.target(update)));
                } else {
                    subjects.push(Subject::Stream { stream, due: Some(fold.newest) });
                }
            }
            home.shared.report.tally.let_go(held);
            subjects.extend(home.sums_of(targets).await?.into_iter().map(Subject::Sum));
            let suspect = |subject| (Arc::clone(&home) as Arc<dyn Audited>, subject);
            Ok(subjects.into_iter().map(suspect).collect())
        }
        .boxed()
    }
}
