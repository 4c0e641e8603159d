//! Jobs: work through whole tables that outlives the process doing it.
//!
//! A job has an item in a table, and one for each part of its work, with the place that the part has reached. One process
//! holds a job at a time. Its writes carry a fence, which grows with each holder, so a late write of an earlier holder is
//! refused. The state in an item is the job's own affair, so any job over whole tables can be kept here.
//!
//! Clocks are not compared. A holder writes its job's beat again and again; another process takes the job once it has
//! watched the beat stand still for [`LEASE`].

mod dynamo;
#[cfg(test)]
mod memory;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub(crate) use dynamo::DynamoJobs;
use futures::future::BoxFuture;
#[cfg(test)]
pub(crate) use memory::MemoryJobs;
use millrace_aws::AwsError;
use millrace_core::TenantId;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::pace::{Halt, Pace};

/// How long a beat must stand still before another process takes the job.
pub(crate) const LEASE: Duration = Duration::from_secs(30);

/// How often a holder writes its beat.
pub(crate) const BEAT: Duration = Duration::from_secs(5);

/// What a job keeps: JSON whose meaning is the job's own.
pub(crate) type State = Map<String, Value>;

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Job {
    /// Its name.
    pub(crate) name: String,
    /// The process that holds it, if any.
    pub(crate) owner: Option<String>,
    /// Grows with every holder.
    pub(crate) fence: u64,
    /// Grows with every write of a holder.
    pub(crate) beat: u64,
    /// Its state.
    pub(crate) state: State,
}

/// A part of a job's work.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JobPart {
    /// The job.
    pub(crate) job: String,
    /// The part's name within the job.
    pub(crate) name: String,
    /// The fence under which it was written.
    pub(crate) fence: u64,
    /// Its state.
    pub(crate) state: State,
}

/// The condition of a write of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// There is no such job.
    Nothing,
    /// The job is as it was seen.
    Unchanged { fence: u64, beat: u64 },
    /// No other holder has taken it.
    Fence(u64),
}

/// The store of jobs. Writes are conditional, and return whether the condition held. A write repeated after a lost reply
/// does no harm.
pub(crate) trait JobStore: Send + Sync + 'static {
    /// A job, strongly consistent.
    fn job<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Job>, AwsError>>;

    /// The parts of a job, strongly consistent.
    fn parts<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<JobPart>, AwsError>>;

    /// Writes a job.
    fn put<'a>(&'a self, job: &'a Job, seen: Seen) -> BoxFuture<'a, Result<bool, AwsError>>;

    /// Writes a part, unless it was written under a higher fence.
    fn put_part<'a>(&'a self, part: &'a JobPart) -> BoxFuture<'a, Result<bool, AwsError>>;

    /// Some known tenants after a place, by name; none at the end.
    fn tenants<'a>(&'a self, after: Option<&'a TenantId>) -> BoxFuture<'a, Result<Vec<TenantId>, AwsError>>;

    /// Adds a known tenant.
    fn put_tenant<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<(), AwsError>>;
}

/// A job that this process holds.
pub(crate) struct HeldJob {
    store: Arc<dyn JobStore>,
    job: Mutex<Job>,
}

/// The names of the calls, for failures.
const READING: &str = "reading the job";
const SAVING: &str = "saving the progress";

impl HeldJob {
    /// Takes a job, from a dead process too. Fails where a living one holds it.
    pub(crate) async fn take(
        store: Arc<dyn JobStore>,
        name: &str,
        owner: &str,
        pace: &Pace,
    ) -> Result<Self, Halt> {
        let mut watched: Option<(u64, u64, Instant)> = None;
        loop {
            let found = pace.unpaced(READING, || store.job(name)).await?;
            if let Some(Job { owner: Some(holder), fence, beat, .. }) = &found
                && holder != owner
            {
                match watched {
                    Some((seen_fence, seen_beat, _)) if (seen_fence, seen_beat) != (*fence, *beat) => {
                        return Err(Halt::Held(holder.clone()));
                    }
                    Some((.., since)) if since.elapsed() >= LEASE => {}
                    Some(_) => {
                        pace.until(Instant::now() + BEAT).await?;
                        continue;
                    }
                    None => {
                        tracing::info!(job = name, holder, "waiting for the holder, or for its end");
                        watched = Some((*fence, *beat, Instant::now()));
                        continue;
                    }
                }
            }
            let seen = match &found {
                None => Seen::Nothing,
                Some(job) => Seen::Unchanged { fence: job.fence, beat: job.beat },
            };
            let (fence, state) = found.map(|job| (job.fence, job.state)).unwrap_or_default();
            let owner = Some(owner.to_owned());
            let job = Job { name: name.to_owned(), owner, fence: fence.saturating_add(1), beat: 1, state };
            if pace.unpaced(SAVING, || store.put(&job, seen)).await? {
                return Ok(Self { store, job: Mutex::new(job) });
            }
            // Another process was faster, or the reply to our own write was lost.
            watched = None;
        }
    }

    fn job(&self) -> MutexGuard<'_, Job> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job's state.
    pub(crate) fn state(&self) -> State {
        self.job().state.clone()
    }

    /// The job's parts.
    pub(crate) async fn parts(&self, pace: &Pace) -> Result<Vec<JobPart>, Halt> {
        let name = self.job().name.clone();
        pace.unpaced(READING, || self.store.parts(&name)).await
    }

    /// Writes the job with a new state, and a new beat.
    pub(crate) async fn keep(&self, pace: &Pace, state: State) -> Result<(), Halt> {
        let job = self.next(state);
        match pace.unpaced(SAVING, || self.store.put(&job, Seen::Fence(job.fence))).await? {
            true => Ok(()),
            false => Err(Halt::TakenOver),
        }
    }

    /// Writes a part's state.
    pub(crate) async fn save(&self, pace: &Pace, name: &str, state: State) -> Result<(), Halt> {
        let part = self.part(name, state);
        match pace.unpaced(SAVING, || self.store.put_part(&part)).await? {
            true => Ok(()),
            false => Err(Halt::TakenOver),
        }
    }

    /// Leaves the job to the next process, with the states of some parts. Tries each write once: at worst, the next process
    /// waits, and repeats the last page.
    pub(crate) async fn release(&self, state: State, parts: impl IntoIterator<Item = (String, State)>) {
        for (name, state) in parts {
            let _ = self.store.put_part(&self.part(&name, state)).await;
        }
        let job = Job { owner: None, ..self.next(state) };
        let _ = self.store.put(&job, Seen::Fence(job.fence)).await;
    }

    /// Some known tenants after a place; none at the end.
    pub(crate) async fn tenants(&self, pace: &Pace, after: Option<&TenantId>) -> Result<Vec<TenantId>, Halt> {
        pace.unpaced("reading the tenants", || self.store.tenants(after)).await
    }

    /// Adds a known tenant.
    pub(crate) async fn put_tenant(&self, pace: &Pace, tenant: &TenantId) -> Result<(), Halt> {
        pace.unpaced("writing a tenant down", || self.store.put_tenant(tenant)).await
    }

    fn next(&self, state: State) -> Job {
        let mut job = self.job();
        job.beat = job.beat.saturating_add(1);
        job.state = state;
        job.clone()
    }

    fn part(&self, name: &str, state: State) -> JobPart {
        let job = self.job();
        JobPart { job: job.name.clone(), name: name.to_owned(), fence: job.fence, state }
    }
}
