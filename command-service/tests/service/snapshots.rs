//! Snapshots save reads, and nothing else depends on them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use millrace_aws::AwsError;
use millrace_command::CommandHandlerConfig;
use millrace_core::{Aggregate as _, StreamId};
use millrace_event_store::{
    AppendError, AppendEvents, CommandBlock, Commit, Entry, LoadEvents, MemoryStore, Replaces, Snapshot,
    Snapshots,
};
use shop::user::User;
use tonic::Code;
use uuid::Uuid;

use crate::support::{CONFIG, Replica, replica_with, settled, unhurried, user};

/// After how many events a snapshot is kept.
const EVERY: u64 = 16;

/// A fault in reading or writing snapshots.
type Trouble = fn(Option<Snapshot>) -> Result<Option<Snapshot>, AwsError>;

/// A store with faulty snapshots, which counts the loaded events.
#[derive(Clone)]
struct Amiss {
    inner: MemoryStore,
    trouble: Arc<Mutex<Trouble>>,
    /// How many events were loaded.
    loaded: Arc<AtomicU32>,
}

impl Amiss {
    fn new() -> Self {
        Self { inner: MemoryStore::default(), trouble: Arc::new(Mutex::new(Ok)), loaded: Arc::default() }
    }

    fn count(&self, entries: Vec<Entry>) -> Vec<Entry> {
        self.loaded.fetch_add(u32::try_from(entries.len()).unwrap(), Ordering::SeqCst);
        entries
    }

    /// The requests and the loaded events of a piece of work.
    async fn cost<T>(&self, work: impl Future<Output = T>) -> (u64, u32) {
        let before = (self.inner.requests(), self.loaded.load(Ordering::SeqCst));
        work.await;
        (self.inner.requests() - before.0, self.loaded.load(Ordering::SeqCst) - before.1)
    }
}

impl LoadEvents for Amiss {
    async fn newest(&self, stream: &StreamId, after: u64, limit: u16) -> Result<Vec<Entry>, AwsError> {
        self.inner.newest(stream, after, limit).await.map(|entries| self.count(entries))
    }

    async fn between(&self, stream: &StreamId, after: u64, before: u64) -> Result<Vec<Entry>, AwsError> {
        self.inner.between(stream, after, before).await.map(|entries| self.count(entries))
    }
}

impl AppendEvents for Amiss {
    async fn append(&self, commit: &Commit) -> Result<(), AppendError> {
        self.inner.append(commit).await
    }
}

impl Snapshots for Amiss {
    async fn snapshot(&self, stream: &StreamId, schema: u32) -> Result<Option<Snapshot>, AwsError> {
        let kept = self.inner.snapshot(stream, schema).await?;
        let trouble = *self.trouble.lock().unwrap();
        trouble(kept)
    }

    async fn put_snapshot(&self, snapshot: &Snapshot, replaces: Replaces) -> Result<bool, AwsError> {
        self.inner.put_snapshot(snapshot, replaces).await
    }

    async fn command_blocks(
        &self,
        stream: &StreamId,
        numbers: &[u64],
    ) -> Result<Vec<CommandBlock>, AwsError> {
        self.inner.command_blocks(stream, numbers).await
    }

    async fn put_command_block(&self, block: &CommandBlock, replaces: Replaces) -> Result<bool, AwsError> {
        self.inner.put_command_block(block, replaces).await
    }
}

fn replica<S: AppendEvents + Snapshots>(store: &S) -> Replica<S> {
    replica_with(store, CommandHandlerConfig { clock: unhurried, ..CONFIG })
}

/// A user with a stream of this length, of commands "2", "3" and so on.
async fn long_stream(service: &Replica<Amiss>, length: u64) -> String {
    let john = service.create_user(user("john@example.com", "1")).await.unwrap().aggregate_id;
    for version in 2..=length {
        assert_eq!(rename(service, &john, version).await, (version, false));
    }
    settled().await;
    john
}

/// The rename that makes this version.
async fn rename(service: &Replica<Amiss>, john: &str, version: u64) -> (u64, bool) {
    service.rename(john, &format!("John {version}"), &version.to_string()).await.unwrap()
}

async fn kept(store: &Amiss) -> Option<u64> {
    let stream = store.inner.all().first()?.envelope.stream();
    store.inner.snapshot(&stream, User::STATE_SCHEMA).await.unwrap().map(|snapshot| snapshot.version)
}

#[tokio::test]
async fn a_stream_has_a_snapshot_every_16_events() {
    let store = Amiss::new();
    let service = replica(&store);
    let john = long_stream(&service, 15).await;
    assert_eq!(kept(&store).await, None);
    for (version, newest) in (16..=33).map(|version| (version, version / EVERY * EVERY)) {
        rename(&service, &john, version).await;
        settled().await;
        assert_eq!(kept(&store).await, Some(newest));
    }
}

