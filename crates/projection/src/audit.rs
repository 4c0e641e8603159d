//! `projector audit`: whether the rows are the folds of the events.
//!
//! Three passes. Forward: every event is read once, each projection folds the events of the aggregates that it takes,
//! and the fold is compared with its row. Backward: every row's key is read, and the event store is asked whether the
//! row's stream has begun. Where rows sum up aggregates, those two passes cover the parts; a third pass, once these are
//! settled, compares each row with its parts. A pass only suspects; a closer look decides ([`settle`], [`sums`]), and
//! repairs if the options say so.
//!
//! Right rows are forgotten, so memory does not grow with the tables: a segment holds a page of events and the folds of
//! at most a hundred aggregates, and there are at most a thousand suspects; beyond them the readers wait.

mod checked;
mod config;
mod finding;
mod fold;
mod report;
mod screen;
mod settle;
mod sums;

use std::{
    collections::BTreeMap, ffi::OsString, future::Future, num::NonZeroU32, panic::AssertUnwindSafe,
    process::ExitCode, sync::Arc, time::Duration,
};

use anyhow::Context as _;
use checked::{Audited, Checked, Lane, Pass};
use config::Options;
use finding::{Finding, Kind, Place};
use futures::{
    FutureExt as _, StreamExt as _,
    future::{join_all, select},
    stream::FuturesUnordered,
};
use millrace_aws::{Aws, AwsError, Segment};
use millrace_core::{Application, StreamId, Timestamp, projection::ProjectionSpec, row::RowKey};
use millrace_event_store::{DynamoReader, ScanEvents, ScannedItem};
use millrace_rows::{AuditRows, DynamoRows};
use millrace_server::{
    clock,
    process::{self, Ended, Unfinished},
};
pub(crate) use report::{Format, Report};
pub(crate) use screen::Screen;
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    ApplyError,
    config::{HINT, misconfigured},
    labels,
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
    /// Into how many parts each table is divided, which are read side by side.
    pub(crate) segments: NonZeroU32,
    /// How long after its newest event a row may be late.
    pub(crate) grace: Duration,
    /// Whether faults are repaired.
    pub(crate) repair: bool,
    /// Where the time comes from.
    pub(crate) clock: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

/// The state that all parts of an audit share.
struct Shared {
    settings: Settings,
    pace: Pace,
    report: Report,
    looks: Semaphore,
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

