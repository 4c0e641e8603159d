//! Ten thousand partitions, and twenty relays that share them.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use millrace_aws::AwsError;
use millrace_core::EventId;
use tokio::time::{Instant, sleep};

use super::world::{Running, World};
use crate::{
    EventBus, Leases as _, RelayConfig, ShardStream,
    bus::{Entry, Rejection},
    memory::{MemoryCursor, MemoryStream},
    stream::{Position, Records, Shard, ShardId, Shards, StreamError},
};

const PARTITIONS: usize = 10_000;
const REPLICAS: usize = 20;

/// The most calls of `DescribeStream` in a second that DynamoDB takes from an account in a region (API Reference,
/// `DescribeStream`).
const LIMIT: usize = 10;

/// A stream that notes when it is described.
#[derive(Clone)]
struct Described {
    there: MemoryStream,
    calls: Arc<Mutex<Vec<Instant>>>,
    /// Shards that are not listed.
    hidden: Arc<Mutex<HashSet<ShardId>>>,
}

impl Described {
    fn called(&self) -> &MemoryStream {
        self.calls.lock().unwrap().push(Instant::now());
        &self.there
    }

    fn count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    /// The most calls in any second.
    fn most(&self) -> usize {
        let calls = self.calls.lock().unwrap();
        let within = |first: usize| {
            calls[first..].iter().take_while(|call| **call - calls[first] < Duration::from_secs(1)).count()
        };
        (0..calls.len()).map(within).max().unwrap_or_default()
    }
}

impl ShardStream for Described {
    type Cursor = MemoryCursor;
    async fn shards(&self, from: Option<&ShardId>) -> Result<Shards, AwsError> {
        let mut page = self.called().shards(from).await?;
        page.shards.retain(|shard| !self.hidden.lock().unwrap().contains(&shard.id));
        Ok(page)
    }
    async fn children(&self, shard: &ShardId) -> Result<Vec<Shard>, AwsError> {
        self.called().children(shard).await
    }
    async fn open(&self, shard: &ShardId, position: &Position) -> Result<MemoryCursor, StreamError> {
        self.there.open(shard, position).await
    }
    async fn read(&self, cursor: &MemoryCursor) -> Result<Records<MemoryCursor>, StreamError> {
        self.there.read(cursor).await
    }
}

/// A bus that notes the events it accepted, and those of an aggregate that came before an earlier one.
#[derive(Clone, Default)]
struct Noting(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    events: HashSet<EventId>,
    newest: HashMap<String, u64>,
    disordered: Vec<String>,
}

impl EventBus for Noting {
    async fn put(&self, entries: &[Entry]) -> Result<Vec<Result<(), Rejection>>, Rejection> {
        let mut noted = self.0.lock().unwrap();
        for entry in entries {
            let event: millrace_core::Envelope = serde_json::from_str(&entry.detail).unwrap();
            let newest = noted.newest.entry(event.stream().to_string()).or_default();
            let expected = *newest + 1;
            *newest = event.version.max(*newest);
            if event.version > expected {
                noted.disordered.push(format!("{} of {}", event.version, event.stream()));
            }
            noted.events.insert(event.event_id);
        }
        Ok(entries.iter().map(|_| Ok(())).collect())
    }
}

impl Noting {
    fn has_all(&self, ids: &HashSet<EventId>) -> bool {
        let noted = self.0.lock().unwrap();
        noted.events.len() >= ids.len() && ids.is_subset(&noted.events)
    }
}

/// Many shards and relays, which read seldom so that the test is quick.
struct Fleet {
    world: World,
    stream: Described,
    bus: Noting,
    relays: HashMap<String, Running>,
    stored: HashSet<EventId>,
}

impl Fleet {
    fn new(partitions: usize) -> Self {
        let world = World::new();
        while world.stream.open_shards().len() < partitions {
            let open = world.stream.open_shards();
            let more = partitions - open.len();
            open.iter().take(more).for_each(|shard| world.stream.split(shard));
        }
        world.stream.drop_closed_shards();
        let stream = Described { there: world.stream.clone(), calls: Arc::default(), hidden: Arc::default() };
        Self { world, stream, bus: Noting::default(), relays: HashMap::new(), stored: HashSet::new() }
    }

