//! A small world: a table with its stream, leases, a bus, and relays that can be started, stopped and killed.

use std::{collections::HashSet, time::Duration};

use millrace_core::Envelope;
use millrace_core::{AggregateType, EventId, TenantId, Timestamp};
use serde_json::{Map, Value};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    EventBus, Leases, Refill, Relay, RelayConfig, ShardStream,
    leases::Lease,
    memory::{MemoryBus, MemoryLeases, MemoryStream, MemoryTable},
    stream::ShardId,
};

#[derive(Clone)]
pub(super) struct World {
    pub(super) stream: MemoryStream,
    pub(super) leases: MemoryLeases,
    pub(super) bus: MemoryBus,
    pub(super) table: MemoryTable,
    begun: Instant,
}

impl World {
    pub(super) fn new() -> Self {
        let begun = Instant::now();
        Self {
            stream: MemoryStream::default(),
            leases: MemoryLeases::default(),
            bus: MemoryBus::default(),
            table: MemoryTable::default(),
            begun,
        }
    }

    /// A world whose stream has four open shards.
    pub(super) fn with_four_shards() -> Self {
        let world = Self::new();
        for _ in 0..2 {
            for shard in world.stream.open_shards() {
                world.stream.split(&shard);
            }
        }
        world
    }

    pub(super) fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.begun.elapsed().as_micros()).unwrap();
        Timestamp::from_unix_micros(1_800_000_000_000_000 + elapsed)
    }

    pub(super) fn event(&self, aggregate: u128, version: u64) -> Envelope {
        Envelope {
            event_id: EventId(Uuid::from_u128(aggregate << 64 | u128::from(version))),
            tenant_id: TenantId::default(),
            aggregate_type: AggregateType::new("user"),
            aggregate_id: Uuid::from_u128(aggregate),
            version,
            event_type: "UserCreated".to_owned(),
            schema_version: 1,
            timestamp: self.now(),
            event_data: Some(Map::from_iter([("email".to_owned(), Value::from("a@example.com"))])),
            command_id: "c".parse().unwrap(),
            correlation_id: "c".parse().unwrap(),
            causation_id: "c".parse().unwrap(),
            trace_parent: None,
        }
    }

    /// Stores an event, as a command would: in the table and in the stream.
    pub(super) fn store(&self, event: Envelope) -> EventId {
        let id = event.event_id;
        self.table.append(event.clone());
        self.stream.append(event);
        id
    }

    /// Stores the first event of each aggregate.
    pub(super) fn store_firsts(&self, aggregates: impl IntoIterator<Item = u128>) -> Vec<EventId> {
        self.store_of_each(aggregates, 1)
    }

    /// Stores an event of this version for each aggregate.
    pub(super) fn store_of_each(
        &self,
        aggregates: impl IntoIterator<Item = u128>,
        version: u64,
    ) -> Vec<EventId> {
        aggregates.into_iter().map(|aggregate| self.store(self.event(aggregate, version))).collect()
    }

    /// Stores events of one aggregate.
    pub(super) fn store_versions(&self, aggregate: u128, versions: std::ops::Range<u64>) -> Vec<EventId> {
        versions.map(|version| self.store(self.event(aggregate, version))).collect()
    }

    pub(super) fn config(owner: &str) -> RelayConfig {
        RelayConfig::new(owner, "millrace")
    }

    /// A configuration for runs of days, with long intervals.
    pub(super) fn patient(owner: &str) -> RelayConfig {
        let minute = Duration::from_secs(60);
        RelayConfig {
            poll_interval: minute,
            discovery_interval: 10 * minute,
            balance_interval: 5 * minute,
            lease_duration: 10 * minute,
            renew_interval: 3 * minute,
            ..Self::config(owner)
        }
    }

    pub(super) fn start(&self, owner: &str) -> Running {
        self.start_with(Self::config(owner), self.bus.clone())
    }

    pub(super) fn start_with(&self, config: RelayConfig, bus: impl EventBus) -> Running {
        self.start_through(self.stream.clone(), self.leases.clone(), bus, self.table.clone(), config)
    }

    pub(super) fn start_through(
        &self,
        stream: impl ShardStream,
        leases: impl Leases,
        bus: impl EventBus,
        refill: impl Refill,
        config: RelayConfig,
    ) -> Running {
        self.run(self.relay(stream, leases, bus, refill, config))
    }

    pub(super) fn relay<S: ShardStream, L: Leases, B: EventBus, R: Refill>(
        &self,
        stream: S,
        leases: L,
        bus: B,
        refill: R,
        config: RelayConfig,
    ) -> Relay<S, L, B, R> {
        let world = self.clone();
        Relay::new(stream, leases, bus, refill, config, move || world.now())
    }

    pub(super) fn run<S: ShardStream, L: Leases, B: EventBus, R: Refill>(
        &self,
        relay: Relay<S, L, B, R>,
    ) -> Running {
        let shutdown = CancellationToken::new();
        Running { task: tokio::spawn(relay.run(shutdown.clone())), shutdown }
    }

    pub(super) fn published(&self) -> HashSet<EventId> {
        self.bus.events().iter().map(|event| event.event_id).collect()
    }

    pub(super) fn has_published(&self, ids: &[EventId]) -> bool {
        let published = self.published();
        ids.iter().all(|id| published.contains(id))
    }

    /// How often the most published event was published.
    pub(super) fn most_repeats(&self) -> usize {
        let events = self.bus.events();
        let count = |id| events.iter().filter(|event| event.event_id == id).count();
        events.iter().map(|event| count(event.event_id)).max().unwrap_or_default()
    }

    pub(super) async fn until_published(&self, ids: &[EventId]) {
        eventually("the events are on the bus", || self.has_published(ids)).await;
    }

    pub(super) async fn leases_now(&self) -> Vec<Lease> {
        self.leases.list().await.unwrap().leases
    }

    pub(super) async fn lease(&self, shard: &ShardId) -> Lease {
        self.leases_now()
            .await
            .into_iter()
            .find(|lease| lease.shard == *shard)
            .expect("the shard has a lease")
    }

    /// The shards whose leases `owner` holds.
    pub(super) async fn held_by(&self, owner: &str) -> Vec<ShardId> {
        let live = |lease: &Lease| lease.expires_at > self.now() && !lease.is_finished();
        let leases = self.leases_now().await.into_iter();
        leases.filter(|l| l.owner.as_deref() == Some(owner) && live(l)).map(|l| l.shard).collect()
    }

    /// Waits until a replica holds `count` shards.
    pub(super) async fn until_holding(&self, owner: &str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.held_by(owner).await.len() != count {
            assert!(Instant::now() < deadline, "{owner} does not come to hold {count} shards");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

pub(super) struct Running {
    task: JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Running {
    /// Ends it at once, at any point.
    pub(super) async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Ends it as SIGTERM would; returns how long that took.
    pub(super) async fn stop(self) -> Duration {
        let begun = Instant::now();
        self.shutdown.cancel();
        self.task.await.unwrap();
        begun.elapsed()
    }
}

const PATIENCE: Duration = Duration::from_secs(600);

pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(100)).await;
    }
}
