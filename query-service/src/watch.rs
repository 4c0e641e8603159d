//! Watching rows: who wants to know when a row changes, and the reading that finds it out.
//!
//! A row that is watched is read again and again, once for all who watch it, and many rows in one request: four times a
//! second at first, ever less often while it does not change. ARCHITECTURE.md has the reasons and the costs.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream, stream::BoxStream};
use metrics::{Unit, describe_gauge, describe_histogram};
use millrace_aws::AwsError;
use millrace_domain::{OrderId, TenantId, Timestamp, UserId};
use millrace_read_models::{Consistency, Key, MOST_ROWS, Many, OrderRow, ReadOrders, ReadUsers, UserRow};
use millrace_runtime::{Failure, Place, Places, call::EndOfStream, clock};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// How long a row may be unreadable before those who watch it are told: they would go on to believe what they have.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many requests are made at a time.
const REQUESTS_AT_ONCE: usize = 4;

/// Rows that can be watched.
pub trait Rows: Clone + Send + Sync + 'static {
    /// What a row is named by, besides its tenant.
    type Id: Copy + Eq + Hash + Send + Sync + 'static;
    /// A row.
    type Row: Send + Sync + 'static;

    /// Its version.
    fn version(row: &Self::Row) -> u64;

    /// When it was changed last.
    fn updated_at(row: &Self::Row) -> Timestamp;

    /// Up to [`MOST_ROWS`] rows, which may be a moment old; one request.
    fn read(
        &self,
        keys: &[Key<Self::Id>],
    ) -> impl Future<Output = Result<Many<Self::Id, Self::Row>, AwsError>> + Send;
}

/// Users' profiles, to be watched.
#[derive(Debug, Clone)]
pub struct UserRows<U>(pub U);

impl<U: ReadUsers> Rows for UserRows<U> {
    type Id = UserId;
    type Row = UserRow;

    fn version(row: &UserRow) -> u64 {
        row.version
    }

    fn updated_at(row: &UserRow) -> Timestamp {
        row.updated_at
    }

    async fn read(&self, keys: &[Key<UserId>]) -> Result<Many<UserId, UserRow>, AwsError> {
        self.0.get_many(keys, Consistency::Eventual).await
    }
}

/// Order summaries, to be watched.
#[derive(Debug, Clone)]
pub struct OrderRows<O>(pub O);

impl<O: ReadOrders> Rows for OrderRows<O> {
    type Id = OrderId;
    type Row = OrderRow;

    fn version(row: &OrderRow) -> u64 {
        row.version
    }

    fn updated_at(row: &OrderRow) -> Timestamp {
        row.updated_at
    }

    async fn read(&self, keys: &[Key<OrderId>]) -> Result<Many<OrderId, OrderRow>, AwsError> {
        self.0.get_many(keys, Consistency::Eventual).await
    }
}

/// How rows are watched.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How far apart the readings of a row lie that has just changed, or has just come to be watched.
    pub fastest: Duration,
    /// How far apart they come to lie while it does not change: each time by an eighth more.
    pub slowest: Duration,
}

/// How much is watched, and how.
#[derive(Debug, Clone, Copy)]
pub struct Watching {
    /// How rows are watched.
    pub pace: Pace,
    /// How many watchers the process takes, of whatever kind of row.
    pub most: u32,
    /// How many of them one tenant may have.
    pub most_of_tenant: u32,
}

/// The rows of one kind that are watched in this process. Clones are the same.
pub struct Hub<R: Rows>(Arc<Inner<R>>);

struct Inner<R: Rows> {
    rows: R,
    pace: Pace,
    /// One for each that may watch.
    places: Places,
    /// Cancelled when the process is to end.
    ending: CancellationToken,
    watched: Mutex<AllWatched<R>>,
    joined: Notify,
}

type AllWatched<R> = HashMap<Key<<R as Rows>::Id>, Watched<<R as Rows>::Row>>;

/// What is known of a row that somebody watches.
struct Watched<T> {
    /// The newest state that was read, or why none could be read for long.
    state: watch::Sender<Result<Arc<T>, AwsError>>,
    /// How many watch it. Counted under the lock: the receivers of the state come and go outside of it.
    watchers: usize,
    interval: Duration,
    due: Instant,
    failing_since: Option<Instant>,
}