    async fn suspect(&self, suspects: &mpsc::Sender<Suspect>, suspect: Suspect) -> Result<(), Halt> {
        self.report.tally.suspected();
        // Suspects are received until every sender is dropped.
        suspects.send(suspect).await.map_err(|_| Halt::Told)
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

/// An audit of some projections.
pub(crate) struct Audit<E> {
    events: E,
    shared: Arc<Shared>,
    projections: Vec<Arc<dyn Audited>>,
}

impl<E: ScanEvents> Audit<E> {
    /// An audit of no projection yet, against this event store.
    pub(crate) fn new(events: E, settings: Settings, pace: Pace, report: Report) -> Self {
        let shared = Shared { settings, pace, report, looks: Semaphore::new(LOOKS_AT_ONCE) };
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
    pub(crate) async fn run(&self) -> Result<(), Halt> {
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
        first_failure([read, settled])
    }

    /// The passes forward and backward. Dropping `suspects` at the end says that no more will come.
    async fn read(&self, suspects: mpsc::Sender<Suspect>) -> Result<(), Halt> {
        let forward = Segment::all(self.shared.settings.segments).map(|segment| {
            let suspects = suspects.clone();
            async move { self.shared.all_end_with(self.scan(segment, suspects).await) }
        });
        first_failure(join_all(forward).await)?;
        self.list(Pass::Streams, suspects).await
    }

    /// A pass through the rows' keys.
    async fn list(&self, pass: Pass, suspects: mpsc::Sender<Suspect>) -> Result<(), Halt> {
        for projection in self.projections.iter().filter(|p| pass == Pass::Streams || p.has_sums()) {
            let segments = Segment::all(self.shared.settings.segments).map(|segment| {
                let listed = Arc::clone(projection).list(pass, segment, suspects.clone());
                async move { self.shared.all_end_with(listed.await) }
            });
            first_failure(join_all(segments).await)?;
        }
        Ok(())
    }

    /// The forward pass through a segment of the event store.
    async fn scan(&self, segment: Segment, suspects: mpsc::Sender<Suspect>) -> Result<(), Halt> {
        let mut lanes: BTreeMap<&str, Vec<Box<dyn Lane>>> = BTreeMap::new();
        for projection in &self.projections {
            lanes.entry(projection.source().as_str()).or_default().push(Arc::clone(projection).lane());
        }
        let mut from = None;
        loop {
            let page = self
                .shared
                .call("scanning the event store", || self.events.scan(segment, from.as_ref()))
                .await?;
            self.shared.took(page.read_units);
            for item in page.items {
                self.shared.report.tally.event();
                let Some(stream) = self.stream_of(&item)? else { continue };
                let Some(lanes) = lanes.get_mut(stream.aggregate_type.as_str()) else {
                    self.shared.report.tally.other();
                    continue;
                };
                for lane in lanes {
                    lane.take(stream.clone(), &item);
                    if lane.is_full() {
                        self.compare(lane.as_mut(), &suspects).await?;
                    }
                }
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        for lane in lanes.values_mut().flatten() {
            lane.end();
            self.compare(lane.as_mut(), &suspects).await?;
        }
        Ok(())
    }

    /// The stream of an item. An item that names no aggregate is reported.
    fn stream_of(&self, item: &ScannedItem) -> Result<Option<StreamId>, Halt> {
        let other = match item {
            ScannedItem::Event(event) => return Ok(Some(event.envelope.stream())),
            ScannedItem::Unreadable(other) => other,
        };
        if other.stream.is_none() {
            let mut finding = Finding::new(Kind::Unreadable, None, Place::Key(other.key.clone()));
            finding.version = Some(other.version);
            finding.reason = Some(("no_event", other.error.to_string()));
            self.shared.report.finding(&finding)?;
        }
        Ok(other.stream.clone())
    }

    async fn compare(&self, lane: &mut dyn Lane, suspects: &mpsc::Sender<Suspect>) -> Result<(), Halt> {
        for suspect in lane.compare().await? {
            self.shared.suspect(suspects, suspect).await?;
        }
        Ok(())
    }

    /// Settles suspects until no more come.
    async fn settle_all(&self, mut questions: mpsc::Receiver<Suspect>) -> Result<(), Halt> {
        let settle = |suspect: Suspect| async move {
            let settled = self.shared.all_end_with(suspect.home.settle(&suspect).await);
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

/// Runs an audit with the report on `out`, until its end or until it is told to end.
async fn run(
    app: &Application,
    options: Options,
    aws: &Aws,
    stop: CancellationToken,
    screen: Screen,
    out: Box<dyn std::io::Write + Send>,
) -> Result<Ended, Unfinished> {
    let began = Instant::now();
    let chosen = options.choice.of(app)?;
    let tables = options.tables.resolve(app, &options.prefix).map_err(misconfigured)?;
    let format = if options.json { Format::Json } else { Format::Plain };
    let settings = Settings {
        segments: options.segments,
        grace: options.grace(),
        repair: options.repair,
        clock: Box::new(clock::now),
    };
    // A token of its own, since one failure tells all parts to end.
    let pace = Pace::new(stop.child_token(), options.rate, rand::random);
    let dynamodb = aws.dynamodb_in_bulk();
    let events = DynamoReader::new(dynamodb.clone(), tables.events);
    let labels = labels(app);
    let mut audit = Audit::new(events, settings, pace, Report::new(format, screen, out));
    for spec in chosen {
        let rows = DynamoRows::new(dynamodb.clone(), tables.rows[&spec.name].clone(), &spec, tables.shards);
        audit = audit.of(spec.clone(), labels[&spec.name], rows);
    }

    let (shared, report) = (&audit.shared, audit.report());
    let total = audit.count().await;
    let watched = report.screen.show(|| shared.status(), || report.tally.met(), total);
    let outcome = match select(Box::pin(audit.run()), Box::pin(watched)).await {
        futures::future::Either::Left((outcome, _)) => outcome,
        // Progress is shown until the audit ends.
        futures::future::Either::Right(((), _)) => Err(Halt::Told),
    };
    report.screen.clear();
    let summary = report.summary(outcome.is_ok(), &aws.requests().counts(), began.elapsed());
    outcome.and(summary).context("the audit was not completed").map_err(Unfinished::Incomplete)?;
    Ok(if report.tally.is_clean() { Ended::Well } else { Ended::Left })
}

/// The audit as a process: its options from `args`, of which the first is the program's name, and the environment.
pub(crate) fn main(app: Application, args: impl IntoIterator<Item = OsString>) -> ExitCode {
    process::command(args, HINT, |options: Options, stop| async move {
        let aws = options.aws.access().await.map_err(|error| Unfinished::Misconfigured(error.into()))?;
        run(&app, options, &aws, stop, Screen::of_stderr(), Box::new(std::io::stdout())).await
    })
}
