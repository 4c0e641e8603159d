//! The example application: users, orders, and the spending of customers.
//!
//! One module an aggregate: its commands, events, state and rules, and beside them its contract ([`order::contract`]) and
//! its rows ([`order::summary`]). [`shop`] registers all of it, once.

pub mod contracts;
pub mod customer;
pub mod money;
pub mod order;
pub mod text;
pub mod user;

pub use customer::CustomerTotals;
use millrace_core::{Application, RegistrationError, uuid_id};
pub use money::{Currency, Money};
pub use order::summary::OrderSummary;
pub use text::{Email, Label};
pub use user::profile::UserProfile;

uuid_id! {
    /// A user.
    pub struct UserId;
}

uuid_id! {
    /// An order.
    pub struct OrderId;
}

/// The registration: everything else is derived from here.
///
/// # Errors
/// Where parts of it contradict each other.
pub fn shop() -> Result<Application, RegistrationError> {
    Application::new("shop")
        .aggregate::<user::User>()
        .aggregate::<order::Order>()
        .projection::<UserProfile>()
        .projection::<OrderSummary>()
        .aggregating_projection::<CustomerTotals>()
        .build()
}

#[cfg(test)]
mod tests {
    use millrace_core::Envelope;
    use millrace_testing::{aggregate_id, convergence::assert_converges, history, stream_of};
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::{
        order::{Basket, Order, OrderCreated, OrderEvent, OrderItem, OrderStatus, OrderStatusUpdated},
        user::{User, UserCreated, UserEvent, UserProfileUpdated},
    };

    fn renamed(name: &str) -> UserEvent {
        let name = Some(name.to_owned().try_into().unwrap());
        UserEvent::UserProfileUpdated(UserProfileUpdated { email: None, name })
    }

    fn order(number: u128, user: u128, statuses: &[OrderStatus]) -> Vec<Envelope> {
        let item = OrderItem {
            product: "laptop".to_owned().try_into().unwrap(),
            quantity: 1.try_into().unwrap(),
            price: Money::new("USD".parse().unwrap(), 999, 0).unwrap(),
        };
        let basket = Basket::new(vec![item]).unwrap();
        let created = OrderEvent::OrderCreated(OrderCreated { user_id: aggregate_id(user), basket });
        let moved =
            |status: &OrderStatus| OrderEvent::OrderStatusUpdated(OrderStatusUpdated { status: *status });
        let events: Vec<_> = std::iter::once(created).chain(statuses.iter().map(moved)).collect();
        history(&stream_of::<Order>(number), &events)
    }

    /// Each event at least once.
    fn events() -> Vec<Envelope> {
        use OrderStatus::{Cancelled, Delivered, Processing, Returned, Shipped};
        let (email, name) = ("john@example.com".to_owned(), "John".to_owned());
        let created = UserCreated { email: email.try_into().unwrap(), name: name.try_into().unwrap() };
        let user = [UserEvent::UserCreated(created), renamed("Jack"), renamed("Jane")];
        [
            history(&stream_of::<User>(1), &user),
            order(1, 1, &[Processing, Shipped, Delivered, Returned]),
            order(2, 1, &[Cancelled]),
            order(3, 2, &[Processing, Cancelled]),
            order(4, 2, &[]),
        ]
        .concat()
    }

    #[test]
    fn rows_are_the_fold_of_all_events_whatever_is_delivered() {
        assert_converges(&shop().unwrap(), &events(), 0..100);
    }

    /// Clients decode history by the names of its messages.
    #[test]
    fn every_event_is_a_message_of_the_contracts() {
        let contracts = FileDescriptorSet::decode(contracts::DESCRIPTORS).unwrap();
        let messages = contracts.file.iter().flat_map(|file| {
            file.message_type.iter().map(move |message| format!("{}.{}", file.package(), message.name()))
        });
        let messages: Vec<_> = messages.collect();
        let shop = shop().unwrap();
        for Envelope { event_type, schema_version, event_data, .. } in events() {
            let aggregate = shop.aggregate_of_event(&event_type).unwrap();
            let message = (aggregate.message)(&event_type, schema_version, &event_data.unwrap()).unwrap();
            assert!(messages.contains(&message.name), "{} is none of {messages:?}", message.name);
        }
    }
}