impl<R: Rows> Clone for Hub<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R: Rows> std::fmt::Debug for Hub<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hub")
    }
}

impl<R: Rows> Hub<R> {
    /// A hub without watchers, which share `places` with those of other hubs. It does nothing until it
    /// [runs](Self::run).
    pub fn new(rows: R, pace: Pace, places: Places, ending: CancellationToken) -> Self {
        let watched = Mutex::default();
        Self(Arc::new(Inner { rows, pace, places, ending, watched, joined: Notify::new() }))
    }

    /// A place to watch from, if there [is one](Places::take) for this tenant: so that nothing is read for who cannot
    /// watch, it is taken before the row is read.
    pub fn place(&self, tenant: &TenantId) -> Result<Place, Failure> {
        self.0.places.take(tenant)
    }

    /// Begins to watch a row, which was just read.
    pub fn watch(&self, place: Place, key: Key<R::Id>, row: R::Row) -> Watch<R> {
        let (row, pace) = (Arc::new(row), self.0.pace);
        let began_at = R::version(&row);
        let mut watched = self.look();
        let entry = watched.entry(key.clone()).or_insert_with(|| Watched::of(Arc::clone(&row), pace));
        entry.watchers += 1;
        entry.joined::<R>(row, pace);
        let states = entry.state.subscribe();
        drop(watched);
        self.0.joined.notify_one();
        Watch { hub: self.clone(), key, states, began_at, _place: place }
    }

    /// How many rows are watched, by however many.
    pub fn watched_rows(&self) -> usize {
        self.look().len()
    }

    /// Reads what is watched until the process is to end.
    pub async fn run(self) {
        let ending = self.0.ending.clone();
        let reading = async {
            loop {
                if self.look().is_empty() {
                    self.0.joined.notified().await;
                }
                // What comes to be due meanwhile is read together.
                sleep(self.0.pace.fastest).await;
                self.round().await;
            }
        };
        ending.run_until_cancelled(reading).await;
    }

    /// Reads every row that is due, once.
    async fn round(&self) {
        let now = Instant::now();
        let due: Vec<_> =
            self.look().iter().filter(|(_, row)| row.due <= now).map(|(key, _)| key.clone()).collect();
        let requests: Vec<_> = due.chunks(MOST_ROWS).map(|keys| self.read(keys)).collect();
        stream::iter(requests).buffer_unordered(REQUESTS_AT_ONCE).collect::<()>().await;
    }

    async fn read(&self, keys: &[Key<R::Id>]) {
        let outcome = self.0.rows.read(keys).await;
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
                (Some(there), Ok(row)) => there.read::<R>(row, self.0.pace),
                (Some(there), Err(error)) => there.failed(&error, self.0.pace),
                // Nobody watches it any more.
                (None, _) => {}
            }
        }
        // What has no row any more keeps the state that it had, in case it comes back.
        for key in unchanged {
            if let Some(row) = watched.get_mut(key) {
                row.rest(self.0.pace);
            }
        }
    }

    fn look(&self) -> MutexGuard<'_, AllWatched<R>> {
        // Nothing in here panics halfway through a change.
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + Sync + 'static> Watched<T> {
    fn of(row: Arc<T>, pace: Pace) -> Self {
        Self {
            state: watch::Sender::new(Ok(row)),
            watchers: 0,
            interval: pace.fastest,
            due: Instant::now() + pace.fastest,
            failing_since: None,
        }
    }

    /// Somebody comes to watch it, who has just read it.
    fn joined<R: Rows<Row = T>>(&mut self, row: Arc<T>, pace: Pace) {
        self.failing_since = None;
        if self.offer::<R>(row) {
            self.interval = pace.fastest;
            self.due = self.due.min(Instant::now() + self.interval);
        }
    }

    /// Takes a state if it is newer than what is there; says whether it was.
    fn offer<R: Rows<Row = T>>(&self, row: Arc<T>) -> bool {
        self.state.send_if_modified(|state| {
            let is_news = match state {
                Ok(known) => R::version(&row) > R::version(known),
                Err(_) => true,
            };
            if is_news {
                *state = Ok(row);
            }
            is_news
        })
    }

    fn read<R: Rows<Row = T>>(&mut self, row: T, pace: Pace) {
        if self.offer::<R>(Arc::new(row)) {
            self.interval = pace.fastest;
            self.due = Instant::now() + self.interval;
            self.failing_since = None;
        } else {
            self.rest(pace);
        }
    }

    /// It has not changed.
    fn rest(&mut self, pace: Pace) {
        self.put_off(pace);
        self.failing_since = None;
    }

    /// It could not be read. Whatever keeps it from that, to read it more often would not help.
    fn failed(&mut self, error: &AwsError, pace: Pace) {
        self.put_off(pace);
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= PATIENCE {
            self.state.send_modify(|state| *state = Err(error.clone()));
        }
    }

    fn put_off(&mut self, pace: Pace) {
        self.interval = (self.interval + self.interval / 8).min(pace.slowest.max(pace.fastest));
        self.due = Instant::now() + self.interval;
    }
}

