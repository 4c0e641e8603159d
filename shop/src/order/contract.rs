//! Between orders and their contracts.

use millrace_core::{DecodeError, Invalid, Versioned, codec::field};
use millrace_proto::time_to_proto;

use super::{Basket, OrderCreated, OrderEvent, OrderItem, OrderStatus, OrderStatusUpdated, Quantity};
use crate::{
    Label, Money, OrderSummary,
    contracts::{
        command::{CreateOrderRequest, UpdateOrderStatusRequest},
        event, query, types,
    },
};

millrace_proto::event_codec! {
    OrderEvent in crate::contracts::event {
        OrderCreated = 1,
        OrderStatusUpdated = 1,
    }
}

millrace_proto::command_requests! {
    CreateOrderRequest creates (user_id);
    UpdateOrderStatusRequest updates order_id;
}

impl From<&OrderCreated> for event::OrderCreated {
    fn from(OrderCreated { user_id, basket }: &OrderCreated) -> Self {
        Self {
            user_id: user_id.to_string(),
            items: basket.items().iter().map(Into::into).collect(),
            total_amount: Some(basket.total().into()),
        }
    }
}

impl TryFrom<event::OrderCreated> for OrderCreated {
    type Error = DecodeError;

    fn try_from(message: event::OrderCreated) -> Result<Self, DecodeError> {
        let items = message.items.iter().map(OrderItem::try_from).collect::<Result<_, _>>();
        Ok(Self {
            user_id: field("userId", message.user_id.parse())?,
            basket: field("items", items.and_then(Basket::new))?,
        })
    }
}

impl From<&OrderStatusUpdated> for event::OrderStatusUpdated {
    fn from(OrderStatusUpdated { status }: &OrderStatusUpdated) -> Self {
        Self { status: types::OrderStatus::from(*status).into() }
    }
}

impl TryFrom<event::OrderStatusUpdated> for OrderStatusUpdated {
    type Error = DecodeError;

    fn try_from(message: event::OrderStatusUpdated) -> Result<Self, DecodeError> {
        Ok(Self { status: field("status", OrderStatus::try_from(message.status))? })
    }
}

impl From<&OrderItem> for types::OrderItem {
    fn from(item: &OrderItem) -> Self {
        Self {
            product: item.product.as_str().to_owned(),
            // At most 10,000 by its type.
            quantity: i32::try_from(item.quantity.get()).unwrap_or(i32::MAX),
            price: Some(item.price.into()),
        }
    }
}

impl TryFrom<&types::OrderItem> for OrderItem {
    type Error = Invalid;

    fn try_from(item: &types::OrderItem) -> Result<Self, Invalid> {
        Ok(Self {
            product: Label::try_from(item.product.clone())?,
            quantity: Quantity::try_from(item.quantity)?,
            price: Money::try_from(item.price.as_ref().ok_or(Invalid("price is missing"))?)?,
        })
    }
}

impl From<OrderStatus> for types::OrderStatus {
    fn from(status: OrderStatus) -> Self {
        match status {
            OrderStatus::Created => Self::Created,
            OrderStatus::Processing => Self::Processing,
            OrderStatus::Shipped => Self::Shipped,
            OrderStatus::Delivered => Self::Delivered,
            OrderStatus::Cancelled => Self::Cancelled,
            OrderStatus::Returned => Self::Returned,
        }
    }
}

/// Of the number that the contract has for it.
impl TryFrom<i32> for OrderStatus {
    type Error = Invalid;

    fn try_from(number: i32) -> Result<Self, Invalid> {
        match types::OrderStatus::try_from(number) {
            Ok(types::OrderStatus::Created) => Ok(Self::Created),
            Ok(types::OrderStatus::Processing) => Ok(Self::Processing),
            Ok(types::OrderStatus::Shipped) => Ok(Self::Shipped),
            Ok(types::OrderStatus::Delivered) => Ok(Self::Delivered),
            Ok(types::OrderStatus::Cancelled) => Ok(Self::Cancelled),
            Ok(types::OrderStatus::Returned) => Ok(Self::Returned),
            Ok(types::OrderStatus::Unspecified) => Err(Invalid("must be set")),
            Err(_) => Err(Invalid("must be a status that the contract defines")),
        }
    }
}

impl From<Versioned<OrderSummary>> for query::OrderSummary {
    fn from(Versioned { version, row, .. }: Versioned<OrderSummary>) -> Self {
        Self {
            order_id: row.order_id.to_string(),
            user_id: row.user_id.to_string(),
            items: row.basket.items().iter().map(Into::into).collect(),
            total_amount: Some(row.basket.total().into()),
            status: types::OrderStatus::from(row.status).into(),
            created_at: Some(time_to_proto(row.created_at)),
            updated_at: Some(time_to_proto(row.updated_at)),
            version,
        }
    }
}
