//! Changes of streams: shards split, cursors expire, records and shards vanish.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use millrace_aws::{AwsError, Segment};
use millrace_core::{Envelope, EventId, Timestamp};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    buses::{ChoosyBus, Distant, throttled},
    world::World,
};
use crate::{
    Leases, Refill, RelayConfig, ShardStream,
    leases::{Checkpoint, Lease, LeaseTable, Parent, Progress, RefillJob, Replica},
    memory::{MemoryCursor, MemoryLeases, MemoryStream, MemoryTable},
    refill::RefillPage,
    stream::{Content, Position, Records, Sequence, Shard, ShardId, Shards, StreamError},
};

const OUTAGE: Duration = Duration::from_secs(30 * 60 * 60);

#[tokio::test(start_paused = true)]
async fn children_are_read_after_their_parents_and_finished_shards_no_more() {
    let world = World::new();
    let root = world.stream.open_shards().remove(0);
    let mut ids = Vec::new();
    for version in 1..=4 {
        for aggregate in 0..40 {
            ids.push(world.store(world.event(aggregate, version)));
        }
        for shard in world.stream.open_shards() {
            world.stream.split(&shard);
        }
    }
    let _a = world.start("a");
    let _b = world.start("b");
    world.until_published(&ids).await;
    let mut newest = std::collections::HashMap::new();
    for event in world.bus.events() {
        let before = newest.insert(event.aggregate_id, event.version).unwrap_or_default();
        assert_eq!(event.version, before + 1, "a child was read before its parent's end");
    }
    let root = world.lease(&root).await;
    assert_eq!((root.owner, root.progress.checkpoint), (None, Checkpoint::ShardEnd));
}

#[tokio::test(start_paused = true)]
async fn the_children_of_a_split_are_read_without_delay() {
    let world = World::new();
    let _relay = world.start("a");
    world.until_published(&world.store_firsts([1])).await;
    world.stream.split(&world.stream.open_shards()[0]);
    let ids = world.store_firsts(2..20);
    sleep(Duration::from_secs(1)).await;
    assert!(world.has_published(&ids));
}

/// DynamoDB does not promise one shard for an aggregate in every table: see `Shard`.
#[tokio::test(start_paused = true)]
async fn an_aggregate_whose_records_lie_in_unrelated_shards_loses_no_event() {
    let world = World::with_four_shards();
    let mut ids = Vec::new();
    let store = |version: u64, hash: u64| {
        let event = world.event(7, version);
        world.table.append(event.clone());
        world.stream.push(hash, Content::Event(Box::new(event.clone())));
        event.event_id
    };
    let a = world.start("a");
    let b = world.start("b");
    world.until_holding("a", 2).await;
    world.until_holding("b", 2).await;
    for version in 1..=200 {
        ids.push(store(version, if version % 3 == 0 { 0 } else { u64::MAX }));
        sleep(Duration::from_millis(20)).await;
    }
    a.crash().await;
    world.until_published(&ids).await;
    b.stop().await;
    // One of the shards has lost its records, the other has not.
    let lost: Vec<_> = (201..=300).map(|version| store(version, 0)).collect();
    world.stream.drop_records();
    let kept: Vec<_> = (301..=400).map(|version| store(version, u64::MAX)).collect();
    let _relay = world.start("c");
    world.until_published(&lost).await;
    world.until_published(&kept).await;
}

