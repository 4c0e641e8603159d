//! A thousand commands, each followed at once by every query that could show it, over indexes that lag.
//!
//! `MILLRACE_TEST_SEED=4711 cargo test -p query-service lagging` repeats a course.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
};

use millrace_aws::AwsError;
use millrace_core::{
    StreamId, TenantId,
    projection::{ProjectionSpec, RowUpdate},
    row::{IndexedAttribute, LookupSchema, Position, RowKey, RowSchema, StoredRow},
};
use millrace_event_store::MemoryStore;
use millrace_proto::time_to_proto;
use millrace_query::{QueryService, token::PageTokens};
use millrace_rows::{
    Consistency, ListPage, ListQuery, MemoryRows, ReadRows, RowBatch, WriteOutcome, WriteRows as _,
};
use millrace_testing::random::Seed;
use query_service::{Orders, Users};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use shop::{
    contracts::{
        query::{
            BatchGetOrdersRequest, BatchGetUserProfilesRequest, GetOrderRequest, GetOrdersByStatusRequest,
            GetOrdersByUserRequest, GetUserByEmailRequest, GetUserProfileRequest, OrderSummary, UserProfile,
            order_query_service_server::OrderQueryService as _,
            user_query_service_server::UserQueryService as _,
        },
        types,
    },
    order::OrderStatus,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};
use uuid::Uuid;

use crate::support::{
    WATCHING, after_order, after_user, at, basket, moving, placing, projection, shop, user_change,
};

/// The number of commands.
const COMMANDS: u64 = 1_000;

/// The most writes of its table by which an index may be behind.
const MAX_BEHIND: usize = 40;

/// Rows in memory, and an index of them that lags: each read of it shows each row as it was a random number of writes
/// ago, and leaves out rows younger than that. It may even go back. DynamoDB's eventually consistent reads are no
/// worse.
#[derive(Debug, Clone)]
struct Lagging {
    spec: ProjectionSpec,
    now: MemoryRows,
    index: Arc<Mutex<Index>>,
}

#[derive(Debug)]
struct Index {
    /// The writes of the rows, in order.
    written: Vec<Written>,
    /// A number for each row.
    numbers: HashMap<RowKey, usize>,
    chance: StdRng,
}

/// A written row, with its value and place in each list of its schema, and its value in each look-up.
#[derive(Debug)]
struct Written {
    number: usize,
    row: StoredRow,
    places: Vec<Option<(String, Position)>>,
    values: Vec<Option<String>>,
}

impl Index {
    fn write(&mut self, schema: &RowSchema, row: StoredRow) {
        let next = self.numbers.len();
        let number = *self.numbers.entry(row.key.clone()).or_insert(next);
        let text = |by: &IndexedAttribute| (by.text)(row.attributes.get(by.name)?);
        let places = schema.lists.iter().map(|list| text(&list.by).zip(row.position(list))).collect();
        let values = schema.lookups.iter().map(|lookup| text(&lookup.by)).collect();
        self.written.push(Written { number, places, values, row });
    }

    /// The rows in the index.
    fn shown(&mut self) -> impl Iterator<Item = &Written> {
        let mut behind: Vec<Option<usize>> = vec![None; self.numbers.len()];
        let mut shown: Vec<Option<&Written>> = vec![None; self.numbers.len()];
        for (n, written) in self.written.iter().enumerate() {
            let chance = &mut self.chance;
            let behind = *behind[written.number].get_or_insert_with(|| chance.random_range(0..=MAX_BEHIND));
            if n + behind < self.written.len() {
                shown[written.number] = Some(written);
            }
        }
        shown.into_iter().flatten()
    }
}

impl Lagging {
    fn of(name: &str, seed: u64) -> Self {
        let chance = StdRng::seed_from_u64(seed);
        let index = Index { written: Vec::new(), numbers: HashMap::new(), chance };
        let spec = projection(name);
        Self { now: MemoryRows::new(&spec), spec, index: Arc::new(Mutex::new(index)) }
    }

    async fn write(&self, update: &RowUpdate) {
        assert_eq!(self.now.write(update).await.unwrap(), WriteOutcome::Applied);
        let row = self.now.get(&update.key).await.unwrap().unwrap();
        self.index.lock().unwrap().write(self.spec.schema, row);
    }
}

impl ReadRows for Lagging {
    async fn get(&self, key: &RowKey) -> Result<Option<StoredRow>, AwsError> {
        self.now.get(key).await
    }

