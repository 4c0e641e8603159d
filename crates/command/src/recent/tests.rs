use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicU64, Ordering},
};

use millrace_core::{AggregateType, CommandDigest, EvolveError, TenantId};
use millrace_event_store::{AppendError, AppendEvents, Commit, MemoryStore, Snapshot};
use millrace_server::TraceParent;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};
use tokio::task::yield_now;
use uuid::Uuid;

use super::*;
use crate::{
    CommandEnvelope, CommandHandler, CommandHandlerConfig, CommandOutcome, StateCache, snapshots,
    testing::{CONFIG, Never, NoteEvent, Written},
};

/// It counts its events.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Tally(u64);

impl Aggregate for Tally {
    const TYPE: AggregateType = AggregateType::new("tally");
    const STATE_SCHEMA: u32 = 1;
    type Command = usize;
    type Event = NoteEvent;
    type Error = Never;

    fn decide(_: Option<&Self>, events: &usize, _: Timestamp) -> Result<Vec<NoteEvent>, Never> {
        Ok(vec![NoteEvent::Written(Written { text: String::new() }); *events])
    }

    fn evolve(state: Option<Self>, _: &NoteEvent) -> Result<Self, EvolveError> {
        Ok(Self(state.map_or(0, |tally| tally.0) + 1))
    }
}

thread_local! {
    static NOW: Cell<i64> = const { Cell::new(0) };
}

const BUSY: CommandHandlerConfig =
    CommandHandlerConfig { clock: || Timestamp::from_unix_micros(NOW.get()), ..CONFIG };

fn stream() -> StreamId {
    StreamId { tenant: TenantId::default(), aggregate_type: Tally::TYPE, id: Uuid::from_u128(1) }
}

fn command(number: u64, events: usize) -> CommandEnvelope<Tally> {
    let command_id: CommandId = number.to_string().parse().unwrap();
    CommandEnvelope {
        stream: stream(),
        command: events,
        creates: false,
        expected_version: None,
        correlation_id: command_id.clone(),
        command_id,
        digest: CommandDigest(1),
        trace: TraceParent::new_root(),
    }
}

/// What was asked of the store.
#[derive(Default)]
struct Counts {
    /// Events read.
    events: AtomicU64,
    /// Blocks read, those that are missing included.
    blocks: AtomicU64,
    /// Blocks written, and of those the ones that were read from the stream.
    blocks_put: AtomicU64,
    blocks_put_anew: AtomicU64,
}

/// A store of which one in so many writes of blocks and snapshots does not arrive, and one in so many replies to appends.
#[derive(Clone, Default)]
struct Shaky {
    inner: MemoryStore,
    counts: Arc<Counts>,
    random: Option<Arc<Mutex<StdRng>>>,
}

impl Shaky {
    fn loses(&self, one_in: u32) -> bool {
        let random = self.random.as_ref().map(|random| random.lock().unwrap().random_ratio(1, one_in));
        random.unwrap_or_default()
    }

    fn count(&self, events: Vec<Entry>) -> Vec<Entry> {
        self.counts.events.fetch_add(events.len() as u64, Ordering::Relaxed);
        events
    }

    /// The counts since the last call: events and blocks read, blocks written and those of them written anew.
    fn take(&self) -> [u64; 4] {
        let Counts { events, blocks, blocks_put, blocks_put_anew } = &*self.counts;
        [events, blocks, blocks_put, blocks_put_anew].map(|count| count.swap(0, Ordering::Relaxed))
    }
}

impl LoadEvents for Shaky {
    async fn newest(&self, stream: &StreamId, after: u64, limit: u16) -> Result<Vec<Entry>, AwsError> {
        self.inner.newest(stream, after, limit).await.map(|events| self.count(events))
    }

    async fn between(&self, stream: &StreamId, after: u64, before: u64) -> Result<Vec<Entry>, AwsError> {
        self.inner.between(stream, after, before).await.map(|events| self.count(events))
    }
}

