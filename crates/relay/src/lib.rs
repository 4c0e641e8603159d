//! The relay: carries committed events from the event store's stream to the bus.
//!
//! Every replica of the command service runs a relay. They share the stream's shards by leases in a table ([`Leases`]):
//! a dead replica loses its leases by time, a replica wrongly taken for dead by their fence. A shard is read from the
//! oldest record on, after its parents are finished. One replica, the looker, lists the stream's shards for all, also by a
//! lease; the others know only the lease table. The checkpoint in the lease moves only past records that the bus
//! has accepted, so every event in the table is published **at least once**, and usually in the order of its
//! aggregate's versions; a crash repeats about the last second.
//!
//! The stream keeps records for a day. If it has dropped unrelayed records (an outage of more than a day, a shard or a
//! stream that vanished, a local emulator that restarted) the relay reports this in its log and in
//! `relay_trimmed_total`. It then publishes from the table all events that the shard may have held since its checkpoint
//! ([`Refill`]). A refill is written into the lease table before the shard goes on. Its segments have leases and
//! checkpoints of their own, and replicas share them as they share shards. So a refill runs beside live events, and
//! continues after a crash. The relay cannot know two kinds of events: those older than a day, less some minutes, when
//! the first relay of all was started, and those written while the table had no stream.
//!
//! An item that cannot be read as an event is counted, logged, and handed on as it is: a newer consumer may understand
//! it, and it becomes a dead letter of the others. A refused entry is sent again without end, and holds up only its own
//! shard. An entry that is too large, or whose content the bus refuses, goes without its data; the consumer reads them
//! from the store.
//!
//! # Metrics
//! `relay_published_total`, `relay_entries_failed_total`, `relay_lag_seconds`, `relay_behind_seconds`,
//! `relay_calls_failed_total`, `relay_trimmed_total`, `relay_refills_total`, `relay_refilled_total`,
//! `relay_undecodable_total`, `relay_skipped_total`, `relay_oversized_total`, `relay_leases_held`,
//! `relay_leases_lost_total`.
//!
//! # Where things are
//! [`ShardStream`], [`Leases`], [`EventBus`] and [`Refill`] are the relay's ports; [`aws`] and [`memory`] hold two
//! implementations of each. `look` brings the stream's shards into the lease table, `plan` decides which leases to take, `keeper` keeps one, `shard` reads under it,
//! `publisher` sends the events, `traced` records them in traces.
//!
//! # Example
//! ```
//! use millrace_core::Timestamp;
//! use millrace_relay::{Relay, RelayConfig, memory};
//! use tokio_util::sync::CancellationToken;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let (stream, bus) = (memory::MemoryStream::default(), memory::MemoryBus::default());
//! # let now = || Timestamp::from_unix_micros(1_795_435_200_000_000);
//! let config = RelayConfig::new("replica-1", "counters");
//! let leases = memory::MemoryLeases::default();
//! let relay = Relay::new(stream, leases, bus.clone(), memory::MemoryTable::default(), config, now);
//! let shutdown = CancellationToken::new();
//! let running = tokio::spawn(relay.run(shutdown.clone()));
//! shutdown.cancel();
//! running.await.expect("a relay that ends");
//! assert!(bus.entries().is_empty(), "the stream has no events");
//! # }
//! ```

pub mod aws;
pub mod bus;
mod config;
mod keeper;
pub mod leases;
mod look;
pub mod memory;
mod meters;
mod plan;
mod publisher;
pub mod refill;
mod refills;
mod shard;
pub mod stream;
#[cfg(test)]
mod tests;
mod time;
mod traced;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

