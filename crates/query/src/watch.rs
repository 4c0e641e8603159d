//! Watches of rows: the watchers, and the reads that find changes.
//!
//! A watched row is read repeatedly, once for all its watchers, and many rows in one request: four times a second at
//! first, less and less often while it does not change. ARCHITECTURE.md has the reasons and the costs.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use metrics::{Unit, describe_gauge, describe_histogram};
use millrace_aws::AwsError;
use millrace_core::{
    Row, TenantId, Timestamp, Versioned,
    row::{RowKey, StoredRow},
};
use millrace_rows::{Consistency, MAX_ROWS};
use millrace_server::{Failure, Permit, TenantLimiter, call::EndOfStream, clock};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    models::{ReadModel, typed},
    reply::Messages,
};

/// How long a row may be unreadable before its watchers get an error: they would still believe their last state.
const UNREADABLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many requests are made at a time.
const REQUESTS_AT_ONCE: usize = 4;

/// The attribute with the time of a row's last change, if it has one. The lag of watches is measured by it.
const UPDATED_AT: &str = "UpdatedAt";

/// The intervals of reads.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The interval for a row that has just changed, or has a new watcher.
    pub fastest: Duration,
    /// The longest interval, while the row does not change: each is longer by an eighth.
    pub slowest: Duration,
}

/// The limits and intervals of watches.
#[derive(Debug, Clone, Copy)]
pub struct Watching {
    /// The intervals of reads.
    pub pace: Pace,
    /// The most watchers of the process, over all kinds of rows.
    pub max: u32,
    /// The most watchers of one tenant.
    pub max_per_tenant: u32,
}

/// The watched rows of one projection in this process. Clones are the same.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Inner>);

struct Inner {
    model: Arc<ReadModel>,
    pace: Pace,
    /// Permits to watch.
    limiter: TenantLimiter,
    /// Cancelled when the process is to end.
    ending: CancellationToken,
    watched: Mutex<AllWatched>,
    joined: Notify,
}

type AllWatched = HashMap<RowKey, Watched>;

/// The known state of a watched row.
struct Watched {
    /// The newest state read, or why none could be read for long.
    state: watch::Sender<State>,
    /// The number of watchers. Counted under the lock: the receivers of the state come and go outside of it.
    watchers: usize,
    interval: Duration,
    due: Instant,
    failing_since: Option<Instant>,
}

/// The newest state read, or why none could be read for long.
type State = Result<Arc<StoredRow>, AwsError>;

impl Hub {
    /// A hub without watchers; hubs share `limiter`. It does nothing until it [runs](Self::run).
    pub(crate) fn new(
        model: Arc<ReadModel>,
        pace: Pace,
        limiter: TenantLimiter,
        ending: CancellationToken,
    ) -> Self {
        let watched = Mutex::default();
        Self(Arc::new(Inner { model, pace, limiter, ending, watched, joined: Notify::new() }))
    }

    /// A permit to watch, if there [is one](TenantLimiter::acquire) for this tenant. It is taken before the row is
    /// read, so that nothing is read for a caller without a permit.
    pub(crate) fn permit(&self, tenant: &TenantId) -> Result<Permit, Failure> {
        self.0.limiter.acquire(tenant)
    }

    /// Begins to watch a row that was just read.
    pub(crate) fn watch(&self, permit: Permit, row: StoredRow) -> Watch {
        let (key, began_at) = (row.key.clone(), row.version);
        let (row, pace) = (Arc::new(row), self.0.pace);
        let mut watched = self.look();
        let entry = watched.entry(key.clone()).or_insert_with(|| Watched::of(Arc::clone(&row), pace));
        entry.watchers += 1;
        entry.joined(row, pace);
        let states = entry.state.subscribe();
        drop(watched);
        self.0.joined.notify_one();
        Watch { hub: self.clone(), key, states, began_at, _permit: permit }
    }

    /// The number of watched rows, each counted once.
    pub(crate) fn watched_rows(&self) -> usize {
        self.look().len()
    }

