//! Streams of events for queries about the past.

use millrace_core::{
    Aggregate as _, CommandDigest, CommandId, Envelope, EventCodec, EventId, StreamId, TenantId,
};
use millrace_event_store::{AppendError, AppendEvents as _, Commit, StoredEvent};
use millrace_proto::query::{GetHistoryRequest, RecordedEvent, recorded_event::Payload};
use shop::{
    Email, Label,
    order::{Basket, Order, OrderCreated, OrderEvent, OrderStatus, OrderStatusUpdated},
    user::{User, UserCreated, UserEvent, UserProfileUpdated},
};
use uuid::Uuid;

use crate::support::{World, at, order_id, user_id};

/// A user's stream.
pub(crate) fn user(id: u128) -> StreamId {
    StreamId { tenant: TenantId::default(), aggregate_type: User::TYPE, id: user_id(id).0 }
}

/// An order's stream.
pub(crate) fn order(id: u128) -> StreamId {
    StreamId { tenant: TenantId::default(), aggregate_type: Order::TYPE, id: order_id(id).0 }
}

/// Asks for the history of an aggregate.
pub(crate) fn of(stream: &StreamId) -> GetHistoryRequest {
    let (aggregate_type, aggregate_id) = (stream.aggregate_type.to_string(), stream.id.to_string());
    GetHistoryRequest { aggregate_type, aggregate_id, ..Default::default() }
}

/// The event that creates a user with an address.
pub(crate) fn created_as(email: &str) -> UserEvent {
    UserEvent::UserCreated(UserCreated {
        email: Email::try_from(email.to_owned()).unwrap(),
        name: Label::try_from("John Doe".to_owned()).unwrap(),
    })
}

/// The event that creates a user.
pub(crate) fn created(stream: &StreamId, micros: i64) -> StoredEvent {
    stored(stream, 1, micros, &created_as("john@example.com"))
}

/// The event that gives a user another name.
pub(crate) fn renamed(stream: &StreamId, version: u64, micros: i64) -> StoredEvent {
    let name = Some(Label::try_from(format!("John {version}")).unwrap());
    let event = UserEvent::UserProfileUpdated(UserProfileUpdated { email: None, name });
    stored(stream, version, micros, &event)
}

/// The event by which a user places an order.
pub(crate) fn placed_by(buyer: u128, basket: Basket) -> OrderEvent {
    OrderEvent::OrderCreated(OrderCreated { user_id: user_id(buyer), basket })
}

/// The event that places an order.
pub(crate) fn placed(stream: &StreamId, micros: i64, basket: Basket) -> StoredEvent {
    stored(stream, 1, micros, &placed_by(1, basket))
}

/// The event that moves an order to another status.
pub(crate) fn moved(stream: &StreamId, version: u64, micros: i64, status: OrderStatus) -> StoredEvent {
    let event = OrderEvent::OrderStatusUpdated(OrderStatusUpdated { status });
    stored(stream, version, micros, &event)
}

/// An event as the command service would have stored it.
pub(crate) fn stored(stream: &StreamId, version: u64, micros: i64, event: &impl EventCodec) -> StoredEvent {
    let encoded = event.encode();
    let id = |what: &str| format!("{what}-{version}").parse::<CommandId>().unwrap();
    let envelope = Envelope {
        event_id: EventId(Uuid::new_v4()),
        tenant_id: stream.tenant.clone(),
        aggregate_type: stream.aggregate_type.clone(),
        aggregate_id: stream.id,
        version,
        event_type: encoded.event_type.to_owned(),
        schema_version: encoded.schema_version,
        timestamp: at(micros),
        event_data: Some(encoded.data),
        command_id: id("command"),
        correlation_id: id("correlation"),
        causation_id: id("causation"),
        trace_parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    };
    StoredEvent { envelope, command_digest: CommandDigest(version.into()) }
}

impl World {
    pub(crate) async fn append(&self, event: StoredEvent) {
        self.try_append(event).await.unwrap();
    }

    /// Appends an event, unless there is one of its version.
    pub(crate) async fn try_append(&self, event: StoredEvent) -> Result<(), AppendError> {
        self.events.append(&Commit { events: vec![event], claims: vec![], releases: vec![] }).await
    }

    /// A user with so many events, one a microsecond.
    pub(crate) async fn history(&self, stream: &StreamId, length: u64) {
        self.append(created(stream, 1)).await;
        for version in 2..=length {
            self.append(renamed(stream, version, i64::try_from(version).unwrap())).await;
        }
    }
}

pub(crate) fn versions(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.version).collect()
}

/// The payload of a readable event, which is a message of this name.
pub(crate) fn payload<M: prost::Message + Default>(event: &RecordedEvent, name: &str) -> M {
    let Some(Payload::Event(any)) = &event.payload else { unreachable!("{event:?}") };
    assert_eq!(any.type_url, format!("type.googleapis.com/{name}"));
    M::decode(&*any.value).unwrap()
}

/// Whether the payload of an event is a message of this name.
pub(crate) fn is_payload(event: &RecordedEvent, name: &str) -> bool {
    let type_url = format!("type.googleapis.com/{name}");
    matches!(&event.payload, Some(Payload::Event(any)) if any.type_url == type_url)
}
