//! The parts of this crate's tests: histories, messages and checked rows.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use millrace_aws::AwsError;
use millrace_core::{
    Aggregate as _, AggregateState, CommandDigest, CommandId, CommittedEvent, Envelope, EventCodec, EventId,
    Row, StreamId, TenantId, Timestamp,
    projection::{ProjectionKind, ProjectionSpec, RowUpdate},
    row::{Attributes, Provenance, RowKey},
};
use millrace_event_store::{AppendEvents, Commit, MemoryStore, StoredEvent};
use millrace_rows::{MemoryRows, ReadRows as _, WriteError, WriteOutcome, WriteRows};
use serde_json::json;
use uuid::Uuid;

use super::app::{Command, Counter, CounterCard, CounterId, CounterTotal, Event, Group, GroupTotals, cards};
use crate::{
    Projector,
    queue::{Message, ReceiptHandle, Rules},
};

/// The time at which rows are written.
pub(super) fn noon() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

/// The rules of every queue.
pub(super) const RULES: Rules = Rules { visibility: Duration::from_secs(8), max_receives: 1000 };

/// Polls until a fact holds, and fails after a day.
pub(super) async fn eventually(fact: impl Fn() -> bool) {
    let timeout = Duration::from_secs(24 * 60 * 60);
    let began = tokio::time::Instant::now();
    let met = tokio::time::timeout(timeout, async {
        while !fact() {
            // Less and less often: a day of polls would take long, even on a paused clock.
            tokio::time::sleep(Duration::from_millis(10).max(began.elapsed() / 100)).await;
        }
    });
    met.await.expect("the fact to hold in the end");
}

pub(super) fn event(stored: &StoredEvent) -> Event {
    let envelope = &stored.envelope;
    let data = envelope.event_data.as_ref().unwrap();
    Event::decode(&envelope.event_type, envelope.schema_version, data).unwrap()
}

/// The provenance that an event gives its row.
fn made_by(envelope: &Envelope) -> Provenance {
    Provenance {
        event_id: envelope.event_id,
        correlation_id: envelope.correlation_id.clone(),
        causation_id: envelope.causation_id.clone(),
        trace_parent: envelope.trace_parent.clone(),
    }
}

fn attributes<R: Row>(row: Option<&R>) -> Attributes {
    row.map(|row| row.to_attributes().unwrap()).unwrap_or_default()
}

/// A counter's row after each of its events, by a second and simplest implementation of its projection's rules. None
/// where rows sum up counters.
pub(super) fn states(spec: &ProjectionSpec, history: &[StoredEvent]) -> Vec<Attributes> {
    match spec.name.name {
        "counter-cards" => history
            .iter()
            .scan(None, |card: &mut Option<CounterCard>, stored| {
                *card = card_after(card.take(), stored);
                Some(attributes(card.as_ref()))
            })
            .collect(),
        "counter-totals" => history
            .iter()
            .scan(None, |total: &mut Option<CounterTotal>, stored| {
                *total = total_after(total.take(), stored);
                Some(attributes(total.as_ref()))
            })
            .collect(),
        "group-totals" => Vec::new(),
        other => panic!("{other}"),
    }
}

fn card_after(card: Option<CounterCard>, stored: &StoredEvent) -> Option<CounterCard> {
    let (at, counter_id) = (stored.envelope.timestamp, CounterId(stored.envelope.aggregate_id));
    match (card, event(stored)) {
        (None, Event::Opened { name, owner, group }) => {
            Some(CounterCard { counter_id, name, owner, group, opened_at: at, changed_at: at })
        }
        (Some(card), Event::Renamed { name, owner }) => Some(CounterCard {
            name: name.unwrap_or(card.name),
            owner: owner.unwrap_or(card.owner),
            changed_at: at,
            ..card
        }),
        (Some(card), Event::Moved { group }) => Some(CounterCard { group, changed_at: at, ..card }),
        (card, Event::Added { .. }) => card,
        (Some(_), Event::Closed {}) => None,
        (card, event) => panic!("{event:?} on {card:?}"),
    }
}