    async fn get_many(&self, keys: &[RowKey], consistency: Consistency) -> Result<RowBatch, AwsError> {
        self.now.get_many(keys, consistency).await
    }

    async fn applied_version(&self, stream: &StreamId) -> Result<u64, AwsError> {
        self.now.applied_version(stream).await
    }

    async fn lookup(
        &self,
        lookup: &'static LookupSchema,
        _: &TenantId,
        value: &str,
    ) -> Result<Vec<StoredRow>, AwsError> {
        let place = self.spec.schema.lookups.iter().position(|other| other == lookup).unwrap();
        let mut index = self.index.lock().unwrap();
        let found = index.shown().filter(|written| written.values[place].as_deref() == Some(value));
        Ok(found.map(|written| written.row.clone()).collect())
    }

    async fn page(
        &self,
        query: &ListQuery,
        before: Option<&Position>,
        limit: u16,
    ) -> Result<ListPage, AwsError> {
        let place = self.spec.schema.lists.iter().position(|other| other == query.list).unwrap();
        let mut index = self.index.lock().unwrap();
        let mut found: Vec<_> = index
            .shown()
            .filter_map(|written| Some((written.places[place].as_ref()?, &written.row)))
            .filter(|((value, position), _)| {
                *value == query.value && before.is_none_or(|before| position < before)
            })
            .map(|((_, position), row)| (position, row))
            .filter(|(_, row)| query.holds(row))
            .collect();
        found.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        let is_all = found.len() <= limit.into();
        found.truncate(limit.into());
        let end = found.last().filter(|_| !is_all).map(|(position, _)| (*position).clone());
        Ok(ListPage { rows: found.into_iter().map(|(_, row)| row.clone()).collect(), end })
    }
}

/// A user in the course.
#[derive(Debug, Clone)]
struct User {
    version: u64,
    email: String,
}

/// An order in the course.
#[derive(Debug, Clone)]
struct Order {
    buyer: u128,
    placed: i64,
    version: u64,
    status: OrderStatus,
    /// Its previous status.
    before: Option<OrderStatus>,
}

/// The target of the last command.
#[derive(Debug, Clone, Copy)]
enum Commanded {
    User(u128),
    Order(u128),
}

/// Commands, and their effects.
struct Course {
    users: Lagging,
    orders: Lagging,
    user_queries: Users,
    order_queries: Orders,
    people: BTreeMap<u128, User>,
    placed: BTreeMap<u128, Order>,
    /// The address that a user gave up with its last command.
    given_up: Option<String>,
    chance: StdRng,
    asked: u64,
}

impl Course {
    fn of(seed: u64) -> Self {
        let users = Lagging::of("user-profiles", seed ^ 1);
        let orders = Lagging::of("order-summaries", seed ^ 2);
        let customers = Lagging::of("customer-totals", seed ^ 3);
        let store = |spec: &ProjectionSpec| {
            let all = [&users, &orders, &customers];
            all.into_iter().find(|rows| rows.spec.name == spec.name).unwrap().clone()
        };
        let (tokens, ending) = (PageTokens::of_table("orders"), CancellationToken::new());
        let service = QueryService::new(shop(), store, MemoryStore::default(), tokens, WATCHING, ending);
        Self {
            user_queries: Users(service.rows::<shop::UserProfile, _>().unwrap()),
            order_queries: Orders(service.rows::<shop::OrderSummary, _>().unwrap()),
            users,
            orders,
            people: BTreeMap::new(),
            placed: BTreeMap::new(),
            given_up: None,
            chance: StdRng::seed_from_u64(seed),
            asked: 0,
        }
    }

    async fn command(&mut self) -> Commanded {
        self.given_up = None;
        let of_order = self.chance.random_bool(0.7) && !self.people.is_empty();
        let movable: Vec<_> = self.placed.iter().filter(|(_, order)| next(order.status).is_some()).collect();
        match movable.choose(&mut self.chance).map(|(id, _)| **id) {
            _ if !of_order => self.user().await,
            Some(id) if self.chance.random_bool(0.6) => self.advance(id).await,
            Some(_) | None => self.place().await,
        }
    }