    /// Reads the watched rows until the process is to end.
    pub(crate) async fn run(self) {
        let ending = self.0.ending.clone();
        let reading = async {
            loop {
                if self.look().is_empty() {
                    self.0.joined.notified().await;
                }
                // Rows that become due meanwhile are read together.
                sleep(self.0.pace.fastest).await;
                self.round().await;
            }
        };
        ending.run_until_cancelled(reading).await;
    }

    /// Reads every due row once.
    async fn round(&self) {
        let now = Instant::now();
        let due: Vec<_> =
            self.look().iter().filter(|(_, row)| row.due <= now).map(|(key, _)| key.clone()).collect();
        let requests: Vec<_> = due.chunks(MAX_ROWS).map(|keys| self.read(keys)).collect();
        stream::iter(requests).buffer_unordered(REQUESTS_AT_ONCE).collect::<()>().await;
    }

    async fn read(&self, keys: &[RowKey]) {
        // An eventually consistent read costs half, and may be a moment old: the next one is newer.
        let outcome = self.0.model.rows.get_many(keys, Consistency::Eventual).await;
        let mut watched = self.look();
        let many = match outcome {
            Ok(many) => many,
            Err(error) => {
                for key in keys {
                    if let Some(row) = watched.get_mut(key) {
                        row.failed(&error, self.0.pace);
                    }
                }
                return;
            }
        };
        let mut unchanged: Vec<_> = keys.iter().filter(|key| !many.left.contains(key)).collect();
        for key in &many.left {
            if let Some(row) = watched.get_mut(key) {
                row.failed(&AwsError::Throttled("a row was left out of many".to_owned()), self.0.pace);
            }
        }
        for (key, row) in many.found {
            unchanged.retain(|other| **other != key);
            match (watched.get_mut(&key), row) {
                (Some(there), Ok(row)) => there.read(row, self.0.pace),
                (Some(there), Err(error)) => there.failed(&error, self.0.pace),
                // It has no watcher any more.
                (None, _) => {}
            }
        }
        // A row that is gone keeps its last state, in case it comes back.
        for key in unchanged {
            if let Some(row) = watched.get_mut(key) {
                row.rest(self.0.pace);
            }
        }
    }

    fn look(&self) -> MutexGuard<'_, AllWatched> {
        // No code under this lock panics half-way through a change.
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn of(row: Arc<StoredRow>, pace: Pace) -> Self {
        Self {
            state: watch::Sender::new(Ok(row)),
            watchers: 0,
            interval: pace.fastest,
            due: Instant::now() + pace.fastest,
            failing_since: None,
        }
    }

    /// Adds a watcher, which has just read the row.
    fn joined(&mut self, row: Arc<StoredRow>, pace: Pace) {
        self.failing_since = None;
        if self.offer(row) {
            self.interval = pace.fastest;
            self.due = self.due.min(Instant::now() + self.interval);
        }
    }

    /// Stores a state if it is newer; returns whether it was.
    fn offer(&self, row: Arc<StoredRow>) -> bool {
        self.state.send_if_modified(|state| {
            let is_news = match state {
                Ok(known) => row.version > known.version,
                Err(_) => true,
            };
            if is_news {
                *state = Ok(row);
            }
            is_news
        })
    }

    fn read(&mut self, row: StoredRow, pace: Pace) {
        // A row that is gone keeps its last state, in case it comes back.
        if !row.attributes.is_empty() && self.offer(Arc::new(row)) {
            self.interval = pace.fastest;
            self.due = Instant::now() + self.interval;
            self.failing_since = None;
        } else {
            self.rest(pace);
        }
    }

    /// The row has not changed.
    fn rest(&mut self, pace: Pace) {
        self.put_off(pace);
        self.failing_since = None;
    }

    /// The row could not be read. More frequent reads would not help, whatever the cause.
    fn failed(&mut self, error: &AwsError, pace: Pace) {
        self.put_off(pace);
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= UNREADABLE_TIMEOUT {
            self.state.send_modify(|state| *state = Err(error.clone()));
        }
    }