fn total_after(total: Option<CounterTotal>, stored: &StoredEvent) -> Option<CounterTotal> {
    let counter_id = CounterId(stored.envelope.aggregate_id);
    match (total, event(stored)) {
        (None, Event::Opened { .. }) => Some(CounterTotal { counter_id, total: 0, steps: 0 }),
        (Some(row), Event::Added { by }) => {
            Some(CounterTotal { total: row.total + by, steps: row.steps + 1, ..row })
        }
        (total, Event::Renamed { .. } | Event::Moved { .. }) => total,
        (Some(_), Event::Closed {}) => None,
        (total, event) => panic!("{event:?} on {total:?}"),
    }
}

/// The rows of all groups with counters, given the histories of all counters.
pub(super) fn group_rows<'a>(
    histories: impl IntoIterator<Item = &'a [StoredEvent]>,
) -> BTreeMap<RowKey, Attributes> {
    let mut rows: BTreeMap<RowKey, GroupTotals> = BTreeMap::new();
    for history in histories {
        let (mut group, mut total) = (None, 0);
        for stored in history {
            match event(stored) {
                Event::Opened { group: at, .. } => (group, total) = (Some(at), 0),
                Event::Moved { group: at } => group = Some(at),
                Event::Added { by } => total += by,
                Event::Renamed { .. } => {}
                Event::Closed {} => group = None,
            }
        }
        if let (Some(group), Some(stored)) = (group, history.first()) {
            let key = RowKey { tenant: stored.envelope.tenant_id.clone(), id: group.clone() };
            let none = GroupTotals { group: Group(group), counters: 0, total: 0 };
            let row = rows.entry(key).or_insert(none);
            row.counters += 1;
            row.total += total;
        }
    }
    rows.into_iter().map(|(key, row)| (key, attributes(Some(&row)))).collect()
}

/// Sends commands to a counter as the command service would, and stores the events. They are a second apart, the first
/// a minute before noon; every other one has a trace.
pub(super) async fn history(
    store: &MemoryStore,
    stream: &StreamId,
    commands: &[Command],
) -> Vec<StoredEvent> {
    let mut state = AggregateState::<Counter>::default();
    let mut stored = Vec::new();
    for (n, command) in commands.iter().enumerate() {
        let at = Timestamp::from_unix_micros(
            noon().unix_micros() - 60_000_000 + i64::try_from(n).unwrap() * 1_000_000,
        );
        let command_id: CommandId = format!("command-{n}").parse().unwrap();
        let Ok(events) = state.decide(None, command, at) else { continue };
        for event in events {
            let encoded = event.encode();
            let version = state.version() + 1;
            let event_id = EventId(Uuid::from_u128(stream.id.as_u128() << 64 | u128::from(version)));
            let committed = CommittedEvent { version, event_id, command_id: command_id.clone(), at, event };
            let envelope = Envelope {
                event_id,
                tenant_id: stream.tenant.clone(),
                aggregate_type: stream.aggregate_type.clone(),
                aggregate_id: stream.id,
                version,
                event_type: encoded.event_type.to_owned(),
                schema_version: encoded.schema_version,
                timestamp: at,
                event_data: Some(encoded.data),
                command_id: command_id.clone(),
                correlation_id: format!("correlation-{n}").parse().unwrap(),
                causation_id: format!("causation-{n}").parse().unwrap(),
                trace_parent: n.is_multiple_of(2).then(|| TRACE_PARENT.to_owned()),
            };
            let event = StoredEvent { envelope, command_digest: CommandDigest(1) };
            append(store, &event).await;
            stored.push(event);
            state = state.apply(&committed).unwrap();
        }
    }
    stored
}

/// Stores an event as it is.
pub(super) async fn append(store: &MemoryStore, event: &StoredEvent) {
    let commit = Commit { events: vec![event.clone()], claims: vec![], releases: vec![] };
    store.append(&commit).await.unwrap();
}

/// The trace that events belong to.
pub(super) const TRACE_PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A counter of the tenant `acme`.
pub(super) fn counter(id: u128) -> StreamId {
    counter_of("acme", id)
}

