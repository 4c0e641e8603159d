//! Order summaries.

use millrace_core::{Change, Patch, Projection, ProjectionName, Recorded, Row, Timestamp};

use super::{Basket, Order, OrderCreated, OrderEvent, OrderStatus, OrderStatusUpdated};
use crate::{OrderId, UserId};

/// An order as queries show it.
#[derive(Debug, Clone, PartialEq, Eq, Row)]
#[row(resource = "order", key = order_id)]
#[row(list(name = "by-user", by = user_id, order_by = created_at))]
#[row(list(name = "by-status", by = status, order_by = created_at, sharded))]
pub struct OrderSummary {
    /// Its id.
    pub order_id: OrderId,
    /// The user who placed it.
    pub user_id: UserId,
    /// The lines, with the total.
    pub basket: Basket,
    /// The present status.
    pub status: OrderStatus,
    /// When it was placed.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Projection for OrderSummary {
    const NAME: ProjectionName = ProjectionName::new("order-summaries", 1);
    type Aggregate = Order;
    type Row = Self;

    fn apply(recorded: &Recorded<OrderEvent>) -> Change<Self> {
        match &recorded.event {
            OrderEvent::OrderCreated(OrderCreated { user_id, basket }) => Change::Put(Self {
                order_id: recorded.aggregate_id(),
                user_id: *user_id,
                basket: basket.clone(),
                status: OrderStatus::Created,
                created_at: recorded.time,
                updated_at: recorded.time,
            }),
            OrderEvent::OrderStatusUpdated(OrderStatusUpdated { status }) => {
                Change::Update(Patch::new().set(Self::STATUS, *status).set(Self::UPDATED_AT, recorded.time))
            }
        }
    }
}
