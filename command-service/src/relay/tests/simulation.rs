//! Random worlds: failures, delays, crashes, splits, outages. Whatever happens, every event is published in the end, and
//! no checkpoint ever passes one that is not.

use std::{
    future::Future,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use millrace_aws::AwsError;
use millrace_domain::{EventId, Timestamp};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep};

use super::world::{Running, World};
use crate::relay::{
    EventBus, Leases, Refill, RelayConfig, ShardStream,
    bus::{Entry, Rejection},
    leases::{Lease, LeaseTable, Replica},
    memory::{MemoryBus, MemoryCursor, MemoryLeases, MemoryStream, MemoryTable, TablePlace},
    refill::RefillPage,
    stream::{Position, Records, Shard, ShardId, StreamError},
};

/// Trouble: delays and failures, before the effect of a call or after it.
#[derive(Clone)]
struct Trouble {
    rng: Arc<Mutex<StdRng>>,
    /// How likely a call fails.
    rate: Arc<Mutex<f64>>,
}

impl Trouble {
    fn happens(&self) -> bool {
        let rate = *self.rate.lock().unwrap();
        self.rng.lock().unwrap().random_bool(rate)
    }

    async fn call<T, E: From<AwsError>>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let failure = |what: &str| Err(AwsError::Unreachable(what.to_owned()).into());
        let millis = self.rng.lock().unwrap().random_range(0..40);
        let millis = if self.happens() { millis * 100 } else { millis };
        sleep(Duration::from_millis(millis)).await;
        if self.happens() {
            return failure("the call did not arrive");
        }
        let reply = call.await;
        sleep(Duration::from_millis(millis / 2)).await;
        if self.happens() { failure("the reply was lost") } else { reply }
    }
}

#[derive(Clone)]
struct Troubled<T> {
    inner: T,
    trouble: Trouble,
    world: World,
}

impl ShardStream for Troubled<MemoryStream> {
    type Cursor = MemoryCursor;
    async fn shards(&self) -> Result<Vec<Shard>, AwsError> {
        self.trouble.call(self.inner.shards()).await
    }
    async fn open(&self, shard: &ShardId, position: &Position) -> Result<MemoryCursor, StreamError> {
        self.trouble.call(self.inner.open(shard, position)).await
    }
    async fn read(&self, cursor: &MemoryCursor) -> Result<Records<MemoryCursor>, StreamError> {
        self.trouble.call(self.inner.read(cursor)).await
    }
}

impl Leases for Troubled<MemoryLeases> {
    async fn list(&self) -> Result<LeaseTable, AwsError> {
        self.trouble.call(self.inner.list()).await
    }
    async fn create(&self, lease: &Lease) -> Result<bool, AwsError> {
        self.trouble.call(self.inner.create(lease)).await
    }
    async fn take(
        &self,
        seen: &Lease,
        owner: &str,
        expires_at: Timestamp,
    ) -> Result<Option<Lease>, AwsError> {
        self.trouble.call(self.inner.take(seen, owner, expires_at)).await
    }
    async fn keep(&self, lease: &Lease) -> Result<bool, AwsError> {
        self.world.assert_accepted(lease);
        self.trouble.call(self.inner.keep(lease)).await
    }
    async fn release(&self, lease: &Lease) -> Result<bool, AwsError> {
        self.world.assert_accepted(lease);
        self.trouble.call(self.inner.release(lease)).await
    }
    async fn forget(&self, seen: &Lease) -> Result<(), AwsError> {
        self.trouble.call(self.inner.forget(seen)).await
    }
    async fn announce(&self, replica: &Replica) -> Result<(), AwsError> {
        self.trouble.call(self.inner.announce(replica)).await
    }
    async fn note_complete(&self, at: Timestamp) -> Result<(), AwsError> {
        self.trouble.call(self.inner.note_complete(at)).await
    }
    async fn withdraw(&self, owner: &str) -> Result<(), AwsError> {
        self.trouble.call(self.inner.withdraw(owner)).await
    }
}

impl EventBus for Troubled<MemoryBus> {
    async fn put(&self, entries: &[Entry]) -> Result<Vec<Result<(), Rejection>>, Rejection> {
        let put = async {
            let mut verdicts = Vec::new();
            for entry in entries {
                let fails = self.trouble.happens();
                if !fails {
                    self.inner.put(std::slice::from_ref(entry)).await?;
                }
                verdicts.push(if fails {
                    Err(AwsError::Throttled("entry".to_owned()).into())
                } else {
                    Ok(())
                });
            }
            Ok(verdicts)
        };
        self.trouble.call(put).await
    }
}

impl Refill for Troubled<MemoryTable> {
    type Token = TablePlace;
    async fn page(
        &self,
        since: Timestamp,
        from: Option<&TablePlace>,
    ) -> Result<RefillPage<TablePlace>, AwsError> {
        self.trouble.call(self.inner.page(since, from)).await
    }
}

