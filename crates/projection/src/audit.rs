//! `projector audit`: whether the rows are the folds of the events.
//!
//! Three passes. Forward: every event is read once, each projection folds the events of the aggregates that it takes,
//! and the fold is compared with its row. Backward: every row's key is read, and the event store is asked whether the
//! row's stream has begun. Where rows sum up aggregates, those two passes cover the parts; a third pass, once these are
//! settled, compares each row with its parts. A pass only suspects; a closer look decides ([`settle`], [`sums`]), and
//! repairs if the options say so.
//!
//! An audit of recent changes has one pass in their place: it reads from the index by type and time which aggregates
//! have events since a time, and compares these, and the rows that sum them up.
//!
//! Right rows are forgotten, so memory does not grow with the tables: a segment holds a page of events and the folds of
//! at most a hundred aggregates, and there are at most a thousand suspects; beyond them the readers wait. The progress
//! is in a table ([`progress`]), so another process goes on where one ended.

mod checked;
mod command;
mod config;
mod finding;
mod fold;
mod plan;
mod progress;
mod recent;
mod report;
mod screen;
mod settle;
mod sums;

use std::{
    collections::BTreeMap, future::Future, num::NonZeroU32, panic::AssertUnwindSafe, sync::Arc,
    time::Duration,
};

use checked::{Audited, Checked, Lane, Pass};
pub(crate) use command::main;
use finding::{Finding, Kind, Place};
use futures::{FutureExt as _, StreamExt as _, future::join_all, stream::FuturesUnordered};
use millrace_aws::{AwsError, Place as _, Segment};
use millrace_core::{AggregateType, StreamId, Timestamp, projection::ProjectionSpec, row::RowKey};
use millrace_event_store::{ScanEvents, ScannedItem};
use millrace_rows::AuditRows;
#[cfg(test)]
pub(crate) use plan::{Asked, Planned, Since, plan};
use progress::{Part, Progress};
pub(crate) use recent::Index;
#[cfg(test)]
pub(crate) use report::Format;
pub(crate) use report::Report;
#[cfg(test)]
pub(crate) use screen::Screen;
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    ApplyError,
    jobs::BEAT,
    pace::{Halt, Pace},
};

/// The wait before the second look at a row that may be late; each further wait is twice as long. Most rows are late by
/// less than a second.
const SOON: Duration = Duration::from_secs(1);

/// The most rows in question at a time. A waiting row takes some hundred bytes.
const MAX_SUSPECTS: usize = 1_000;

/// How many suspects are looked at at a time.
const LOOKS_AT_ONCE: usize = 8;

/// How often rows that AWS leaves out of every answer are asked for.
const STARVED: u32 = 40;

/// A row that needs a closer look.
struct Suspect {
    /// The projection that it belongs to.
    home: Arc<dyn Audited>,
    subject: Subject,
    /// The part of the run that met it.
    part: Arc<Part>,
    ticket: u64,
}

/// The suspected row.
enum Subject {
    /// The row of a stream, or its part.
    Stream {
        /// The stream.
        stream: StreamId,
        /// The newest version that the scan saw of the stream. `None` where the scan saw a row and no event.
        due: Option<u64>,
    },
    /// A row that sums up aggregates.
    Sum(RowKey),
}

