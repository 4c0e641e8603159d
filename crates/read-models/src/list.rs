//! Lists of orders.

use millrace_domain::{OrderId, TenantId, Timestamp, UserId, order::OrderStatus};
use uuid::Uuid;

use crate::{OrderRow, Position};

/// The most index entries that one part of a user's list looks at for those in a status. What is looked at is charged,
/// be it in the status or not.
pub const MOST_EXAMINED: u16 = 500;

/// A list of orders of one tenant, newest first by [`Position`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderList {
    /// Whose orders they are.
    pub tenant: TenantId,
    /// Which of them.
    pub among: Among,
    /// When they were placed.
    pub created: Times,
}

/// Which orders of a tenant a list holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// Those of a user; of these, those in a status where one is given.
    User {
        /// The user.
        user_id: UserId,
        /// The status.
        status: Option<OrderStatus>,
    },
    /// Those in a status.
    Status(OrderStatus),
}

/// A range of times, without bounds where none are given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// Where it starts: this time belongs to it.
    pub since: Option<Timestamp>,
    /// Where it ends: this time does not belong to it.
    pub before: Option<Timestamp>,
}

impl Times {
    /// Whether a time belongs to the range.
    pub fn hold(&self, time: Timestamp) -> bool {
        self.since.is_none_or(|since| since <= time) && self.before.is_none_or(|before| time < before)
    }
}

impl OrderList {
    /// Whether an order is on the list.
    pub fn holds(&self, row: &OrderRow) -> bool {
        let among = match self.among {
            Among::User { user_id, status } => {
                row.user_id == user_id && status.is_none_or(|status| row.status == status)
            }
            Among::Status(status) => row.status == status,
        };
        among && row.tenant == self.tenant && self.created.hold(row.created_at)
    }

    /// The places that the list goes on with below `before`, as texts: it holds nothing outside of them. `None` where
    /// there are none.
    pub(crate) fn places(&self, before: Option<&Position>) -> Option<Places> {
        // No position's text is a time alone, and all positions of that time come after it.
        let from = self.created.since.map(|since| since.to_string());
        let end = self.created.before.map(|end| end.to_string());
        let below = before.map(Position::below);
        let to = match (end, below) {
            (Some(end), Some(below)) => Some(end.min(below)),
            (end, below) => end.or(below),
        };
        match (&from, &to) {
            (Some(from), Some(to)) if from >= to => None,
            _ => Some(Places { from, to }),
        }
    }
}

/// A range of places in an index, as texts, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) from: Option<String>,
    pub(crate) to: Option<String>,
}

impl Position {
    /// A text that comes after those of all smaller positions, and before this one's.
    fn below(&self) -> String {
        match self.order_id.0.as_u128().checked_sub(1) {
            Some(id) => Self { order_id: OrderId(Uuid::from_u128(id)), ..*self }.to_string(),
            None => self.created_at.to_string(),
        }
    }
}

/// Part of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListPart {
    /// Its orders, newest first: all that the index showed between the place from which the list was read and `end`.
    pub rows: Vec<OrderRow>,
    /// How far the list was read: to this place, which was seen itself. `None` where that is its end.
    pub end: Option<Position>,
}

#[cfg(test)]
pub(crate) mod tests {
    use millrace_domain::{
        Money,
        order::{Basket, OrderItem},
    };
    use proptest::{option, prelude::*, sample::select};

    use super::*;

    /// A narrow range, so that many are equal, with the ends of what an id can be.
    fn any_position() -> impl Strategy<Value = Position> {
        let ids = vec![0, 1, 2, u128::MAX / 2, u128::MAX - 1, u128::MAX];
        let ids = prop_oneof![select(ids), any::<u128>()];
        (0..4_i64, ids)
            .prop_map(|(time, id)| Position { created_at: at(time), order_id: OrderId(Uuid::from_u128(id)) })
    }

    pub(crate) fn at(microseconds: i64) -> Timestamp {
        Timestamp::from_unix_micros(1_767_225_600_000_000 + microseconds)
    }

    /// An order at a place.
    pub(crate) fn row(position: &Position) -> OrderRow {
        let item = OrderItem {
            product: "laptop".to_owned().try_into().unwrap(),
            quantity: 1.try_into().unwrap(),
            price: Money::new("USD".parse().unwrap(), 1, 0).unwrap(),
        };
        OrderRow {
            tenant: TenantId::default(),
            order_id: position.order_id,
            user_id: UserId(Uuid::nil()),
            basket: Basket::new(vec![item]).unwrap(),
            status: OrderStatus::Created,
            created_at: position.created_at,
            updated_at: position.created_at,
            version: 1,
            provenance: None,
        }
    }

    proptest! {
        #[test]
        fn the_places_of_a_list_are_those_of_its_orders(
            position in any_position(),
            since in option::of(0..5_i64),
            end in option::of(0..5_i64),
            before in option::of(any_position()),
        ) {
            let list = OrderList {
                tenant: TenantId::default(),
                among: Among::Status(OrderStatus::Created),
                created: Times { since: since.map(at), before: end.map(at) },
            };
            let held = list.holds(&row(&position)) && before.is_none_or(|before| position < before);
            let text = position.to_string();
            let within = list.places(before.as_ref()).is_some_and(|places| {
                places.from.is_none_or(|from| from <= text) && places.to.is_none_or(|to| text <= to)
            });
            prop_assert_eq!(within, held);
        }
    }
}
