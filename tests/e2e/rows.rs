//! Orders' rows that are written past the services, so that there are many, and the services that show them.

use futures::{StreamExt as _, stream};
use millrace_core::{
    Aggregate as _, CommandId, Envelope, EventId, StreamId, TenantId, Timestamp, projection::RowUpdate,
};
use millrace_rows::{DynamoRows, WriteOutcome, WriteRows as _};
use millrace_testing::recorded;
use query_service::Orders;
use shop::{
    Label, Money, OrderId, UserId,
    contracts::query::{
        GetOrdersByStatusRequest, GetOrdersByUserRequest, OrderSummary,
        order_query_service_server::OrderQueryService as _,
    },
    order::{Basket, Order, OrderCreated, OrderEvent, OrderItem, OrderStatus, OrderStatusUpdated},
};
use tonic::{Request, Status};
use uuid::Uuid;

/// The user whose orders they are.
pub(crate) const BUYER: UserId = UserId(Uuid::from_u128(0xb));

/// The id of the n-th order: spread as the ids of orders are, the same each time.
pub(crate) fn order_id(n: u64) -> OrderId {
    OrderId(Uuid::new_v5(&Uuid::NAMESPACE_OID, &n.to_be_bytes()))
}

/// The time some microseconds after the start of 2026.
pub(crate) fn at(microseconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(1_767_225_600_000_000 + microseconds)
}

/// An order of one laptop, the recipe's.
pub(crate) fn laptop() -> Basket {
    basket("laptop", 1)
}

/// An order as large as one can be: some 80 KB.
pub(crate) fn largest() -> Basket {
    basket(&"𒀀".repeat(Label::MAX_LEN), Basket::MAX_ITEMS)
}

fn basket(product: &str, lines: usize) -> Basket {
    let item = OrderItem {
        product: product.to_owned().try_into().unwrap(),
        quantity: 1.try_into().unwrap(),
        price: Money::new("USD".parse().unwrap(), 999, 990_000_000).unwrap(),
    };
    Basket::new(vec![item; lines]).unwrap()
}

/// The n-th order, placed so many microseconds after the start of 2026: the update that its first event makes.
pub(crate) fn placed(tenant: &TenantId, n: u64, basket: Basket, microseconds: i64) -> RowUpdate {
    let event = OrderEvent::OrderCreated(OrderCreated { user_id: BUYER, basket });
    update(tenant, n, 1, at(microseconds), &event)
}

/// The update that moves the n-th order to a status.
pub(crate) fn moved(tenant: &TenantId, n: u64, version: u64, status: OrderStatus) -> RowUpdate {
    let event = OrderEvent::OrderStatusUpdated(OrderStatusUpdated { status });
    update(tenant, n, version, at(0), &event)
}

fn update(tenant: &TenantId, n: u64, version: u64, at: Timestamp, event: &OrderEvent) -> RowUpdate {
    let stream = StreamId { tenant: tenant.clone(), aggregate_type: Order::TYPE, id: order_id(n).0 };
    // Ids of the usual length.
    let id: CommandId = stream.id.to_string().parse().unwrap();
    let envelope = Envelope {
        event_id: EventId(stream.id),
        correlation_id: id.clone(),
        causation_id: id,
        trace_parent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        ..recorded(&stream, version, at, event)
    };
    let spec = millrace_tests::shop().projection(millrace_tests::ORDERS.name).unwrap().clone();
    (spec.update)(&envelope).unwrap().unwrap()
}

/// Writes updates, several at a time.
pub(crate) async fn write(rows: &DynamoRows, updates: impl IntoIterator<Item = RowUpdate>) {
    let writing = stream::iter(updates).for_each_concurrent(32, async |update| {
        assert_eq!(rows.write(&update).await.unwrap(), WriteOutcome::Applied);
    });
    writing.await;
}

/// A request for a list.
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
pub(crate) async fn ask(service: &Orders, tenant: &TenantId, asked: Asked) -> Result<Page, Status> {
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
