//! A thousand commands, each followed at once by every query that could show it, over indexes that lag.
//!
//! `SEED=4711 cargo test -p query-service lagging` takes the same course again.

use std::{
    collections::{BTreeMap, HashSet},
    env,
    sync::{Arc, Mutex},
};

use millrace_aws::AwsError;
use millrace_domain::{Email, OrderId, TenantId, UserId, order::OrderStatus};
use millrace_proto::{
    codec::{status_to_proto, time_to_proto},
    query::{
        BatchGetOrdersRequest, BatchGetUserProfilesRequest, GetOrderRequest, GetOrdersByStatusRequest,
        GetOrdersByUserRequest, GetUserByEmailRequest, GetUserProfileRequest, OrderSummary, UserProfile,
        order_query_service_server::OrderQueryService as _, user_query_service_server::UserQueryService as _,
    },
};
use millrace_read_models::{
    Consistency, Key, ListPart, Many, MemoryOrders, MemoryUsers, OrderChange, OrderList, OrderRow, Position,
    ReadOrders, ReadUsers, UserChange, UserRow, WriteRows, Written,
};
use query_service::{models::Models, orders::Orders, token::PageTokens, users::Users};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};
use uuid::Uuid;

use crate::support::{after, at, basket, moving, order_hub, placing, user_change, user_hub};

/// How many commands there are.
const COMMANDS: u64 = 1_000;

/// How many writes of its table an index may be behind.
const MOST_BEHIND: usize = 40;

/// Rows in memory, and an index of them that lags: each time that it is read, it shows each row as it was up to so many
/// writes ago, chance has it how many, and leaves a row out that is younger than that. It may even go back. DynamoDB's
/// eventually consistent reads are no worse.
#[derive(Debug, Clone)]
struct Lagging<T, R> {
    now: T,
    index: Arc<Mutex<Index<R>>>,
}

#[derive(Debug)]
struct Index<R> {
    /// The rows as they were written, in this order.
    written: Vec<(Uuid, R)>,
    chance: StdRng,
}

impl<R: Clone> Index<R> {
    /// The rows as the index shows them, by their ids.
    fn shown(&mut self) -> Vec<R> {
        let mut behind: BTreeMap<Uuid, usize> = BTreeMap::new();
        let mut shown: BTreeMap<Uuid, R> = BTreeMap::new();
        for (n, (id, row)) in self.written.iter().enumerate() {
            let chance = &mut self.chance;
            let behind = *behind.entry(*id).or_insert_with(|| chance.random_range(0..=MOST_BEHIND));
            if n + behind < self.written.len() {
                shown.insert(*id, row.clone());
            }
        }
        shown.into_values().collect()
    }
}

impl<T: Default, R: Clone> Lagging<T, R> {
    fn of(seed: u64) -> Self {
        let index = Index { written: Vec::new(), chance: StdRng::seed_from_u64(seed) };
        Self { now: T::default(), index: Arc::new(Mutex::new(index)) }
    }

    fn index<I: FromIterator<R>>(&self) -> I {
        self.index.lock().unwrap().shown().into_iter().collect()
    }

    fn note(&self, id: Uuid, row: R) {
        self.index.lock().unwrap().written.push((id, row));
    }
}

impl ReadUsers for Lagging<MemoryUsers, UserRow> {
    async fn get(&self, tenant: &TenantId, user_id: UserId) -> Result<Option<UserRow>, AwsError> {
        self.now.get(tenant, user_id).await
    }

    async fn get_many(
        &self,
        keys: &[Key<UserId>],
        consistency: Consistency,
    ) -> Result<Many<UserId, UserRow>, AwsError> {
        self.now.get_many(keys, consistency).await
    }

    async fn by_email(&self, tenant: &TenantId, email: &Email) -> Result<Vec<UserRow>, AwsError> {
        self.index::<MemoryUsers>().by_email(tenant, email).await
    }
}

impl ReadOrders for Lagging<MemoryOrders, OrderRow> {
    async fn get(&self, tenant: &TenantId, order_id: OrderId) -> Result<Option<OrderRow>, AwsError> {
        self.now.get(tenant, order_id).await
    }

    async fn get_many(
        &self,
        keys: &[Key<OrderId>],
        consistency: Consistency,
    ) -> Result<Many<OrderId, OrderRow>, AwsError> {
        self.now.get_many(keys, consistency).await
    }

    async fn part(
        &self,
        list: &OrderList,
        before: Option<&Position>,
        limit: u16,
    ) -> Result<ListPart, AwsError> {
        self.index::<MemoryOrders>().part(list, before, limit).await
    }
}

type LaggingUsers = Lagging<MemoryUsers, UserRow>;
type LaggingOrders = Lagging<MemoryOrders, OrderRow>;

/// A user as the course has it.
#[derive(Debug, Clone)]
struct User {
    version: u64,
    email: String,
}

