//! The relay: carries committed events from the event store's stream to the bus.
//!
//! Every replica of the command service runs a relay. They share the stream's shards by leases in a table ([`Leases`]):
//! a dead replica loses its leases by time, a replica wrongly taken for dead by their fence. A shard is read from the
//! oldest record on, after its parents are finished. The checkpoint in the lease moves only past records that the bus
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
//! implementations of each. `plan` decides which leases to take, `keeper` keeps one, `shard` reads under it,
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
    sync::Arc,
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
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use self::{
    leases::{Lease, Replica, segment_of},
    meters::Called,
    plan::{Claim, Plan, Sightings, View},
    publisher::Publisher,
    refills::Refills,
    shard::relay_shard,
    stream::{Shard, ShardId},
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
    listing: Option<Listing>,
    /// For failures of rounds.
    throttle: FailureLogThrottle,
    /// The longest time for which a shard had no owner, at the last round.
    unread: Duration,
}

/// A listing of the stream's shards.
#[derive(Clone)]
struct Listing {
    began: Instant,
    /// `began` by the clock.
    at: Timestamp,
    shards: Vec<Shard>,
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
}

impl<S, L, B, R> Ports<S, L, B, R> {
    fn config(&self) -> &RelayConfig {
        &self.publisher.config
    }
}

/// The shards that are being read, each by a task.
#[derive(Default)]
struct Workers {
    tasks: JoinSet<()>,
    shards: HashMap<Id, ShardId>,
    readers: HashMap<ShardId, Reading>,
}

/// How the reading of a shard ended.
enum Ended {
    /// The shard ended, its lease was lost, or the reader was stopped.
    AsItShould(ShardId),
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
        let ports = Ports { stream, leases, refill, publisher, clock, refills: Refills::default() };
        Self {
            ports,
            workers: Workers::default(),
            sightings: Sightings::new(),
            listing: None,
            throttle: FailureLogThrottle::default(),
            unread: Duration::ZERO,
        }
    }

    /// Relays until `shutdown` is cancelled; then ends the work in flight and gives the leases up, within about
    /// twice [`RelayConfig::drain`]. Dropping the future stops everything at once, as a crash would.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            self.round(&shutdown).await;
            let balance_interval = self.ports.config().balance_interval;
            tokio::select! {
                // A fixed order, here and elsewhere, makes simulations repeatable.
                biased;
                () = shutdown.cancelled() => {}
                ended = self.workers.ended() => match ended {
                    Ended::AsItShould(shard) => {
                        sleep(BREATH).await;
                        let mut ended = vec![shard];
                        while let Some(Ended::AsItShould(another)) = self.workers.ended().now_or_never() {
                            ended.push(another);
                        }
                        // A new listing lets the children of a finished shard follow at once.
                        if ended.iter().any(|shard| segment_of(shard).is_none()) {
                            self.listing = None;
                        }
                    }
                    // The shard is free to be taken, and would probably panic again at once.
                    Ended::Panicked => shutdown.run_until_cancelled(sleep(balance_interval)).await.unwrap_or_default(),
                },
                // Other shards will ask as well, and can share the refill until a replica begins it.
                () = self.ports.refills.asked.notified() => sleep(BREATH).await,
                () = sleep(balance_interval) => {}
            }
        }
        self.shut_down().await;
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
                    debug!(%error, "the relay cannot see its leases or shards");
                    if let Some(lasted) = self.throttle.failed() {
                        warn!(%error, ?lasted, "the relay cannot see its leases or shards");
                    }
                }
            },
            () = cut => {}
        }
        let shards = self.workers.readers.keys().filter(|shard| segment_of(shard).is_none());
        meters::leases_held(shards.count());
        // A replica that cannot see or take leases soon holds none, and would otherwise seem to have nothing left to
        // do.
        let behind = self.workers.behind((self.ports.clock)());
        meters::behind(behind.max(self.throttle.failing_for()).max(self.unread));
    }

    async fn balance(&mut self, shutdown: &CancellationToken) -> Result<(), AwsError> {
        let plan = self.plan().await?;
        self.unread = plan.unread;
        for claim in plan.claims {
            if shutdown.is_cancelled() {
                return Ok(());
            }
            self.claim(claim, shutdown).await;
        }
        for lease in plan.noted {
            // A failed write is planned again.
            if let Err(error) = self.ports.leases.create(&lease).await {
                meters::call_failed(Called::Leases);
                debug!(%error, shard = %lease.shard, "a shard could not be noted");
            }
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
        let lifetime = config.lease_duration.max(3 * config.balance_interval);
        let replica = Replica { owner: config.owner.clone(), expires_at: whole_millis(after(now, lifetime)) };
        ports.leases.announce(&replica).await?;
        // The leases first: a lease is deleted only after its shard is no longer listed, so a shard listed later
        // without a lease is new.
        let mut table = ports.leases.list().await?;
        let mut listing = self.listing().await?;
        let is_listed = |lease: &Lease| listing.shards.iter().any(|shard| shard.id == lease.shard);
        if !table.leases.iter().all(|lease| lease.is_finished() || is_listed(lease)) {
            // A shard has vanished, or is newer than the listing. A newer shard may have to wait for its parents.
            self.listing = None;
            listing = self.listing().await?;
        }
        // `now` was read before the table: this machine may have slept since.
        if let Some(at) = plan::complete_at(&listing.shards, listing.at, &table, now, config) {
            ports.leases.note_complete(at).await?;
            table.complete_at = Some(at);
        }
        self.sightings.look(&listing.shards, &table);
        let held: HashSet<ShardId> = self.workers.readers.keys().cloned().collect();
        let now = (ports.clock)();
        Ok(Plan::of(&View {
            config,
            now,
            shards: &listing.shards,
            listed_at: listing.at,
            table: &table,
            held: &held,
            sightings: &self.sightings,
        }))
    }

    /// The stream's shards, at most [`RelayConfig::discovery_interval`] old.
    async fn listing(&mut self) -> Result<Listing, AwsError> {
        if let Some(listing) = &self.listing
            && listing.began.elapsed() < self.ports.config().discovery_interval
        {
            return Ok(listing.clone());
        }
        let (began, at) = (Instant::now(), (self.ports.clock)());
        let shards = self.ports.stream.shards().await?;
        Ok(self.listing.insert(Listing { began, at, shards }).clone())
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
            Ok(Some(lease)) if lease.is_finished() => {}
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
        let (id, panicked) = match self.tasks.join_next_with_id().await {
            None => return std::future::pending().await,
            Some(Ok((id, ()))) => (id, false),
            Some(Err(failure)) => {
                error!(%failure, "the reading of a shard was cut off");
                (failure.id(), true)
            }
        };
        let shard = self.shards.remove(&id);
        if let Some(shard) = &shard {
            self.readers.remove(shard);
        }
        match shard {
            Some(shard) if !panicked => Ended::AsItShould(shard),
            Some(_) | None => Ended::Panicked,
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