/// The settings of an audit.
pub(crate) struct Settings {
    /// How long after its newest event a row may be late.
    pub(crate) grace: Duration,
    /// Whether faults are repaired.
    pub(crate) repair: bool,
    /// Of an audit of recent changes: the index that shows them.
    pub(crate) index: Option<Index>,
    /// Where the time comes from.
    pub(crate) clock: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

/// The state that all parts of an audit share.
struct Shared {
    settings: Settings,
    pace: Pace,
    report: Report,
    looks: Semaphore,
    progress: Progress,
}

impl Shared {
    async fn call<T, F>(&self, what: &'static str, call: impl Fn() -> F) -> Result<T, Halt>
    where
        F: Future<Output = Result<T, AwsError>>,
    {
        self.pace.call(what, call).await
    }

    /// Makes a call that runs the application's own code. If that code fails or panics over its input, the error is
    /// returned and the audit goes on.
    async fn attempt<T, F>(&self, what: &'static str, call: impl Fn() -> F) -> Result<Result<T, String>, Halt>
    where
        F: Future<Output = Result<T, AwsError>>,
    {
        let panicked = |_| Err(AwsError::InvalidResponse(ApplyError::Panicked.to_string()));
        let call = || AssertUnwindSafe(call()).catch_unwind().map(|done| done.unwrap_or_else(panicked));
        match self.call(what, call).await {
            Err(Halt::Aws(_, AwsError::InvalidResponse(detail))) => Ok(Err(detail)),
            outcome => outcome.map(Ok),
        }
    }

    /// Notes the cost of a call.
    fn took(&self, read_units: f64) {
        self.pace.took(read_units);
        self.report.tally.took(read_units);
    }

    /// Waits after a partial answer that had none of the keys that were asked for.
    async fn progress(&self, what: &'static str, failures: &mut u32, is_made: bool) -> Result<(), Halt> {
        if is_made {
            *failures = 0;
            return Ok(());
        }
        *failures += 1;
        if *failures > STARVED {
            return Err(Halt::Aws(what, AwsError::Throttled("keys stay unprocessed".to_owned())));
        }
        self.pace.count_throttled();
        self.pace.pause(*failures).await
    }

    async fn suspect(
        &self,
        suspects: &mpsc::Sender<Suspect>,
        part: &Arc<Part>,
        home: Arc<dyn Audited>,
        subject: Subject,
    ) -> Result<(), Halt> {
        let ticket = part.open(home.name(), &subject);
        // Suspects are received until every sender is dropped.
        let suspect = Suspect { home, subject, part: Arc::clone(part), ticket };
        suspects.send(suspect).await.map_err(|_| Halt::Told)
    }

    /// A part of the run.
    fn part(&self, name: String) -> Arc<Part> {
        self.progress.part(name, &self.report.tally)
    }

    /// Writes down that a part was read up to a place; `None`: to its end.
    async fn reached(
        &self,
        part: &Part,
        cursor: Option<String>,
        within: Option<(StreamId, u64)>,
    ) -> Result<(), Halt> {
        self.progress.reached(&self.pace, part, cursor, within).await
    }

    /// The segments of each table.
    fn segments(&self) -> impl Iterator<Item = Segment> {
        Segment::all(NonZeroU32::new(self.progress.run().segments).unwrap_or(NonZeroU32::MIN))
    }

    /// Waits for a permit to look at a row.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, Halt> {
        let turn = self.pace.stop.run_until_cancelled(self.looks.acquire()).await;
        turn.and_then(Result::ok).ok_or(Halt::Told)
    }

    async fn until(&self, moment: Instant) -> Result<(), Halt> {
        self.pace.until(moment).await
    }

    /// The progress, for a person who watches.
    fn status(&self) -> String {
        match self.pace.throttled() {
            0 => self.report.tally.status(),
            throttled => format!("{}, {throttled} calls throttled", self.report.tally.status()),
        }
    }

    fn now(&self) -> Timestamp {
        (self.settings.clock)()
    }

    /// Returns the result; on a failure, tells all other parts to end.
    fn all_end_with<T>(&self, result: Result<T, Halt>) -> Result<T, Halt> {
        result.inspect_err(|_| self.pace.stop.cancel())
    }
}

/// The lanes of a part of the run, by aggregate type.
type Lanes = BTreeMap<AggregateType, Vec<Box<dyn Lane>>>;

/// An audit of some projections.
pub(crate) struct Audit<E> {
    events: E,
    shared: Arc<Shared>,
    projections: Vec<Arc<dyn Audited>>,
}

impl<E: ScanEvents> Audit<E> {
    /// An audit of no projection yet, against this event store.
    pub(crate) fn new(events: E, settings: Settings, pace: Pace, report: Report, progress: Progress) -> Self {
        report.tally.took(progress.run().read_units);
        let shared = Shared { settings, pace, report, looks: Semaphore::new(LOOKS_AT_ONCE), progress };
        Self { events, shared: Arc::new(shared), projections: Vec::new() }
    }

    /// Adds a projection and its rows, under a label.
    pub(crate) fn of<W: AuditRows>(mut self, spec: ProjectionSpec, label: &'static str, rows: W) -> Self {
        let (events, shared) = (self.events.clone(), Arc::clone(&self.shared));
        self.projections.push(Arc::new(Checked::new(spec, label, rows, events, shared)));
        self
    }

    /// Its report, with its counts.
    pub(crate) fn report(&self) -> &Report {
        &self.shared.report
    }

    /// Makes all passes. Where a part fails, the others end in order: a repair that has begun is finished and reported.
    /// However it ends, another process can go on from there.
    pub(crate) async fn run(&self) -> Result<(), Halt> {
        let ended = CancellationToken::new();
        let work = async {
            let outcome = self.passes().await;
            ended.cancel();
            outcome
        };
        let Shared { pace, report, progress, .. } = &*self.shared;
        let beat = async {
            while ended.run_until_cancelled(sleep(BEAT)).await.is_some() {
                self.shared.all_end_with(progress.beat(pace, &report.tally).await)?;
            }
            Ok(())
        };
        let (worked, beaten) = tokio::join!(work, beat);
        let outcome = first_failure([worked, beaten]);
        match outcome {
            Ok(()) => progress.finish(pace, &report.tally, self.shared.now()).await,
            Err(Halt::TakenOver) => outcome,
            Err(_) => {
                progress.release(&report.tally).await;
                outcome
            }
        }
    }