#[tokio::test]
async fn a_cold_command_is_two_requests_up_to_24_events_and_three_beyond() {
    for length in [1, 2, 23, 24, 25, 31, 32, 39, 40, 47, 1_000] {
        let store = Amiss::new();
        let john = long_stream(&replica(&store), length).await;
        let cost = store.cost(rename(&replica(&store), &john, length + 1)).await;
        let (reads, events) = if length <= 24 { (1, length) } else { (2, 24) };
        assert_eq!(cost, (reads + 1, u32::try_from(events).unwrap()), "{length} events");
    }
}

#[tokio::test]
async fn a_long_stream_without_a_snapshot_leaves_one_when_it_is_read() {
    let store = Amiss::new();
    let john = long_stream(&replica(&store), 130).await;
    *store.trouble.lock().unwrap() = |_| Ok(None);
    let cost = store.cost(rename(&replica(&store), &john, 131)).await;
    *store.trouble.lock().unwrap() = Ok;
    settled().await;
    assert_eq!(
        (cost, kept(&store).await),
        ((4, 130), Some(130)),
        "the page, no snapshot, the rest, the append"
    );
    assert_eq!(store.cost(rename(&replica(&store), &john, 132)).await, (3, 24));
}

#[tokio::test]
async fn a_state_that_is_far_behind_is_brought_up_to_date_by_a_snapshot_too() {
    let store = Amiss::new();
    let (behind, ahead) = (replica(&store), replica(&store));
    let john = long_stream(&behind, 10).await;
    for version in 11..=500 {
        rename(&ahead, &john, version).await;
    }
    settled().await;
    // Two appends meet newer events: the reply to one brings the event, the second leads to a load.
    let (requests, events) = store.cost(rename(&behind, &john, 501)).await;
    assert_eq!((requests, events), (5, 100));
}

#[tokio::test]
async fn whatever_is_amiss_with_a_snapshot_no_answer_changes() {
    let troubles: &[(&str, Trouble)] = &[
        ("missing", |_| Ok(None)),
        ("of a newer schema", |kept| {
            Ok(kept.map(forgetful).map(|kept| Snapshot { schema: kept.schema + 1, ..kept }))
        }),
        ("no state at all", |kept| Ok(kept.map(|kept| Snapshot { state: "?".into(), ..kept }))),
        ("of another version than its state", |kept| {
            Ok(kept.map(forgetful).map(|kept| Snapshot { version: kept.version - 1, ..kept }))
        }),
        ("ahead of the stream", |kept| Ok(kept.map(|kept| at(kept, 10_000)))),
        ("of another history", |kept| {
            Ok(kept.map(|mut kept| {
                kept.state["last_event"] = Uuid::nil().to_string().into();
                kept.state["state"]["name"] = "another".into();
                kept
            }))
        }),
        ("of no commands", |kept| {
            Ok(kept.map(|mut kept| {
                kept.state["answered"] = "".into();
                kept
            }))
        }),
        ("out of reach", |_| Err(AwsError::Unreachable("no answer".into()))),
        ("forbidden", |_| Err(AwsError::Refused("no".into()))),
    ];
    let store = Amiss::new();
    let john = long_stream(&replica(&store), 350).await;
    assert_eq!(kept(&store).await, Some(336));
    for (next, (what, trouble)) in (351..).zip(troubles) {
        *store.trouble.lock().unwrap() = *trouble;
        let cold = replica(&store);
        let mut answers = Vec::new();
        for version in [next - 1, next - 127] {
            answers.push(rename(&cold, &john, version).await);
        }
        assert_eq!(answers, [(next - 1, true), (next - 127, true)], "{what}");
        let reused = cold.rename(&john, "another body", &(next - 1).to_string()).await.unwrap_err();
        assert_eq!(reused.code(), Code::InvalidArgument, "{what}");
        assert_eq!(rename(&replica(&store), &john, next).await, (next, false), "{what}");
    }
    let events = store.inner.all();
    assert!(events.iter().map(|event| event.envelope.version).eq(1..=u64::try_from(events.len()).unwrap()));
}

/// A snapshot whose state remembers none but a command of this fingerprint, as its last one.
fn remembering(mut kept: Snapshot, fingerprint: u64) -> Snapshot {
    let (mut text, mut version) = (format!("{fingerprint:016x}"), kept.version);
    while version > 0x7f {
        text += &format!("{:02x}", version & 0x7f | 0x80);
        version >>= 7;
    }
    kept.state["answered"] = format!("{text}{version:02x}00").into();
    kept
}

/// A snapshot whose state remembers no known command, so that its use shows.
fn forgetful(kept: Snapshot) -> Snapshot {
    remembering(kept, 0)
}

/// A snapshot that claims another version, as does its state.
fn at(mut kept: Snapshot, version: u64) -> Snapshot {
    kept.version = version;
    kept.state["version"] = version.into();
    kept
}

