//! `projector audit`: whether the read models are what the event store says that they should be.
//!
//! Two passes. Forward: every event is read once, each aggregate's events are folded by its projection, and what comes of
//! them is held against its row. Backward: every row's key is read, and the event store asked whether the row's stream
//! has begun. Either pass only suspects; a closer look decides ([`settle`]), and puts right what it is asked to.
//!
//! Nothing is kept of what was right, so memory does not grow with what there is: a segment holds a page of events and the
//! folds of at most a hundred aggregates, and of suspects there are at most a thousand, for whom the readers wait.

mod config;
mod finding;
mod fold;
mod report;
mod rows;
mod screen;
mod settle;

use std::{
    collections::BTreeMap, ffi::OsString, future::Future, num::NonZeroU32, process::ExitCode, sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use config::Options;
use finding::{Finding, Kind, Place};
use futures::{
    StreamExt as _,
    future::{join_all, select},
    stream::FuturesUnordered,
};
use millrace_aws::{Aws, AwsError, Segment};
use millrace_domain::{StreamId, Timestamp};
use millrace_event_store::{DynamoReader, Met, ScanEvents};
use millrace_read_models::{AuditRows, DynamoOrders, DynamoUsers};
use millrace_runtime::{
    clock,
    process::{self, Ended, Unfinished},
};
pub(crate) use report::{Format, Report};
use rows::{Audited, Checked, Lane};
pub(crate) use screen::Screen;
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Orders, Projection, Users,
    pace::{Halt, Pace},
};

/// How many rows may be in question at a time. What waits takes some hundred bytes.
const MOST_SUSPECTS: usize = 1_000;

/// How many of them are looked at at a time.
const LOOKS_AT_ONCE: usize = 8;

/// How often rows that AWS leaves out of every answer are asked for.
const STARVED: u32 = 40;

/// A row that is to be looked at more closely.
struct Suspect {
    /// The projection whose row it is.
    home: Arc<dyn Audited>,
    /// The row's stream.
    stream: StreamId,
    /// The newest event that the scan met of the stream. `None` where a row was met, and no event.
    due: Option<u64>,
}

/// How an audit is to work.
pub(crate) struct Settings {
    /// Into how many parts each table is divided, which are read side by side.
    pub(crate) segments: NonZeroU32,
    /// How long after its newest event a row may be late.
    pub(crate) grace: Duration,
    /// Whether what is wrong is put right.
    pub(crate) repair: bool,
    /// Where the time comes from.
    pub(crate) clock: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

/// What all parts of an audit have in common.
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

    /// Notes what a call took.
    fn took(&self, read_units: f64) {
        self.pace.took(read_units);
        self.report.tally.took(read_units);
    }

    /// Waits after an answer that brought nothing of what was asked for.
    async fn starved(&self, what: &'static str, failures: &mut u32) -> Result<(), Halt> {
        *failures += 1;
        if *failures > STARVED {
            return Err(Halt::Aws(what, AwsError::Throttled("keys stay unprocessed".to_owned())));
        }
        self.pace.count_throttled();
        self.pace.pause(*failures).await
    }

    async fn suspect(&self, suspects: &mpsc::Sender<Suspect>, suspect: Suspect) -> Result<(), Halt> {
        self.report.tally.suspected();
        // Suspects are taken for as long as there is somebody who raises them.
        suspects.send(suspect).await.map_err(|_| Halt::Told)
    }

