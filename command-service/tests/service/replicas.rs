//! One aggregate behind several replicas, whose commands do not overlap: the requests that they cost.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use millrace_aws::AwsError;
use millrace_core::StreamId;
use millrace_event_store::{
    AppendError, AppendEvents, CommandBlock, Commit, Entry, LoadEvents, MemoryStore, Replaces, Snapshot,
    Snapshots,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::support::{Replica, replica, settled, user};

const COMMANDS: u32 = 200;

/// A store that counts reads and writes, those of snapshots too.
#[derive(Clone, Default)]
struct Counted {
    inner: MemoryStore,
    reads: Arc<AtomicU32>,
    puts: Arc<AtomicU32>,
}

impl LoadEvents for Counted {
    async fn newest(&self, stream: &StreamId, after: u64, limit: u16) -> Result<Vec<Entry>, AwsError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.newest(stream, after, limit).await
    }

    async fn between(&self, stream: &StreamId, after: u64, before: u64) -> Result<Vec<Entry>, AwsError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.between(stream, after, before).await
    }
}

impl AppendEvents for Counted {
    async fn append(&self, commit: &Commit) -> Result<(), AppendError> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        self.inner.append(commit).await
    }
}

impl Snapshots for Counted {
    async fn snapshot(&self, stream: &StreamId, schema: u32) -> Result<Option<Snapshot>, AwsError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.snapshot(stream, schema).await
    }

    async fn put_snapshot(&self, snapshot: &Snapshot, replaces: Replaces) -> Result<bool, AwsError> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        self.inner.put_snapshot(snapshot, replaces).await
    }

    async fn command_blocks(
        &self,
        stream: &StreamId,
        numbers: &[u64],
    ) -> Result<Vec<CommandBlock>, AwsError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.command_blocks(stream, numbers).await
    }

    async fn put_command_block(&self, block: &CommandBlock, replaces: Replaces) -> Result<bool, AwsError> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        self.inner.put_command_block(block, replaces).await
    }
}

/// The replica of each command in turn.
type Order = fn(u32, usize, &mut StdRng) -> usize;

impl Counted {
    /// The puts and reads a command.
    async fn cost(&self, service: &[Replica<Self>], john: &str, ids: &str, order: Order) -> (f64, f64) {
        let mut random = StdRng::seed_from_u64(7);
        self.puts.store(0, Ordering::SeqCst);
        self.reads.store(0, Ordering::SeqCst);
        for n in 0..COMMANDS {
            let replica = &service[order(n, service.len(), &mut random)];
            let (_, replayed) = replica.rename(john, "x", &format!("{ids}{n}")).await.unwrap();
            assert!(!replayed);
            settled().await;
        }
        let each = |count: &AtomicU32| f64::from(count.load(Ordering::SeqCst)) / f64::from(COMMANDS);
        (each(&self.puts), each(&self.reads))
    }
}

#[tokio::test]
async fn replicas_that_take_turns_cost_one_read_a_command_and_no_failed_appends() {
    let in_turn: Order = |n, replicas, _| usize::try_from(n).unwrap() % replicas;
    let at_random: Order = |_, replicas, random| random.random_range(0..replicas);
    println!("replicas             first 200: puts, reads      next 200: puts, reads      (a command)");
    for replicas in [1, 2, 3, 10] {
        for (name, order) in [("in turn", in_turn), ("at random", at_random)] {
            let store = Counted::default();
            let service: Vec<_> = (0..replicas).map(|_| replica(&store)).collect();
            let john = service[0].create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
            let first = store.cost(&service, &john, "a", order).await;
            let next = store.cost(&service, &john, "b", order).await;
            println!("{replicas:>3} {name:<10} {first:>25.3?} {next:>26.3?}");
            if replicas == 1 {
                // A snapshot after every 16 events.
                assert!(first.0 < 1.07 && next.0 < 1.07, "{first:?} {next:?}");
                assert_eq!((first.1, next.1), (0.0, 0.0));
            } else {
                // The first commands of each replica load the aggregate, and find out about the others.
                assert!(first.0 <= 1.2 && first.1 <= 1.0, "{replicas} {name}: {first:?}");
                assert!(next.0 <= 1.2 && next.1 <= 1.0, "{replicas} {name}: {next:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_replica_that_is_alone_again_stops_reading_first() {
    let store = Counted::default();
    let (here, there) = (replica(&store), replica(&store));
    let john = here.create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
    there.rename(&john, "x", "b").await.unwrap();
    let mut requests = Vec::new();
    for n in 0..6 {
        let before = store.inner.requests();
        here.rename(&john, "x", &n.to_string()).await.unwrap();
        requests.push(store.inner.requests() - before);
    }
    assert_eq!(requests, [2, 2, 2, 2, 2, 1], "a conflict, four reads that find nothing, and trust");
}