    /// Creates a user or changes its address, to a free one. There are few, so that they change hands.
    async fn user(&mut self) -> Commanded {
        let taken: HashSet<_> = self.people.values().map(|user| user.email.clone()).collect();
        let free = (0..12).map(|n| format!("user{n}@example.com")).filter(|email| !taken.contains(email));
        let email = free.collect::<Vec<_>>().choose(&mut self.chance).unwrap().clone();
        let id = self.chance.random_range(1..8_u128);
        let version = self.people.get(&id).map_or(1, |user| user.version + 1);
        self.users.write(&user_change(id, version, &email)).await;
        self.given_up = self.people.insert(id, User { version, email }).map(|user| user.email);
        Commanded::User(id)
    }

    async fn place(&mut self) -> Commanded {
        let buyer = *self.people.keys().copied().collect::<Vec<_>>().choose(&mut self.chance).unwrap();
        // Anywhere among the others, and often at the same time as another one.
        let (id, placed) = (u128::from(self.chance.next_u64()), self.chance.random_range(0..60));
        self.orders.write(&placing(id, buyer, placed, basket("laptop", 1))).await;
        let status = OrderStatus::Created;
        self.placed.insert(id, Order { buyer, placed, version: 1, status, before: None });
        Commanded::Order(id)
    }

    async fn advance(&mut self, id: u128) -> Commanded {
        let order = self.placed.get_mut(&id).unwrap();
        order.before = Some(order.status);
        order.status = next(order.status).unwrap();
        order.version += 1;
        let update = moving(id, order.version, order.status);
        self.orders.write(&update).await;
        Commanded::Order(id)
    }

    // ------------------------------------------------------------ queries

    /// Sends every query that could show a user.
    async fn ask_about_user(&mut self, id: u128) {
        let User { version, email } = self.people[&id].clone();
        let token = after_user(id, version);
        let shown =
            |profile: Option<UserProfile>| profile.map(|user| (user.user_id, user.email, user.version));
        let expected = Some((uuid(id), email.clone(), version));

        let request = GetUserProfileRequest { user_id: uuid(id), after: token.clone() };
        let reply = self.user_queries.get_user_profile(Request::new(request)).await.unwrap().into_inner();
        assert_eq!(shown(reply.user_profile), expected);
        let user_ids = vec![uuid(99), uuid(id)];
        let request = BatchGetUserProfilesRequest { user_ids, after: token.clone() };
        let reply = self.user_queries.batch_get_user_profiles(Request::new(request)).await.unwrap();
        assert_eq!(shown(reply.into_inner().user_profiles.pop()), expected);

        let ask = async |email: String| -> Result<Option<UserProfile>, Status> {
            let request = GetUserByEmailRequest { email, after: token.clone() };
            Ok(self.user_queries.get_user_by_email(Request::new(request)).await?.into_inner().user_profile)
        };
        assert_eq!(shown(ask(email).await.unwrap()), expected, "by the address that the user has now");
        self.asked += 3;
        if let Some(old) = self.given_up.clone() {
            // No user has it by now, whatever the index still shows.
            let found = ask(old).await.map_err(|status| status.code());
            assert_eq!(found, Err(Code::NotFound), "by the address that was given up");
            self.asked += 1;
        }
    }

    /// Sends every query that could show an order.
    async fn ask_about_order(&mut self, id: u128) {
        let Order { buyer, placed, version, status, before } = self.placed[&id].clone();
        let token = after_order(id, version);
        let is_fresh = |order: &OrderSummary| {
            assert_eq!((order.version, order.status), (version, types::OrderStatus::from(status).into()));
        };
        let request = GetOrderRequest { order_id: uuid(id), after: token.clone() };
        let reply = self.order_queries.get_order(Request::new(request)).await.unwrap().into_inner();
        is_fresh(&reply.order.unwrap());
        let request = BatchGetOrdersRequest { order_ids: vec![uuid(0), uuid(id)], after: token.clone() };
        let reply = self.order_queries.batch_get_orders(Request::new(request)).await.unwrap().into_inner();
        is_fresh(&reply.orders[0]);
        self.asked += 2;

        let since = Some(time_to_proto(at(placed)));
        let until = Some(time_to_proto(at(placed + 1)));
        let (proto, user_id) = (|status| types::OrderStatus::from(status).into(), uuid(buyer));
        let by_user = GetOrdersByUserRequest { user_id, after: token.clone(), ..Default::default() };
        let now = GetOrdersByUserRequest { status: proto(status), ..by_user.clone() };
        let mut lists = vec![
            (List::User(by_user.clone()), 1),
            (List::User(now), 1),
            (List::User(GetOrdersByUserRequest { created_since: since, ..by_user.clone() }), 1),
            (List::User(GetOrdersByUserRequest { created_before: since, ..by_user.clone() }), 0),
            (List::User(GetOrdersByUserRequest { created_since: until, ..by_user.clone() }), 0),
            (List::User(GetOrdersByUserRequest { user_id: uuid(99), ..by_user.clone() }), 0),
        ];
        let by_status =
            GetOrdersByStatusRequest { status: proto(status), after: token, ..Default::default() };
        let moment =
            GetOrdersByStatusRequest { created_since: since, created_before: until, ..by_status.clone() };
        lists.extend([(List::Status(by_status.clone()), 1), (List::Status(moment), 1)]);
        for other in OrderStatus::ALL.into_iter().filter(|other| *other != status) {
            let of_user = GetOrdersByUserRequest { status: proto(other), ..by_user.clone() };
            let of_all = GetOrdersByStatusRequest { status: proto(other), ..by_status.clone() };
            if before == Some(other) || self.chance.random_bool(0.2) {
                lists.extend([(List::User(of_user), 0), (List::Status(of_all), 0)]);
            }
        }
        for (list, times) in lists {
            let asked = format!("{list:?}");
            let met = self.walk(list).await;
            let met: Vec<_> = met.iter().filter(|order| order.order_id == uuid(id)).collect();
            assert_eq!(met.len(), times, "{id} is {status:?}, was {before:?}, placed at {placed}: {asked}");
            met.into_iter().for_each(is_fresh);
            self.asked += 1;
        }
    }