    /// The right to look at a row.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, Halt> {
        let turn = self.pace.stop.run_until_cancelled(self.looks.acquire()).await;
        turn.and_then(Result::ok).ok_or(Halt::Told)
    }

    async fn until(&self, moment: Instant) -> Result<(), Halt> {
        self.pace.until(moment).await
    }

    /// Where things stand, for somebody who watches.
    fn status(&self) -> String {
        match self.pace.throttled() {
            0 => self.report.tally.status(),
            throttled => format!("{}, {throttled} calls throttled", self.report.tally.status()),
        }
    }

    fn now(&self) -> Timestamp {
        (self.settings.clock)()
    }

    /// Hands a result on; where it is a failure, everybody else is told to end.
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
    /// An audit of no projection yet, against the events that there are.
    pub(crate) fn new(events: E, settings: Settings, pace: Pace, report: Report) -> Self {
        let shared = Shared { settings, pace, report, looks: Semaphore::new(LOOKS_AT_ONCE) };
        Self { events, shared: Arc::new(shared), projections: Vec::new() }
    }

    /// The same with a projection and its rows.
    pub(crate) fn of<P: Projection, W: AuditRows<P::Change>>(mut self, rows: W) -> Self {
        let checked = Checked::<P, _, _>::new(rows, self.events.clone(), Arc::clone(&self.shared));
        self.projections.push(checked);
        self
    }

    /// What it says, and how much there was.
    pub(crate) fn report(&self) -> &Report {
        &self.shared.report
    }

    /// Goes through everything. Where a part fails, the others come to an end in order: a repair that was begun is
    /// finished and reported.
    pub(crate) async fn run(&self) -> Result<(), Halt> {
        let (suspects, questions) = mpsc::channel(1);
        let (read, settled) = tokio::join!(self.read(suspects), self.settle_all(questions));
        first_failure([read, settled])
    }

    /// Both passes. Dropping `suspects` at the end tells that no more will come.
    async fn read(&self, suspects: mpsc::Sender<Suspect>) -> Result<(), Halt> {
        let forward = Segment::all(self.shared.settings.segments).map(|segment| {
            let suspects = suspects.clone();
            async move { self.shared.all_end_with(self.scan(segment, suspects).await) }
        });
        first_failure(join_all(forward).await)?;
        for projection in &self.projections {
            let backward = Segment::all(self.shared.settings.segments).map(|segment| {
                let suspects = suspects.clone();
                async move { self.shared.all_end_with(Arc::clone(projection).list(segment, suspects).await) }
            });
            first_failure(join_all(backward).await)?;
        }
        Ok(())
    }

    /// The forward pass through a segment of the event store.
    async fn scan(&self, segment: Segment, suspects: mpsc::Sender<Suspect>) -> Result<(), Halt> {
        let kinds = self.projections.iter().map(|projection| projection.kind().to_string());
        let mut lanes: BTreeMap<String, Box<dyn Lane>> =
            kinds.zip(self.projections.iter().map(|projection| Arc::clone(projection).lane())).collect();
        let mut from = None;
        loop {
            let page = self
                .shared
                .call("scanning the event store", || self.events.scan(segment, from.as_ref()))
                .await?;
            self.shared.took(page.read_units);
            for met in page.met {
                self.shared.report.tally.event();
                let Some(stream) = self.stream_of(&met)? else { continue };
                let Some(lane) = lanes.get_mut(stream.aggregate_type.as_str()) else {
                    self.shared.report.tally.other();
                    continue;
                };
                lane.take(stream, &met);
                if lane.is_full() {
                    self.compare(lane.as_mut(), &suspects).await?;
                }
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        for lane in lanes.values_mut() {
            lane.end();
            self.compare(lane.as_mut(), &suspects).await?;
        }
        Ok(())
    }

    /// Whose item it is. One that is nobody's is reported.
    fn stream_of(&self, met: &Met) -> Result<Option<StreamId>, Halt> {
        let other = match met {
            Met::Event(event) => return Ok(Some(event.envelope.stream())),
            Met::NoEvent(other) => other,
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
                question = questions.recv(), if more && open.len() < MOST_SUSPECTS => match question {
                    Some(suspect) => open.push(settle(suspect)),
                    None => more = false,
                },
                Some(settled) = open.next(), if !open.is_empty() => outcome = first_failure([outcome, settled]),
            }
        }
        outcome
    }

    /// About how many events and rows there are, if AWS says it.
    async fn count(&self) -> Option<u64> {
        let mut total = self.events.count().await.ok()?;
        for projection in &self.projections {
            total = total.saturating_add(projection.count().await?);
        }
        Some(total)
    }
}

/// The failure that made the others fail: those were told to end.
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
    options: Options,
    aws: &Aws,
    stop: CancellationToken,
    screen: Screen,
    out: Box<dyn std::io::Write + Send>,
) -> Result<Ended, Unfinished> {
    let began = Instant::now();
    let format = if options.json { Format::Json } else { Format::Plain };
    let settings = Settings {
        segments: options.segments,
        grace: options.grace(),
        repair: options.repair,
        clock: Box::new(clock::now),
    };
    // Its own, since everybody is told to end where one fails.
    let pace = Pace::new(stop.child_token(), options.rate, rand::random);
    let dynamodb = aws.dynamodb_in_bulk();
    let events = DynamoReader::new(dynamodb.clone(), options.event_store_table);
    let users = DynamoUsers::new(dynamodb.clone(), options.user_read_model_table);
    let orders = DynamoOrders::new(dynamodb, options.order_read_model_table, options.index_shards);
    let audit = Audit::new(events, settings, pace, Report::new(format, screen, out))
        .of::<Users, _>(users)
        .of::<Orders, _>(orders);

    let (shared, report) = (&audit.shared, audit.report());
    let total = audit.count().await;
    let watched = report.screen.show(|| shared.status(), || report.tally.met(), total);
    let outcome = match select(Box::pin(audit.run()), Box::pin(watched)).await {
        futures::future::Either::Left((outcome, _)) => outcome,
        // It is shown for as long as there is something to show.
        futures::future::Either::Right(((), _)) => Err(Halt::Told),
    };
    report.screen.clear();
    let summary = report.summary(outcome.is_ok(), &aws.requests().counts(), began.elapsed());
    outcome.and(summary).context("the audit was not completed").map_err(Unfinished::Incomplete)?;
    Ok(if report.tally.is_clean() { Ended::Well } else { Ended::Left })
}

/// What to do where the configuration is wrong.
pub(crate) const HINT: &str = "\
The tables and queues are named by the same variables as for the projector itself; each is an output of the stack, in \
another spelling (EventStoreTable is EVENT_STORE_TABLE). On a developer's machine, `cargo run -- aws > aws.env` in one \
terminal brings up a local AWS and prints them; then, in another: `. ./aws.env`.";

/// The audit as a process: its options from `args`, of which the first is the program's name, and the environment.
pub(crate) fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    process::command(args, HINT, |options: Options, stop| async move {
        let aws = Aws::from_env().await.map_err(|error| Unfinished::Misconfigured(error.into()))?;
        run(options, &aws, stop, Screen::of_stderr(), Box::new(std::io::stdout())).await
    })
}
