//! Read models and an event store in memory with some content, and the services over them.

use std::{
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use millrace_aws::AwsError;
use millrace_core::{
    Aggregate as _, Application, EventCodec, Row, StreamId, TenantId, Timestamp, Versioned,
    projection::{ProjectionSpec, RowUpdate},
    row::{LookupSchema, Position, RowKey, StoredRow},
};
use millrace_event_store::{MemoryStore, ReadHistory};
use millrace_proto::query::ReadAfter;
use millrace_query::{
    QueryService,
    history::History,
    token::PageTokens,
    watch::{Pace, Watching},
};
use millrace_rows::{
    Consistency, ListPage, ListQuery, MemoryRows, ReadRows, RowBatch, WriteOutcome, WriteRows as _,
};
use query_service::{Customers, Orders, Users};
use shop::{
    CustomerTotals, Email, Label, Money, OrderId, OrderSummary, UserId, UserProfile,
    order::{Basket, Order, OrderEvent, OrderItem, OrderStatus, OrderStatusUpdated},
    user::{User, UserEvent, UserProfileUpdated},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::events::{created_as, order, placed_by, stored, user};

/// The intervals of reads of watched rows.
pub(crate) const PACE: Pace = Pace { fastest: Duration::from_millis(250), slowest: Duration::from_secs(2) };

/// The most watchers.
pub(crate) const MAX_WATCHERS: u32 = 300;

/// Both settings.
pub(crate) const WATCHING: Watching =
    Watching { pace: PACE, max: MAX_WATCHERS, max_per_tenant: MAX_WATCHERS };

/// Read models that record reads of rows by key, and an independent event store.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) users: Noted,
    pub(crate) orders: Noted,
    pub(crate) customers: Noted,
    pub(crate) events: MemoryStore,
    pub(crate) ending: CancellationToken,
}

impl Default for World {
    fn default() -> Self {
        Self {
            users: Noted::of("user-profiles"),
            orders: Noted::of("order-summaries"),
            customers: Noted::of("customer-totals"),
            events: MemoryStore::default(),
            ending: CancellationToken::new(),
        }
    }
}

pub(crate) fn shop() -> &'static Application {
    static SHOP: LazyLock<Application> = LazyLock::new(|| shop::shop().unwrap());
    &SHOP
}

/// The newest version of a projection of the shop.
pub(crate) fn projection(name: &str) -> ProjectionSpec {
    shop().projection(name).unwrap().clone()
}

/// The rows of a projection, and a record of their reads.
#[derive(Debug, Clone)]
pub(crate) struct Noted {
    spec: ProjectionSpec,
    pub(crate) rows: MemoryRows,
    gets: Arc<Mutex<Vec<Uuid>>>,
    requests: Arc<AtomicUsize>,
    searches: Arc<AtomicUsize>,
    batches: Arc<Mutex<Vec<BatchReply>>>,
    /// The error of all requests for many rows.
    failing: Arc<Mutex<Option<AwsError>>>,
    /// The number of reads of a row by its key that are still answered; all if `None`.
    answered_yet: Arc<Mutex<Option<usize>>>,
}

/// The result of a request for many rows.
#[derive(Debug, Clone)]
pub(crate) enum BatchReply {
    /// Only so many of the first keys are answered.
    Answered(usize),
    /// The row of this id cannot be read.
    Unreadable(Uuid),
    /// The request fails.
    Fails(AwsError),
    /// The request is never answered.
    Hangs,
}

impl Noted {
    fn of(name: &str) -> Self {
        let spec = projection(name);
        Self {
            rows: MemoryRows::new(&spec),
            spec,
            gets: Arc::default(),
            requests: Arc::default(),
            searches: Arc::default(),
            batches: Arc::default(),
            failing: Arc::default(),
            answered_yet: Arc::default(),
        }
    }

    /// All rows, with their type.
    pub(crate) fn typed<R: Row>(&self) -> Vec<Versioned<R>> {
        self.rows.all().into_iter().filter_map(|row| row.typed().unwrap()).collect()
    }

    /// The number of reads of any single row by key.
    pub(crate) fn gets(&self) -> usize {
        self.gets.lock().unwrap().len()
    }

    /// The number of reads of this id's row by key.
    pub(crate) fn gets_of(&self, id: u128) -> usize {
        self.gets.lock().unwrap().iter().filter(|read| read.as_u128() == id).count()
    }

    /// The number of requests for rows by key, each for one row or many.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// The number of rows read by key and of index reads, without the rows that do not exist, by which a server probes
    /// its tables.
    pub(crate) fn reads(&self) -> usize {
        let rows = self.gets.lock().unwrap().iter().filter(|id| !id.is_nil()).count();
        rows + self.searches.load(Ordering::Relaxed)
    }