/// How long the simulated relays trust the stream to keep what they have not read.
const TRUST: Duration = Duration::from_secs(60);

struct Simulation {
    world: World,
    trouble: Trouble,
    rng: StdRng,
    running: Vec<Running>,
    started: u32,
    stored: Vec<EventId>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let trouble = Trouble {
            rng: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))),
            rate: Arc::new(Mutex::new(0.1)),
        };
        let rng = StdRng::seed_from_u64(!seed);
        Self { world: World::new(), trouble, rng, running: Vec::new(), started: 0, stored: Vec::new() }
    }

    fn troubled<T>(&self, inner: T) -> Troubled<T> {
        Troubled { inner, trouble: self.trouble.clone(), world: self.world.clone() }
    }

    fn start(&mut self) {
        self.started += 1;
        let config =
            RelayConfig { trust_horizon: TRUST, ..World::config(&format!("replica-{}", self.started)) };
        let world = &self.world;
        let stream = self.troubled(world.stream.clone());
        let leases = self.troubled(world.leases.clone());
        let bus = self.troubled(world.bus.clone());
        let table = self.troubled(world.table.clone());
        self.running.push(world.start_through(stream, leases, bus, table, config));
    }

    fn take_one(&mut self) -> Option<Running> {
        if self.running.is_empty() {
            return None;
        }
        let which = self.rng.random_range(0..self.running.len());
        Some(self.running.swap_remove(which))
    }

    fn store(&mut self) {
        for _ in 0..self.rng.random_range(1..60) {
            let aggregate = self.rng.random_range(0..1_000_000_u128);
            self.stored.push(self.world.store(self.world.event(aggregate, self.stored.len() as u64 + 1)));
        }
    }

    async fn crash_all(&mut self) {
        for relay in std::mem::take(&mut self.running) {
            relay.crash().await;
        }
    }

    async fn step(&mut self) {
        let pause = self.rng.random_range(0..3_000);
        sleep(Duration::from_millis(pause)).await;
        // What the stream loses before the first relay of all, no relay can know of.
        let known = !self.world.leases_now().await.is_empty();
        match self.rng.random_range(0..20) {
            0..=8 => self.store(),
            9..=10 if self.running.len() < 3 => self.start(),
            11..=12 => {
                if let Some(relay) = self.take_one() {
                    relay.crash().await;
                }
            }
            13 => {
                if let Some(relay) = self.take_one() {
                    assert!(relay.stop().await <= Duration::from_millis(1_600));
                }
            }
            14..=15 => {
                let open = self.world.stream.open_shards();
                self.world.stream.split(&open[self.rng.random_range(0..open.len())]);
            }
            16 => self.world.stream.expire_cursors(),
            19 if known => self.world.stream.drop_closed_shards(),
            17 if known && self.rng.random_bool(0.3) => self.world.stream.replace(),
            18 if known => {
                // An outage that outlasts the stream's memory.
                self.crash_all().await;
                self.store();
                sleep(TRUST + Duration::from_secs(20)).await;
                self.world.stream.drop_records();
            }
            _ => {}
        }
    }

    async fn all_is_published_in_the_end(&mut self) {
        *self.trouble.rate.lock().unwrap() = 0.0;
        self.start();
        let deadline = Instant::now() + Duration::from_secs(600);
        while !self.world.has_published(&self.stored) {
            assert_no_panics();
            let late = Instant::now() >= deadline;
            assert!(!late, "{} events are lost; {:#?}", self.lost(), self.world.leases_now().await);
            sleep(Duration::from_secs(1)).await;
        }
    }

    fn lost(&self) -> usize {
        let published = self.world.published();
        self.stored.iter().filter(|id| !published.contains(id)).count()
    }
}

/// Fails if a task of this test has panicked, which would otherwise end that task alone.
fn assert_no_panics() {
    static SEEN: OnceLock<Arc<Mutex<Vec<String>>>> = OnceLock::new();
    let seen = SEEN.get_or_init(|| {
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (sink, before) = (seen.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name().is_some_and(|name| name.contains("simulation")) {
                sink.lock().unwrap().push(info.to_string());
            }
            before(info);
        }));
        seen
    });
    // Taken out first: the hook of a failure here wants the lock, too.
    let panics = std::mem::take(&mut *seen.lock().unwrap());
    assert!(panics.is_empty(), "{panics:?}");
}

#[test]
fn no_schedule_of_failures_crashes_and_splits_loses_an_event() {
    assert_no_panics();
    let seeds: u64 = std::env::var("RELAY_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let first: u64 = std::env::var("RELAY_FIRST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds {
        println!("seed {seed}");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut simulation = Simulation::new(seed);
            for _ in 0..80 {
                simulation.step().await;
                assert_no_panics();
            }
            simulation.all_is_published_in_the_end().await;
            simulation.crash_all().await;
        });
        assert_no_panics();
    }
}
