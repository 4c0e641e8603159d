//! Order summaries.

use std::{fmt, str::FromStr};

use millrace_aws::AwsError;
use millrace_domain::{
    Aggregate, Invalid, OrderId, StreamId, TenantId, Timestamp, UserId,
    order::{Basket, Order, OrderStatus},
};

use crate::{Change, Provenance, flawed};

/// An order as the read model shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRow {
    /// Whose order it is.
    pub tenant: TenantId,
    /// Its id.
    pub order_id: OrderId,
    /// The user who placed it.
    pub user_id: UserId,
    /// What was bought, with the total.
    pub basket: Basket,
    /// Where it stands.
    pub status: OrderStatus,
    /// When it was placed.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// The version of the last event in this row.
    pub version: u64,
    /// What made the row so. `None` where the row does not say it, as one that an older release wrote, or not so that it
    /// can be read: the row is no worse for that.
    pub provenance: Option<Provenance>,
}

impl OrderRow {
    /// Its place in every list, which it keeps for ever.
    pub fn position(&self) -> Position {
        Position { created_at: self.created_at, order_id: self.order_id }
    }
}

/// A place in a list of orders: when the order was placed, and its id among those placed in the same microsecond. The
/// newer is the greater.
///
/// Its text, `<time>#<order id>`, sorts as positions do, and is the range key of the indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// When the order was placed.
    pub created_at: Timestamp,
    /// The order.
    pub order_id: OrderId,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.created_at, self.order_id)
    }
}

impl FromStr for Position {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (created_at, order_id) = text.split_once('#').ok_or(Invalid("must be <time>#<order id>"))?;
        Ok(Self { created_at: created_at.parse()?, order_id: order_id.parse()? })
    }
}

/// What an order is from its first event on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The user who placed it.
    pub user_id: UserId,
    /// What was bought.
    pub basket: Basket,
    /// When.
    pub created_at: Timestamp,
}

/// What consecutive events change in an order's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderChange {
    /// Whose order it is.
    pub tenant: TenantId,
    /// Its id.
    pub order_id: OrderId,
    /// The version that the row must have; 0 where there must be no row yet.
    pub from: u64,
    /// The version that the row gets.
    pub to: u64,
    /// What was placed; set exactly where `from` is 0.
    pub placed: Option<Placed>,
    /// Where the order stands after the last of the events.
    pub status: OrderStatus,
    /// When the last of the events happened.
    pub updated_at: Timestamp,
    /// The last of the events, and what it came of.
    pub provenance: Provenance,
}

impl Change for OrderChange {
    fn stream(&self) -> StreamId {
        StreamId { tenant: self.tenant.clone(), aggregate_type: Order::TYPE, id: self.order_id.0 }
    }

    fn from(&self) -> u64 {
        self.from
    }

    fn to(&self) -> u64 {
        self.to
    }

    fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    fn then(self, next: Self) -> Option<Self> {
        let follows = next.from == self.to && next.order_id == self.order_id && next.tenant == self.tenant;
        // A second placing is flawed. It stays by itself, so that it fails by itself.
        (follows && next.placed.is_none()).then_some(Self { placed: self.placed, from: self.from, ..next })
    }
}

impl OrderChange {
    /// What was placed, where this change makes the row.
    pub(crate) fn creation(&self) -> Result<Option<&Placed>, AwsError> {
        if self.to <= self.from {
            return Err(flawed("it does not lead to a newer version"));
        }
        match (self.from, &self.placed) {
            (0, Some(placed)) => Ok(Some(placed)),
            (0, None) => Err(flawed("it makes an order without what was placed")),
            (1.., None) => Ok(None),
            (1.., Some(_)) => Err(flawed("it places an order that exists")),
        }
    }

    /// The row after this change. The caller has compared the versions.
    pub(crate) fn applied_to(&self, row: Option<OrderRow>) -> Result<OrderRow, AwsError> {
        match (self.creation()?, row) {
            (Some(placed), None) => Ok(OrderRow {
                tenant: self.tenant.clone(),
                order_id: self.order_id,
                user_id: placed.user_id,
                basket: placed.basket.clone(),
                status: self.status,
                created_at: placed.created_at,
                updated_at: self.updated_at,
                version: self.to,
                provenance: Some(self.provenance.clone()),
            }),
            (None, Some(row)) => Ok(OrderRow {
                status: self.status,
                updated_at: self.updated_at,
                version: self.to,
                provenance: Some(self.provenance.clone()),
                ..row
            }),
            (Some(_), Some(_)) | (None, None) => Err(flawed("it does not start at the row's version")),
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_domain::EventId;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn any_position() -> impl Strategy<Value = Position> {
        // A narrow range of times, so that many are equal.
        (1_767_225_600_000_000..1_767_225_600_000_003_i64, any::<u128>()).prop_map(|(time, id)| Position {
            created_at: Timestamp::from_unix_micros(time),
            order_id: OrderId(Uuid::from_u128(id)),
        })
    }

    proptest! {
        #[test]
        fn a_position_survives_its_text_and_texts_sort_as_positions(a in any_position(), b in any_position()) {
            prop_assert_eq!(a.to_string().parse::<Position>().unwrap(), a);
            prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
        }
    }

    /// Of the event of a version.
    fn made_by(version: u64) -> Provenance {
        Provenance {
            event_id: EventId(Uuid::from_u128(version.into())),
            correlation_id: format!("correlation-{version}").parse().unwrap(),
            causation_id: format!("causation-{version}").parse().unwrap(),
            trace_parent: version.is_multiple_of(2).then(|| format!("trace-{version}")),
        }
    }

    fn change(from: u64) -> OrderChange {
        OrderChange {
            tenant: TenantId::default(),
            order_id: OrderId(Uuid::nil()),
            from,
            to: from + 1,
            placed: None,
            status: OrderStatus::Created,
            updated_at: Timestamp::from_unix_micros(0),
            provenance: made_by(from + 1),
        }
    }

    #[test]
    fn only_changes_of_one_row_that_follow_each_other_merge() {
        let merged = change(1).then(OrderChange { status: OrderStatus::Shipped, ..change(2) }).unwrap();
        assert_eq!((merged.from, merged.to, merged.status), (1, 3, OrderStatus::Shipped));
        assert_eq!(merged.provenance, made_by(3), "whole, so nothing of the first event is left");
        assert_eq!(change(1).then(change(3)), None);
        assert_eq!(change(1).then(change(1)), None);
        assert_eq!(change(1).then(OrderChange { order_id: OrderId(Uuid::max()), ..change(2) }), None);
        assert_eq!(change(1).then(OrderChange { tenant: "acme".parse().unwrap(), ..change(2) }), None);
    }
}