/// A counter of a tenant.
pub(super) fn counter_of(tenant: &str, id: u128) -> StreamId {
    let tenant: TenantId = tenant.parse().unwrap();
    StreamId { tenant, aggregate_type: Counter::TYPE, id: Uuid::from_u128(id) }
}

pub(super) fn open(group: &str) -> Command {
    Command::Open { name: "John".to_owned(), owner: "john@example.com".to_owned(), group: group.to_owned() }
}

pub(super) fn rename(to: &str) -> Command {
    Command::Rename { name: Some(to.to_owned()), owner: None }
}

/// A counter with so many events, the first one its opening; the others rename it and add to it in turn. Its group is
/// one of three.
pub(super) async fn counter_with(store: &MemoryStore, id: u128, events: usize) -> Vec<StoredEvent> {
    let change = |n: usize| match n % 2 {
        0 => Command::Add(i64::try_from(n).unwrap()),
        _ => rename(&format!("name {n}")),
    };
    let opening = open(["red", "green", "blue"][usize::try_from(id % 3).unwrap()]);
    let commands: Vec<_> = std::iter::once(opening).chain((1..events).map(change)).collect();
    history(store, &counter(id), &commands).await
}

/// The bus's JSON of an event.
pub(super) fn body(envelope: &Envelope) -> String {
    json!({
        "version": "0",
        "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
        "detail-type": envelope.event_type,
        "source": "millrace",
        "account": "111122223333",
        "time": "2026-11-23T12:00:00Z",
        "region": "us-east-1",
        "resources": [],
        "detail": envelope,
    })
    .to_string()
}

/// A message as a queue hands it out for the first time.
pub(super) fn message(body: String) -> Message {
    Message {
        id: "id".to_owned(),
        receipt: ReceiptHandle("receipt".into()),
        body,
        attempts: 1,
        waited: Duration::ZERO,
    }
}

/// Rows that check each write: a row never goes back, and never has a state that its history lacks.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) spec: ProjectionSpec,
    pub(super) rows: MemoryRows,
    watch: Arc<Mutex<Watch>>,
}

#[derive(Default)]
struct Watch {
    /// The histories of streams. Streams without one are not checked.
    histories: BTreeMap<StreamId, Vec<StoredEvent>>,
    newest: HashMap<StreamId, u64>,
    applied: u64,
    writes: u64,
    failing: Option<AwsError>,
    failing_row: Option<StreamId>,
    pauses: Vec<u8>,
}

/// The rows of the blind projection.
impl Default for Watched {
    fn default() -> Self {
        Self::of(cards())
    }
}

impl Watched {
    pub(super) fn of(spec: ProjectionSpec) -> Self {
        Self { rows: MemoryRows::new(&spec), spec, watch: Arc::default() }
    }

    /// A projector into these rows.
    pub(super) fn projector(&self, store: &MemoryStore) -> Projector<Self, MemoryStore> {
        Projector::new(self.spec.clone(), self.clone(), store.clone(), noon)
    }

    /// Sets the history of a stream.
    pub(super) fn expect(&self, history: &[StoredEvent]) {
        if let Some(first) = history.first() {
            self.watch.lock().unwrap().histories.insert(first.envelope.stream(), history.to_vec());
        }
    }

    /// Makes every write fail, or none.
    pub(super) fn fail(&self, failing: Option<AwsError>) {
        let mut watch = self.watch.lock().unwrap();
        watch.failing = failing;
        watch.failing_row = None;
    }

    /// Makes the writes of one row fail.
    pub(super) fn fail_row(&self, stream: &StreamId, error: AwsError) {
        let mut watch = self.watch.lock().unwrap();
        watch.failing = Some(error);
        watch.failing_row = Some(stream.clone());
    }

    /// Makes each write yield as often as the next of these numbers.
    pub(super) fn pause(&self, pauses: Vec<u8>) {
        self.watch.lock().unwrap().pauses = pauses;
    }

