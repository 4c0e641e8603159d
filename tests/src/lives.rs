//! The events of users and orders, made without a command: a row's version determines its content.

use millrace_core::{CommandDigest, Envelope, StreamId, Timestamp};
use millrace_event_store::StoredEvent;
use millrace_testing::recorded;
use shop::{
    Email, Label, Money, UserId,
    order::{Basket, OrderCreated, OrderEvent, OrderItem, OrderStatus, OrderStatusUpdated},
    user::{UserCreated, UserEvent, UserProfileUpdated},
};
use uuid::Uuid;

/// The statuses of an order's life; an order has no more versions than these. Every third one is cancelled.
pub fn life(order: &StreamId) -> &'static [OrderStatus] {
    use OrderStatus::{Cancelled, Created, Delivered, Processing, Returned, Shipped};
    if order.id.as_u128().is_multiple_of(3) {
        &[Created, Processing, Cancelled]
    } else {
        &[Created, Processing, Shipped, Delivered, Returned]
    }
}

/// The buyer of an order: one of two.
pub fn buyer(order: &StreamId) -> UserId {
    UserId(Uuid::from_u128(order.id.as_u128() % 2 + 1))
}

/// A user's name at a version.
pub fn name(version: u64) -> Label {
    Label::try_from(format!("Ann {version}")).unwrap()
}

/// The event of a user's version.
pub fn user_event(stream: &StreamId, version: u64, at: Timestamp) -> StoredEvent {
    let event = if version == 1 {
        let email = Email::try_from(format!("{}@example.com", stream.id)).unwrap();
        UserEvent::UserCreated(UserCreated { email, name: name(1) })
    } else {
        UserEvent::UserProfileUpdated(UserProfileUpdated { email: None, name: Some(name(version)) })
    };
    stored(recorded(stream, version, at, &event))
}

/// The event of an order's version.
pub fn order_event(stream: &StreamId, version: u64, at: Timestamp) -> StoredEvent {
    let status = life(stream)[usize::try_from(version).unwrap() - 1];
    let event = if version == 1 {
        let price = Money::new("USD".parse().unwrap(), 999, 990_000_000).unwrap();
        let item = OrderItem { product: name(1), quantity: 1.try_into().unwrap(), price };
        let basket = Basket::new(vec![item]).unwrap();
        OrderEvent::OrderCreated(OrderCreated { user_id: buyer(stream), basket })
    } else {
        OrderEvent::OrderStatusUpdated(OrderStatusUpdated { status })
    };
    stored(recorded(stream, version, at, &event))
}

/// An event in the store, of a command of its own.
pub fn stored(envelope: Envelope) -> StoredEvent {
    StoredEvent { envelope, command_digest: CommandDigest(1) }
}