    async fn passes(&self) -> Result<(), Halt> {
        if let Some(index) = &self.shared.settings.index {
            return self.pass(|suspects| self.read_recent(index, suspects)).await;
        }
        self.pass(|suspects| self.read(suspects)).await?;
        // The contribution of a repaired part may be unknown, so sums are compared after all parts are settled.
        self.pass(|suspects| self.list(Pass::Sums, suspects)).await
    }

    /// A pass, with a closer look at its suspects.
    async fn pass<F>(&self, read: impl FnOnce(mpsc::Sender<Suspect>) -> F) -> Result<(), Halt>
    where
        F: Future<Output = Result<(), Halt>>,
    {
        let (suspects, questions) = mpsc::channel(1);
        let (read, settled) = tokio::join!(read(suspects), self.settle_all(questions));
        first_failure([read, settled])?;
        self.shared.progress.flush(&self.shared.pace).await
    }

    /// Suspects everything that an earlier process left open in a part.
    async fn reopen(&self, part: &Arc<Part>, suspects: &mpsc::Sender<Suspect>) -> Result<(), Halt> {
        while let Some((projection, subject, ticket)) = part.reopen() {
            match self.projections.iter().find(|home| home.name() == projection) {
                Some(home) => {
                    let suspect = Suspect { home: Arc::clone(home), subject, part: Arc::clone(part), ticket };
                    suspects.send(suspect).await.map_err(|_| Halt::Told)?;
                }
                None => {
                    part.settled(ticket, &[]);
                    self.shared.report.tally.settled();
                }
            }
        }
        Ok(())
    }

    /// The passes forward and backward. Dropping `suspects` at the end says that no more will come.
    async fn read(&self, suspects: mpsc::Sender<Suspect>) -> Result<(), Halt> {
        let forward = self.shared.segments().map(|segment| {
            let suspects = suspects.clone();
            async move { self.shared.all_end_with(self.scan(segment, suspects).await) }
        });
        first_failure(join_all(forward).await)?;
        self.list(Pass::Streams, suspects).await
    }

    /// A pass through the rows' keys.
    async fn list(&self, pass: Pass, suspects: mpsc::Sender<Suspect>) -> Result<(), Halt> {
        for projection in self.projections.iter().filter(|p| pass == Pass::Streams || p.has_sums()) {
            let segments = self.shared.segments().map(|segment| {
                let suspects = suspects.clone();
                async move {
                    let part = self.shared.part(pass.part(projection.name(), segment));
                    let listed = async {
                        self.reopen(&part, &suspects).await?;
                        Arc::clone(projection).list(pass, segment, Arc::clone(&part), suspects).await
                    };
                    self.shared.all_end_with(listed.await)
                }
            });
            first_failure(join_all(segments).await)?;
        }
        Ok(())
    }

    /// The lanes of all projections, by aggregate type.
    fn lanes(&self, part: &Arc<Part>) -> Lanes {
        let mut lanes = Lanes::new();
        for projection in &self.projections {
            let lane = Arc::clone(projection).lane(Arc::clone(part));
            lanes.entry(projection.source().clone()).or_default().push(lane);
        }
        lanes
    }

    /// The forward pass through a segment of the event store.
    async fn scan(&self, segment: Segment, suspects: mpsc::Sender<Suspect>) -> Result<(), Halt> {
        let part = self.shared.part(format!("events/{}", segment.number));
        self.reopen(&part, &suspects).await?;
        let mut lanes = self.lanes(&part);
        // The stream that an earlier process was within: its beginning was not folded here, so it gets a closer look.
        let mut within = part.within();
        let mut from = part.cursor().as_deref().and_then(E::Place::from_text);
        while !part.is_done() {
            let page = self
                .shared
                .call("scanning the event store", || self.events.scan(segment, from.as_ref()))
                .await?;
            self.shared.took(page.read_units);
            let mut last = None;
            for item in page.items {
                part.count(|counts| counts.events += 1);
                self.shared.report.tally.meets_events();
                let Some(stream) = self.stream_of(&part, &item)? else { continue };
                last = Some((stream.clone(), item.version()));
                if let Some((earlier, newest)) = &mut within {
                    if *earlier == stream {
                        *newest = item.version().max(*newest);
                        continue;
                    }
                    self.suspect_all(&part, within.take(), &suspects).await?;
                }
                self.shared.progress.meet(&self.shared.pace, &stream.tenant).await?;
                self.take(&mut lanes, &part, stream, &item, &suspects).await?;
            }
            from = page.next;
            // The last stream may go on in the next page; all others are at their end.
            let goes_on = last.filter(|_| from.is_some());
            for lane in lanes.values_mut().flatten() {
                lane.end_unless(goes_on.as_ref().map(|(stream, _)| stream));
                self.compare(lane.as_mut(), &part, &suspects).await?;
            }
            if from.is_none() {
                self.suspect_all(&part, within.take(), &suspects).await?;
            }
            let open = within.clone().or(goes_on);
            self.shared.reached(&part, from.as_ref().map(E::Place::to_text), open).await?;
        }
        Ok(())
    }

