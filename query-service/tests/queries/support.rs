//! Read models in memory with something in them, and the services over them.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use millrace_aws::AwsError;
use millrace_domain::{
    Email, EventId, Label, Money, OrderId, TenantId, Timestamp, UserId,
    order::{Basket, OrderItem, OrderStatus},
};
use millrace_proto::query::ReadAfter;
use millrace_read_models::{
    Consistency, Key, ListPart, Many, MemoryOrders, MemoryUsers, OrderChange, OrderList, OrderRow, Placed,
    Position, Provenance, ReadOrders, ReadUsers, UserChange, UserRow, WriteRows, Written,
};
use query_service::{models::Models, orders::Orders, token::PageTokens, users::Users};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

/// Read models that count how often rows are read by their keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) users: Counted<MemoryUsers>,
    pub(crate) orders: Counted<MemoryOrders>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Counted<T> {
    pub(crate) rows: T,
    gets: Arc<AtomicU32>,
}

impl<T> Counted<T> {
    pub(crate) fn gets(&self) -> u32 {
        self.gets.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.gets.fetch_add(1, Ordering::Relaxed);
    }
}

impl ReadUsers for Counted<MemoryUsers> {
    async fn get(&self, tenant: &TenantId, user_id: UserId) -> Result<Option<UserRow>, AwsError> {
        self.count();
        self.rows.get(tenant, user_id).await
    }

    async fn get_many(
        &self,
        keys: &[Key<UserId>],
        consistency: Consistency,
    ) -> Result<Many<UserId, UserRow>, AwsError> {
        self.count();
        self.rows.get_many(keys, consistency).await
    }

    async fn by_email(&self, tenant: &TenantId, email: &Email) -> Result<Vec<UserRow>, AwsError> {
        self.rows.by_email(tenant, email).await
    }
}

impl ReadOrders for Counted<MemoryOrders> {
    async fn get(&self, tenant: &TenantId, order_id: OrderId) -> Result<Option<OrderRow>, AwsError> {
        self.count();
        self.rows.get(tenant, order_id).await
    }

    async fn get_many(
        &self,
        keys: &[Key<OrderId>],
        consistency: Consistency,
    ) -> Result<Many<OrderId, OrderRow>, AwsError> {
        self.count();
        self.rows.get_many(keys, consistency).await
    }

    async fn part(
        &self,
        list: &OrderList,
        before: Option<&Position>,
        limit: u16,
    ) -> Result<ListPart, AwsError> {
        self.rows.part(list, before, limit).await
    }
}

impl World {
    pub(crate) fn models(&self) -> Models<Counted<MemoryUsers>, Counted<MemoryOrders>> {
        Models::new(self.users.clone(), self.orders.clone())
    }

    pub(crate) fn user_service(&self) -> Users<Counted<MemoryUsers>, Counted<MemoryOrders>> {
        Users::new(self.models())
    }

    pub(crate) fn order_service(&self) -> Orders<Counted<MemoryUsers>, Counted<MemoryOrders>> {
        Orders::new(self.models(), PageTokens::of_table("orders"))
    }

    /// Writes a user's next version.
    pub(crate) async fn user(&self, id: u128, version: u64, email: &str) {
        let change = UserChange {
            tenant: TenantId::default(),
            user_id: user_id(id),
            from: version - 1,
            to: version,
            created_at: (version == 1).then(|| at(0)),
            email: Some(Email::try_from(email.to_owned()).unwrap()),
            name: Some(Label::try_from("John Doe".to_owned()).unwrap()),
            updated_at: at(i64::try_from(version).unwrap() - 1),
            provenance: made_by(version),
        };
        assert_eq!(self.users.rows.write(&change).await.unwrap(), Written::Applied);
    }

    /// Writes the first version of an order.
    pub(crate) async fn place(&self, id: u128, buyer: u128, created_at: i64) {
        self.place_basket(id, buyer, created_at, basket("laptop", 1)).await;
    }

    /// Writes the first version of an order.
    pub(crate) async fn place_basket(&self, id: u128, buyer: u128, created_at: i64, basket: Basket) {
        let placed = Placed { user_id: user_id(buyer), basket, created_at: at(created_at) };
        let change = OrderChange {
            tenant: TenantId::default(),
            order_id: order_id(id),
            from: 0,
            to: 1,
            placed: Some(placed),
            status: OrderStatus::Created,
            updated_at: at(created_at),
            provenance: made_by(1),
        };
        assert_eq!(self.orders.rows.write(&change).await.unwrap(), Written::Applied);
    }

    /// Writes an order's next version.
    pub(crate) async fn advance(&self, id: u128, version: u64, status: OrderStatus) {
        let change = OrderChange {
            tenant: TenantId::default(),
            order_id: order_id(id),
            from: version - 1,
            to: version,
            placed: None,
            status,
            updated_at: at(99),
            provenance: made_by(version),
        };
        assert_eq!(self.orders.rows.write(&change).await.unwrap(), Written::Applied);
    }
}

/// What an event of a version came of.
fn made_by(version: u64) -> Provenance {
    Provenance {
        event_id: EventId(Uuid::from_u128(version.into())),
        correlation_id: "correlation".parse().unwrap(),
        causation_id: "causation".parse().unwrap(),
        trace_parent: None,
    }
}

pub(crate) fn user_id(id: u128) -> UserId {
    UserId(Uuid::from_u128(id))
}

pub(crate) fn order_id(id: u128) -> OrderId {
    OrderId(Uuid::from_u128(id))
}

/// The time that lies some microseconds after the start of 2026.
pub(crate) fn at(microseconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(1_767_225_600_000_000 + microseconds)
}

pub(crate) fn basket(product: &str, lines: usize) -> Basket {
    let item = OrderItem {
        product: Label::try_from(product.to_owned()).unwrap(),
        quantity: 2.try_into().unwrap(),
        price: Money::new("USD".parse().unwrap(), 999, 990_000_000).unwrap(),
    };
    Basket::new(vec![item; lines]).unwrap()
}

/// The token that a command's reply makes.
pub(crate) fn after(id: u128, version: u64) -> Option<ReadAfter> {
    Some(ReadAfter { aggregate_id: Uuid::from_u128(id).to_string(), version })
}

pub(crate) fn of_tenant<T>(tenant: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-tenant-id", tenant.parse().unwrap());
    request
}

/// The fields that a status says are bad.
pub(crate) fn bad_fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    details.bad_request().unwrap().field_violations.iter().map(|violation| violation.field.clone()).collect()
}

/// Why a status says what it says.
pub(crate) fn reason(status: &Status) -> Option<String> {
    status.get_error_details().error_info().map(|info| info.reason.clone())
}