    /// Makes requests for many rows fail, or succeed again.
    pub(crate) fn fail(&self, error: Option<AwsError>) {
        *self.failing.lock().unwrap() = error;
    }

    /// Lets only so many reads of a row by key be answered.
    pub(crate) fn answer_only(&self, gets: usize) {
        *self.answered_yet.lock().unwrap() = Some(gets);
    }

    /// Sets the results of the next requests for many rows, in order.
    pub(crate) fn next_batches(&self, replies: impl IntoIterator<Item = BatchReply>) {
        *self.batches.lock().unwrap() = replies.into_iter().collect();
    }

    /// Records a read of a row by key. Never ends if the read is not to be answered.
    async fn read(&self, id: Uuid) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.note(id);
        let is_answered = match &mut *self.answered_yet.lock().unwrap() {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        };
        if !is_answered {
            std::future::pending().await
        }
    }

    fn note(&self, id: Uuid) {
        self.gets.lock().unwrap().push(id);
    }
}

fn id_of(key: &RowKey) -> Uuid {
    key.id.parse().unwrap()
}

impl ReadRows for Noted {
    async fn get(&self, key: &RowKey) -> Result<Option<StoredRow>, AwsError> {
        self.read(id_of(key)).await;
        self.rows.get(key).await
    }

    async fn get_many(&self, keys: &[RowKey], consistency: Consistency) -> Result<RowBatch, AwsError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(error) = self.failing.lock().unwrap().clone() {
            return Err(error);
        }
        let next = {
            let mut batches = self.batches.lock().unwrap();
            (!batches.is_empty()).then(|| batches.remove(0))
        };
        let answered = match &next {
            Some(BatchReply::Answered(count)) => *count,
            Some(BatchReply::Fails(error)) => return Err(error.clone()),
            Some(BatchReply::Hangs) => std::future::pending().await,
            Some(BatchReply::Unreadable(_)) | None => keys.len(),
        };
        let (asked, left) = keys.split_at(answered.min(keys.len()));
        asked.iter().for_each(|key| self.note(id_of(key)));
        let mut many = self.rows.get_many(asked, consistency).await?;
        many.left.extend_from_slice(left);
        if let Some(BatchReply::Unreadable(which)) = next {
            for (_, row) in many.found.iter_mut().filter(|(key, _)| id_of(key) == which) {
                *row = Err(AwsError::InvalidResponse("it cannot be read".to_owned()));
            }
        }
        Ok(many)
    }

    async fn applied_version(&self, stream: &StreamId) -> Result<u64, AwsError> {
        self.read(stream.id).await;
        self.rows.applied_version(stream).await
    }

    async fn lookup(
        &self,
        lookup: &'static LookupSchema,
        tenant: &TenantId,
        value: &str,
    ) -> Result<Vec<StoredRow>, AwsError> {
        self.searches.fetch_add(1, Ordering::Relaxed);
        self.rows.lookup(lookup, tenant, value).await
    }

    async fn page(
        &self,
        query: &ListQuery,
        before: Option<&Position>,
        limit: u16,
    ) -> Result<ListPage, AwsError> {
        self.searches.fetch_add(1, Ordering::Relaxed);
        self.rows.page(query, before, limit).await
    }
}

impl World {
    /// The service over this world's rows and an event store.
    pub(crate) fn service_over(&self, events: impl ReadHistory, watching: Watching) -> QueryService {
        let all = [&self.users, &self.orders, &self.customers];
        let store = |spec: &ProjectionSpec| {
            let own = all.into_iter().find(|noted| noted.spec.name == spec.name);
            own.expect("a store for every projection").clone()
        };
        let tokens = PageTokens::of_table("orders");
        QueryService::new(shop(), store, events, tokens, watching, self.ending.clone())
    }

    /// The service, which also reads watched rows.
    fn service(&self) -> QueryService {
        let service = self.service_over(self.events.clone(), WATCHING);
        let watching = service.clone();
        tokio::spawn(async move { watching.watch().await });
        service
    }

    pub(crate) fn user_service(&self) -> Users {
        Users(self.service().rows::<UserProfile, _>().unwrap())
    }

    pub(crate) fn order_service(&self) -> Orders {
        Orders(self.service().rows::<OrderSummary, _>().unwrap())
    }

    pub(crate) fn customer_service(&self) -> Customers {
        Customers(self.service().rows::<CustomerTotals, _>().unwrap())
    }