    /// All pages of a list, of random sizes.
    async fn walk(&mut self, mut list: List) -> Vec<OrderSummary> {
        let (mut met, mut pages) = (Vec::new(), 0);
        loop {
            let size = *[1, 3, 20, 100].choose(&mut self.chance).unwrap();
            let (orders, next) = match &mut list {
                List::User(request) => {
                    request.page_size = size;
                    let request = Request::new(request.clone());
                    let reply = self.order_queries.get_orders_by_user(request).await.unwrap().into_inner();
                    (reply.orders, reply.next_page_token)
                }
                List::Status(request) => {
                    request.page_size = size;
                    let request = Request::new(request.clone());
                    let reply = self.order_queries.get_orders_by_status(request).await.unwrap().into_inner();
                    (reply.orders, reply.next_page_token)
                }
            };
            met.extend(orders);
            pages += 1;
            assert!(pages < 2_000, "a list that does not end");
            match &mut list {
                _ if next.is_empty() => break,
                List::User(request) => request.page_token = next,
                List::Status(request) => request.page_token = next,
            }
        }
        let distinct: HashSet<_> = met.iter().map(|order| &order.order_id).collect();
        assert_eq!(distinct.len(), met.len(), "no order twice, though the index goes back between two pages");
        met
    }
}

/// The query of a list.
#[derive(Debug)]
enum List {
    User(GetOrdersByUserRequest),
    Status(GetOrdersByStatusRequest),
}

fn uuid(id: u128) -> String {
    Uuid::from_u128(id).to_string()
}

fn next(status: OrderStatus) -> Option<OrderStatus> {
    OrderStatus::ALL.into_iter().find(|next| status.leads_to(*next))
}

#[tokio::test]
async fn a_thousand_commands_are_seen_at_once_by_every_query_though_the_indexes_lag() {
    let seed = Seed::draw("cargo test -p query-service lagging");
    let mut course = Course::of(seed.value());
    let (mut users, mut orders) = (0, 0);
    for _ in 0..COMMANDS {
        match course.command().await {
            Commanded::User(id) => {
                users += 1;
                course.ask_about_user(id).await;
            }
            Commanded::Order(id) => {
                orders += 1;
                course.ask_about_order(id).await;
            }
        }
    }
    println!("{users} commands on users, {orders} on orders; {} questions, none of them stale", course.asked);
    assert!(users > 100 && orders > 300);
}

#[tokio::test]
async fn without_tokens_the_same_indexes_do_show_what_is_stale() {
    let mut course = Course::of(7);
    let mut stale = 0;
    for _ in 0..200 {
        if let Commanded::Order(id) = course.command().await {
            let order = course.placed[&id].clone();
            let status = types::OrderStatus::from(order.status).into();
            let list = GetOrdersByStatusRequest { status, ..Default::default() };
            let met = course.walk(List::Status(list)).await;
            stale += usize::from(met.iter().all(|met| met.order_id != uuid(id)));
        }
    }
    assert!(stale > 50, "{stale}: the lag that is injected is one");
}
