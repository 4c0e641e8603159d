//! The requests that the demo sends.

use shop::contracts::{
    Money,
    command::{CreateOrderRequest, CreateUserRequest, UpdateOrderStatusRequest},
    types::{OrderItem, OrderStatus},
};

pub(super) const EMAIL: &str = "john.doe@example.com";
pub(super) const NAME: &str = "John Doe";

pub(super) fn john() -> CreateUserRequest {
    CreateUserRequest {
        email: EMAIL.to_owned(),
        name: NAME.to_owned(),
        command_id: Some("cmd-001".to_owned()),
        correlation_id: Some("corr-001".to_owned()),
    }
}

/// 999.99 USD.
pub(super) fn price() -> Money {
    Money { currency_code: "USD".to_owned(), units: 999, nanos: 990_000_000 }
}

pub(super) fn laptop(user_id: &str) -> CreateOrderRequest {
    CreateOrderRequest {
        user_id: user_id.to_owned(),
        items: vec![OrderItem { product: "laptop".to_owned(), quantity: 1, price: Some(price()) }],
        total_amount: Some(price()),
        command_id: None,
        correlation_id: None,
    }
}

pub(super) fn to_status(order_id: &str, status: OrderStatus) -> UpdateOrderStatusRequest {
    UpdateOrderStatusRequest { order_id: order_id.to_owned(), status: status.into(), ..Default::default() }
}

/// An order of which the user's id, the product, the quantity and the price are bad.
pub(super) fn mistakes() -> CreateOrderRequest {
    let price = Money { currency_code: "dollars".to_owned(), units: -1, nanos: 0 };
    let item = OrderItem { product: String::new(), quantity: 0, price: Some(price) };
    CreateOrderRequest { user_id: "nobody".to_owned(), items: vec![item], ..Default::default() }
}