    /// Hands an item to the lanes of its type.
    async fn take(
        &self,
        lanes: &mut Lanes,
        part: &Arc<Part>,
        stream: StreamId,
        item: &ScannedItem,
        suspects: &mpsc::Sender<Suspect>,
    ) -> Result<(), Halt> {
        let Some(lanes) = lanes.get_mut(&stream.aggregate_type) else {
            part.count(|counts| counts.others += 1);
            return Ok(());
        };
        for lane in lanes {
            lane.take(stream.clone(), item);
            if lane.is_full() {
                self.compare(lane.as_mut(), part, suspects).await?;
            }
        }
        Ok(())
    }

    /// Suspects the rows of a stream under every projection.
    async fn suspect_all(
        &self,
        part: &Arc<Part>,
        stream: Option<(StreamId, u64)>,
        suspects: &mpsc::Sender<Suspect>,
    ) -> Result<(), Halt> {
        let Some((stream, newest)) = stream else { return Ok(()) };
        for home in self.projections.iter().filter(|home| *home.source() == stream.aggregate_type) {
            part.count(|counts| counts.aggregates += 1);
            let subject = Subject::Stream { stream: stream.clone(), due: Some(newest) };
            self.shared.suspect(suspects, part, Arc::clone(home), subject).await?;
        }
        Ok(())
    }

    /// The stream of an item. An item that names no aggregate is reported.
    fn stream_of(&self, part: &Part, item: &ScannedItem) -> Result<Option<StreamId>, Halt> {
        let other = match item {
            ScannedItem::Event(event) => return Ok(Some(event.envelope.stream())),
            ScannedItem::Unreadable(other) => other,
        };
        if other.stream.is_none() {
            let mut finding = Finding::new(Kind::Unreadable, None, Place::Key(other.key.clone()));
            finding.version = Some(other.version);
            finding.reason = Some(("no_event", other.error.to_string()));
            self.shared.report.finding(&finding)?;
            part.count(|counts| counts.finding(&finding));
        }
        Ok(other.stream.clone())
    }

    async fn compare(
        &self,
        lane: &mut dyn Lane,
        part: &Arc<Part>,
        suspects: &mpsc::Sender<Suspect>,
    ) -> Result<(), Halt> {
        for (home, subject) in lane.compare().await? {
            self.shared.suspect(suspects, part, home, subject).await?;
        }
        Ok(())
    }

    /// Settles suspects until no more come.
    async fn settle_all(&self, mut questions: mpsc::Receiver<Suspect>) -> Result<(), Halt> {
        let settle = |suspect: Suspect| async move {
            let settled = async {
                let mut findings = suspect.home.settle(&suspect.subject).await?;
                if !findings.is_empty() && !suspect.part.is_news(suspect.ticket) {
                    findings.clear();
                }
                findings.iter().try_for_each(|finding| self.shared.report.finding(finding))?;
                suspect.part.settled(suspect.ticket, &findings);
                Ok(())
            };
            let settled = self.shared.all_end_with(settled.await);
            self.shared.report.tally.settled();
            settled
        };
        let mut open = FuturesUnordered::new();
        let (mut outcome, mut more) = (Ok(()), true);
        while more || !open.is_empty() {
            tokio::select! {
                question = questions.recv(), if more && open.len() < MAX_SUSPECTS => match question {
                    Some(suspect) => open.push(settle(suspect)),
                    None => more = false,
                },
                Some(settled) = open.next(), if !open.is_empty() => outcome = first_failure([outcome, settled]),
            }
        }
        outcome
    }

    /// The approximate number of events and rows, if AWS reports it.
    async fn count(&self) -> Option<u64> {
        let mut total = self.events.count().await.ok()?;
        for projection in &self.projections {
            total = total.saturating_add(projection.count().await?);
        }
        Some(total)
    }
}

/// The failure that made the other parts end with `Halt::Told`.
fn first_failure(results: impl IntoIterator<Item = Result<(), Halt>>) -> Result<(), Halt> {
    let mut outcome = Ok(());
    for result in results {
        if result.is_err() && matches!(outcome, Ok(()) | Err(Halt::Told)) {
            outcome = result;
        }
    }
    outcome
}
