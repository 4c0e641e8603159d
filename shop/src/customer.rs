//! Customers: users by all that they have ordered.

use std::collections::BTreeMap;

use millrace_core::{AggregatingProjection, ProjectionName, Recorded, Row, Timestamp, Versioned};
use millrace_proto::time_to_proto;
use serde::{Deserialize, Serialize};

use crate::{
    Currency, Money, UserId, contracts,
    order::{Order, OrderCreated, OrderEvent, OrderStatus, OrderStatusUpdated},
};

/// A customer's orders, summed up.
#[derive(Debug, Clone, PartialEq, Eq, Row)]
#[row(resource = "customer", key = user_id)]
pub struct CustomerTotals {
    /// The user.
    pub user_id: UserId,
    /// How many orders there are, cancelled ones aside.
    pub orders: u32,
    /// How many orders were cancelled.
    pub cancelled: u32,
    /// The sum of all orders but cancelled ones, for each currency.
    pub spent: BTreeMap<Currency, Sum>,
    /// When the newest order was placed.
    pub last_order_at: Timestamp,
}

/// A sum of amounts in one currency, in 10⁻⁹ of a unit. Larger than any one amount can be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sum(i128);

impl From<Sum> for String {
    fn from(sum: Sum) -> Self {
        sum.0.to_string()
    }
}

impl TryFrom<String> for Sum {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

/// The contribution of one order to its customer's totals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct OrderPart {
    user_id: UserId,
    total: Money,
    placed_at: Timestamp,
    is_cancelled: bool,
}

impl AggregatingProjection for CustomerTotals {
    const NAME: ProjectionName = ProjectionName::new("customer-totals", 1);
    type Aggregate = Order;
    type Row = Self;
    type Part = OrderPart;

    fn part(part: Option<OrderPart>, recorded: &Recorded<OrderEvent>) -> Option<OrderPart> {
        match &recorded.event {
            OrderEvent::OrderCreated(OrderCreated { user_id, basket }) => Some(OrderPart {
                user_id: *user_id,
                total: basket.total(),
                placed_at: recorded.time,
                is_cancelled: false,
            }),
            OrderEvent::OrderStatusUpdated(OrderStatusUpdated { status }) => {
                part.map(|part| OrderPart { is_cancelled: *status == OrderStatus::Cancelled, ..part })
            }
        }
    }

    fn row_of(part: &OrderPart) -> UserId {
        part.user_id
    }

    fn fold(row: Option<Self>, id: &UserId, before: Option<&OrderPart>, after: Option<&OrderPart>) -> Self {
        let mut totals = row.unwrap_or_else(|| Self {
            user_id: *id,
            orders: 0,
            cancelled: 0,
            spent: BTreeMap::new(),
            last_order_at: Timestamp::from_unix_micros(0),
        });
        if let Some(part) = before {
            totals.count(part, |count| count.saturating_sub(1), -1);
        }
        if let Some(part) = after {
            totals.count(part, |count| count.saturating_add(1), 1);
            totals.last_order_at = totals.last_order_at.max(part.placed_at);
        }
        totals
    }
}

impl CustomerTotals {
    fn count(&mut self, part: &OrderPart, step: impl Fn(u32) -> u32, sign: i128) {
        if part.is_cancelled {
            self.cancelled = step(self.cancelled);
            return;
        }
        self.orders = step(self.orders);
        let sum = self.spent.entry(part.total.currency()).or_default();
        sum.0 = sum.0.saturating_add(sign.saturating_mul(part.total.as_nanos()));
        if sum.0 == 0 {
            self.spent.remove(&part.total.currency());
        }
    }
}

impl From<Versioned<CustomerTotals>> for contracts::query::CustomerTotals {
    fn from(Versioned { row: totals, .. }: Versioned<CustomerTotals>) -> Self {
        let spent = totals.spent.iter().map(|(currency, sum)| Money::from_nanos(*currency, sum.0).into());
        Self {
            user_id: totals.user_id.to_string(),
            orders: totals.orders,
            cancelled: totals.cancelled,
            spent: spent.collect(),
            last_order_at: Some(time_to_proto(totals.last_order_at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_testing::{aggregate_id, project, time_of};

    use super::*;
    use crate::{
        Label,
        order::{Basket, OrderItem},
    };

    const ANN: u128 = 7;
    const BOB: u128 = 8;

    fn placed(user: u128, currency: &str, units: i64) -> OrderEvent {
        let item = OrderItem {
            product: Label::try_from("laptop".to_owned()).unwrap(),
            quantity: 2.try_into().unwrap(),
            price: Money::new(currency.parse().unwrap(), units, 0).unwrap(),
        };
        let basket = Basket::new(vec![item]).unwrap();
        OrderEvent::OrderCreated(OrderCreated { user_id: aggregate_id(user), basket })
    }

    fn moved(status: OrderStatus) -> OrderEvent {
        OrderEvent::OrderStatusUpdated(OrderStatusUpdated { status })
    }

    fn totals(user: u128, orders: u32, cancelled: u32, spent: &[(&str, i128)]) -> CustomerTotals {
        let spent =
            spent.iter().map(|(currency, units)| (currency.parse().unwrap(), Sum(units * 1_000_000_000)));
        CustomerTotals {
            user_id: aggregate_id(user),
            orders,
            cancelled,
            spent: spent.collect(),
            last_order_at: time_of(1),
        }
    }

    #[test]
    fn orders_are_summed_up_by_customer_and_currency() {
        project::<CustomerTotals, _>(&[placed(ANN, "USD", 10)])
            .and(&[placed(ANN, "USD", 1), moved(OrderStatus::Processing)])
            .and(&[placed(BOB, "USD", 5)])
            .and(&[placed(ANN, "EUR", 3)])
            .then_rows(&[totals(ANN, 3, 0, &[("USD", 22), ("EUR", 6)]), totals(BOB, 1, 0, &[("USD", 10)])]);
    }

    #[test]
    fn a_cancelled_order_is_counted_apart_and_not_spent() {
        project::<CustomerTotals, _>(&[placed(ANN, "USD", 10), moved(OrderStatus::Cancelled)])
            .then(Some(totals(ANN, 0, 1, &[])));
        project::<CustomerTotals, _>(&[placed(ANN, "USD", 10)])
            .and(&[placed(ANN, "USD", 4), moved(OrderStatus::Cancelled)])
            .then(Some(totals(ANN, 1, 1, &[("USD", 20)])));
    }

    #[test]
    fn without_an_order_a_customer_has_no_totals() {
        project::<CustomerTotals, _>(&[]).then(None);
    }
}
