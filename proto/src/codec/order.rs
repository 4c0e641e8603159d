//! Orders' events, and the parts of an order that commands and queries speak of too.

use millrace_domain::{
    Invalid, Label,
    order::{Basket, OrderEvent, OrderItem, OrderStatus, Quantity},
};
use serde_json::{Map, Value};

use super::{
    DecodeError, Encoded, EventCodec, field, from_json, money_from_proto, money_to_proto, time_from_proto,
    time_to_proto, to_json,
};
use crate::{
    event::{OrderCreated, OrderStatusUpdated},
    query::recorded_event::Payload,
    types,
};

const ORDER_CREATED: &str = "OrderCreated";
const ORDER_STATUS_UPDATED: &str = "OrderStatusUpdated";

impl EventCodec for OrderEvent {
    const EVENT_TYPES: &'static [&'static str] = &[ORDER_CREATED, ORDER_STATUS_UPDATED];

    fn encode(&self) -> Encoded {
        match self {
            Self::OrderCreated { order_id, user_id, basket, created_at } => Encoded {
                event_type: ORDER_CREATED,
                schema_version: 1,
                data: to_json(&OrderCreated {
                    order_id: order_id.to_string(),
                    user_id: user_id.to_string(),
                    items: basket.items().iter().map(item_to_proto).collect(),
                    total_amount: Some(money_to_proto(basket.total())),
                    created_at: Some(time_to_proto(*created_at)),
                }),
            },
            Self::OrderStatusUpdated { order_id, status, updated_at } => Encoded {
                event_type: ORDER_STATUS_UPDATED,
                schema_version: 1,
                data: to_json(&OrderStatusUpdated {
                    order_id: order_id.to_string(),
                    status: status_to_proto(*status).into(),
                    updated_at: Some(time_to_proto(*updated_at)),
                }),
            },
        }
    }

    fn decode(event_type: &str, schema_version: u32, data: &Map<String, Value>) -> Result<Self, DecodeError> {
        match event_type {
            ORDER_CREATED => {
                let message: OrderCreated = from_json(schema_version, data)?;
                let items = message.items.iter().map(item_from_proto).collect::<Result<_, _>>();
                Ok(Self::OrderCreated {
                    order_id: field("orderId", message.order_id.parse())?,
                    user_id: field("userId", message.user_id.parse())?,
                    basket: field("items", items.and_then(Basket::new))?,
                    created_at: field("createdAt", time_from_proto(message.created_at))?,
                })
            }
            ORDER_STATUS_UPDATED => {
                let message: OrderStatusUpdated = from_json(schema_version, data)?;
                Ok(Self::OrderStatusUpdated {
                    order_id: field("orderId", message.order_id.parse())?,
                    status: field("status", status_from_proto(message.status))?,
                    updated_at: field("updatedAt", time_from_proto(message.updated_at))?,
                })
            }
            _ => Err(DecodeError::UnknownType),
        }
    }
}

/// An event's message, as it was written.
pub(super) fn payload(
    event_type: &str,
    schema_version: u32,
    data: &Map<String, Value>,
) -> Result<Payload, DecodeError> {
    match OrderEvent::decode(event_type, schema_version, data)? {
        OrderEvent::OrderCreated { .. } => from_json(schema_version, data).map(Payload::OrderCreated),
        OrderEvent::OrderStatusUpdated { .. } => {
            from_json(schema_version, data).map(Payload::OrderStatusUpdated)
        }
    }
}

/// An item of the domain in the contract's type.
pub fn item_to_proto(item: &OrderItem) -> types::OrderItem {
    types::OrderItem {
        product: item.product.as_str().to_owned(),
        // At most 10,000 by its type.
        quantity: i32::try_from(item.quantity.get()).unwrap_or(i32::MAX),
        price: Some(money_to_proto(item.price)),
    }
}

/// An item of the contract in the domain's type.
pub fn item_from_proto(item: &types::OrderItem) -> Result<OrderItem, Invalid> {
    Ok(OrderItem {
        product: Label::try_from(item.product.clone())?,
        quantity: Quantity::try_from(item.quantity)?,
        price: money_from_proto(item.price.as_ref().ok_or(Invalid("price is missing"))?)?,
    })
}

/// A status of the domain in the contract's type.
pub fn status_to_proto(status: OrderStatus) -> types::OrderStatus {
    match status {
        OrderStatus::Created => types::OrderStatus::Created,
        OrderStatus::Processing => types::OrderStatus::Processing,
        OrderStatus::Shipped => types::OrderStatus::Shipped,
        OrderStatus::Delivered => types::OrderStatus::Delivered,
        OrderStatus::Cancelled => types::OrderStatus::Cancelled,
        OrderStatus::Returned => types::OrderStatus::Returned,
    }
}