    pub(crate) fn history_service(&self) -> History {
        self.service_over(self.events.clone(), WATCHING).history()
    }

    /// Writes a user's next version.
    pub(crate) async fn user(&self, id: u128, version: u64, email: &str) {
        written(&self.users, &user_change(id, version, email)).await;
    }

    /// Writes the first version of an order.
    pub(crate) async fn place(&self, id: u128, buyer: u128, created_at: i64) {
        self.place_basket(id, buyer, created_at, basket("laptop", 1)).await;
    }

    /// Writes the first version of an order.
    pub(crate) async fn place_basket(&self, id: u128, buyer: u128, created_at: i64, basket: Basket) {
        self.write(placing(id, buyer, created_at, basket)).await;
    }

    /// Writes an update of an order.
    pub(crate) async fn write(&self, update: RowUpdate) {
        written(&self.orders, &update).await;
    }

    /// Writes an order's next version.
    pub(crate) async fn advance(&self, id: u128, version: u64, status: OrderStatus) {
        self.write(moving(id, version, status)).await;
    }
}

/// Writes an update to rows that are at the version before it.
pub(crate) async fn written(noted: &Noted, update: &RowUpdate) {
    assert_eq!(noted.rows.write(update).await.unwrap(), WriteOutcome::Applied);
}

/// The update that an event makes in the rows of a projection.
pub(crate) fn update(
    name: &str,
    stream: &StreamId,
    version: u64,
    micros: i64,
    event: &impl EventCodec,
) -> RowUpdate {
    let envelope = stored(stream, version, micros, event).envelope;
    (projection(name).update)(&envelope).unwrap().unwrap()
}

/// A user's next version.
pub(crate) fn user_change(id: u128, version: u64, email: &str) -> RowUpdate {
    let event = match version {
        1 => created_as(email),
        _ => UserEvent::UserProfileUpdated(UserProfileUpdated {
            email: Some(Email::try_from(email.to_owned()).unwrap()),
            name: Some(Label::try_from("John Doe".to_owned()).unwrap()),
        }),
    };
    let micros = i64::try_from(version).unwrap() - 1;
    update("user-profiles", &user(id), version, micros, &event)
}

/// The first version of an order.
pub(crate) fn placing(id: u128, buyer: u128, created_at: i64, basket: Basket) -> RowUpdate {
    update("order-summaries", &order(id), 1, created_at, &placed_by(buyer, basket))
}

/// An order's next version.
pub(crate) fn moving(id: u128, version: u64, status: OrderStatus) -> RowUpdate {
    let event = OrderEvent::OrderStatusUpdated(OrderStatusUpdated { status });
    update("order-summaries", &order(id), version, 99, &event)
}

/// The same update in the rows of another tenant.
pub(crate) fn of(tenant: &TenantId, mut update: RowUpdate) -> RowUpdate {
    update.key.tenant = tenant.clone();
    update.stream.tenant = tenant.clone();
    update
}

pub(crate) fn user_id(id: u128) -> UserId {
    UserId(Uuid::from_u128(id))
}

pub(crate) fn order_id(id: u128) -> OrderId {
    OrderId(Uuid::from_u128(id))
}

/// The time so many microseconds after the start of 2026.
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

/// The token of a command on a user.
pub(crate) fn after_user(id: u128, version: u64) -> Option<ReadAfter> {
    Some(token(User::TYPE.as_str(), &user_id(id).to_string(), version))
}

/// The token of a command on an order.
pub(crate) fn after_order(id: u128, version: u64) -> Option<ReadAfter> {
    Some(token(Order::TYPE.as_str(), &order_id(id).to_string(), version))
}

pub(crate) fn token(aggregate_type: &str, aggregate_id: &str, version: u64) -> ReadAfter {
    let (aggregate_type, aggregate_id) = (aggregate_type.to_owned(), aggregate_id.to_owned());
    ReadAfter { aggregate_type, aggregate_id, version }
}

/// A token with only bad fields, and their names.
pub(crate) fn bad_after() -> Option<ReadAfter> {
    Some(token("invoice", "7", 0))
}

pub(crate) const BAD_AFTER: [&str; 3] = ["after.aggregate_type", "after.aggregate_id", "after.version"];

pub(crate) fn of_tenant<T>(tenant: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-tenant-id", tenant.parse().unwrap());
    request
}

/// The bad fields of a status.
pub(crate) fn bad_fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    details.bad_request().unwrap().field_violations.iter().map(|violation| violation.field.clone()).collect()
}

/// The reason of a status.
pub(crate) fn reason(status: &Status) -> Option<String> {
    status.get_error_details().error_info().map(|info| info.reason.clone())
}
