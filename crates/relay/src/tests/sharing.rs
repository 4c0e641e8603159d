//! Several relays on one stream.

use std::{collections::HashSet, time::Duration};

use millrace_aws::AwsError;
use millrace_core::Timestamp;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    buses::{ChoosyBus, throttled},
    world::World,
};
use crate::{
    Leases, RelayConfig,
    leases::{Lease, LeaseTable, RefillJob, Replica},
    memory::MemoryLeases,
};

#[tokio::test(start_paused = true)]
async fn replicas_share_the_shards_evenly_whoever_comes_first() {
    let world = World::with_four_shards();
    let _a = world.start("a");
    world.until_holding("a", 4).await;
    let _b = world.start("b");
    world.until_holding("a", 2).await;
    world.until_holding("b", 2).await;
    let _c = world.start("c");
    sleep(Duration::from_secs(60)).await;
    let (a, b, c) = (world.held_by("a").await, world.held_by("b").await, world.held_by("c").await);
    assert!([&a, &b, &c].iter().all(|held| (1..=2).contains(&held.len())));
    assert_eq!(a.iter().chain(&b).chain(&c).collect::<HashSet<_>>().len(), 4);
    world.until_published(&world.store_firsts(0..50)).await;
}

#[tokio::test(start_paused = true)]
async fn the_shards_of_a_replica_that_vanished_are_read_again_after_about_ten_seconds() {
    let world = World::with_four_shards();
    let a = world.start("a");
    let _b = world.start("b");
    world.until_holding("a", 2).await;
    world.until_holding("b", 2).await;
    let begun = Instant::now();
    a.crash().await;
    let ids = world.store_firsts(0..50);
    world.until_published(&ids).await;
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    world.until_holding("b", 4).await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_gives_the_leases_up_for_others_to_take_at_once() {
    let world = World::with_four_shards();
    let a = world.start("a");
    world.until_holding("a", 4).await;
    let ids = world.store_firsts(0..50);
    world.until_published(&ids).await;
    assert!(a.stop().await <= Duration::from_secs(1));
    assert!(world.leases_now().await.iter().all(|lease| lease.owner.is_none()));
    assert_eq!(world.leases.list().await.unwrap().replicas, []);

    let begun = Instant::now();
    let _b = world.start("b");
    world.until_holding("b", 4).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.most_repeats(), 1, "the checkpoints of the shutdown were exact");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_a_clock_far_ahead_left_behind_is_taken_all_the_same() {
    let world = World::new();
    let ids = world.store_firsts([1]);
    let a = world.start("a");
    world.until_published(&ids).await;
    a.crash().await;
    let seen = world.leases_now().await.remove(0);
    let next_year = Timestamp::from_unix_micros(world.now().unix_micros() + 365 * 86_400 * 1_000_000);
    world.leases.take(&seen, "ahead", next_year).await.unwrap().unwrap();
    let later = world.store_firsts([2]);
    let _b = world.start("b");
    let begun = Instant::now();
    world.until_published(&later).await;
    assert!(begun.elapsed() < Duration::from_secs(20));
}

/// Leases that can be cut off from their owner.
#[derive(Clone)]
struct Remote {
    there: MemoryLeases,
    cut: CancellationToken,
}

impl Remote {
    fn reach(&self) -> Result<&MemoryLeases, AwsError> {
        if self.cut.is_cancelled() {
            Err(AwsError::Unreachable("cut off".to_owned()))
        } else {
            Ok(&self.there)
        }
    }
}

impl Leases for Remote {
    async fn list(&self) -> Result<LeaseTable, AwsError> {
        self.reach()?.list().await
    }
    async fn create(&self, lease: &Lease) -> Result<bool, AwsError> {
        self.reach()?.create(lease).await
    }
    async fn take(
        &self,
        seen: &Lease,
        owner: &str,
        expires_at: Timestamp,
    ) -> Result<Option<Lease>, AwsError> {
        self.reach()?.take(seen, owner, expires_at).await
    }
    async fn keep(&self, lease: &Lease) -> Result<bool, AwsError> {
        self.reach()?.keep(lease).await
    }
    async fn release(&self, lease: &Lease) -> Result<bool, AwsError> {
        self.reach()?.release(lease).await
    }
    async fn correct(&self, lease: &Lease) -> Result<(), AwsError> {
        self.reach()?.correct(lease).await
    }
    async fn forget(&self, seen: &Lease) -> Result<(), AwsError> {
        self.reach()?.forget(seen).await
    }
    async fn announce(&self, replica: &Replica) -> Result<(), AwsError> {
        self.reach()?.announce(replica).await
    }
    async fn note_complete(&self, at: Timestamp) -> Result<(), AwsError> {
        self.reach()?.note_complete(at).await
    }
    async fn begin_refill(&self, refill: &RefillJob) -> Result<bool, AwsError> {
        self.reach()?.begin_refill(refill).await
    }
    async fn end_refill(&self, refill: &RefillJob) -> Result<(), AwsError> {
        self.reach()?.end_refill(refill).await
    }
    async fn withdraw(&self, owner: &str) -> Result<(), AwsError> {
        self.reach()?.withdraw(owner).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_cannot_renew_stops_publishing_before_another_begins() {
    let world = World::new();
    let leases = Remote { there: world.leases.clone(), cut: CancellationToken::new() };
    let (stream, table, bus) = (world.stream.clone(), world.table.clone(), world.bus.clone());
    let _a = world.start_through(stream, leases.clone(), bus, table, World::config("a"));
    world.until_published(&world.store_firsts([1])).await;
    leases.cut.cancel();
    sleep(World::config("a").lease_duration + Duration::from_millis(1)).await;
    let later = world.store_firsts([2]);
    sleep(Duration::from_secs(60)).await;
    assert!(!world.has_published(&later));
    let _b = world.start("b");
    world.until_published(&later).await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_was_fenced_out_cannot_move_the_checkpoint() {
    let world = World::new();
    let _a = world.start("a");
    world.until_published(&world.store_firsts([1])).await;
    world.until_holding("a", 1).await;
    let seen = world.leases_now().await.remove(0);
    // Another replica takes the lease, and does not read.
    let far = Timestamp::from_unix_micros(world.now().unix_micros() + 60_000_000);
    let taken = world.leases.take(&seen, "thief", far).await.unwrap().unwrap();
    world.store_firsts(2..20);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.leases_now().await, std::slice::from_ref(&taken));
    assert!(taken.fence > seen.fence);
    for stale in [seen.clone(), Lease { owner: Some("thief".to_owned()), ..seen }] {
        assert!(!world.leases.keep(&stale).await.unwrap());
        assert!(!world.leases.release(&stale).await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_with_an_old_listing_does_not_read_a_child_before_its_parent() {
    let world = World::new();
    world.store_firsts(0..5);
    let stuck = ChoosyBus::by_entry(&world.bus, |_| Err(throttled()));
    let _a = world.start_with(World::config("a"), stuck.clone());
    world.until_holding("a", 1).await;
    let rarely = RelayConfig { discovery_interval: Duration::from_secs(3_600), ..World::config("b") };
    let _b = world.start_with(rarely, stuck);
    sleep(Duration::from_secs(60)).await;

    // The parent cannot be finished, and `b` does not know its children yet: their leases tell.
    world.stream.split(&world.stream.open_shards()[0]);
    sleep(Duration::from_secs(600)).await;
    let leases = world.leases_now().await;
    assert_eq!(leases.len(), 3, "{leases:?}");
    assert_eq!(world.held_by("b").await.len(), 0, "{leases:?}");
}

/// Leases that can be seen but not taken: a role may scan and put, but not update.
#[derive(Clone)]
struct Untakeable(MemoryLeases);

impl Leases for Untakeable {
    async fn list(&self) -> Result<LeaseTable, AwsError> {
        self.0.list().await
    }
    async fn create(&self, lease: &Lease) -> Result<bool, AwsError> {
        self.0.create(lease).await
    }
    async fn take(&self, _: &Lease, _: &str, _: Timestamp) -> Result<Option<Lease>, AwsError> {
        Err(AwsError::Refused("AccessDeniedException".to_owned()))
    }
    async fn keep(&self, lease: &Lease) -> Result<bool, AwsError> {
        self.0.keep(lease).await
    }
    async fn release(&self, lease: &Lease) -> Result<bool, AwsError> {
        self.0.release(lease).await
    }
    async fn correct(&self, lease: &Lease) -> Result<(), AwsError> {
        self.0.correct(lease).await
    }
    async fn forget(&self, seen: &Lease) -> Result<(), AwsError> {
        self.0.forget(seen).await
    }
    async fn announce(&self, replica: &Replica) -> Result<(), AwsError> {
        self.0.announce(replica).await
    }
    async fn note_complete(&self, at: Timestamp) -> Result<(), AwsError> {
        self.0.note_complete(at).await
    }
    async fn begin_refill(&self, refill: &RefillJob) -> Result<bool, AwsError> {
        self.0.begin_refill(refill).await
    }
    async fn end_refill(&self, refill: &RefillJob) -> Result<(), AwsError> {
        self.0.end_refill(refill).await
    }
    async fn withdraw(&self, owner: &str) -> Result<(), AwsError> {
        self.0.withdraw(owner).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_nobody_can_take_shows_as_behind() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let world = World::new();
    let a = world.start("a");
    world.until_published(&world.store_firsts([1])).await;
    a.crash().await;
    let later = world.store_firsts([2]);
    let (stream, table, bus) = (world.stream.clone(), world.table.clone(), world.bus.clone());
    let _b = world.start_through(stream, Untakeable(world.leases.clone()), bus, table, World::config("b"));
    sleep(Duration::from_secs(3_600)).await;
    assert!(!world.has_published(&later));
    let shown = shown.render();
    let behind = shown.lines().find_map(|line| line.strip_prefix("relay_behind_seconds ")).unwrap();
    assert!(behind.parse::<f64>().unwrap() > 3_000.0, "an event waits for an hour, and behind is {behind}");
}
