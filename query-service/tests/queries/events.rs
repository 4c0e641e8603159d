//! Streams of events for questions about the past.

use millrace_domain::{
    Aggregate as _, CommandDigest, CommandId, Email, EventId, Label, StreamId, TenantId,
    order::{Basket, Order, OrderEvent, OrderStatus},
    user::{User, UserEvent},
};
use millrace_event_store::{AppendError, AppendEvents as _, Commit, StoredEvent};
use millrace_proto::{
    Envelope,
    codec::EventCodec,
    query::{RecordedEvent, get_history_request::Aggregate},
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

pub(crate) fn of_user(id: u128) -> Aggregate {
    Aggregate::UserId(user_id(id).to_string())
}

pub(crate) fn of_order(id: u128) -> Aggregate {
    Aggregate::OrderId(order_id(id).to_string())
}

/// The event that creates a user.
pub(crate) fn created(stream: &StreamId, micros: i64) -> StoredEvent {
    let event = UserEvent::UserCreated {
        user_id: millrace_domain::UserId(stream.id),
        email: Email::try_from("john@example.com".to_owned()).unwrap(),
        name: Label::try_from("John Doe".to_owned()).unwrap(),
        created_at: at(micros),
    };
    stored(stream, 1, micros, &event)
}

/// The event that gives a user another name.
pub(crate) fn renamed(stream: &StreamId, version: u64, micros: i64) -> StoredEvent {
    let event = UserEvent::UserProfileUpdated {
        user_id: millrace_domain::UserId(stream.id),
        email: None,
        name: Some(Label::try_from(format!("John {version}")).unwrap()),
        updated_at: at(micros),
    };
    stored(stream, version, micros, &event)
}

/// The event that places an order.
pub(crate) fn placed(stream: &StreamId, micros: i64, basket: Basket) -> StoredEvent {
    let event = OrderEvent::OrderCreated {
        order_id: millrace_domain::OrderId(stream.id),
        user_id: user_id(1),
        basket,
        created_at: at(micros),
    };
    stored(stream, 1, micros, &event)
}

/// The event that moves an order to another status.
pub(crate) fn moved(stream: &StreamId, version: u64, micros: i64, status: OrderStatus) -> StoredEvent {
    let event = OrderEvent::OrderStatusUpdated {
        order_id: millrace_domain::OrderId(stream.id),
        status,
        updated_at: at(micros),
    };
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
