//! Orders' rows that are written past the services, so that there are many, and the services that show them.

use millrace_domain::{
    EventId, Label, Money, OrderId, TenantId, Timestamp, UserId,
    order::{Basket, OrderItem, OrderStatus},
};
use millrace_proto::query::{
    GetOrdersByStatusRequest, GetOrdersByUserRequest, OrderSummary,
    order_query_service_server::OrderQueryService as _,
};
use millrace_read_models::{OrderChange, Placed, Provenance, ReadOrders, ReadUsers};
use query_service::orders::Orders;
use tonic::{Request, Status};
use uuid::Uuid;

/// The user whose orders they are, where nothing else is said.
pub(crate) const BUYER: UserId = UserId(Uuid::from_u128(0xb));

/// The id of the n-th order: spread as the ids of orders are, the same each time.
pub(crate) fn order_id(n: u64) -> OrderId {
    OrderId(Uuid::new_v5(&Uuid::NAMESPACE_OID, &n.to_be_bytes()))
}

/// The time that lies some microseconds after the start of 2026.
pub(crate) fn at(microseconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(1_767_225_600_000_000 + microseconds)
}

/// An order of one laptop, the recipe's.
pub(crate) fn laptop() -> Basket {
    basket("laptop", 1)
}

/// An order as large as one can be: some 80 KB.
pub(crate) fn largest() -> Basket {
    basket(&"𒀀".repeat(Label::MAX_LEN), Basket::MOST_ITEMS)
}

fn basket(product: &str, lines: usize) -> Basket {
    let item = OrderItem {
        product: product.to_owned().try_into().unwrap(),
        quantity: 1.try_into().unwrap(),
        price: Money::new("USD".parse().unwrap(), 999, 990_000_000).unwrap(),
    };
    Basket::new(vec![item; lines]).unwrap()
}

/// The n-th order, placed so many microseconds after the start of 2026, as it is at its first version.
pub(crate) fn placed(tenant: &TenantId, n: u64, basket: Basket, microseconds: i64) -> OrderChange {
    let id = order_id(n);
    OrderChange {
        tenant: tenant.clone(),
        order_id: id,
        from: 0,
        to: 1,
        placed: Some(Placed { user_id: BUYER, basket, created_at: at(microseconds) }),
        status: OrderStatus::Created,
        updated_at: at(microseconds),
        // As long as they are as a rule.
        provenance: Provenance {
            event_id: EventId(id.0),
            correlation_id: id.to_string().parse().unwrap(),
            causation_id: id.to_string().parse().unwrap(),
            trace_parent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        },
    }
}

/// A list, as it is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Asked {
    OfUser(GetOrdersByUserRequest),
    InStatus(GetOrdersByStatusRequest),
}

impl Asked {
    /// Sets how many orders a page holds, and where it goes on.
    pub(crate) fn page(mut self, size: usize, token: &str) -> Self {
        let size = i32::try_from(size).unwrap();
        match &mut self {
            Self::OfUser(request) => (request.page_size, request.page_token) = (size, token.to_owned()),
            Self::InStatus(request) => (request.page_size, request.page_token) = (size, token.to_owned()),
        }
        self
    }
}

/// A page: its orders, and the token of the next one.
pub(crate) type Page = (Vec<OrderSummary>, String);

/// Asks for a page as a tenant.
pub(crate) async fn ask<U: ReadUsers, O: ReadOrders>(
    service: &Orders<U, O>,
    tenant: &TenantId,
    asked: Asked,
) -> Result<Page, Status> {
    match asked {
        Asked::OfUser(request) => {
            let reply = service.get_orders_by_user(as_tenant(tenant, request)).await?.into_inner();
            Ok((reply.orders, reply.next_page_token))
        }
        Asked::InStatus(request) => {
            let reply = service.get_orders_by_status(as_tenant(tenant, request)).await?.into_inner();
            Ok((reply.orders, reply.next_page_token))
        }
    }
}

pub(crate) fn as_tenant<T>(tenant: &TenantId, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-tenant-id", tenant.as_str().parse().unwrap());
    request
}