impl AppendEvents for Shaky {
    async fn append(&self, commit: &Commit) -> Result<(), AppendError> {
        self.inner.append(commit).await?;
        if self.loses(500) { Err(AwsError::Unreachable("no reply".into()).into()) } else { Ok(()) }
    }
}

impl Snapshots for Shaky {
    async fn snapshot(&self, stream: &StreamId, schema: u32) -> Result<Option<Snapshot>, AwsError> {
        self.inner.snapshot(stream, schema).await
    }

    async fn put_snapshot(&self, snapshot: &Snapshot, replaces: Replaces) -> Result<bool, AwsError> {
        if self.loses(10) { Ok(true) } else { self.inner.put_snapshot(snapshot, replaces).await }
    }

    async fn command_blocks(
        &self,
        stream: &StreamId,
        numbers: &[u64],
    ) -> Result<Vec<CommandBlock>, AwsError> {
        self.counts.blocks.fetch_add(numbers.len() as u64, Ordering::Relaxed);
        self.inner.command_blocks(stream, numbers).await
    }

    async fn put_command_block(&self, block: &CommandBlock, replaces: Replaces) -> Result<bool, AwsError> {
        self.counts.blocks_put.fetch_add(1, Ordering::Relaxed);
        if replaces == Replaces::Any {
            self.counts.blocks_put_anew.fetch_add(1, Ordering::Relaxed);
        }
        if self.loses(10) { Ok(true) } else { self.inner.put_command_block(block, replaces).await }
    }
}

fn replica(store: &Shaky) -> CommandHandler<Tally, Shaky> {
    CommandHandler::new(store.clone(), StateCache::new(1 << 20), BUSY)
}

/// The work behind the replies.
async fn settle() {
    for _ in 0..3 {
        yield_now().await;
    }
}

/// A run of commands on one aggregate: so many a minute, for 12 minutes. Returns the number of retries that were answered.
async fn run(per_minute: u64, seed: u64) -> (Shaky, u64) {
    const MINUTES: u64 = 12;
    let mut random = StdRng::seed_from_u64(seed);
    let store =
        Shaky { random: Some(Arc::new(Mutex::new(StdRng::seed_from_u64(!seed)))), ..Shaky::default() };
    let mut replicas: Vec<_> = (0..3).map(|_| replica(&store)).collect();
    // Clocks differ by some seconds.
    let skews: Vec<i64> = (0..3).map(|_| random.random_range(-5_000_000..5_000_000)).collect();
    let step = 60_000_000 / i64::try_from(per_minute).unwrap();
    let many_events = random.random_bool(0.5);
    let (mut serving, mut in_turn) = (0, false);
    // By time, the commands that are sent again.
    let mut again: BTreeMap<i64, Vec<u64>> = BTreeMap::new();
    let mut first: HashMap<u64, (usize, Option<CommandOutcome>)> = HashMap::new();
    let mut retried = 0;
    for number in 0..per_minute * MINUTES {
        let now = i64::try_from(number).unwrap() * step;
        match random.random_range(0..2_000) {
            // A crash, a failover, a load balancer that takes turns.
            0 => replicas[serving] = replica(&store),
            1 => serving = random.random_range(0..replicas.len()),
            2 => in_turn = true,
            3..12 => in_turn = false,
            _ => {}
        }
        if in_turn {
            serving = (serving + 1) % replicas.len();
        }
        NOW.set(1_800_000_000_000_000 + now + skews[serving]);
        let later = again.split_off(&now);
        for number in std::mem::replace(&mut again, later).into_values().flatten() {
            let (events, before) = &first[&number];
            let outcome = replicas[serving].execute(&command(number, *events)).await;
            let Ok(outcome) = outcome else { continue };
            assert!(outcome.replayed, "command {number} was applied again, {now} us after the beginning");
            if let Some(before) = before {
                assert_eq!(outcome.receipt, before.receipt, "command {number}");
            }
            retried += 1;
        }
        let events = if many_events && number > 0 && random.random_ratio(1, 10) { 3 } else { 1 };
        let outcome = replicas[serving].execute(&command(number, events)).await.ok();
        assert!(outcome.as_ref().is_none_or(|outcome| !outcome.replayed), "command {number} is new");
        if outcome.is_none() || random.random_ratio(1, 10) {
            let wait = random.random_range(0..600_000_000);
            again.entry(now + wait).or_default().push(number);
        }
        first.insert(number, (events, outcome));
        settle().await;
    }
    let mut applied: HashMap<String, usize> = HashMap::new();
    for event in store.inner.all() {
        *applied.entry(event.envelope.command_id.to_string()).or_default() += 1;
    }
    for (number, (events, _)) in first {
        assert_eq!(applied[&number.to_string()], events, "the events of command {number}, seed {seed}");
    }
    (store, retried)
}

