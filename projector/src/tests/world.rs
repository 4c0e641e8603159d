//! What the tests of this crate are made of: histories, messages, and rows that are watched.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use millrace_aws::AwsError;
use millrace_domain::{
    Aggregate, CommandDigest, CommandId, Decision, Email, EventId, Label, Money, OrderId, Recorded, Root,
    StreamId, TenantId, Timestamp, UserId,
    order::{Basket, Order, OrderCommand, OrderEvent, OrderItem, OrderStatus},
    user::{User, UserCommand, UserEvent},
};
use millrace_event_store::{AppendEvents, Commit, MemoryStore, StoredEvent};
use millrace_proto::{Envelope, codec::EventCodec};
use millrace_read_models::{
    Change, MemoryOrders, MemoryUsers, OrderRow, Provenance, ReadOrders, ReadUsers, UserRow, WriteRows,
    Written,
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    Orders, Projection, Projector, Users,
    queue::{Message, Receipt, Rules},
};

/// The time at which rows are written.
pub(super) fn noon() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

/// The rules of every queue.
pub(super) const RULES: Rules = Rules { visibility: Duration::from_secs(30), max_receives: 20 };

/// Polls until a fact holds; a test that waits in vain runs into this limit.
pub(super) async fn eventually(fact: impl Fn() -> bool) {
    let patience = Duration::from_secs(24 * 60 * 60);
    let met = tokio::time::timeout(patience, async {
        while !fact() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    met.await.expect("the fact to hold in the end");
}

/// A projection with what a test must know of it.
pub(super) trait Known: Projection<Event = <Self::Of as Aggregate>::Event, Change: PartialEq> {
    /// The aggregate.
    type Of: Aggregate<Event: EventCodec>;
    /// The rows, in memory.
    type Rows: WriteRows<Self::Change> + Default;
    /// A row.
    type Row: Clone + PartialEq + std::fmt::Debug + Send;

    /// The row of a stream.
    fn row(rows: &Self::Rows, stream: &StreamId) -> impl Future<Output = Option<Self::Row>> + Send;

    /// The row after one more event, written down once more and in the simplest way.
    fn fold(row: Option<Self::Row>, event: &StoredEvent) -> Self::Row;

    /// The version of a row.
    fn version(row: &Self::Row) -> u64;
}

fn event<E: EventCodec>(stored: &StoredEvent) -> E {
    let envelope = &stored.envelope;
    let data = envelope.event_data.as_ref().unwrap();
    E::decode(&envelope.event_type, envelope.schema_version, data).unwrap()
}

/// What an event came of, as its row is to say it.
fn made_by(envelope: &Envelope) -> Provenance {
    Provenance {
        event_id: envelope.event_id,
        correlation_id: envelope.correlation_id.clone(),
        causation_id: envelope.causation_id.clone(),
        trace_parent: envelope.trace_parent.clone(),
    }
}

impl Known for Users {
    type Of = User;
    type Rows = MemoryUsers;
    type Row = UserRow;

    async fn row(rows: &MemoryUsers, stream: &StreamId) -> Option<UserRow> {
        rows.get(&stream.tenant, UserId(stream.id)).await.unwrap()
    }

    fn fold(row: Option<UserRow>, stored: &StoredEvent) -> UserRow {
        let envelope = &stored.envelope;
        let mut row = match (row, event(stored)) {
            (None, UserEvent::UserCreated { user_id, email, name, created_at }) => UserRow {
                tenant: envelope.tenant_id.clone(),
                user_id,
                email,
                name,
                created_at,
                updated_at: created_at,
                version: 0,
                provenance: None,
            },
            (Some(row), UserEvent::UserProfileUpdated { email, name, updated_at, .. }) => UserRow {
                email: email.unwrap_or(row.email),
                name: name.unwrap_or(row.name),
                updated_at,
                ..row
            },
            (row, event) => panic!("{event:?} on {row:?}"),
        };
        row.version = envelope.version;
        row.provenance = Some(made_by(envelope));
        row
    }

    fn version(row: &UserRow) -> u64 {
        row.version
    }
}

impl Known for Orders {
    type Of = Order;
    type Rows = MemoryOrders;
    type Row = OrderRow;

    async fn row(rows: &MemoryOrders, stream: &StreamId) -> Option<OrderRow> {
        rows.get(&stream.tenant, OrderId(stream.id)).await.unwrap()
    }

    fn fold(row: Option<OrderRow>, stored: &StoredEvent) -> OrderRow {
        let envelope = &stored.envelope;
        let mut row = match (row, event(stored)) {
            (None, OrderEvent::OrderCreated { order_id, user_id, basket, created_at }) => OrderRow {
                tenant: envelope.tenant_id.clone(),
                order_id,
                user_id,
                basket,
                status: OrderStatus::Created,
                created_at,
                updated_at: created_at,
                version: 0,
                provenance: None,
            },
            (Some(row), OrderEvent::OrderStatusUpdated { status, updated_at, .. }) => {
                OrderRow { status, updated_at, ..row }
            }
            (row, event) => panic!("{event:?} on {row:?}"),
        };
        row.version = envelope.version;
        row.provenance = Some(made_by(envelope));
        row
    }

    fn version(row: &OrderRow) -> u64 {
        row.version
    }
}

/// Sends commands to an aggregate as the command service would, and stores what comes of them. The events are a second
/// apart, and the first one was a minute before noon; every other one has a trace.
pub(super) async fn history<A: Aggregate<Event: EventCodec>>(
    store: &MemoryStore,
    stream: &StreamId,
    commands: &[A::Command],
) -> Vec<StoredEvent> {
    let mut root = Root::<A>::default();
    let mut stored = Vec::new();
    for (n, command) in commands.iter().enumerate() {
        let at = Timestamp::from_unix_micros(
            noon().unix_micros() - 60_000_000 + i64::try_from(n).unwrap() * 1_000_000,
        );
        let command_id: CommandId = format!("command-{n}").parse().unwrap();
        let digest = CommandDigest(1);
        let Ok(Decision::Append(events)) = root.decide(&command_id, digest, None, command, at) else {
            continue;
        };
        for event in events {
            let encoded = event.encode();
            let recorded = Recorded {
                version: root.version() + 1,
                event_id: EventId(Uuid::from_u128(stream.id.as_u128() << 64 | u128::from(root.version()))),
                command_id: command_id.clone(),
                command_digest: digest,
                event,
            };
            let envelope = Envelope {
                event_id: recorded.event_id,
                tenant_id: stream.tenant.clone(),
                aggregate_type: stream.aggregate_type.clone(),
                aggregate_id: stream.id,
                version: recorded.version,
                event_type: encoded.event_type.to_owned(),
                schema_version: encoded.schema_version,
                timestamp: at,
                event_data: Some(encoded.data),
                command_id: command_id.clone(),
                correlation_id: format!("correlation-{n}").parse().unwrap(),
                causation_id: format!("causation-{n}").parse().unwrap(),
                trace_parent: n.is_multiple_of(2).then(|| TRACE_PARENT.to_owned()),
            };
            let event = StoredEvent { envelope, command_digest: digest };
            let commit = Commit { events: vec![event.clone()], claims: vec![], releases: vec![] };
            store.append(&commit).await.unwrap();
            stored.push(event);
            root = root.apply(&recorded).unwrap();
        }
    }
    stored
}

/// The trace that events belong to.
pub(super) const TRACE_PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A stream of the tenant `acme`.
pub(super) fn stream_of<P: Known>(id: u128) -> StreamId {
    stream_for::<P>("acme", id)
}

/// A stream of a tenant.
pub(super) fn stream_for<P: Known>(tenant: &str, id: u128) -> StreamId {
    let tenant: TenantId = tenant.parse().unwrap();
    StreamId { tenant, aggregate_type: P::AGGREGATE, id: Uuid::from_u128(id) }
}

pub(super) fn email(text: &str) -> Email {
    Email::try_from(text.to_owned()).unwrap()
}

pub(super) fn name(text: &str) -> Label {
    Label::try_from(text.to_owned()).unwrap()
}

pub(super) fn create_user(stream: &StreamId) -> UserCommand {
    UserCommand::CreateUser {
        user_id: UserId(stream.id),
        email: email("john@example.com"),
        name: name("John"),
    }
}

pub(super) fn rename(to: &str) -> UserCommand {
    UserCommand::UpdateUserProfile { email: None, name: Some(name(to)) }
}

pub(super) fn create_order(stream: &StreamId, pieces: i32) -> OrderCommand {
    let price = Money::new("USD".parse().unwrap(), 999, 990_000_000).unwrap();
    let item = OrderItem { product: name("laptop"), quantity: pieces.try_into().unwrap(), price };
    OrderCommand::CreateOrder {
        order_id: OrderId(stream.id),
        user_id: UserId(Uuid::from_u128(7)),
        basket: Basket::new(vec![item]).unwrap(),
    }
}

/// A user with so many events, the first one its creation.
pub(super) async fn user_with(store: &MemoryStore, id: u128, events: usize) -> Vec<StoredEvent> {
    let stream = stream_of::<Users>(id);
    let renames = (1..events).map(|n| rename(&format!("name {n}")));
    let commands: Vec<_> = std::iter::once(create_user(&stream)).chain(renames).collect();
    history::<User>(store, &stream, &commands).await
}

/// What the bus makes of an event.
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
    Message { id: "id".to_owned(), receipt: Receipt("receipt".into()), body, attempts: 1 }
}

/// Rows that check each write: a row never goes back, and never shows what its history did not have.
pub(super) struct Watched<P: Known> {
    pub(super) rows: P::Rows,
    watch: Arc<Mutex<Watch<P>>>,
}

struct Watch<P: Known> {
    /// The rows that each stream's history had, by version from 1 on. Streams without one are not checked.
    had: HashMap<StreamId, Vec<P::Row>>,
    newest: HashMap<StreamId, u64>,
    applied: u64,
    writes: u64,
    failing: Option<AwsError>,
    failing_row: Option<StreamId>,
    pauses: Vec<u8>,
}

impl<P: Known> Clone for Watched<P> {
    fn clone(&self) -> Self {
        Self { rows: self.rows.clone(), watch: Arc::clone(&self.watch) }
    }
}

impl<P: Known> Default for Watched<P> {
    fn default() -> Self {
        let watch = Watch {
            had: HashMap::new(),
            newest: HashMap::new(),
            applied: 0,
            writes: 0,
            failing: None,
            failing_row: None,
            pauses: Vec::new(),
        };
        Self { rows: P::Rows::default(), watch: Arc::new(Mutex::new(watch)) }
    }
}

impl<P: Known> Watched<P> {
    /// A projector into these rows.
    pub(super) fn projector(&self, store: &MemoryStore) -> Projector<P, Self, MemoryStore> {
        Projector::new(self.clone(), store.clone(), noon)
    }

    /// Makes known which states a stream had.
    pub(super) fn expect(&self, history: &[StoredEvent]) {
        let mut rows: Vec<P::Row> = Vec::new();
        for event in history {
            rows.push(P::fold(rows.last().cloned(), event));
        }
        if let Some(first) = history.first() {
            self.watch.lock().unwrap().had.insert(first.envelope.stream(), rows);
        }
    }

    /// Lets every write fail, or none.
    pub(super) fn fail(&self, failing: Option<AwsError>) {
        let mut watch = self.watch.lock().unwrap();
        watch.failing = failing;
        watch.failing_row = None;
    }

    /// Lets the writes of one row fail.
    pub(super) fn fail_row(&self, stream: &StreamId, error: AwsError) {
        let mut watch = self.watch.lock().unwrap();
        watch.failing = Some(error);
        watch.failing_row = Some(stream.clone());
    }

    /// Makes writes give way to others, each as often as the next of these says.
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

    /// Fails unless every row is what its whole history comes to, and there is no other.
    #[track_caller]
    pub(super) fn assert_converged(&self) -> impl Future<Output = ()> {
        let (had, newest) = {
            let watch = self.watch.lock().unwrap();
            (watch.had.clone(), watch.newest.clone())
        };
        let rows = self.rows.clone();
        async move {
            for (stream, states) in &had {
                assert_eq!(P::row(&rows, stream).await.as_ref(), states.last(), "{stream}");
            }
            assert!(newest.keys().all(|stream| had.contains_key(stream)), "no row without a history");
        }
    }

    async fn give_way(&self) {
        let pauses = self.watch.lock().unwrap().pauses.pop().unwrap_or(0);
        for _ in 0..pauses {
            tokio::task::yield_now().await;
        }
    }
}

impl<P: Known> WriteRows<P::Change> for Watched<P> {
    async fn write(&self, change: &P::Change) -> Result<Written, AwsError> {
        let failing = {
            let mut watch = self.watch.lock().unwrap();
            watch.writes += 1;
            let fails = watch.failing_row.as_ref().is_none_or(|stream| *stream == change.stream());
            watch.failing.clone().filter(|_| fails)
        };
        self.give_way().await;
        if let Some(error) = failing {
            return Err(error);
        }
        let written = self.rows.write(change).await?;
        if written == Written::Applied {
            let stream = change.stream();
            let row = P::row(&self.rows, &stream).await.expect("the row that was written");
            let mut watch = self.watch.lock().unwrap();
            watch.applied += 1;
            if let Some(had) = watch.had.get(&stream) {
                let version = usize::try_from(P::version(&row)).unwrap();
                assert_eq!(Some(&row), had.get(version - 1), "a state that the history had");
            }
            let before = watch.newest.insert(stream, P::version(&row)).unwrap_or(0);
            assert!(before < P::version(&row), "from version {before} back to {}", P::version(&row));
        }
        self.give_way().await;
        Ok(written)
    }
}
