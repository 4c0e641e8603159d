//! The progress of a run, in the table of jobs.
//!
//! A run is divided into parts: a segment of the event store, of the index or of a table of rows. After each page, a part
//! writes down where it is, and its counts. What is not done by then is written down beside them: suspects that are
//! not settled, and a stream that goes on in the next page. So a killed run repeats the pages in flight and no other,
//! looks again at what was open, and its counts hold each finding once.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millrace_core::{StreamId, TenantId, Timestamp, row::RowKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::Notify;

use super::{
    Subject,
    finding::Finding,
    report::{Counts, Tally},
};
use crate::{
    jobs::{HeldJob, State},
    pace::{Halt, Pace},
};

/// The most open subjects that a part writes down. Beyond, its reader waits until some are settled. An item of DynamoDB
/// holds 400 KB, and the longest row keys take about 1 KB.
pub(super) const MAX_OPEN: usize = 250;

/// How many rows with findings a part remembers. Beyond, one may be reported again.
const MAX_TOLD: usize = 1_000;

/// How many tenants are remembered as written down. Beyond, some are written again.
const MAX_TENANTS: usize = 100_000;

/// A run of an audit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Its number: the time of its beginning in microseconds, or more.
    pub(crate) number: u64,
    /// When it began.
    pub(crate) began: Timestamp,
    /// Of an audit of recent changes: the time since when.
    #[serde(default)]
    pub(crate) since: Option<Timestamp>,
    /// Into how many segments each table is divided.
    pub(crate) segments: u32,
    /// The audited projections.
    pub(crate) projections: Vec<String>,
    /// When it ended; `None` where it goes on.
    #[serde(default)]
    pub(crate) ended: Option<Timestamp>,
    /// The read units so far.
    #[serde(default)]
    pub(crate) read_units: f64,
    /// Its counts, where it has ended.
    #[serde(default)]
    pub(crate) counts: Counts,
}

/// The state of an audit's job.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Runs {
    /// The newest run.
    #[serde(default)]
    pub(crate) run: Option<Run>,
    /// The last complete one.
    #[serde(default)]
    pub(crate) complete: Option<Run>,
}

impl Runs {
    /// The runs in a job's state. A state that this release cannot read holds none.
    pub(crate) fn of(state: &State) -> Self {
        read(state).unwrap_or_default()
    }
}

/// Something that is not settled yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Open {
    projection: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sum: Option<String>,
}

impl Open {
    fn of(projection: &str, subject: &Subject) -> Self {
        let (stream, due, sum) = match subject {
            Subject::Stream { stream, due } => (Some(stream.to_string()), *due, None),
            Subject::Sum(key) => (None, None, Some(key.to_string())),
        };
        Self { projection: projection.to_owned(), stream, due, sum }
    }

    fn subject(&self) -> Option<Subject> {
        let stream = self.stream.as_ref().and_then(|text| text.parse::<StreamId>().ok());
        let sum = self.sum.as_ref().and_then(|text| text.parse::<RowKey>().ok());
        stream.map(|stream| Subject::Stream { stream, due: self.due }).or(sum.map(Subject::Sum))
    }
}

/// How far a part is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct PartState {
    run: u64,
    /// The end of the last page that is done; `None` before the first.
    cursor: Option<String>,
    /// Whether nothing is left to read.
    done: bool,
    /// The stream that goes on in the next page, and its newest version so far.
    within: Option<(String, u64)>,
    open: Vec<Open>,
    counts: Counts,
}

/// A part of a run.
pub(super) struct Part {
    name: String,
    tally: Arc<Tally>,
    inner: Mutex<Inner>,
    /// Notified when a subject is settled.
    settled: Notify,
}

struct Inner {
    /// The state up to the end of the last page, without the open subjects of this process.
    state: PartState,
    /// The counts since.
    page: Counts,
    /// By ticket.
    open: BTreeMap<u64, Open>,
    last_ticket: u64,
    /// The last ticket at the end of the last page.
    reached: u64,
    is_saved: bool,
    /// Rows with findings, by projection and place.
    told: HashSet<(String, String)>,
}

impl Inner {
    /// Adds an open subject; returns its ticket.
    fn add(&mut self, open: Open) -> u64 {
        self.last_ticket += 1;
        self.open.insert(self.last_ticket, open);
        self.last_ticket
    }
}