/// 40 commands a second, and 200 with `MILLRACE_TEST_SCALE=5`, which takes minutes.
#[tokio::test(start_paused = true)]
async fn every_retry_within_ten_minutes_is_a_replay_on_a_busy_aggregate() {
    let scale = std::env::var("MILLRACE_TEST_SCALE").ok().and_then(|scale| scale.parse::<f64>().ok());
    let per_minute = if scale.is_some_and(|scale| scale >= 5.0) { 12_000 } else { 2_400 };
    let (store, retried) = run(per_minute, 1).await;
    assert!(retried > per_minute / 3, "{retried}");
    // The cost of a load, after one without losses has made up for what was lost.
    for number in [1_000_000, 1_000_001] {
        store.take();
        let cold = replica(&Shaky { random: None, ..store.clone() });
        cold.execute(&command(number, 1)).await.unwrap();
    }
    let [events, blocks, _, anew] = store.take();
    println!("a cold load at {per_minute} commands a minute: {events} events, {blocks} blocks");
    assert!(anew == 0 && events <= 24 + BLOCK_VERSIONS + 1 && blocks <= 400, "{events} {blocks} {anew}");
}

#[tokio::test(start_paused = true)]
async fn every_retry_within_ten_minutes_is_a_replay_at_any_pace() {
    for (per_minute, seeds) in [(6, 0..20), (12, 20..40), (60, 40..50), (600, 50..52)] {
        let mut retried = 0;
        for seed in seeds {
            retried += run(per_minute, seed).await.1;
        }
        assert!(retried > 50, "{retried} at {per_minute} a minute");
    }
}

/// A replica that has handled so many commands, one each 10 ms.
async fn busy(store: &Shaky, commands: u64) -> CommandHandler<Tally, Shaky> {
    let handler = replica(store);
    for number in 0..commands {
        NOW.set(1_800_000_000_000_000 + i64::try_from(number).unwrap() * 10_000);
        assert!(!handler.execute(&command(number, 1)).await.unwrap().replayed);
        settle().await;
    }
    handler
}

#[tokio::test]
async fn a_busy_aggregate_costs_a_block_after_512_events_and_no_read() {
    let store = Shaky::default();
    let handler = busy(&store, 3_000).await;
    let snapshots = 3_000 / snapshots::EVERY.get();
    assert_eq!((store.inner.requests() - snapshots, store.take()), (1 + 3_000 + 5, [0, 0, 5, 0]));
    assert!(handler.execute(&command(7, 1)).await.unwrap().replayed);
    assert_eq!(store.take(), [1, 0, 0, 0], "its event");
}

#[tokio::test]
async fn a_cold_replica_reads_blocks_and_those_that_are_missing_from_the_stream_once() {
    let store = Shaky::default();
    busy(&store, 3_000).await;
    store.take();
    assert!(replica(&store).execute(&command(7, 1)).await.unwrap().replayed);
    // A page, from the end of the last block to the remembered commands, five blocks, the event.
    let to_the_window = 3_000 - 2_560 - 128 + 1;
    assert_eq!(store.take(), [24 + to_the_window + 1, 5, 0, 0]);

    let bare = Shaky::default();
    for event in store.inner.all() {
        bare.append(&Commit { events: vec![event], claims: vec![], releases: vec![] }).await.unwrap();
    }
    assert!(replica(&bare).execute(&command(7, 1)).await.unwrap().replayed);
    let [_, blocks, put, anew] = bare.take();
    assert_eq!((blocks, put, anew), (5, 5, 5));
    settle().await;
    assert!(replica(&bare).execute(&command(8, 1)).await.unwrap().replayed);
    assert_eq!(bare.take(), [24 + to_the_window + 1, 5, 0, 0]);
    let mut kept = Vec::new();
    for store in [&store.inner, &bare.inner] {
        let mut blocks = store.command_blocks(&stream(), &[0, 1, 2, 3, 4]).await.unwrap();
        blocks.sort_by_key(|block| block.number);
        kept.push(blocks);
    }
    assert_eq!(kept[0], kept[1], "the same as those of the replica that was there");
}

