//! Read models and an event store in memory with something in them, and the services over them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use millrace_aws::AwsError;
use millrace_domain::{
    Email, EventId, Label, Money, OrderId, TenantId, Timestamp, UserId,
    order::{Basket, OrderItem, OrderStatus},
};
use millrace_event_store::MemoryStore;
use millrace_proto::query::ReadAfter;
use millrace_read_models::{
    Consistency, Key, ListPart, Many, MemoryOrders, MemoryUsers, OrderChange, OrderList, OrderRow, Placed,
    Position, Provenance, ReadOrders, ReadUsers, UserChange, UserRow, WriteRows, Written,
};
use millrace_runtime::Places;
use query_service::{
    history::History,
    models::Models,
    orders::Orders,
    token::PageTokens,
    users::Users,
    watch::{Hub, OrderRows, Pace, UserRows, Watching},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

/// How rows are watched.
pub(crate) const PACE: Pace = Pace { fastest: Duration::from_millis(250), slowest: Duration::from_secs(2) };

/// How many can watch.
pub(crate) const MOST_WATCHERS: u32 = 300;

/// Both.
pub(crate) const WATCHING: Watching =
    Watching { pace: PACE, most: MOST_WATCHERS, most_of_tenant: MOST_WATCHERS };

/// What tells those who watch users of changes, over whatever read model.
pub(crate) fn user_hub<U: ReadUsers>(users: U, ending: &CancellationToken) -> Hub<UserRows<U>> {
    let hub = Hub::new(UserRows(users), PACE, Places::new(MOST_WATCHERS, MOST_WATCHERS), ending.clone());
    tokio::spawn(hub.clone().run());
    hub
}

/// What tells those who watch orders of changes, over whatever read model.
pub(crate) fn order_hub<O: ReadOrders>(orders: O, ending: &CancellationToken) -> Hub<OrderRows<O>> {
    let hub = Hub::new(OrderRows(orders), PACE, Places::new(MOST_WATCHERS, MOST_WATCHERS), ending.clone());
    tokio::spawn(hub.clone().run());
    hub
}

/// Read models that note which rows are read by their keys, and an event store. Neither knows of the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) users: Noted<MemoryUsers>,
    pub(crate) orders: Noted<MemoryOrders>,
    pub(crate) events: MemoryStore,
    pub(crate) ending: CancellationToken,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Noted<T> {
    pub(crate) rows: T,
    gets: Arc<Mutex<Vec<Uuid>>>,
    requests: Arc<AtomicUsize>,
    searches: Arc<AtomicUsize>,
    batches: Arc<Mutex<Vec<BatchReply>>>,
    /// What all requests for many rows fail with.
    failing: Arc<Mutex<Option<AwsError>>>,
    /// How many reads of a row by its key are answered yet; all where it is `None`.
    answered_yet: Arc<Mutex<Option<usize>>>,
}

/// What becomes of a request for many rows.
#[derive(Debug, Clone)]
pub(crate) enum BatchReply {
    /// Only so many of the keys are answered, from the first one on.
    Answered(usize),
    /// The row of this id cannot be read.
    Unreadable(Uuid),
    /// It fails.
    Fails(AwsError),
    /// It is never answered.
    Hangs,
}

impl<T> Noted<T> {
    /// How often a row was read by its key, whichever it was.
    pub(crate) fn gets(&self) -> usize {
        self.gets.lock().unwrap().len()
    }

    /// How often the row of an id was read by its key.
    pub(crate) fn gets_of(&self, id: u128) -> usize {
        self.gets.lock().unwrap().iter().filter(|read| read.as_u128() == id).count()
    }

    /// How many requests there were for rows by their keys, be it one row or many.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// How many rows were read by their keys, and how often an index was; but for the rows that nobody has, by which a
    /// server looks whether it can read at all.
    pub(crate) fn reads(&self) -> usize {
        let rows = self.gets.lock().unwrap().iter().filter(|id| !id.is_nil()).count();
        rows + self.searches.load(Ordering::Relaxed)
    }

    /// Lets requests for many rows fail, or no longer.
    pub(crate) fn fail(&self, error: Option<AwsError>) {
        *self.failing.lock().unwrap() = error;
    }

    /// Lets only so many reads of a row by its key be answered, and no later one.
    pub(crate) fn answer_only(&self, gets: usize) {
        *self.answered_yet.lock().unwrap() = Some(gets);
    }

    /// Notes a read of a row by its key. Never ends where it is not to be answered.
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

    /// What becomes of the next requests for many rows, each in its turn, until none is left.
    pub(crate) fn next_batches(&self, replies: impl IntoIterator<Item = BatchReply>) {
        *self.batches.lock().unwrap() = replies.into_iter().collect();
    }

    fn note(&self, id: Uuid) {
        self.gets.lock().unwrap().push(id);
    }

    /// Asks for many rows, of which the next of the replies says what becomes.
    async fn many<I: Copy, R, F>(
        &self,
        keys: &[Key<I>],
        id: impl Fn(I) -> Uuid,
        ask: impl FnOnce(Vec<Key<I>>) -> F,
    ) -> Result<Many<I, R>, AwsError>
    where
        F: Future<Output = Result<Many<I, R>, AwsError>>,
    {
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
        asked.iter().for_each(|key| self.note(id(key.1)));
        let mut many = ask(asked.to_vec()).await?;
        many.left.extend_from_slice(left);
        if let Some(BatchReply::Unreadable(which)) = next {
            for (_, row) in many.found.iter_mut().filter(|(key, _)| id(key.1) == which) {
                *row = Err(AwsError::Nonsense("it cannot be read".to_owned()));
            }
        }
        Ok(many)
    }
}

impl ReadUsers for Noted<MemoryUsers> {
    async fn get(&self, tenant: &TenantId, user_id: UserId) -> Result<Option<UserRow>, AwsError> {
        self.read(user_id.0).await;
        self.rows.get(tenant, user_id).await
    }

    async fn get_many(
        &self,
        keys: &[Key<UserId>],
        consistency: Consistency,
    ) -> Result<Many<UserId, UserRow>, AwsError> {
        let ask = |keys: Vec<_>| async move { self.rows.get_many(&keys, consistency).await };
        self.many(keys, |id| id.0, ask).await
    }

    async fn by_email(&self, tenant: &TenantId, email: &Email) -> Result<Vec<UserRow>, AwsError> {
        self.searches.fetch_add(1, Ordering::Relaxed);
        self.rows.by_email(tenant, email).await
    }
}

impl ReadOrders for Noted<MemoryOrders> {
    async fn get(&self, tenant: &TenantId, order_id: OrderId) -> Result<Option<OrderRow>, AwsError> {
        self.read(order_id.0).await;
        self.rows.get(tenant, order_id).await
    }

    async fn get_many(
        &self,
        keys: &[Key<OrderId>],
        consistency: Consistency,
    ) -> Result<Many<OrderId, OrderRow>, AwsError> {
        let ask = |keys: Vec<_>| async move { self.rows.get_many(&keys, consistency).await };
        self.many(keys, |id| id.0, ask).await
    }

    async fn part(
        &self,
        list: &OrderList,
        before: Option<&Position>,
        limit: u16,
    ) -> Result<ListPart, AwsError> {
        self.searches.fetch_add(1, Ordering::Relaxed);
        self.rows.part(list, before, limit).await
    }
}

impl World {
    pub(crate) fn models(&self) -> Models<Noted<MemoryUsers>, Noted<MemoryOrders>> {
        Models::new(self.users.clone(), self.orders.clone())
    }

    pub(crate) fn user_service(&self) -> Users<Noted<MemoryUsers>, Noted<MemoryOrders>> {
        Users::new(self.models(), user_hub(self.users.clone(), &self.ending))
    }

    pub(crate) fn order_service(&self) -> Orders<Noted<MemoryUsers>, Noted<MemoryOrders>> {
        Orders::new(
            self.models(),
            PageTokens::of_table("orders"),
            order_hub(self.orders.clone(), &self.ending),
        )
    }

    pub(crate) fn history_service(&self) -> History<MemoryStore> {
        History::new(self.events.clone(), PageTokens::of_table("orders"))
    }

    /// Writes a user's next version.
    pub(crate) async fn user(&self, id: u128, version: u64, email: &str) {
        let change = user_change(id, version, email);
        assert_eq!(self.users.rows.write(&change).await.unwrap(), Written::Applied);
    }

    /// Writes the first version of an order.
    pub(crate) async fn place(&self, id: u128, buyer: u128, created_at: i64) {
        self.place_basket(id, buyer, created_at, basket("laptop", 1)).await;
    }

    /// Writes the first version of an order.
    pub(crate) async fn place_basket(&self, id: u128, buyer: u128, created_at: i64, basket: Basket) {
        self.write(placing(id, buyer, created_at, basket)).await;
    }

    /// Writes an order's next version, whichever it is.
    pub(crate) async fn write(&self, change: OrderChange) {
        assert_eq!(self.orders.rows.write(&change).await.unwrap(), Written::Applied);
    }

    /// Writes an order's next version.
    pub(crate) async fn advance(&self, id: u128, version: u64, status: OrderStatus) {
        self.write(moving(id, version, status)).await;
    }
}

/// A user's next version.
pub(crate) fn user_change(id: u128, version: u64, email: &str) -> UserChange {
    UserChange {
        tenant: TenantId::default(),
        user_id: user_id(id),
        from: version - 1,
        to: version,
        created_at: (version == 1).then(|| at(0)),
        email: Some(Email::try_from(email.to_owned()).unwrap()),
        name: Some(Label::try_from("John Doe".to_owned()).unwrap()),
        updated_at: at(i64::try_from(version).unwrap() - 1),
        provenance: made_by(version),
    }
}

/// The first version of an order.
pub(crate) fn placing(id: u128, buyer: u128, created_at: i64, basket: Basket) -> OrderChange {
    OrderChange {
        tenant: TenantId::default(),
        order_id: order_id(id),
        from: 0,
        to: 1,
        placed: Some(Placed { user_id: user_id(buyer), basket, created_at: at(created_at) }),
        status: OrderStatus::Created,
        updated_at: at(created_at),
        provenance: made_by(1),
    }
}

/// An order's next version.
pub(crate) fn moving(id: u128, version: u64, status: OrderStatus) -> OrderChange {
    OrderChange {
        tenant: TenantId::default(),
        order_id: order_id(id),
        from: version - 1,
        to: version,
        placed: None,
        status,
        updated_at: at(99),
        provenance: made_by(version),
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