impl Part {
    fn new(name: String, state: PartState, tally: Arc<Tally>) -> Self {
        tally.counts().add(&state.counts);
        let inner = Inner {
            state,
            page: Counts::default(),
            open: BTreeMap::new(),
            last_ticket: 0,
            reached: 0,
            is_saved: true,
            told: HashSet::new(),
        };
        Self { name, tally, inner: Mutex::new(inner), settled: Notify::new() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts, in the part and in the run.
    pub(super) fn count(&self, count: impl Fn(&mut Counts)) {
        count(&mut self.inner().page);
        count(&mut self.tally.counts());
    }

    /// Notes that a subject is open; returns its ticket.
    pub(super) fn open(&self, projection: &str, subject: &Subject) -> u64 {
        self.tally.suspected();
        self.inner().add(Open::of(projection, subject))
    }

    /// Whether findings on an open subject are news: a stream whose items do not come together is a subject several times.
    pub(super) fn is_news(&self, ticket: u64) -> bool {
        let mut inner = self.inner();
        let Some(Open { projection, stream, sum, .. }) = inner.open.get(&ticket).cloned() else {
            return true;
        };
        if inner.told.len() >= MAX_TOLD {
            inner.told.clear();
        }
        inner.told.insert((projection, stream.or(sum).unwrap_or_default()))
    }

    /// Notes that a subject is settled, with its findings.
    pub(super) fn settled(&self, ticket: u64, findings: &[Finding]) {
        {
            let inner = &mut *self.inner();
            inner.open.remove(&ticket);
            inner.is_saved = false;
            let counts = if ticket <= inner.reached { &mut inner.state.counts } else { &mut inner.page };
            findings.iter().for_each(|finding| counts.finding(finding));
        }
        findings.iter().for_each(|finding| self.tally.counts().finding(finding));
        self.settled.notify_waiters();
    }

    /// Whether nothing is left to read.
    pub(super) fn is_done(&self) -> bool {
        self.inner().state.done
    }

    /// The place after which to read.
    pub(super) fn cursor(&self) -> Option<String> {
        self.inner().state.cursor.clone()
    }

    /// The stream that an earlier process was within.
    pub(super) fn within(&self) -> Option<(StreamId, u64)> {
        let within = self.inner().state.within.clone()?;
        Some((within.0.parse().ok()?, within.1))
    }

    /// Opens the next subject that an earlier process left open: the name of its projection, and its ticket.
    pub(super) fn reopen(&self) -> Option<(String, Subject, u64)> {
        let mut inner = self.inner();
        loop {
            let open = inner.state.open.pop()?;
            let Some(subject) = open.subject() else { continue };
            self.tally.suspected();
            let (projection, ticket) = (open.projection.clone(), inner.add(open));
            inner.reached = ticket;
            return Some((projection, subject, ticket));
        }
    }

    /// Waits until few subjects are open.
    async fn few_are_open(&self) {
        loop {
            let settled = self.settled.notified();
            if self.inner().open.len() <= MAX_OPEN {
                return;
            }
            settled.await;
        }
    }

    /// The end of a page: everything before the place was read, and is settled or open.
    fn reach(&self, cursor: Option<String>, within: Option<(StreamId, u64)>) {
        let inner = &mut *self.inner();
        inner.state.counts.add(&std::mem::take(&mut inner.page));
        inner.reached = inner.last_ticket;
        inner.state.done = cursor.is_none();
        inner.state.cursor = cursor;
        inner.state.within = within.map(|(stream, newest)| (stream.to_string(), newest));
    }

    /// The state to write down: that at the end of the last page, without what has become of the next one so far.
    fn snapshot(&self) -> Option<State> {
        let mut inner = self.inner();
        inner.is_saved = true;
        let open = inner.open.range(..=inner.reached).map(|(_, open)| open);
        let open = open.chain(&inner.state.open).cloned().collect();
        written(&PartState { open, ..inner.state.clone() })
    }
}

/// A run that this process holds.
pub(crate) struct Progress {
    job: HeldJob,
    runs: Mutex<Runs>,
    run: Run,
    /// The parts as an earlier process left them.
    left: Mutex<HashMap<String, PartState>>,
    parts: Mutex<Vec<Arc<Part>>>,
    tenants: Mutex<HashSet<TenantId>>,
}

impl Progress {
    /// Goes on with the job's newest run, which has not ended, or begins `run`.
    pub(crate) async fn begin(
        job: HeldJob,
        mut runs: Runs,
        run: Option<Run>,
        pace: &Pace,
    ) -> Result<Self, Halt> {
        let mut left = HashMap::new();
        let run = match (run, &runs.run) {
            (None, Some(run)) => {
                for part in job.parts(pace).await? {
                    match read::<PartState>(&part.state) {
                        Some(state) if state.run == run.number => _ = left.insert(part.name, state),
                        Some(_) | None => {}
                    }
                }
                run.clone()
            }
            (Some(run), _) => {
                runs.run = Some(run.clone());
                job.keep(pace, state_of(&runs)).await?;
                run
            }
            (None, None) => return Err(Halt::Lacking("there is no run to go on with")),
        };
        let (runs, left) = (Mutex::new(runs), Mutex::new(left));
        Ok(Self { job, runs, run, left, parts: Mutex::default(), tenants: Mutex::default() })
    }

    /// The run.
    pub(crate) fn run(&self) -> &Run {
        &self.run
    }

    /// A part of the run, as an earlier process left it.
    pub(super) fn part(&self, name: String, tally: &Arc<Tally>) -> Arc<Part> {
        let left = lock(&self.left).remove(&name);
        let state = left.unwrap_or_else(|| PartState { run: self.run.number, ..PartState::default() });
        let part = Arc::new(Part::new(name, state, Arc::clone(tally)));
        lock(&self.parts).push(Arc::clone(&part));
        part
    }

    /// Writes down that everything before `cursor` was read, and is settled or open. `None`: everything.
    pub(super) async fn reached(
        &self,
        pace: &Pace,
        part: &Part,
        cursor: Option<String>,
        within: Option<(StreamId, u64)>,
    ) -> Result<(), Halt> {
        pace.stop.run_until_cancelled(part.few_are_open()).await.ok_or(Halt::Told)?;
        part.reach(cursor, within);
        self.save(pace, part).await
    }

    async fn save(&self, pace: &Pace, part: &Part) -> Result<(), Halt> {
        match part.snapshot() {
            Some(state) => self.job.save(pace, &part.name, state).await,
            None => Ok(()),
        }
    }

    /// Writes down what was settled since the parts were written.
    pub(super) async fn flush(&self, pace: &Pace) -> Result<(), Halt> {
        for part in self.unsaved() {
            self.save(pace, &part).await?;
        }
        Ok(())
    }

    fn unsaved(&self) -> Vec<Arc<Part>> {
        lock(&self.parts).iter().filter(|part| !part.inner().is_saved).cloned().collect()
    }

    /// Shows that this process lives.
    pub(super) async fn beat(&self, pace: &Pace, tally: &Tally) -> Result<(), Halt> {
        self.job.keep(pace, self.state(tally, None)).await
    }

    /// Ends the run.
    pub(super) async fn finish(&self, pace: &Pace, tally: &Tally, at: Timestamp) -> Result<(), Halt> {
        self.job.keep(pace, self.state(tally, Some(at))).await?;
        self.release(tally).await;
        Ok(())
    }

    /// Leaves the job to the next process.
    pub(super) async fn release(&self, tally: &Tally) {
        let parts = self.unsaved();
        let parts = parts.iter().filter_map(|part| Some((part.name.clone(), part.snapshot()?)));
        let ended = lock(&self.runs).run.as_ref().and_then(|run| run.ended);
        self.job.release(self.state(tally, ended), parts.collect::<Vec<_>>()).await;
    }

    fn state(&self, tally: &Tally, ended: Option<Timestamp>) -> State {
        let mut runs = lock(&self.runs);
        let run = Run {
            ended,
            read_units: tally.read_units(),
            counts: if ended.is_some() { tally.counts().clone() } else { Counts::default() },
            ..self.run.clone()
        };
        if ended.is_some() {
            runs.complete = Some(run.clone());
        }
        runs.run = Some(run);
        state_of(&runs)
    }

    /// Writes a tenant down, for audits of recent changes.
    pub(super) async fn meet(&self, pace: &Pace, tenant: &TenantId) -> Result<(), Halt> {
        {
            let mut tenants = lock(&self.tenants);
            if tenants.contains(tenant) {
                return Ok(());
            }
            if tenants.len() >= MAX_TENANTS {
                tenants.clear();
            }
            tenants.insert(tenant.clone());
        }
        self.job.put_tenant(pace, tenant).await
    }

    /// Some known tenants after one; none at the end.
    pub(super) async fn tenants(&self, pace: &Pace, after: Option<&TenantId>) -> Result<Vec<TenantId>, Halt> {
        self.job.tenants(pace, after).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T: DeserializeOwned>(state: &State) -> Option<T> {
    serde_json::from_value(Value::Object(state.clone())).ok()
}

/// The JSON of a state. Every state here is an object.
fn written(state: &impl Serialize) -> Option<State> {
    match serde_json::to_value(state) {
        Ok(Value::Object(state)) => Some(state),
        Ok(_) | Err(_) => None,
    }
}

fn state_of(runs: &Runs) -> State {
    written(runs).unwrap_or_default()
}
