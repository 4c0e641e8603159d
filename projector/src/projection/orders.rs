//! Order summaries.

use millrace_domain::{
    Aggregate, AggregateType,
    order::{Order, OrderEvent, OrderStatus},
};
use millrace_proto::Envelope;
use millrace_read_models::{OrderChange, Placed};

use super::{Place, Projection, provenance, versions};
use crate::Failure;

/// Orders into order summaries.
#[derive(Debug)]
pub enum Orders {}

impl Projection for Orders {
    type Event = OrderEvent;
    type Change = OrderChange;

    const NAME: &'static str = "order-summaries";
    const AGGREGATE: AggregateType = Order::TYPE;

    fn change(envelope: &Envelope, event: OrderEvent) -> Result<OrderChange, Failure> {
        let tenant = envelope.tenant_id.clone();
        let provenance = provenance(envelope);
        match event {
            OrderEvent::OrderCreated { order_id, user_id, basket, created_at } => {
                let (from, to) = versions(envelope, order_id.0, Place::First)?;
                Ok(OrderChange {
                    tenant,
                    order_id,
                    from,
                    to,
                    placed: Some(Placed { user_id, basket, created_at }),
                    status: OrderStatus::Created,
                    updated_at: created_at,
                    provenance,
                })
            }
            OrderEvent::OrderStatusUpdated { order_id, status, updated_at } => {
                let (from, to) = versions(envelope, order_id.0, Place::Later)?;
                Ok(OrderChange { tenant, order_id, from, to, placed: None, status, updated_at, provenance })
            }
        }
    }
}
