//! Waiting messages and their cost to other messages, under a paused clock and with the latencies of AWS.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use millrace_aws::AwsError;
use millrace_core::{
    Envelope,
    projection::{ProjectionError, ProjectionSpec, RowUpdate},
    row::RowKey,
};
use millrace_event_store::{MemoryStore, StoredEvent};
use millrace_rows::{MemoryRows, ReadRows as _, WriteError, WriteOutcome, WriteRows};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    app::{Command, cards},
    consuming::SETTINGS,
    world::{RULES, append, body, counter_of, counter_with, eventually, history, key, noon, open},
};
use crate::{
    Consumer, Handle, MessageError, Projector, Settings,
    queue::{Cause, Depth, MemoryQueue, Message, Queue, ReceiptHandle, Rules},
};

/// The time of a request.
const LATENCY: Duration = Duration::from_millis(15);

/// The time of a throttled request, since the SDK tries it three times.
const THROTTLED: Duration = Duration::from_millis(120);

/// A replica with the defaults.
const REPLICA: Settings = Settings { messages_at_once: 200, jitter: spread, ..SETTINGS };

/// Numbers from 0 to 1, far apart and the same each time.
fn spread() -> f64 {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    (f64::from(CALLS.fetch_add(1, Ordering::Relaxed)) * 0.618_034).fract()
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// A queue with latencies.
#[derive(Clone)]
struct Distant(MemoryQueue);

impl Queue for Distant {
    fn rules(&self) -> Rules {
        self.0.rules()
    }

    async fn receive(&self) -> Result<Vec<Message>, AwsError> {
        let received = self.0.receive().await;
        sleep(LATENCY).await;
        received
    }

    async fn delete(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), AwsError>> {
        sleep(LATENCY).await;
        self.0.delete(receipts).await
    }

    async fn hide(&self, receipts: &[(ReceiptHandle, Duration)]) -> Vec<Result<(), AwsError>> {
        sleep(LATENCY).await;
        self.0.hide(receipts).await
    }

    async fn depth(&self) -> Result<Depth, AwsError> {
        self.0.depth().await
    }

    async fn dead_letter(&self, message: &Message, cause: &Cause) -> Result<(), AwsError> {
        sleep(LATENCY).await;
        self.0.dead_letter(message, cause).await
    }
}

/// Rows in a table whose partition of the tenant `hot` takes no write.
#[derive(Clone)]
struct Partitioned {
    rows: MemoryRows,
    throttles: Arc<AtomicBool>,
    /// The tenants' rows in the order of their writes, with the times.
    written: Arc<Mutex<Vec<(RowKey, Instant)>>>,
}

impl Partitioned {
    fn new() -> Self {
        Self {
            rows: MemoryRows::new(&cards()),
            throttles: Arc::new(AtomicBool::new(true)),
            written: Arc::default(),
        }
    }

    fn written(&self, tenant: &str) -> Vec<(RowKey, Instant)> {
        let written = self.written.lock().unwrap();
        written.iter().filter(|(key, _)| key.tenant.as_str() == tenant).cloned().collect()
    }
}

impl WriteRows for Partitioned {
    async fn write(&self, update: &RowUpdate) -> Result<WriteOutcome, WriteError> {
        if update.key.tenant.as_str() == "hot" && self.throttles.load(Ordering::Relaxed) {
            sleep(THROTTLED).await;
            return Err(AwsError::Throttled("hot".to_owned()).into());
        }
        sleep(LATENCY).await;
        let outcome = self.rows.write(update).await?;
        if outcome == WriteOutcome::Applied {
            self.written.lock().unwrap().push((update.key.clone(), Instant::now()));
        }
        Ok(outcome)
    }
}

/// New counters of a tenant, each of one event.
async fn counters(store: &MemoryStore, tenant: &str, ids: Range<u128>) -> Vec<StoredEvent> {
    let mut events = Vec::new();
    for id in ids {
        events.extend(history(store, &counter_of(tenant, id), &[open("red")]).await);
    }
    events
}

fn send(queue: &MemoryQueue, events: &[StoredEvent]) {
    events.iter().for_each(|event| drop(queue.send(body(&event.envelope))));
}

/// A consumer at work until this is dropped.
struct Consuming(tokio::task::JoinHandle<()>);

impl Consuming {
    fn start(queue: impl Queue, handler: impl Handle, settings: Settings) -> Self {
        let consumer = Consumer::new(queue, handler, settings, watch::Sender::default());
        Self(tokio::spawn(consumer.run(CancellationToken::new())))
    }
}

/// Stops it at any point, like SIGKILL.
impl Drop for Consuming {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Hot messages: of so many rows, or all of one.
#[derive(Debug, Clone, Copy)]
enum Hot {
    Rows(u128),
    OneRow(usize),
}

impl Hot {
    async fn events(self, store: &MemoryStore) -> Vec<StoredEvent> {
        match self {
            Self::Rows(rows) => counters(store, "hot", 0..rows).await,
            Self::OneRow(events) => {
                let commands: Vec<_> =
                    std::iter::once(open("red")).chain((1..events).map(|_| Command::Add(1))).collect();
                history(store, &counter_of("hot", 0), &commands).await
            }
        }
    }
}

/// The lag of 500 cold messages, ten milliseconds apart, after hot ones had come for a while: the median and the 99th
/// percentile.
async fn lags_beside(hot: Hot, settled: Duration) -> (Duration, Duration) {
    let (store, rows, queue) = (MemoryStore::default(), Partitioned::new(), MemoryQueue::new(RULES));
    send(&queue, &hot.events(&store).await);
    let projector = Projector::new(cards(), rows.clone(), store.clone(), noon);
    let _consuming = Consuming::start(Distant(queue.clone()), projector, REPLICA);
    sleep(settled).await;
    let cold = counters(&store, "cold", 0..500).await;
    let mut sent = Vec::new();
    for event in &cold {
        sent.push((key(&event.envelope.stream()), Instant::now()));
        queue.send(body(&event.envelope));
        sleep(Duration::from_millis(10)).await;
    }
    eventually(|| rows.written("cold").len() == cold.len()).await;
    let written = rows.written("cold");
    let lag = |(key, at): &(RowKey, Instant)| written.iter().find(|(row, _)| row == key).unwrap().1 - *at;
    let mut lags: Vec<Duration> = sent.iter().map(lag).collect();
    lags.sort_unstable();
    (lags[250], lags[495])
}

#[tokio::test(start_paused = true)]
async fn a_throttled_tenant_costs_the_others_at_most_twice_their_lag() {
    let (median, most) = lags_beside(Hot::Rows(0), MINUTE).await;
    for hot in [Hot::Rows(1_000), Hot::OneRow(200)] {
        for settled in [Duration::from_secs(3), MINUTE] {
            let beside = lags_beside(hot, settled).await;
            assert!(beside.0 <= 2 * median && beside.1 <= 2 * most, "{hot:?}: {beside:?}, alone {most:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn throttled_messages_fill_no_process_and_are_applied_in_the_end() {
    for hot in [Hot::Rows(1_000), Hot::OneRow(100)] {
        let (store, rows, queue) = (MemoryStore::default(), Partitioned::new(), MemoryQueue::new(RULES));
        let hot = (hot, hot.events(&store).await);
        send(&queue, &hot.1);
        send(&queue, &counters(&store, "cold", 0..500).await);
        let projector = Projector::new(cards(), rows.clone(), store.clone(), noon);
        let _consuming = Consuming::start(Distant(queue.clone()), projector, REPLICA);
        let started = Instant::now();
        eventually(|| queue.len() == hot.1.len()).await;
        assert!(started.elapsed() <= Duration::from_secs(2), "all cold ones, though they came last");

        sleep(5 * MINUTE).await;
        let calls = queue.calls().receive;
        sleep(5 * MINUTE).await;
        // Each message comes at most every two minutes by now, and an idle receive ends after five seconds.
        let calls = queue.calls().receive - calls;
        assert!(calls < u64::try_from(hot.1.len()).unwrap() * 3 + 60, "{calls} receives in five minutes");
        assert!(queue.dead_letters().is_empty());
        rows.throttles.store(false, Ordering::Relaxed);
        eventually(|| queue.is_empty()).await;
        assert!(!rows.written("hot").is_empty() && queue.dead_letters().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_and_replica_carry_three_thousand_events_a_second() {
    const EVENTS: u128 = 9_000;
    let (store, rows, queue) = (MemoryStore::default(), Partitioned::new(), MemoryQueue::new(RULES));
    send(&queue, &counters(&store, "cold", 0..EVENTS).await);
    let projector = Projector::new(cards(), rows.clone(), store.clone(), noon);
    let started = Instant::now();
    let _consuming = Consuming::start(Distant(queue.clone()), projector, REPLICA);
    eventually(|| queue.is_empty()).await;
    assert!(started.elapsed() <= Duration::from_secs(3), "{:?}", started.elapsed());
}

/// A handler that notes when messages come, and never ends.
#[derive(Clone)]
struct Stuck(Instant, Arc<Mutex<Vec<Duration>>>);

impl Handle for Stuck {
    fn label(&self) -> &'static str {
        "stuck"
    }

    async fn handle(&self, _: &[Message]) -> Vec<Result<(), MessageError>> {
        self.1.lock().unwrap().push(self.0.elapsed());
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn messages_of_a_killed_receiver_come_back_within_ten_seconds() {
    let (store, rows, queue) = (MemoryStore::default(), Partitioned::new(), MemoryQueue::new(RULES));
    let events = counters(&store, "cold", 0..30).await;
    send(&queue, &events);
    let stuck = Stuck(Instant::now(), Arc::default());
    let killed = Consuming::start(queue.clone(), stuck.clone(), SETTINGS);
    // Long enough for the messages to be hidden again many times.
    sleep(MINUTE + Duration::from_secs(1)).await;
    assert_eq!(
        (stuck.1.lock().unwrap().len(), queue.hidden().len()),
        (3, 30),
        "received once, and hidden still"
    );
    drop(killed);
    let at = Instant::now();
    let projector = Projector::new(cards(), rows.clone(), store.clone(), noon);
    let _consuming = Consuming::start(queue.clone(), projector, SETTINGS);
    eventually(|| queue.is_empty()).await;
    assert!(at.elapsed() <= Duration::from_secs(10), "{:?}", at.elapsed());
    assert_eq!(rows.written("cold").len(), 30, "each row was written once");
    assert!(queue.dead_letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_message_that_kills_its_receiver_comes_back_ever_later() {
    let queue = MemoryQueue::new(RULES);
    queue.send("the end of any process");
    let stuck = Stuck(Instant::now(), Arc::default());
    while stuck.0.elapsed() < 24 * HOUR {
        let before = stuck.1.lock().unwrap().len();
        let killed = Consuming::start(queue.clone(), stuck.clone(), SETTINGS);
        eventually(|| stuck.1.lock().unwrap().len() > before).await;
        drop(killed);
    }
    let times = stuck.1.lock().unwrap().clone();
    let after = |time: Duration| times.iter().filter(|killed| **killed >= time).count();
    assert!(after(HOUR) < 24 * 5, "{} deaths in a day", after(HOUR));
    assert_eq!(times.len() - after(RULES.visibility * 5), 5, "soon at first");
}

/// A counter whose second event has the schema of the next release.
async fn of_the_next_release(store: &MemoryStore) -> Vec<StoredEvent> {
    let mut events = counter_with(&MemoryStore::default(), 1, 3).await;
    events[1].envelope.schema_version = 2;
    for event in &events {
        append(store, event).await;
    }
    events
}

#[tokio::test(start_paused = true)]
async fn an_event_of_a_newer_release_waits_for_it_and_parks_only_its_own_aggregate() {
    let (store, rows, queue) = (MemoryStore::default(), Partitioned::new(), MemoryQueue::new(RULES));
    let events = of_the_next_release(&store).await;
    send(&queue, &events);
    let others = counters(&store, "cold", 0..50).await;
    send(&queue, &others);
    let projector = Projector::new(cards(), rows.clone(), store.clone(), noon);
    let older = Consuming::start(queue.clone(), projector, SETTINGS);
    sleep(MINUTE).await;
    assert_eq!(queue.len(), 2, "the event and the one behind it");
    assert_eq!(rows.written("cold").len(), 50);
    let waited = SETTINGS.max_wait - 24 * HOUR;
    sleep(waited).await;
    assert_eq!((queue.len(), queue.dead_letters().len()), (2, 0), "after days");
    drop(older);

    // The newer release reads its schema: here, one of the same events in a schema that this release knows.
    let newer = MemoryStore::default();
    let known = counter_with(&newer, 1, 3).await;
    let spec = ProjectionSpec { update: read_as_known, ..cards() };
    let projector = Projector::new(spec, rows.clone(), newer, noon);
    let _newer = Consuming::start(queue.clone(), projector, SETTINGS);
    sleep(HOUR / 2).await;
    assert!(queue.is_empty() && queue.dead_letters().is_empty());
    let stream = known[0].envelope.stream();
    assert_eq!(rows.rows.applied_version(&stream).await.unwrap(), 3);
}

/// The update that a newer release makes of an event.
fn read_as_known(envelope: &Envelope) -> Result<Option<RowUpdate>, ProjectionError> {
    (cards().update)(&Envelope { schema_version: 1, ..envelope.clone() })
}

#[tokio::test(start_paused = true)]
async fn an_event_that_no_release_comes_to_read_is_given_up_after_days() {
    for max_receives in [1_000, 20] {
        let (store, rows) = (MemoryStore::default(), Partitioned::new());
        let queue = MemoryQueue::new(Rules { max_receives, ..RULES });
        send(&queue, &of_the_next_release(&store).await);
        let projector = Projector::new(cards(), rows.clone(), store.clone(), noon);
        // Pauses are at their shortest.
        let settings = Settings { jitter: || 0.0, max_wait: 24 * HOUR, ..SETTINGS };
        let _consuming = Consuming::start(queue.clone(), projector, settings);
        let started = Instant::now();
        sleep(30 * HOUR).await;
        let letters = queue.dead_letters();
        assert_eq!((queue.len(), letters.len()), (0, 2), "of {max_receives}");
        for letter in letters {
            let (attempts, waited) = (letter.message.attempts, letter.since - started);
            assert!(letter.cause.is_some() && attempts <= max_receives, "not by the queue's own redrive");
            if max_receives == 1_000 {
                assert!(waited >= settings.max_wait && attempts < 900, "{attempts} in {waited:?}");
            }
        }
    }
}
