//! The lives of users and orders, told without a command: a row's version says what the row must show.

#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

use millrace_domain::{
    CommandDigest, Email, EventId, Label, Money, OrderId, StreamId, Timestamp, UserId,
    order::{Basket, OrderEvent, OrderItem, OrderStatus},
    user::UserEvent,
};
use millrace_event_store::StoredEvent;
use millrace_proto::{Envelope, codec::EventCodec};
use uuid::Uuid;

/// The statuses of an order's life; an order has no more versions than these.
pub const LIFE: [OrderStatus; 5] = [
    OrderStatus::Created,
    OrderStatus::Processing,
    OrderStatus::Shipped,
    OrderStatus::Delivered,
    OrderStatus::Returned,
];

/// A user's name at a version.
pub fn name(version: u64) -> Label {
    Label::try_from(format!("Ann {version}")).unwrap()
}

/// The event of a user's version.
pub fn user_event(stream: &StreamId, version: u64, at: Timestamp) -> StoredEvent {
    let user_id = UserId(stream.id);
    let event = if version == 1 {
        let email = Email::try_from(format!("{}@example.com", stream.id)).unwrap();
        UserEvent::UserCreated { user_id, email, name: name(1), created_at: at }
    } else {
        UserEvent::UserProfileUpdated { user_id, email: None, name: Some(name(version)), updated_at: at }
    };
    stored(stream, version, at, &event)
}

/// The event of an order's version.
pub fn order_event(stream: &StreamId, version: u64, at: Timestamp) -> StoredEvent {
    let order_id = OrderId(stream.id);
    let status = LIFE[usize::try_from(version).unwrap() - 1];
    let event = if version == 1 {
        let price = Money::new("USD".parse().unwrap(), 999, 990_000_000).unwrap();
        let item = OrderItem { product: name(1), quantity: 1.try_into().unwrap(), price };
        let basket = Basket::new(vec![item]).unwrap();
        OrderEvent::OrderCreated { order_id, user_id: UserId(Uuid::from_u128(1)), basket, created_at: at }
    } else {
        OrderEvent::OrderStatusUpdated { order_id, status, updated_at: at }
    };
    stored(stream, version, at, &event)
}

fn stored<E: EventCodec>(stream: &StreamId, version: u64, at: Timestamp, event: &E) -> StoredEvent {
    let encoded = event.encode();
    let id = || format!("command-{version}").parse().unwrap();
    let envelope = Envelope {
        event_id: EventId(Uuid::new_v5(&stream.id, &version.to_be_bytes())),
        tenant_id: stream.tenant.clone(),
        aggregate_type: stream.aggregate_type.clone(),
        aggregate_id: stream.id,
        version,
        event_type: encoded.event_type.to_owned(),
        schema_version: encoded.schema_version,
        timestamp: at,
        event_data: Some(encoded.data),
        command_id: id(),
        correlation_id: id(),
        causation_id: id(),
        trace_parent: None,
    };
    StoredEvent { envelope, command_digest: CommandDigest(1) }
}