    fn start(&mut self, owner: String) {
        let config = RelayConfig {
            poll_interval: Duration::from_secs(5),
            idle_poll_interval: Duration::from_secs(5),
            balance_interval: Duration::from_secs(15),
            renew_interval: Duration::from_secs(20),
            lease_duration: Duration::from_secs(60),
            ..World::config(&owner)
        };
        let (stream, bus, table) = (self.stream.clone(), self.bus.clone(), self.world.table.clone());
        let relay = self.world.start_through(stream, self.world.leases.clone(), bus, table, config);
        self.relays.insert(owner, relay);
    }

    async fn looker(&self) -> Option<String> {
        let looker = self.world.leases.list().await.unwrap().looker?;
        (looker.expires_at > self.world.now()).then_some(looker.owner)?
    }

    /// Stores the event of this version of each aggregate.
    fn store(&mut self, aggregates: u128, version: u64) {
        self.stored.extend(self.world.store_of_each(0..aggregates, version));
    }

    /// Waits until all events are on the bus. Returns how long that took.
    async fn until_relayed(&self) -> Duration {
        let began = Instant::now();
        while !self.bus.has_all(&self.stored) {
            assert!(began.elapsed() < Duration::from_secs(600), "they are never relayed");
            sleep(Duration::from_secs(1)).await;
        }
        began.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_partitions_need_no_more_descriptions_of_the_stream_than_it_gives() {
    let mut fleet = Fleet::new(PARTITIONS);
    for replica in 0..REPLICAS {
        fleet.start(format!("relay-{replica:02}"));
    }
    let aggregates = u128::try_from(PARTITIONS).unwrap();
    fleet.store(aggregates, 1);
    let first = fleet.until_relayed().await;
    assert!(
        first < Duration::from_secs(120),
        "a hundred pages at four a second, leases, and a read: {first:?}"
    );
    let open: HashSet<ShardId> = fleet.world.stream.open_shards().into_iter().collect();
    let leases = fleet.world.leases_now().await.into_iter();
    let owned: HashSet<_> = leases.filter(|lease| lease.owner.is_some()).map(|lease| lease.shard).collect();
    assert_eq!(owned, open, "every shard has a reader");

    // A storm of splits, in which the looker dies.
    let looker = fleet.looker().await.unwrap();
    open.iter().take(PARTITIONS / 5).for_each(|shard| fleet.world.stream.split(shard));
    fleet.store(aggregates, 2);
    fleet.relays.remove(&looker).unwrap().crash().await;
    let storm = fleet.until_relayed().await;
    assert!(storm < Duration::from_secs(240), "after {looker} died, another looks: {storm:?}");
    assert_ne!(fleet.looker().await.unwrap(), looker);
    assert_eq!(fleet.bus.0.lock().unwrap().disordered, [""; 0], "a child was read before its parent's end");

    // A single shard that ends then.
    fleet.world.stream.split(&fleet.world.stream.open_shards()[0]);
    fleet.store(aggregates, 3);
    let single = fleet.until_relayed().await;
    assert!(single < Duration::from_secs(45), "a turn, a round and two reads: {single:?}");
    let most = fleet.stream.most();
    assert!(most <= LIMIT, "{most} descriptions in a second");
    println!(
        "first {first:?}, in a storm {storm:?}, one split {single:?}; at most {most} descriptions a second"
    );
}

/// A stream that was switched off is no longer listed, and can be read for a day.
#[tokio::test(start_paused = true)]
async fn a_shard_that_is_no_longer_listed_costs_no_description_of_the_stream_each_round() {
    let mut fleet = Fleet::new(4);
    fleet.start("a".to_owned());
    fleet.start("b".to_owned());
    fleet.store(40, 1);
    fleet.until_relayed().await;
    fleet.stream.hidden.lock().unwrap().extend(fleet.world.stream.open_shards());
    sleep(Duration::from_secs(60)).await;
    let before = fleet.stream.count();
    sleep(Duration::from_secs(600)).await;
    let calls = fleet.stream.count() - before;
    assert!(calls <= 61, "{calls} descriptions in ten minutes");
    fleet.store(40, 2);
    fleet.until_relayed().await;
}