/// An order as the course has it.
#[derive(Debug, Clone)]
struct Order {
    buyer: u128,
    placed: i64,
    version: u64,
    status: OrderStatus,
    /// Where it stood before.
    before: Option<OrderStatus>,
}

/// What was commanded last.
#[derive(Debug, Clone, Copy)]
enum Commanded {
    User(u128),
    Order(u128),
}

/// Commands, and what has come of them.
struct Course {
    users: LaggingUsers,
    orders: LaggingOrders,
    user_queries: Users<LaggingUsers, LaggingOrders>,
    order_queries: Orders<LaggingUsers, LaggingOrders>,
    people: BTreeMap<u128, User>,
    placed: BTreeMap<u128, Order>,
    /// The address that a user gave up with its last command.
    given_up: Option<String>,
    chance: StdRng,
    asked: u64,
}

impl Course {
    fn of(seed: u64) -> Self {
        let users = LaggingUsers::of(seed ^ 1);
        let orders = LaggingOrders::of(seed ^ 2);
        let models = Models::new(users.clone(), orders.clone());
        let ending = CancellationToken::new();
        Self {
            user_queries: Users::new(models.clone(), user_hub(users.clone(), &ending)),
            order_queries: Orders::new(
                models,
                PageTokens::of_table("orders"),
                order_hub(orders.clone(), &ending),
            ),
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

    /// Creates a user or changes its address, to one that nobody has now. There are few, so that they change hands.
    async fn user(&mut self) -> Commanded {
        let taken: HashSet<_> = self.people.values().map(|user| user.email.clone()).collect();
        let free = (0..12).map(|n| format!("user{n}@example.com")).filter(|email| !taken.contains(email));
        let email = free.collect::<Vec<_>>().choose(&mut self.chance).unwrap().clone();
        let id = self.chance.random_range(1..8_u128);
        let version = self.people.get(&id).map_or(1, |user| user.version + 1);
        let change: UserChange = user_change(id, version, &email);
        assert_eq!(self.users.now.write(&change).await.unwrap(), Written::Applied);
        self.users.note(
            change.user_id.0,
            self.users.now.get(&change.tenant, change.user_id).await.unwrap().unwrap(),
        );
        self.given_up = self.people.insert(id, User { version, email }).map(|user| user.email);
        Commanded::User(id)
    }

    async fn place(&mut self) -> Commanded {
        let buyer = *self.people.keys().copied().collect::<Vec<_>>().choose(&mut self.chance).unwrap();
        // Anywhere among the others, and often at the same time as another one.
        let (id, placed) = (u128::from(self.chance.next_u64()), self.chance.random_range(0..60));
        self.write(placing(id, buyer, placed, basket("laptop", 1))).await;
        let status = OrderStatus::Created;
        self.placed.insert(id, Order { buyer, placed, version: 1, status, before: None });
        Commanded::Order(id)
    }

    async fn advance(&mut self, id: u128) -> Commanded {
        let order = self.placed.get_mut(&id).unwrap();
        order.before = Some(order.status);
        order.status = next(order.status).unwrap();
        order.version += 1;
        let change = moving(id, order.version, order.status);
        self.write(change).await;
        Commanded::Order(id)
    }

    async fn write(&self, change: OrderChange) {
        assert_eq!(self.orders.now.write(&change).await.unwrap(), Written::Applied);
        let row = self.orders.now.get(&change.tenant, change.order_id).await.unwrap().unwrap();
        self.orders.note(change.order_id.0, row);
    }

    // ------------------------------------------------------------ queries

    /// Asks everything that could show a user.
    async fn ask_about_user(&mut self, id: u128) {
        let User { version, email } = self.people[&id].clone();
        let token = after(id, version);
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
            // Whoever had it before may still be shown: the token says nothing of others.
            match ask(old).await {
                Ok(found) => assert_ne!(found.unwrap().user_id, uuid(id), "by the address that was given up"),
                Err(status) => assert_eq!(status.code(), Code::NotFound),
            }
            self.asked += 1;
        }
    }

    /// Asks everything that could show an order.
    async fn ask_about_order(&mut self, id: u128) {
        let Order { buyer, placed, version, status, before } = self.placed[&id].clone();
        let token = after(id, version);
        let is_fresh = |order: &OrderSummary| {
            assert_eq!((order.version, order.status), (version, status_to_proto(status).into()));
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
        let (proto, user_id) = (|status| status_to_proto(status).into(), uuid(buyer));
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

    /// All pages of a list, of whatever sizes.
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

/// A list, as it is asked for.
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
    let seed = env::var("SEED").ok().map_or_else(rand::random, |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    let mut course = Course::of(seed);
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
            let status = status_to_proto(order.status).into();
            let list = GetOrdersByStatusRequest { status, ..Default::default() };
            let met = course.walk(List::Status(list)).await;
            stale += usize::from(met.iter().all(|met| met.order_id != uuid(id)));
        }
    }
    assert!(stale > 50, "{stale}: the lag that is injected is one");
}