    /// How many writes were tried.
    pub(super) fn writes(&self) -> u64 {
        self.watch.lock().unwrap().writes
    }

    /// How many writes changed a row.
    pub(super) fn applied(&self) -> u64 {
        self.watch.lock().unwrap().applied
    }

    /// The version of a row, 0 where there is none.
    pub(super) fn version(&self, stream: &StreamId) -> u64 {
        self.watch.lock().unwrap().newest.get(stream).copied().unwrap_or(0)
    }

    /// Fails unless every row is the fold of its whole history, and no other row exists.
    pub(super) async fn assert_converged(&self) {
        let (histories, newest) = {
            let watch = self.watch.lock().unwrap();
            (watch.histories.clone(), watch.newest.clone())
        };
        assert!(newest.keys().all(|stream| histories.contains_key(stream)), "no row without a history");
        assert_rows(&self.spec, &self.rows, histories.values().map(Vec::as_slice)).await;
    }

    async fn give_way(&self) {
        let pauses = self.watch.lock().unwrap().pauses.pop().unwrap_or(0);
        for _ in 0..pauses {
            tokio::task::yield_now().await;
        }
    }
}

/// Fails unless the rows are exactly the folds of these histories.
pub(super) async fn assert_rows<'a>(
    spec: &ProjectionSpec,
    rows: &MemoryRows,
    histories: impl IntoIterator<Item = &'a [StoredEvent]> + Clone,
) {
    for history in histories.clone() {
        let stream = history[0].envelope.stream();
        assert_eq!(rows.applied_version(&stream).await.unwrap(), history.len() as u64, "{stream}");
    }
    let mut found: BTreeMap<_, _> = rows
        .all()
        .into_iter()
        .map(|row| (row.key.clone(), (row.version, row.attributes, row.provenance)))
        .collect();
    match spec.kind {
        ProjectionKind::Aggregating(_) => {
            let found: BTreeMap<_, _> = found
                .into_iter()
                .filter(|(_, (_, attributes, _))| !attributes.is_empty())
                .map(|(key, (_, attributes, _))| (key, attributes))
                .collect();
            assert_eq!(found, group_rows(histories));
        }
        ProjectionKind::Blind | ProjectionKind::Fold => {
            for history in histories {
                let newest = &history.last().unwrap().envelope;
                let expected = (newest.version, states(spec, history).pop().unwrap(), Some(made_by(newest)));
                let stream = newest.stream();
                assert_eq!(found.remove(&key(&stream)), Some(expected), "{stream}");
            }
            assert!(found.is_empty(), "no other row: {found:?}");
        }
    }
}

/// The key of a counter's own row.
pub(super) fn key(stream: &StreamId) -> RowKey {
    RowKey { tenant: stream.tenant.clone(), id: stream.id.to_string() }
}

impl WriteRows for Watched {
    async fn write(&self, update: &RowUpdate) -> Result<WriteOutcome, WriteError> {
        let stream = update.stream.clone();
        let failing = {
            let mut watch = self.watch.lock().unwrap();
            watch.writes += 1;
            let fails = watch.failing_row.as_ref().is_none_or(|failing| *failing == stream);
            watch.failing.clone().filter(|_| fails)
        };
        self.give_way().await;
        if let Some(error) = failing {
            return Err(error.into());
        }
        let outcome = self.rows.write(update).await?;
        if outcome == WriteOutcome::Applied {
            let version = self.rows.applied_version(&stream).await.unwrap();
            let row = self.rows.get(&update.key).await.unwrap();
            let mut watch = self.watch.lock().unwrap();
            watch.applied += 1;
            if let Some(history) = watch.histories.get(&stream)
                && let Some(expected) = states(&self.spec, history).get(usize::try_from(version).unwrap() - 1)
            {
                assert_eq!(&row.unwrap().attributes, expected, "a state that the history had");
            }
            let before = watch.newest.insert(stream, version).unwrap_or(0);
            assert!(before < version, "from version {before} back to {version}");
        }
        self.give_way().await;
        Ok(outcome)
    }
}