/// Somebody who watches a row. Dropping it ends that.
pub struct Watch<R: Rows> {
    hub: Hub<R>,
    key: Key<R::Id>,
    states: watch::Receiver<Result<Arc<R::Row>, AwsError>>,
    /// The version that the row had when this began.
    began_at: u64,
    _place: Place,
}

impl<R: Rows> Watch<R> {
    /// The newest state, as soon as it is newer than version `seen`.
    async fn newer_than(&mut self, seen: u64) -> Result<Arc<R::Row>, Failure> {
        let is_news =
            |state: &Result<Arc<R::Row>, AwsError>| state.as_ref().map_or(true, |row| R::version(row) > seen);
        match self.states.wait_for(is_news).await {
            Ok(state) => Ok(state.clone()?),
            // The hub keeps what is watched.
            Err(_) => Err(Failure::Internal("a row was let go of while it was watched".to_owned())),
        }
    }

    /// The states that are newer than version `seen`, as messages, until `end` or the end of the process. Where the
    /// messages are taken slowly, those in between are left out.
    pub fn messages<M: Send + 'static>(
        self,
        seen: u64,
        end: Option<EndOfStream>,
        message: impl Fn(&R::Row) -> M + Send + 'static,
    ) -> BoxStream<'static, Result<M, Status>> {
        let first = Some((self, seen, message));
        let messages = stream::unfold(first, move |state| async move {
            let (mut watch, seen, message) = state?;
            let ending = watch.hub.0.ending.clone();
            let next = tokio::select! {
                biased;
                () = ending.cancelled() => Err(Failure::Ending),
                failure = passed(end) => Err(failure),
                next = watch.newer_than(seen) => next,
            };
            match next {
                Ok(row) => {
                    // What was there before has no lag, only an age.
                    if R::version(&row) > watch.began_at {
                        lag(R::updated_at(&row));
                    }
                    Some((Ok(message(&row)), Some((watch, R::version(&row), message))))
                }
                Err(failure) => Some((Err(failure.into()), None)),
            }
        });
        messages.boxed()
    }
}

impl<R: Rows> Drop for Watch<R> {
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

/// What the caller is told at the end, when it has come.
async fn passed(end: Option<EndOfStream>) -> Failure {
    match end {
        Some(end) => {
            sleep_until(end.at()).await;
            end.failure()
        }
        None => std::future::pending().await,
    }
}

/// Shows how many watch, and how many rows, until the process is to end.
pub async fn show(places: Places, watched_rows: impl Fn() -> usize, ending: CancellationToken) {
    describe_gauge!("watchers", "Watches under way.");
    describe_gauge!("watched_rows", "Rows that watches are of.");
    describe_histogram!(
        "watch_lag_seconds",
        Unit::Seconds,
        "From a change's command to its sending to who watches."
    );
    let showing = async {
        loop {
            metrics::gauge!("watchers").set(places.taken());
            metrics::gauge!("watched_rows").set(u32::try_from(watched_rows()).unwrap_or(u32::MAX));
            sleep(Duration::from_secs(5)).await;
        }
    };
    ending.run_until_cancelled(showing).await;
}

/// Notes how long it took from a change to the sending of the state that it made.
fn lag(updated_at: Timestamp) {
    let micros = clock::now().unix_micros().saturating_sub(updated_at.unix_micros());
    let lag = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    metrics::histogram!("watch_lag_seconds").record(lag);
}