/// A status of the contract, as its number, in the domain's type.
pub fn status_from_proto(number: i32) -> Result<OrderStatus, Invalid> {
    match types::OrderStatus::try_from(number) {
        Ok(types::OrderStatus::Created) => Ok(OrderStatus::Created),
        Ok(types::OrderStatus::Processing) => Ok(OrderStatus::Processing),
        Ok(types::OrderStatus::Shipped) => Ok(OrderStatus::Shipped),
        Ok(types::OrderStatus::Delivered) => Ok(OrderStatus::Delivered),
        Ok(types::OrderStatus::Cancelled) => Ok(OrderStatus::Cancelled),
        Ok(types::OrderStatus::Returned) => Ok(OrderStatus::Returned),
        Ok(types::OrderStatus::Unspecified) => Err(Invalid("must be set")),
        Err(_) => Err(Invalid("must be a status that the contract defines")),
    }
}

#[cfg(test)]
mod tests {
    use millrace_domain::{Money, OrderId, Timestamp, UserId};
    use proptest::{collection::vec, prelude::*, sample::select};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn any_event() -> impl Strategy<Value = OrderEvent> {
        let time = (0..253_402_300_799_000_000_i64).prop_map(Timestamp::from_unix_micros);
        let order = any::<u128>().prop_map(|n| OrderId(Uuid::from_u128(n)));
        let item = ("\\PC{0,20}x", 1..=10_000_i32, 0..=OrderItem::MOST_UNITS, 0..=999_999_999_i32).prop_map(
            |(product, quantity, units, nanos)| OrderItem {
                product: Label::try_from(product).unwrap(),
                quantity: quantity.try_into().unwrap(),
                price: Money::new("EUR".parse().unwrap(), units, nanos).unwrap(),
            },
        );
        prop_oneof![
            (order.clone(), any::<u128>(), vec(item, 1..5), time.clone()).prop_map(
                |(order_id, user, items, created_at)| {
                    OrderEvent::OrderCreated {
                        order_id,
                        user_id: UserId(Uuid::from_u128(user)),
                        basket: Basket::new(items).unwrap(),
                        created_at,
                    }
                }
            ),
            (order, select(OrderStatus::ALL.to_vec()), time).prop_map(|(order_id, status, updated_at)| {
                OrderEvent::OrderStatusUpdated { order_id, status, updated_at }
            }),
        ]
    }

    /// The JSON of a message of this aggregate.
    fn as_json(payload: Payload) -> Option<Map<String, Value>> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "no other message is this aggregate's")]
        match payload {
            Payload::OrderCreated(message) => Some(to_json(&message)),
            Payload::OrderStatusUpdated(message) => Some(to_json(&message)),
            _ => None,
        }
    }

    proptest! {
        #[test]
        fn an_event_survives_its_storage(event in any_event()) {
            let stored = event.encode();
            prop_assert!(OrderEvent::EVENT_TYPES.contains(&stored.event_type));
            prop_assert_eq!(OrderEvent::decode(stored.event_type, stored.schema_version, &stored.data), Ok(event));
            let shown = payload(stored.event_type, stored.schema_version, &stored.data).map(as_json);
            prop_assert_eq!(shown, Ok(Some(stored.data)));
        }
    }

    #[test]
    fn the_stored_form_is_the_canonical_json_of_the_contract() {
        let stored = json!({
            "orderId": "00000000-0000-0000-0000-000000000001",
            "userId": "00000000-0000-0000-0000-000000000002",
            "items": [{
                "product": "laptop",
                "quantity": 1,
                "price": {"currencyCode": "USD", "units": "999", "nanos": 990_000_000},
            }],
            "totalAmount": {"currencyCode": "USD", "units": "999", "nanos": 990_000_000},
            "createdAt": "2026-11-23T12:00:00Z",
        });
        let event = OrderEvent::decode(ORDER_CREATED, 1, stored.as_object().unwrap()).unwrap();
        assert_eq!(Value::Object(event.encode().data), stored);
    }

    #[test]
    fn a_status_that_the_contract_does_not_define_is_refused() {
        for number in [0, 7, -1, i32::MAX] {
            assert!(status_from_proto(number).is_err(), "{number}");
        }
        for status in OrderStatus::ALL {
            assert_eq!(status_from_proto(status_to_proto(status).into()), Ok(status));
        }
    }
}