#[tokio::test]
async fn blocks_of_another_history_do_not_count() {
    let store = Shaky::default();
    busy(&store, 1_500).await;
    for number in 0..2 {
        // As before a restoration: other events, other commands.
        let mut block = store.inner.command_blocks(&stream(), &[number]).await.unwrap().remove(0);
        block.last = EventId(Uuid::from_u128(7));
        block.fingerprints.fill(0);
        assert!(store.inner.put_command_block(&block, Replaces::Any).await.unwrap());
        store.take();
        let outcome = replica(&store).execute(&command(number * 512 + 9, 1)).await.unwrap();
        assert!(outcome.replayed, "block {number}");
        assert_eq!(store.take()[3], 1, "block {number} is replaced");
    }
}

#[tokio::test]
async fn what_is_older_than_ten_minutes_is_neither_read_nor_kept() {
    let store = Shaky::default();
    let handler = busy(&store, 6 * BLOCK_VERSIONS).await;
    // A quarter of an hour later, 130 commands at once.
    for number in 6 * BLOCK_VERSIONS..6 * BLOCK_VERSIONS + 130 {
        NOW.set(1_800_000_900_000_000);
        handler.execute(&command(number, 1)).await.unwrap();
    }
    store.take();
    let cold = replica(&store);
    assert!(!cold.execute(&command(4_000, 1)).await.unwrap().replayed);
    let [events, blocks, ..] = store.take();
    assert_eq!(
        (events, blocks),
        (24 + 1 + 2, 0),
        "a page, the end of the last block, those that are not in the state"
    );
}

#[test]
fn the_commands_of_ten_minutes_at_a_thousand_a_second_take_four_megabytes() {
    let mut recent = Recent::after(&stream(), 0, None);
    for version in 1..=1_000_000_u64 {
        let id = Some(EventId(Uuid::from_u128(version.into())));
        let (fingerprint, second) =
            (u32::try_from(version).unwrap(), i64::try_from(version / 1_000).unwrap());
        let block = recent.push(RecentEvent { version, id, fingerprint, second });
        assert_eq!(block.is_some(), version % BLOCK_VERSIONS == 0);
    }
    let recent = RecentCommands(Mutex::new(recent));
    let held = recent.look().full.iter().map(|block| block.fingerprints.len()).sum::<usize>();
    assert!((660_000..664_000).contains(&held), "{held}");
    assert!(recent.bytes() < 4_200_000, "{}", recent.bytes());
    assert!(recent.bytes() <= 8 << 20, "it fits into the cache");
}

proptest::proptest! {
    #[test]
    fn a_command_is_found_at_its_versions_before_another(versions in proptest::collection::btree_set(1..5_000_u64, 1..300), before in 0..5_000_u64) {
        let mut recent = Recent::after(&stream(), versions.first().unwrap() - 1, None);
        let id: CommandId = "a".parse().unwrap();
        for version in *versions.first().unwrap()..5_000 {
            let fingerprint = if versions.contains(&version) { upper_half(fingerprint(&id)) } else { 7 };
            recent.push(RecentEvent { version, id: None, fingerprint, second: 0 });
        }
        let expected: Vec<_> = versions.iter().rev().copied().filter(|version| *version < before).collect();
        proptest::prop_assert_eq!(RecentCommands(Mutex::new(recent)).seen(&id, before), expected);
    }
}