pub use bus::EventBus;
pub use config::RelayConfig;
use futures::FutureExt as _;
pub use leases::Leases;
use millrace_aws::AwsError;
use millrace_core::Timestamp;
use millrace_server::FailureLogThrottle;
pub use refill::Refill;
pub use stream::ShardStream;
pub use time::Clock;
use tokio::{
    sync::watch,
    task::{Id, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use self::{
    leases::{LOOKER, Lease, Replica, segment_of},
    look::{Children, News},
    meters::Called,
    plan::{Claim, Plan, Sightings, View},
    publisher::Publisher,
    refills::Refills,
    shard::relay_shard,
    stream::ShardId,
    time::{after, since, whole_millis},
};

/// The pause before the next round after a shard's end or a request for a refill. It prevents a tight loop if shards
/// keep failing.
const BREATH: Duration = Duration::from_millis(100);

/// One replica's relay.
pub struct Relay<S, L, B, R> {
    ports: Ports<S, L, B, R>,
    workers: Workers,
    sightings: Sightings,
    children: Children,
    /// The shortest time between two rounds: the table's readings must not cost more the more shards there are.
    read_time: Duration,
    /// For failures of rounds.
    throttle: FailureLogThrottle,
    /// The longest time for which a shard had no owner, at the last round.
    unread: Duration,
}

/// The ports of a relay.
#[derive(Clone)]
struct Ports<S, L, B, R> {
    stream: S,
    leases: L,
    refill: R,
    publisher: Publisher<B>,
    clock: Clock,
    refills: Refills,
    news: Arc<News>,
    /// Changes with each event that this process stores.
    stored: watch::Receiver<u64>,
}

impl<S, L, B, R> Ports<S, L, B, R> {
    fn config(&self) -> &RelayConfig {
        &self.publisher.config
    }
}

/// The shards that are being read, each by a task.
#[derive(Default)]
struct Workers {
    /// Each tells whether its shard has been read to the end.
    tasks: JoinSet<bool>,
    shards: HashMap<Id, ShardId>,
    readers: HashMap<ShardId, Reading>,
}

/// How the reading of a shard ended.
enum Ended {
    /// The shard ended.
    Finished(ShardId),
    /// The lease was lost, the reader was stopped, or it was no shard's.
    AsItShould,
    /// A defect.
    Panicked,
}

/// A shard that is being read.
struct Reading {
    stop: CancellationToken,
    /// All known events of the shard before this time are relayed.
    relayed: watch::Receiver<Timestamp>,
}

impl<S: ShardStream, L: Leases, B: EventBus, R: Refill> Relay<S, L, B, R> {
    /// A relay that does nothing until it [runs](Self::run). `clock` tells the time of day; durations are measured by
    /// tokio.
    pub fn new(
        stream: S,
        leases: L,
        bus: B,
        refill: R,
        config: RelayConfig,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        meters::begin();
        let clock: Clock = Arc::new(clock);
        let publisher = Publisher { bus, config, clock: clock.clone() };
        // Its sender is gone: nothing is stored here.
        let (_, stored) = watch::channel(0);
        let ports = Ports {
            stream,
            leases,
            refill,
            publisher,
            clock,
            refills: Refills::default(),
            news: Arc::default(),
            stored,
        };
        Self {
            ports,
            workers: Workers::default(),
            sightings: Sightings::new(),
            children: Children::new(),
            read_time: Duration::ZERO,
            throttle: FailureLogThrottle::default(),
            unread: Duration::ZERO,
        }
    }

    /// Reads its shards at once whenever `stored` changes: this process has stored an event, probably one of them.
    pub fn with_stored(mut self, stored: watch::Receiver<u64>) -> Self {
        self.ports.stored = stored;
        self
    }

    /// Relays until `shutdown` is cancelled; then ends the work in flight and gives the leases up, within about
    /// twice [`RelayConfig::drain`]. Dropping the future stops everything at once, as a crash would.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut last = Instant::now();
        let mut due = last;
        while !shutdown.is_cancelled() {
            if self.children.find(&self.ports).await {
                due = due.min(last + self.read_time);
            }
            if due <= Instant::now() {
                self.round(&shutdown).await;
                last = Instant::now();
                due = last + self.interval();
            }
            let children_due = self.children.due();
            tokio::select! {
                // A fixed order, here and elsewhere, makes simulations repeatable.
                biased;
                () = shutdown.cancelled() => {}
                ended = self.workers.ended() => {
                    let mut panicked = false;
                    let mut ended = Some(ended);
                    while let Some(another) = ended {
                        match another {
                            Ended::Finished(shard) => self.children.add(shard, (self.ports.clock)()),
                            Ended::AsItShould => {}
                            Ended::Panicked => panicked = true,
                        }
                        ended = self.workers.ended().now_or_never();
                    }
                    // A shard whose reader panicked is free to be taken, and would probably panic again at once.
                    let pause = if panicked { self.interval() } else { BREATH };
                    shutdown.run_until_cancelled(sleep(pause)).await;
                    due = due.min(last + self.read_time);
                }
                // Other shards will ask as well, and can share the refill until a replica begins it.
                () = self.ports.refills.asked.notified() => {
                    sleep(BREATH).await;
                    due = due.min(last + self.read_time);
                }
                () = self.ports.news.changed.notified() => due = due.min(last + self.read_time),
                () = sleep_until(children_due.unwrap_or(due)), if children_due.is_some() => {}
                () = sleep_until(due) => {}
            }
        }
        self.shut_down().await;
    }

    /// The time between two rounds if nothing happens.
    fn interval(&self) -> Duration {
        self.ports.config().balance_interval.max(self.read_time)
    }

    /// Runs one round. At a shutdown, calls in flight get time to end: a lease taken by an abandoned call would have to
    /// expire.
    async fn round(&mut self, shutdown: &CancellationToken) {
        let drain = self.ports.config().drain;
        let cut = async {
            shutdown.cancelled().await;
            sleep(drain).await;
        };
        tokio::select! {
            biased;
            result = self.balance(shutdown) => match result {
                Ok(()) => self.throttle.succeeded(),
                Err(error) => {
                    meters::call_failed(Called::Leases);
                    debug!(%error, "the relay cannot see its leases");
                    if let Some(lasted) = self.throttle.failed() {
                        warn!(%error, ?lasted, "the relay cannot see its leases");
                    }
                }
            },
            () = cut => {}
        }
        let is_shard = |shard: &&ShardId| segment_of(shard).is_none() && shard.as_str() != LOOKER;
        let shards = self.workers.readers.keys().filter(is_shard).count();
        self.ports.news.reads.store(shards, Ordering::Relaxed);
        meters::leases_held(shards);
        // A replica that cannot see or take leases soon holds none, and would otherwise seem to have nothing left to
        // do.
        let behind = self.workers.behind((self.ports.clock)());
        meters::behind(behind.max(self.throttle.failing_for()).max(self.unread));
    }

    async fn balance(&mut self, shutdown: &CancellationToken) -> Result<(), AwsError> {
        let plan = self.plan().await?;
        self.unread = plan.unread;
        for claim in plan.look.into_iter().chain(plan.claims) {
            if shutdown.is_cancelled() {
                return Ok(());
            }
            self.claim(claim, shutdown).await;
        }
        for shard in plan.surplus {
            self.workers.stop(&shard);
        }
        for lease in plan.forgotten {
            self.ports.leases.forget(&lease).await?;
        }
        for refill in plan.ended {
            self.ports.leases.end_refill(&refill).await?;
        }
        for replica in plan.vanished {
            self.ports.leases.withdraw(&replica.owner).await?;
        }
        Ok(())
    }

    async fn plan(&mut self) -> Result<Plan, AwsError> {
        let ports = self.ports.clone();
        let config = ports.config();
        let now = (ports.clock)();
        let lifetime = config.lease_duration.max(3 * self.interval());
        let replica = Replica { owner: config.owner.clone(), expires_at: whole_millis(after(now, lifetime)) };
        ports.leases.announce(&replica).await?;
        let table = ports.leases.list().await?;
        self.read_time = RelayConfig::read_time(table.leases.len());
        self.sightings.look(&table);
        self.children.read(config, &table, now);
        ports.news.read(&table);
        let held: HashSet<ShardId> = self.workers.readers.keys().cloned().collect();
        let now = (ports.clock)();
        Ok(Plan::of(&View { config, now, table: &table, held: &held, sightings: &self.sightings }))
    }

    async fn claim(&mut self, claim: Claim, shutdown: &CancellationToken) {
        let leases = &self.ports.leases;
        let taken = Instant::now();
        let result = match &claim {
            Claim::Create(lease) => leases.create(lease).await.map(|created| created.then(|| lease.clone())),
            Claim::Take(seen) => {
                let config = self.ports.config();
                let expires_at = whole_millis(after((self.ports.clock)(), config.lease_duration));
                leases.take(seen, &config.owner, expires_at).await
            }
        };
        match result {
            // The former owner may have finished the shard in between.
            Ok(Some(lease)) if lease.is_finished() && lease.shard.as_str() != LOOKER => {}
            Ok(Some(lease)) => self.read(lease, taken, shutdown),
            // Another replica was faster.
            Ok(None) => {}
            Err(error) => {
                meters::call_failed(Called::Leases);
                debug!(%error, ?claim, "a lease could not be taken");
            }
        }
    }

    fn read(&mut self, lease: Lease, taken: Instant, shutdown: &CancellationToken) {
        let stop = shutdown.child_token();
        let shard = lease.shard.clone();
        let (reached, relayed) = watch::channel((self.ports.clock)());
        let work = relay_shard(self.ports.clone(), lease, taken, reached, stop.clone());
        let id = self.workers.tasks.spawn(work).id();
        self.workers.shards.insert(id, shard.clone());
        self.workers.readers.insert(shard, Reading { stop, relayed });
    }

    /// The workers have been told to stop already.
    async fn shut_down(mut self) {
        let drain = self.ports.config().drain;
        let all_ended = async {
            while !self.workers.readers.is_empty() {
                self.workers.ended().await;
            }
            self.ports.leases.withdraw(&self.ports.config().owner).await
        };
        match timeout(2 * drain, all_ended).await {
            Ok(Ok(())) => {}
            // The leases and the replica's own entry expire.
            Ok(Err(error)) => debug!(%error, "the relay could not take its leave"),
            Err(_) => debug!("the relay's work did not end in time"),
        }
        meters::leases_held(0);
    }
}

impl Workers {
    /// Waits until a shard is no longer read; for ever if none is.
    async fn ended(&mut self) -> Ended {
        let (id, finished) = match self.tasks.join_next_with_id().await {
            None => return std::future::pending().await,
            Some(Ok((id, finished))) => (id, Some(finished)),
            Some(Err(failure)) => {
                error!(%failure, "the reading of a shard was cut off");
                (failure.id(), None)
            }
        };
        let shard = self.shards.remove(&id);
        if let Some(shard) = &shard {
            self.readers.remove(shard);
        }
        match (shard, finished) {
            (Some(shard), Some(true)) if segment_of(&shard).is_none() => Ended::Finished(shard),
            (Some(_), Some(_)) => Ended::AsItShould,
            (_, None) | (None, _) => Ended::Panicked,
        }
    }

    fn stop(&self, shard: &ShardId) {
        if let Some(reading) = self.readers.get(shard) {
            reading.stop.cancel();
        }
    }

    /// The greatest possible age of an event that is still to be relayed.
    fn behind(&self, now: Timestamp) -> Duration {
        let behind = self.readers.values().map(|reading| since(*reading.relayed.borrow(), now));
        behind.max().unwrap_or_default()
    }
}