#[tokio::test(start_paused = true)]
async fn an_expired_cursor_is_renewed_where_it_was() {
    let world = World::new();
    let _relay = world.start("a");
    for round in 0..5 {
        let ids = world.store_firsts(round * 10..round * 10 + 10);
        world.until_published(&ids).await;
        world.stream.expire_cursors();
    }
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.most_repeats(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_stream_has_dropped_comes_from_the_table_and_only_that() {
    let world = World::new();
    let old = world.store_firsts(0..50);
    let relay = world.start_with(World::patient("a"), world.bus.clone());
    world.until_published(&old).await;
    sleep(OUTAGE).await;
    let recent = world.store_firsts([100]);
    world.until_published(&recent).await;
    relay.stop().await;

    let missed = world.store_firsts(200..260);
    sleep(OUTAGE).await;
    world.stream.drop_records();
    let new = world.store_firsts([300]);
    let _relay = world.start_with(World::patient("b"), world.bus.clone());
    world.until_published(&missed).await;
    world.until_published(&new).await;
    let count = |id| world.bus.events().iter().filter(|event| event.event_id == id).count();
    assert!(old.iter().all(|id| count(*id) == 1), "the refill begins near the checkpoint");

    // The refill is done once.
    sleep(Duration::from_secs(600)).await;
    let so_far = world.bus.entries().len();
    sleep(Duration::from_secs(6_000)).await;
    assert_eq!(world.bus.entries().len(), so_far);
}

#[tokio::test(start_paused = true)]
async fn records_dropped_under_a_reader_that_the_bus_held_up_come_from_the_table() {
    let world = World::new();
    let first = world.store_firsts([1]);
    let relay = world.start("a");
    world.until_published(&first).await;
    relay.stop().await;
    let stuck = ChoosyBus::by_entry(&world.bus, |_| Err(throttled()));
    let relay = world.start_with(World::patient("b"), stuck);
    let missed = world.store_firsts(2..30);
    sleep(OUTAGE).await;
    world.stream.drop_records();
    relay.crash().await;
    let _relay = world.start("c");
    world.until_published(&missed).await;
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_was_never_read_and_lost_its_start_is_refilled() {
    let world = World::new();
    let first = world.store_firsts([1]);
    let relay = world.start("a");
    world.until_published(&first).await;
    relay.crash().await;
    // Without a reader, the old shard ends, and new ones appear and lose records.
    world.stream.split(&world.stream.open_shards()[0]);
    let missed = world.store_firsts(2..30);
    sleep(OUTAGE).await;
    world.stream.drop_records();
    let _relay = world.start("b");
    world.until_published(&missed).await;
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_no_longer_listed_is_refilled_and_ended() {
    let world = World::new();
    let shard = world.stream.open_shards().remove(0);
    let first = world.store_firsts([1]);
    let relay = world.start("a");
    world.until_published(&first).await;
    relay.crash().await;
    let missed = world.store_firsts(2..30);
    world.stream.replace();
    let new = world.store_firsts([100]);
    let _relay = world.start("b");
    world.until_published(&missed).await;
    world.until_published(&new).await;
    sleep(Duration::from_secs(60)).await;
    assert!(world.lease(&shard).await.is_finished());
    let so_far = world.bus.entries().len();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.bus.entries().len(), so_far, "it is refilled once");
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_vanished_between_known_ones_is_refilled() {
    let world = World::new();
    let first = world.store_firsts([1]);
    let relay = world.start("a");
    world.until_published(&first).await;
    relay.crash().await;
    let missed = world.store_firsts(2..30);
    world.stream.split(&world.stream.open_shards()[0]);
    world.stream.drop_closed_shards();
    let new = world.store_firsts([100]);
    let _relay = world.start("b");
    world.until_published(&new).await;
    world.until_published(&missed).await;
}

#[tokio::test(start_paused = true)]
async fn a_refill_of_a_shard_that_was_never_read_reaches_back_a_day() {
    let world = World::new();
    let missed = world.store_firsts(0..5);
    sleep(Duration::from_secs(20 * 60 * 60)).await;
    let stuck = ChoosyBus::by_entry(&world.bus, |_| Err(throttled()));
    let relay = world.start_with(World::config("a"), stuck);
    world.until_holding("a", 1).await;
    relay.crash().await;
    world.stream.split(&world.stream.open_shards()[0]);
    world.stream.drop_closed_shards();
    let _relay = world.start("b");
    world.until_published(&missed).await;
}

#[tokio::test(start_paused = true)]
async fn a_refill_finds_events_whatever_the_clocks_of_their_writers_say() {
    let world = World::new();
    let minutes = |n: i64| Timestamp::from_unix_micros(world.now().unix_micros() + n * 60_000_000);
    let ahead = Envelope { timestamp: minutes(60 * 24 * 365), ..world.event(1, 1) };
    let first = [world.store(ahead)];
    let relay = world.start("a");
    world.until_published(&first).await;
    relay.stop().await;
    let missed = [world.store(Envelope { timestamp: minutes(-2), ..world.event(2, 1) })];
    world.stream.drop_records();
    let _relay = world.start("b");
    world.until_published(&missed).await;
}

/// A stream that lists shards before it can read them.
#[derive(Clone)]
struct Slow {
    there: MemoryStream,
    refusals: Arc<AtomicU32>,
}

impl ShardStream for Slow {
    type Cursor = MemoryCursor;
    async fn shards(&self, from: Option<&ShardId>) -> Result<Shards, AwsError> {
        self.there.shards(from).await
    }
    async fn children(&self, shard: &ShardId) -> Result<Vec<Shard>, AwsError> {
        self.there.children(shard).await
    }
    async fn open(&self, shard: &ShardId, position: &Position) -> Result<MemoryCursor, StreamError> {
        match self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) {
            Ok(_) => Err(StreamError::Gone),
            Err(_) => self.there.open(shard, position).await,
        }
    }
    async fn read(&self, cursor: &MemoryCursor) -> Result<Records<MemoryCursor>, StreamError> {
        self.there.read(cursor).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_listed_but_not_found_is_waited_for() {
    let world = World::new();
    let stream = Slow { there: world.stream.clone(), refusals: Arc::new(AtomicU32::new(5)) };
    let ids = world.store_firsts(0..5);
    let (leases, bus, table) = (world.leases.clone(), world.bus.clone(), MemoryTable::default());
    let _relay = world.start_through(stream, leases, bus, table, World::config("a"));
    world.until_published(&ids).await;
    assert!(!world.leases_now().await.remove(0).is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_replaced_under_a_running_relay_loses_nothing() {
    let world = World::new();
    let _relay = world.start("a");
    world.until_published(&world.store_firsts([1])).await;
    let missed = world.store_firsts(2..30);
    world.stream.replace();
    world.until_published(&missed).await;
    world.until_published(&world.store_firsts([100])).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_is_never_refilled() {
    let world = World::new();
    let ids = world.store_firsts(0..5);
    let a = world.start_with(World::patient("a"), world.bus.clone());
    world.until_published(&ids).await;
    for owner in ["b", "c", "d"] {
        let next = world.start_with(World::patient(owner), world.bus.clone());
        sleep(OUTAGE).await;
        next.stop().await;
    }
    a.stop().await;
    assert_eq!(world.most_repeats(), 1);
}

#[tokio::test(start_paused = true)]
async fn finished_leases_are_forgotten_once_their_shards_are() {
    let world = World::new();
    let old = ShardId::from("shard-0");
    let _relay = world.start_with(World::patient("a"), world.bus.clone());
    world.until_published(&world.store_firsts([1])).await;
    world.stream.replace();
    world.until_published(&world.store_firsts([2])).await;
    sleep(Duration::from_secs(3_600)).await;
    assert!(world.lease(&old).await.is_finished());
    sleep(Duration::from_secs(50 * 60 * 60)).await;
    assert!(world.leases_now().await.iter().all(|lease| lease.shard != old));
}

#[tokio::test(start_paused = true)]
async fn what_a_child_held_while_it_waited_for_its_parent_is_not_lost() {
    let world = World::new();
    let first = world.store_firsts([1]);
    let relay = world.start("a");
    world.until_published(&first).await;
    relay.stop().await;

    // The stream splits while the last events of the parent are still to be relayed.
    let root = world.stream.open_shards().remove(0);
    let parents = world.store_firsts(2..5);
    world.stream.split(&root);
    let childrens = world.store_firsts(10..40);

    // For 23 hours the bus takes nothing, then only the parent's events.
    let open = Arc::new(AtomicBool::new(false));
    let gate = {
        let (open, parents) = (open.clone(), parents.clone());
        ChoosyBus::by_entry(&world.bus, move |entry| {
            let of_parent = parents.iter().any(|id| entry.detail.contains(&id.to_string()));
            if open.load(Ordering::SeqCst) && of_parent { Ok(()) } else { Err(throttled()) }
        })
    };
    let relay = world.start_with(World::patient("b"), gate);
    sleep(Duration::from_secs(23 * 3_600)).await;
    open.store(true, Ordering::SeqCst);
    world.until_published(&parents).await;
    sleep(Duration::from_secs(3 * 3_600)).await;
    relay.crash().await;

    // The children's first records are older than a day by now: the stream has none of them, the table has all.
    world.stream.drop_records();
    let _relay = world.start("c");
    world.until_published(&childrens).await;
}

/// A stream whose answers can be held back, as for a sleeping machine.
#[derive(Clone)]
struct Gated {
    there: MemoryStream,
    lists: watch::Receiver<bool>,
    reads: watch::Receiver<bool>,
    count: Arc<AtomicU32>,
}

/// Opens and closes a [`Gated`] stream.
struct Gates {
    lists: watch::Sender<bool>,
    reads: watch::Sender<bool>,
}

impl Gated {
    fn before(there: &MemoryStream) -> (Self, Gates) {
        let gates = Gates { lists: watch::Sender::new(true), reads: watch::Sender::new(true) };
        let (lists, reads) = (gates.lists.subscribe(), gates.reads.subscribe());
        (Self { there: there.clone(), lists, reads, count: Arc::default() }, gates)
    }

    fn list(&self) -> Result<&MemoryStream, AwsError> {
        let is_open = *self.lists.borrow();
        is_open.then_some(&self.there).ok_or_else(|| AwsError::Refused("AccessDeniedException".to_owned()))
    }

    async fn pass(gate: &watch::Receiver<bool>) {
        gate.clone().wait_for(|open| *open).await.unwrap();
    }
}

impl ShardStream for Gated {
    type Cursor = MemoryCursor;
    async fn shards(&self, from: Option<&ShardId>) -> Result<Shards, AwsError> {
        self.list()?.shards(from).await
    }
    async fn children(&self, shard: &ShardId) -> Result<Vec<Shard>, AwsError> {
        self.list()?.children(shard).await
    }
    async fn open(&self, shard: &ShardId, position: &Position) -> Result<MemoryCursor, StreamError> {
        self.there.open(shard, position).await
    }
    async fn read(&self, cursor: &MemoryCursor) -> Result<Records<MemoryCursor>, StreamError> {
        Self::pass(&self.reads).await;
        self.count.fetch_add(1, Ordering::SeqCst);
        self.there.read(cursor).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_is_read_four_times_a_second_while_it_brings_something_and_once_while_it_does_not() {
    let world = World::new();
    let (stream, _gates) = Gated::before(&world.stream);
    let (leases, bus, table) = (world.leases.clone(), world.bus.clone(), world.table.clone());
    let _relay = world.start_through(stream.clone(), leases, bus, table, World::config("a"));
    let reads = || stream.count.load(Ordering::SeqCst);
    let before = reads();
    for version in (1..).step_by(50).take(600) {
        world.store_versions(1, version..version + 50);
        sleep(Duration::from_millis(100)).await;
    }
    assert!((239..=241).contains(&(reads() - before)), "in a minute, however much there is");
    sleep(Duration::from_secs(10)).await;
    let before = reads();
    sleep(Duration::from_secs(60)).await;
    assert!((59..=61).contains(&(reads() - before)), "in a silent minute");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_process_has_stored_is_read_at_once_and_five_times_a_second_at_most() {
    let world = World::new();
    let (stream, _gates) = Gated::before(&world.stream);
    let (leases, bus, table) = (world.leases.clone(), world.bus.clone(), world.table.clone());
    let stored = watch::Sender::new(0);
    let relay = world.relay(stream.clone(), leases, bus, table, World::config("a"));
    let _relay = world.run(relay.with_stored(stored.subscribe()));
    let reads = || stream.count.load(Ordering::SeqCst);
    let moment = Duration::from_millis(1);
    sleep(Duration::from_secs(60)).await;
    for aggregate in 0..3 {
        let ids = world.store_firsts([aggregate]);
        stored.send_modify(|events| *events += 1);
        sleep(moment).await;
        assert!(world.has_published(&ids));
        sleep(Duration::from_secs(3)).await;
    }

    // Another replica's relay reads the events' shards.
    sleep(Duration::from_secs(60)).await;
    let before = reads();
    stored.send_modify(|events| *events += 1);
    sleep(Duration::from_secs(60)).await;
    assert!((61..=75).contains(&(reads() - before)), "as after an event of its own: {}", reads() - before);

    let mut counts = VecDeque::from([reads()]);
    for version in 1..3_000 {
        world.store_versions(9, version..version + 1);
        stored.send_modify(|events| *events += 1);
        sleep(Duration::from_millis(20)).await;
        counts.push_back(reads());
        if counts.len() > 49 {
            let first = counts.pop_front().unwrap();
            assert!((4..=5).contains(&(reads() - first)), "{} reads in a second", reads() - first);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_added_behind_a_refill_that_takes_longer_than_the_stream_remembers_is_not_lost() {
    let world = World::new();
    let relay = world.start("a");
    world.until_published(&world.store_firsts([0])).await;
    relay.stop().await;
    let missed = world.store_firsts(1..200);
    sleep(OUTAGE).await;
    world.stream.drop_records();

    // The bus takes nothing while the table's first page is to be published.
    let open = Arc::new(AtomicBool::new(false));
    let gate =
        {
            let open = open.clone();
            ChoosyBus::by_entry(&world.bus, move |_| {
                if open.load(Ordering::SeqCst) { Ok(()) } else { Err(throttled()) }
            })
        };
    let _relay = world.start_with(World::patient("b"), gate);
    sleep(Duration::from_secs(3_600)).await;
    let behind = world.store_firsts(1_000..1_200);
    sleep(OUTAGE).await;
    world.stream.drop_records();
    open.store(true, Ordering::SeqCst);
    world.until_published(&missed).await;
    world.until_published(&behind).await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_slept_for_longer_than_the_stream_remembers_loses_nothing() {
    let world = World::new();
    let (stream, gates) = Gated::before(&world.stream);
    let (leases, bus, table) = (world.leases.clone(), world.bus.clone(), world.table.clone());
    let _relay = world.start_through(stream, leases, bus, table, World::patient("a"));
    world.until_holding("a", 1).await;
    sleep(Duration::from_secs(600)).await;

    // The relay has read nothing yet, and still renews the lease.
    gates.reads.send_replace(false);
    let missed = world.store_firsts(0..30);
    sleep(OUTAGE).await;
    world.stream.drop_records();
    world.stream.expire_cursors();
    gates.reads.send_replace(true);
    world.until_published(&missed).await;
}

#[tokio::test(start_paused = true)]
async fn shards_that_nobody_could_list_while_they_lost_their_records_are_refilled() {
    let world = World::with_four_shards();
    let (stream, gates) = Gated::before(&world.stream);
    let (leases, bus, table) = (world.leases.clone(), world.bus.clone(), world.table.clone());
    let _relay = world.start_through(stream, leases, bus, table, World::patient("a"));
    world.until_holding("a", 4).await;
    world.until_published(&world.store_firsts(0..20)).await;

    // The other shards' leases are renewed meanwhile, so the children do not look old beside them.
    gates.lists.send_replace(false);
    world.stream.split(&world.stream.open_shards()[0]);
    let missed = world.store_firsts(100..200);
    sleep(OUTAGE).await;
    world.stream.drop_records();
    gates.lists.send_replace(true);
    world.until_published(&missed).await;
}

/// A table that counts its scans (by their first pages) and its pages, and delays each page.
#[derive(Clone)]
struct Counted {
    there: MemoryTable,
    scans: Arc<AtomicU32>,
    pages: Arc<AtomicU32>,
    page_time: Duration,
}

impl Counted {
    fn new(there: &MemoryTable, page_time: Duration) -> Self {
        Self { there: there.clone(), scans: Arc::default(), pages: Arc::default(), page_time }
    }

    fn scans(&self) -> u32 {
        self.scans.load(Ordering::SeqCst)
    }
}

impl Refill for Counted {
    async fn page(
        &self,
        since: Timestamp,
        segment: Segment,
        from: Option<&Sequence>,
    ) -> Result<RefillPage, AwsError> {
        self.pages.fetch_add(1, Ordering::SeqCst);
        if from.is_none() && segment.number == 0 {
            self.scans.fetch_add(1, Ordering::SeqCst);
        }
        sleep(self.page_time).await;
        self.there.page(since, segment, from).await
    }
}

#[tokio::test(start_paused = true)]
async fn shards_that_lost_their_records_together_are_refilled_together() {
    let world = World::with_four_shards();
    let relay = world.start("a");
    world.until_holding("a", 4).await;
    world.until_published(&world.store_firsts(0..50)).await;
    relay.stop().await;
    let missed = world.store_firsts(100..200);
    sleep(OUTAGE).await;
    world.stream.drop_records();
    let table = Counted::new(&world.table, Duration::from_millis(10));
    let (stream, leases, bus) = (world.stream.clone(), world.leases.clone(), world.bus.clone());
    let _relay = world.start_through(stream, leases, bus, table.clone(), World::config("b"));
    world.until_published(&missed).await;
    world.until_published(&world.store_firsts(200..300)).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(table.scans(), 1, "scans for four shards");
}

/// The stream loses records that are younger than it is trusted for, as it does when it is replaced.
#[tokio::test(start_paused = true)]
async fn what_is_lost_after_a_refill_has_begun_gets_a_refill_of_its_own() {
    let world = World::new();
    for version in [1, 3, 5] {
        let relay = world.start(&format!("relay-{version}"));
        // A record gives the shard a place.
        world.until_published(&world.store_of_each(0..5, version)).await;
        relay.stop().await;
        let lost = world.store_of_each(0..5, version + 1);
        world.stream.drop_records();
        let relay = world.start(&format!("relay-{}", version + 1));
        world.until_published(&lost).await;
        relay.stop().await;
    }
}

/// A world whose stream has lost many unrelayed events, and those events.
async fn world_with_lost_events(each: u64) -> (World, Vec<EventId>) {
    let world = World::with_four_shards();
    let relay = world.start("a");
    world.until_holding("a", 4).await;
    world.until_published(&world.store_firsts(0..50)).await;
    relay.stop().await;
    let missed = (1..=each).flat_map(|version| world.store_of_each(1_000..3_000, version)).collect();
    world.stream.drop_records();
    (world, missed)
}

#[tokio::test(start_paused = true)]
async fn a_refill_runs_at_ten_times_the_live_rate_and_live_events_do_not_wait_for_it() {
    const LIVE: u32 = 500;
    let (world, missed) = world_with_lost_events(15).await;
    // The same rate as a page of a megabyte in a tenth of a second.
    let table = Counted::new(&world.table, Duration::from_millis(2));
    let bus = Distant::new(&world.bus, Duration::from_millis(20));
    let (stream, leases) = (world.stream.clone(), world.leases.clone());
    // Few segments, because these are much shorter than a real table's, and ending one takes time.
    let config = RelayConfig { refill_segments: 8.try_into().unwrap(), ..World::config("b") };
    let _relay = world.start_through(stream, leases, bus.clone(), table, config);
    let begun = Instant::now();
    let mut live = Vec::new();
    let refilled = loop {
        let first = 10_000_000 + 1_000 * u128::try_from(live.len()).unwrap();
        let ids = world.store_firsts(first..first + u128::from(LIVE / 20));
        live.push((Instant::now(), ids));
        sleep(Duration::from_millis(50)).await;
        if let Some(last) = bus.has_all(&missed) {
            break last.duration_since(begun);
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not end");
    };
    let rate = missed.len() as f64 / refilled.as_secs_f64();
    assert!(rate >= 10.0 * f64::from(LIVE), "{rate:.0} events a second");
    sleep(Duration::from_secs(1)).await;
    for (stored, ids) in live.iter().filter(|(stored, _)| stored.duration_since(begun).as_secs() >= 1) {
        let lag = bus.has_all(ids).map(|accepted| accepted.saturating_duration_since(*stored));
        assert!(lag.is_some_and(|lag| lag <= Duration::from_millis(300)), "a read and a call: {lag:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refill_goes_on_where_it_was_when_relays_are_killed() {
    let (world, missed) = world_with_lost_events(5).await;
    let table = Counted::new(&world.table, Duration::from_millis(300));
    let bus = Distant::new(&world.bus, Duration::from_millis(20));
    let mut kills = 0;
    while bus.has_all(&missed).is_none() {
        let (stream, leases) = (world.stream.clone(), world.leases.clone());
        let config = World::config(&format!("b{kills}"));
        let relay = world.start_through(stream, leases, bus.clone(), table.clone(), config);
        // Most of this time the relay waits for its predecessor's leases to expire.
        sleep(Duration::from_secs(14)).await;
        relay.crash().await;
        kills += 1;
        assert!(kills < 50, "it does not end");
    }
    assert!(kills > 1, "it was not interrupted");
    let pages = table.pages.load(Ordering::SeqCst);
    let needed = u32::try_from(missed.len() / 25).unwrap() + 2 * 32;
    // Pages that four segments read in the second before a kill are read again.
    assert!(pages <= needed + kills * 4 * 8, "{pages} pages in place of {needed}, {kills} kills");
}

#[tokio::test(start_paused = true)]
async fn a_refill_that_takes_longer_than_an_emulator_is_trusted_is_done_once() {
    let world = World::new();
    let relay = world.start("a");
    world.until_published(&world.store_firsts(0..50)).await;
    relay.stop().await;
    world.stream.drop_records();
    let table = Counted::new(&world.table, Duration::from_secs(5));
    let (stream, leases, bus) = (world.stream.clone(), world.leases.clone(), world.bus.clone());
    let config = RelayConfig { trust_horizon: Duration::from_secs(1), ..World::config("b") };
    let _relay = world.start_through(stream, leases, bus, table.clone(), config);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(table.scans(), 1);
    world.until_published(&world.store_firsts([100])).await;
}

#[tokio::test(start_paused = true)]
async fn what_happened_in_the_day_before_the_first_relay_of_all_is_not_lost_where_that_dies_at_once() {
    let world = World::new();
    let missed = world.store_firsts(0..5);
    sleep(Duration::from_secs(20 * 60 * 60)).await;
    let stuck = ChoosyBus::by_entry(&world.bus, |_| Err(throttled()));
    let relay = world.start_with(World::config("a"), stuck);
    world.until_holding("a", 1).await;
    relay.crash().await;
    sleep(Duration::from_secs(5 * 60 * 60)).await;
    world.stream.drop_records();
    let _relay = world.start("b");
    world.until_published(&missed).await;
}

/// A lease table whose first reader sleeps before it gets the listing.
#[derive(Clone)]
struct Drowsy {
    there: MemoryLeases,
    slept: Arc<AtomicBool>,
}

impl Leases for Drowsy {
    async fn list(&self) -> Result<LeaseTable, AwsError> {
        let table = self.there.list().await;
        if !self.slept.swap(true, Ordering::SeqCst) {
            sleep(OUTAGE).await;
        }
        table
    }
    async fn create(&self, lease: &Lease) -> Result<bool, AwsError> {
        self.there.create(lease).await
    }
    async fn take(
        &self,
        seen: &Lease,
        owner: &str,
        expires_at: Timestamp,
    ) -> Result<Option<Lease>, AwsError> {
        self.there.take(seen, owner, expires_at).await
    }
    async fn keep(&self, lease: &Lease) -> Result<bool, AwsError> {
        self.there.keep(lease).await
    }
    async fn release(&self, lease: &Lease) -> Result<bool, AwsError> {
        self.there.release(lease).await
    }
    async fn correct(&self, lease: &Lease) -> Result<(), AwsError> {
        self.there.correct(lease).await
    }
    async fn forget(&self, seen: &Lease) -> Result<(), AwsError> {
        self.there.forget(seen).await
    }
    async fn announce(&self, replica: &Replica) -> Result<(), AwsError> {
        self.there.announce(replica).await
    }
    async fn note_complete(&self, at: Timestamp) -> Result<(), AwsError> {
        self.there.note_complete(at).await
    }
    async fn begin_refill(&self, refill: &RefillJob) -> Result<bool, AwsError> {
        self.there.begin_refill(refill).await
    }
    async fn end_refill(&self, refill: &RefillJob) -> Result<(), AwsError> {
        self.there.end_refill(refill).await
    }
    async fn withdraw(&self, owner: &str) -> Result<(), AwsError> {
        self.there.withdraw(owner).await
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_first_relays_the_one_that_sleeps_does_not_take_what_it_finds_then_for_new() {
    let world = World::new();
    let drowsy = Drowsy { there: world.leases.clone(), slept: Arc::default() };
    let (stream, bus, table) = (world.stream.clone(), world.bus.clone(), world.table.clone());
    let _b = world.start_through(stream, drowsy, bus, table, World::patient("b"));
    sleep(Duration::from_millis(10)).await;
    // Meanwhile another replica reads the first shard to its end, and dies before it sees the children.
    let a = world.start("a");
    world.until_published(&world.store_firsts([1])).await;
    let root = world.stream.open_shards().remove(0);
    world.stream.split(&root);
    while !world.lease(&root).await.is_finished() {
        sleep(Duration::from_millis(5)).await;
    }
    a.crash().await;
    assert_eq!(world.leases_now().await.len(), 1);
    let missed = world.store_firsts(2..30);
    sleep(OUTAGE - Duration::from_secs(3_600)).await;
    world.stream.drop_records();
    sleep(Duration::from_secs(3_600)).await;
    world.until_published(&missed).await;
}

/// A stream whose reads panic.
#[derive(Clone)]
struct Explosive {
    there: MemoryStream,
    listed: Arc<AtomicU32>,
}

impl ShardStream for Explosive {
    type Cursor = MemoryCursor;
    async fn shards(&self, from: Option<&ShardId>) -> Result<Shards, AwsError> {
        self.listed.fetch_add(1, Ordering::SeqCst);
        self.there.shards(from).await
    }
    async fn children(&self, shard: &ShardId) -> Result<Vec<Shard>, AwsError> {
        self.there.children(shard).await
    }
    async fn open(&self, shard: &ShardId, position: &Position) -> Result<MemoryCursor, StreamError> {
        self.there.open(shard, position).await
    }
    async fn read(&self, _: &MemoryCursor) -> Result<Records<MemoryCursor>, StreamError> {
        panic!("a record that makes the program panic")
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_whose_reading_panics_is_not_tried_ten_times_a_second() {
    let world = World::new();
    world.store_firsts(0..5);
    let stream = Explosive { there: world.stream.clone(), listed: Arc::default() };
    let (leases, bus, table) = (world.leases.clone(), world.bus.clone(), world.table.clone());
    let _relay = world.start_through(stream.clone(), leases, bus, table, World::config("a"));
    sleep(Duration::from_secs(60)).await;
    let listed = stream.listed.load(Ordering::SeqCst);
    assert!(listed < 60, "the stream was listed {listed} times in a minute");
}

/// A stream that can be exchanged for one without records. Older cursors then bring nothing, as after an emulator's
/// restart between two reads.
#[derive(Clone)]
struct Exchanged {
    there: MemoryStream,
    lives: Arc<AtomicU32>,
}

impl ShardStream for Exchanged {
    type Cursor = (MemoryCursor, u32);
    async fn shards(&self, from: Option<&ShardId>) -> Result<Shards, AwsError> {
        self.there.shards(from).await
    }
    async fn children(&self, shard: &ShardId) -> Result<Vec<Shard>, AwsError> {
        self.there.children(shard).await
    }
    async fn open(&self, shard: &ShardId, position: &Position) -> Result<Self::Cursor, StreamError> {
        Ok((self.there.open(shard, position).await?, self.lives.load(Ordering::SeqCst)))
    }
    async fn read(&self, (cursor, life): &Self::Cursor) -> Result<Records<Self::Cursor>, StreamError> {
        if *life < self.lives.load(Ordering::SeqCst) {
            return Ok(Records { records: Vec::new(), next: Some((cursor.clone(), *life)) });
        }
        let Records { records, next } = self.there.read(cursor).await?;
        Ok(Records { records, next: next.map(|next| (next, *life)) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_cursor_that_has_outlived_its_stream_is_not_believed_for_ever() {
    let world = World::new();
    let stream = Exchanged { there: world.stream.clone(), lives: Arc::new(AtomicU32::new(1)) };
    let (leases, bus, table) = (world.leases.clone(), world.bus.clone(), world.table.clone());
    let config = RelayConfig { trust_horizon: Duration::from_secs(1), ..World::config("a") };
    let _relay = world.start_through(stream.clone(), leases, bus, table, config);
    world.until_published(&world.store_firsts(0..5)).await;
    let missed = world.store_firsts(10..15);
    stream.lives.fetch_add(1, Ordering::SeqCst);
    world.stream.drop_records();
    world.until_published(&missed).await;
    world.until_published(&world.store_firsts(20..25)).await;
}

/// A stream whose listing a test answers for.
#[derive(Clone)]
struct Answering {
    there: MemoryStream,
    answer: fn(Shards) -> Result<Shards, AwsError>,
    calls: Arc<AtomicU32>,
}

impl ShardStream for Answering {
    type Cursor = MemoryCursor;
    async fn shards(&self, from: Option<&ShardId>) -> Result<Shards, AwsError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        (self.answer)(self.there.shards(from).await?)
    }
    async fn children(&self, shard: &ShardId) -> Result<Vec<Shard>, AwsError> {
        self.there.children(shard).await
    }
    async fn open(&self, shard: &ShardId, position: &Position) -> Result<MemoryCursor, StreamError> {
        self.there.open(shard, position).await
    }
    async fn read(&self, cursor: &MemoryCursor) -> Result<Records<MemoryCursor>, StreamError> {
        self.there.read(cursor).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_cannot_be_listed_is_asked_less_and_less_often() {
    let circle = |page: Shards| Ok(Shards { next: Some(ShardId::from("shard-0")), ..page });
    for answer in [circle, |_| Err(throttled_call())] {
        let world = World::new();
        let stream = Answering { there: world.stream.clone(), answer, calls: Arc::default() };
        let (leases, bus, table) = (world.leases.clone(), world.bus.clone(), world.table.clone());
        let _relay = world.start_through(stream.clone(), leases, bus, table, World::config("a"));
        sleep(Duration::from_secs(600)).await;
        let calls = stream.calls.load(Ordering::SeqCst);
        assert!((100..600).contains(&calls), "{calls} calls in ten minutes");
        assert_eq!(world.leases_now().await, []);
    }
}

fn throttled_call() -> AwsError {
    AwsError::Throttled("LimitExceededException".to_owned())
}

/// A release without a looker lists the shards itself, and writes leases without parents.
#[tokio::test(start_paused = true)]
async fn a_lease_of_an_older_release_is_read_after_its_parent() {
    let world = World::new();
    let parents = world.store_firsts(0..40);
    world.stream.split(&world.stream.open_shards()[0]);
    let childrens = world.store_of_each(0..40, 2);
    for Shard { id, .. } in world.stream.listed() {
        let progress = Progress { checkpoint: Checkpoint::At(Position::TrimHorizon), time: world.now() };
        let (fence, expires_at) = (1, world.now());
        let parent = Parent::Unknown;
        let lease = Lease { shard: id, owner: None, fence, expires_at, progress, parent, is_unlisted: false };
        assert!(world.leases.create(&lease).await.unwrap());
    }
    world.leases.note_complete(world.now()).await.unwrap();
    let _relay = world.start("a");
    world.until_published(&parents).await;
    world.until_published(&childrens).await;
    let mut newest = std::collections::HashMap::new();
    for event in world.bus.events() {
        let before = newest.insert(event.aggregate_id, event.version).unwrap_or_default();
        assert_eq!(event.version, before + 1, "a child was read before its parent's end");
    }
}