    fn put_off(&mut self, pace: Pace) {
        self.interval = (self.interval + self.interval / 8).min(pace.slowest.max(pace.fastest));
        self.due = Instant::now() + self.interval;
    }
}

/// A watcher of a row. Dropping it ends the watch.
pub(crate) struct Watch {
    hub: Hub,
    key: RowKey,
    states: watch::Receiver<State>,
    /// The row's version when the watch began.
    began_at: u64,
    _permit: Permit,
}

impl Watch {
    /// The newest state, as soon as it is newer than version `seen`.
    async fn newer_than(&mut self, seen: u64) -> Result<Arc<StoredRow>, Failure> {
        let is_news = |state: &State| state.as_ref().map_or(true, |row| row.version > seen);
        match self.states.wait_for(is_news).await {
            Ok(state) => Ok(state.clone()?),
            // The hub keeps watched rows.
            Err(_) => Err(Failure::Internal("a row was let go of while it was watched".to_owned())),
        }
    }

    /// The states newer than version `seen`, as messages, until `end` or the end of the process. A slow reader misses
    /// the states in between.
    pub(crate) fn messages<R: Row, M: Send + 'static>(
        self,
        seen: u64,
        end: Option<EndOfStream>,
        message: impl Fn(Versioned<R>) -> M + Send + 'static,
    ) -> Messages<M> {
        let first = Some((self, seen, message));
        let messages = stream::unfold(first, move |state| async move {
            let (mut watch, seen, message) = state?;
            let ending = watch.hub.0.ending.clone();
            let next = tokio::select! {
                biased;
                () = ending.cancelled() => Err(Failure::Ending),
                failure = passed(end) => Err(failure),
                next = watch.newer_than(seen) => next.and_then(|row| Ok((present(&row)?, row))),
            };
            match next {
                Ok((typed, row)) => {
                    // An older state has no lag, only an age.
                    if row.version > watch.began_at {
                        note_lag(&row);
                    }
                    Some((Ok(message(typed)), Some((watch, row.version, message))))
                }
                Err(failure) => Some((Err(failure.into()), None)),
            }
        });
        messages.boxed()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.hub.look();
        if let Some(row) = watched.get_mut(&self.key) {
            row.watchers = row.watchers.saturating_sub(1);
            if row.watchers == 0 {
                watched.remove(&self.key);
            }
        }
    }
}

/// The error at the end of a watch, when the end has come.
async fn passed(end: Option<EndOfStream>) -> Failure {
    match end {
        Some(end) => {
            sleep_until(end.at()).await;
            end.failure()
        }
        None => std::future::pending().await,
    }
}

/// Records the numbers of watchers and watched rows, until the process is to end.
pub(crate) async fn show(
    limiter: TenantLimiter,
    watched_rows: impl Fn() -> usize,
    ending: CancellationToken,
) {
    describe_gauge!("watchers", "Watches under way.");
    describe_gauge!("watched_rows", "Rows that watches are of.");
    describe_histogram!(
        "watch_lag_seconds",
        Unit::Seconds,
        "From a change's command to its sending to who watches."
    );
    let showing = async {
        loop {
            metrics::gauge!("watchers").set(limiter.running());
            metrics::gauge!("watched_rows").set(u32::try_from(watched_rows()).unwrap_or(u32::MAX));
            sleep(Duration::from_secs(5)).await;
        }
    };
    ending.run_until_cancelled(showing).await;
}

/// The row of a state. The hub keeps only states with a row.
fn present<R: Row>(row: &StoredRow) -> Result<Versioned<R>, Failure> {
    typed(row.clone())?.ok_or_else(|| Failure::Internal("a watched row is gone".to_owned()))
}

/// Records the time from a change to the sending of its state, if the row has the time of its change.
fn note_lag(row: &StoredRow) {
    let updated_at = row.attributes.get(UPDATED_AT).and_then(|value| value.as_str()?.parse().ok());
    let Some(updated_at): Option<Timestamp> = updated_at else { return };
    let micros = clock::now().unix_micros().saturating_sub(updated_at.unix_micros());
    let lag = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    metrics::histogram!("watch_lag_seconds").record(lag);
}