#[tokio::test]
async fn a_snapshot_that_is_older_than_the_page_is_bridged_from_and_replaced() {
    static OLD: Mutex<Option<Snapshot>> = Mutex::new(None);
    let store = Amiss::new();
    let service = replica(&store);
    let john = long_stream(&service, 170).await;
    let stream = store.inner.all()[0].envelope.stream();
    *OLD.lock().unwrap() = store.inner.snapshot(&stream, User::STATE_SCHEMA).await.unwrap();
    for version in 171..=400 {
        rename(&service, &john, version).await;
    }
    settled().await;
    *store.trouble.lock().unwrap() = |_| Ok(OLD.lock().unwrap().clone());
    // From the snapshot at 160 on: its own last event, those up to 376, and the page.
    let cost = store.cost(rename(&replica(&store), &john, 401)).await;
    assert_eq!(cost, (4, 217 + 24));
    *store.trouble.lock().unwrap() = Ok;
    settled().await;
    assert_eq!(kept(&store).await, Some(400));
    assert_eq!(EVERY * 10, OLD.lock().unwrap().as_ref().unwrap().version);
}

#[tokio::test]
async fn a_snapshot_that_is_ahead_of_its_stream_is_replaced_by_the_load_that_finds_it_so() {
    let store = Amiss::new();
    let john = long_stream(&replica(&store), 400).await;
    let stream = store.inner.all()[0].envelope.stream();
    let ahead = at(store.inner.snapshot(&stream, User::STATE_SCHEMA).await.unwrap().unwrap(), 1_000);
    assert!(store.inner.put_snapshot(&ahead, Replaces::Any).await.unwrap());
    let (requests, _) = store.cost(rename(&replica(&store), &john, 401)).await;
    settled().await;
    assert_eq!((requests, kept(&store).await), (4, Some(400)));
    assert_eq!(store.cost(rename(&replica(&store), &john, 402)).await, (3, 24));
}

#[tokio::test]
async fn a_command_with_the_fingerprint_of_another_is_another_command() {
    let store = Amiss::new();
    let john = long_stream(&replica(&store), 40).await;
    // The command of version 32 has the fingerprint of the next one.
    *store.trouble.lock().unwrap() = |kept| {
        let (high, low) = Uuid::new_v5(&Uuid::nil(), b"41").as_u64_pair();
        Ok(kept.map(|kept| remembering(kept, high ^ low)))
    };
    let (first, again) = (replica(&store), replica(&store));
    let cost = store.cost(async { assert_eq!(rename(&first, &john, 41).await, (41, false)) }).await;
    assert_eq!(cost, (4, 24 + 1), "the load, the event of the other command, the append");
    assert_eq!(rename(&first, &john, 41).await, (41, true));
    assert_eq!(rename(&again, &john, 41).await, (41, true));
}

#[tokio::test]
async fn throttled_snapshots_are_not_made_up_for_by_reading_whole_streams() {
    let store = Amiss::new();
    let john = long_stream(&replica(&store), 300).await;
    *store.trouble.lock().unwrap() = |_| Err(AwsError::Throttled("slow down".into()));
    let refused = replica(&store).rename(&john, "x", "y").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_written_costs_nobody_an_answer() {
    #[derive(Clone)]
    struct Unwritable(MemoryStore, Arc<AtomicU32>);
    impl LoadEvents for Unwritable {
        async fn newest(&self, stream: &StreamId, after: u64, limit: u16) -> Result<Vec<Entry>, AwsError> {
            self.0.newest(stream, after, limit).await
        }

        async fn between(&self, stream: &StreamId, after: u64, before: u64) -> Result<Vec<Entry>, AwsError> {
            self.0.between(stream, after, before).await
        }
    }
    impl AppendEvents for Unwritable {
        async fn append(&self, commit: &Commit) -> Result<(), AppendError> {
            self.0.append(commit).await
        }
    }
    impl Snapshots for Unwritable {
        async fn snapshot(&self, stream: &StreamId, schema: u32) -> Result<Option<Snapshot>, AwsError> {
            self.0.snapshot(stream, schema).await
        }

        async fn put_snapshot(&self, _: &Snapshot, _: Replaces) -> Result<bool, AwsError> {
            self.1.fetch_add(1, Ordering::SeqCst);
            std::future::pending().await
        }

        async fn command_blocks(
            &self,
            stream: &StreamId,
            numbers: &[u64],
        ) -> Result<Vec<CommandBlock>, AwsError> {
            self.0.command_blocks(stream, numbers).await
        }

        async fn put_command_block(
            &self,
            block: &CommandBlock,
            replaces: Replaces,
        ) -> Result<bool, AwsError> {
            self.0.put_command_block(block, replaces).await
        }
    }
    let store = Unwritable(MemoryStore::default(), Arc::default());
    let service = replica(&store);
    let john = service.create_user(user("john@example.com", "1")).await.unwrap().aggregate_id;
    // Forty times a snapshot is due, and none is ever done.
    for version in 2..=40 * EVERY {
        service.rename(&john, "x", &version.to_string()).await.unwrap();
    }
    settled().await;
    assert_eq!(store.1.load(Ordering::SeqCst), 32, "as many as may be written at a time");
}
