//! The cost of queries on AWS: requests, bytes, read units. Run with `--nocapture` to see the table.

use std::{collections::BTreeMap, fmt::Write as _};

use millrace_core::{Aggregate as _, Row as _, StreamId, TenantId, projection::RowUpdate};
use millrace_proto::time_to_proto;
use millrace_rows::{DynamoRows, ListQuery, ReadRows as _, TimeRange};
use millrace_testing::recorded;
use millrace_tests::{AwsStack, FaultProxy, ORDERS, Traffic, USERS, aws_stack};
use shop::{
    OrderId, OrderSummary, UserId,
    contracts::{
        query::{
            BatchGetOrdersRequest, BatchGetUserProfilesRequest, GetOrderRequest, GetOrdersByStatusRequest,
            GetOrdersByUserRequest, GetUserByEmailRequest, GetUserProfileRequest,
            order_query_service_server::OrderQueryService as _,
            user_query_service_server::UserQueryService as _,
        },
        types,
    },
    order::{Order, OrderStatus},
    user::{User, UserCreated, UserEvent},
};
use tonic::Request;
use uuid::Uuid;

use crate::{
    calls::after,
    replica::{QueryReplica, SHARDS, dynamo_rows},
    rows::{Asked, BUYER, ask, at, laptop, largest, moved, order_id, placed, write},
};

/// How many queries a list by status takes.
const QUERIES: u64 = SHARDS.get() as u64;

/// The newest order.
fn newest() -> OrderId {
    order_id(1_999)
}

/// Services without a port, so that nothing else is counted, over a wire that meters.
struct Metered {
    proxy: FaultProxy,
    rows: DynamoRows,
    services: QueryReplica,
    notes: Vec<Note>,
}

/// A call's cost, and the cost that is allowed.
struct Note {
    what: &'static str,
    used: BTreeMap<String, Traffic>,
    requests: BTreeMap<&'static str, u64>,
    read_units: f64,
    /// The read units of rows that a filter left out. AWS charges them, but the reply does not show them.
    left_out: f64,
}

impl Metered {
    async fn new(stack: &AwsStack) -> Self {
        let proxy = FaultProxy::before(stack.endpoint()).await.unwrap();
        let aws = proxy.aws(&stack.account).await;
        let (rows, services) = (dynamo_rows(stack, &aws, ORDERS), QueryReplica::new(stack, &aws));
        Self { proxy, rows, services, notes: Vec::new() }
    }

    /// Notes the traffic since the last note: these requests and no others, for so many read units.
    fn note(&mut self, what: &'static str, requests: &[(&'static str, u64)], read_units: f64) {
        let requests = requests.iter().copied().collect();
        self.notes.push(Note { what, used: self.proxy.take(), requests, read_units, left_out: 0.0 });
    }

    /// Adds to the last note the cost of these two parts of the user's list, which a filter left out nearly whole.
    async fn looked_at(&mut self, tenant: &TenantId, first: u16, further: u16) {
        let list = OrderSummary::SCHEMA.list("by-user").unwrap();
        let (tenant, value) = (tenant.clone(), BUYER.to_string());
        let query = ListQuery { list, tenant, value, filter: None, times: TimeRange::default() };
        let page = self.rows.page(&query, None, first).await.unwrap();
        self.rows.page(&query, page.end.as_ref(), further).await.unwrap();
        let used: f64 = self.proxy.take().values().map(|traffic| traffic.read_units).sum();
        if let Some(note) = self.notes.last_mut() {
            note.left_out = used - note.used.values().map(|traffic| traffic.read_units).sum::<f64>();
        }
    }

    /// Prints the notes, and compares them with the expected costs.
    fn settle(&self) {
        let mut table = format!("\n{:<62} {:<26} {:>10} {:>7}\n", "", "requests", "bytes read", "RU");
        for Note { what, used, left_out, .. } in &self.notes {
            let requests: Vec<_> =
                used.iter().map(|(name, traffic)| format!("{} {name}", traffic.requests)).collect();
            let bytes: u64 = used.values().map(|traffic| traffic.response_bytes).sum();
            let read_units: f64 = used.values().map(|traffic| traffic.read_units).sum::<f64>() + left_out;
            writeln!(table, "{what:<62} {:<26} {bytes:>10} {read_units:>7.1}", requests.join(", ")).unwrap();
        }
        println!("{table}");
        for Note { what, used, requests, read_units, left_out } in &self.notes {
            let sent: BTreeMap<_, _> =
                used.iter().map(|(name, traffic)| (name.as_str(), traffic.requests)).collect();
            assert_eq!(sent, *requests, "{what}");
            let units: f64 = used.values().map(|traffic| traffic.read_units).sum::<f64>() + left_out;
            assert_eq!(units, *read_units, "{what}");
        }
    }

    /// Asks for a page, which holds so many orders; the token of the next one.
    async fn page(&self, tenant: &TenantId, asked: Asked, size: usize, token: &str, held: usize) -> String {
        let (orders, next) =
            ask(&self.services.orders, tenant, asked.clone().page(size, token)).await.unwrap();
        assert_eq!(orders.len(), held, "{asked:?}");
        next
    }
}

/// A user.
const JOHN: UserId = UserId(Uuid::from_u128(7));

/// The update that a user's creation makes.
fn john() -> RowUpdate {
    let stream = StreamId { tenant: TenantId::default(), aggregate_type: User::TYPE, id: JOHN.0 };
    let (email, name) = ("john@example.com".to_owned(), "John Doe".to_owned());
    let event = UserCreated { email: email.try_into().unwrap(), name: name.try_into().unwrap() };
    let envelope = recorded(&stream, 1, at(0), &UserEvent::UserCreated(event));
    let spec = millrace_tests::shop().projection(USERS.name).unwrap().clone();
    (spec.update)(&envelope).unwrap().unwrap()
}

/// A tenant with 2,000 orders of one user, of which every hundredth has been shipped, and one with orders that are large.
async fn stored(metered: &Metered, stack: &AwsStack) -> [TenantId; 2] {
    let (us, bulk) = (TenantId::default(), "bulk".parse().unwrap());
    write(&dynamo_rows(stack, &stack.aws().await, USERS), [john()]).await;
    let small = (0..2_000).map(|n| placed(&us, n, laptop(), i64::try_from(n).unwrap()));
    let large = (0..60).map(|n| placed(&bulk, n, largest(), i64::try_from(n).unwrap()));
    write(&metered.rows, small.chain(large)).await;
    for (version, status) in [(2, OrderStatus::Processing), (3, OrderStatus::Shipped)] {
        write(&metered.rows, (0..2_000).step_by(100).map(|n| moved(&us, n, version, status))).await;
    }
    metered.proxy.take();
    [us, bulk]
}

async fn rows_by_their_keys(metered: &mut Metered) {
    let get_order = async |metered: &Metered, after| {
        let request = GetOrderRequest { order_id: newest().to_string(), after };
        metered.services.orders.get_order(Request::new(request)).await.unwrap();
    };
    get_order(metered, None).await;
    metered.note("GetOrder", &[("GetItem", 1)], 1.0);
    get_order(metered, after::<Order>(newest(), 1)).await;
    metered.note("GetOrder, with its own token", &[("GetItem", 1)], 1.0);
    get_order(metered, after::<Order>(order_id(1), 1)).await;
    metered.note("GetOrder, with another order's token", &[("GetItem", 2)], 2.0);
    get_order(metered, after::<User>(JOHN, 1)).await;
    metered.note("GetOrder, with a user's token", &[("GetItem", 2)], 2.0);

    let get_user = async |metered: &Metered, after| {
        let request = GetUserProfileRequest { user_id: JOHN.to_string(), after };
        metered.services.users.get_user_profile(Request::new(request)).await.unwrap();
    };
    get_user(metered, None).await;
    metered.note("GetUserProfile", &[("GetItem", 1)], 1.0);
    get_user(metered, after::<User>(JOHN, 1)).await;
    metered.note("GetUserProfile, with its own token", &[("GetItem", 1)], 1.0);
    let by_email = async |metered: &Metered, after| {
        let request = GetUserByEmailRequest { email: "john@example.com".into(), after };
        metered.services.users.get_user_by_email(Request::new(request)).await.unwrap();
    };
    by_email(metered, None).await;
    metered.note("GetUserByEmail", &[("Query", 1)], 0.5);
    by_email(metered, after::<User>(JOHN, 1)).await;
    metered.note("GetUserByEmail, with a token", &[("Query", 1), ("GetItem", 1)], 1.5);
}

async fn batches(metered: &mut Metered) {
    let orders = async |metered: &Metered, count: usize, after| {
        let order_ids = (0..count).map(|n| order_id(u64::try_from(n).unwrap()).to_string()).collect();
        let request = Request::new(BatchGetOrdersRequest { order_ids, after });
        let reply = metered.services.orders.batch_get_orders(request).await.unwrap();
        assert_eq!(reply.into_inner().orders.len(), count);
    };
    orders(metered, 20, None).await;
    metered.note("BatchGetOrders, 20", &[("BatchGetItem", 1)], 20.0);
    orders(metered, 100, None).await;
    metered.note("BatchGetOrders, 100", &[("BatchGetItem", 1)], 100.0);
    orders(metered, 100, after::<Order>(order_id(7), 1)).await;
    metered.note(
        "BatchGetOrders, 100, with the token of one of them",
        &[("BatchGetItem", 1), ("GetItem", 1)],
        100.0,
    );
    let user_ids = vec![JOHN.to_string(), Uuid::nil().to_string()];
    let request = Request::new(BatchGetUserProfilesRequest { user_ids, after: None });
    metered.services.users.batch_get_user_profiles(request).await.unwrap();
    metered.note("BatchGetUserProfiles, 2, of which one does not exist", &[("BatchGetItem", 1)], 2.0);
}

async fn lists_of_a_user(metered: &mut Metered, us: &TenantId) {
    let list = GetOrdersByUserRequest { user_id: BUYER.to_string(), ..Default::default() };
    let next = metered.page(us, Asked::OfUser(list.clone()), 20, "", 20).await;
    metered.note("GetOrdersByUser, a page of 20", &[("Query", 1)], 2.0);
    metered.page(us, Asked::OfUser(list.clone()), 20, &next, 20).await;
    metered.note("GetOrdersByUser, its next page", &[("Query", 1)], 2.0);
    metered.page(us, Asked::OfUser(list.clone()), 100, "", 100).await;
    metered.note("GetOrdersByUser, a page of 100", &[("Query", 1)], 8.5);
    let awaited = GetOrdersByUserRequest { after: after::<Order>(newest(), 1), ..list.clone() };
    metered.page(us, Asked::OfUser(awaited), 20, "", 20).await;
    metered.note("GetOrdersByUser, a page of 20, with a token", &[("Query", 1), ("GetItem", 1)], 3.0);
    let (created_since, created_before) = (Some(time_to_proto(at(500))), Some(time_to_proto(at(505))));
    let range = GetOrdersByUserRequest { created_since, created_before, ..list.clone() };
    metered.page(us, Asked::OfUser(range), 20, "", 5).await;
    metered.note("GetOrdersByUser, 5 of 2,000 by their times", &[("Query", 1)], 0.5);

    let filtered = |status| {
        let status = types::OrderStatus::from(status).into();
        Asked::OfUser(GetOrdersByUserRequest { status, ..list.clone() })
    };
    metered.page(us, filtered(OrderStatus::Created), 20, "", 20).await;
    metered.note("GetOrdersByUser, a page of 20 of the 99 % in a status", &[("Query", 1)], 8.5);
    metered.page(us, filtered(OrderStatus::Shipped), 20, "", 5).await;
    metered.note("GetOrdersByUser, 5 of the 1 % in a status, of 500 looked at", &[("Query", 2)], 41.0);
    metered.looked_at(us, 100, 400).await;
}

async fn lists_of_a_status(metered: &mut Metered, us: &TenantId) {
    let status = types::OrderStatus::Created.into();
    let list = GetOrdersByStatusRequest { status, ..Default::default() };
    let next = metered.page(us, Asked::InStatus(list.clone()), 20, "", 20).await;
    metered.note("GetOrdersByStatus, a page of 20", &[("Query", QUERIES)], 6.0);
    metered.page(us, Asked::InStatus(list.clone()), 20, &next, 20).await;
    metered.note("GetOrdersByStatus, its next page", &[("Query", QUERIES)], 6.0);
    metered.page(us, Asked::InStatus(list.clone()), 100, "", 100).await;
    metered.note("GetOrdersByStatus, a page of 100", &[("Query", QUERIES)], 14.0);
    let awaited = GetOrdersByStatusRequest { after: after::<Order>(newest(), 1), ..list };
    metered.page(us, Asked::InStatus(awaited), 20, "", 20).await;
    metered.note("GetOrdersByStatus, a page of 20, with a token", &[("Query", QUERIES), ("GetItem", 1)], 7.0);
}

async fn lists_of_large_orders(metered: &mut Metered, bulk: &TenantId) {
    let status = types::OrderStatus::Created.into();
    let of_user = GetOrdersByUserRequest { user_id: BUYER.to_string(), ..Default::default() };
    metered.page(bulk, Asked::OfUser(of_user), 100, "", 24).await;
    metered.note("GetOrdersByUser, a page of orders of 80 KB", &[("Query", 2)], 253.0);
    let in_status = GetOrdersByStatusRequest { status, ..Default::default() };
    metered.page(bulk, Asked::InStatus(in_status), 100, "", 38).await;
    metered.note("GetOrdersByStatus, a page of orders of 80 KB", &[("Query", QUERIES + 1)], 559.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_costs_what_the_architecture_says() {
    let stack = aws_stack().await.unwrap();
    let mut metered = Metered::new(&stack).await;
    let [us, bulk] = stored(&metered, &stack).await;
    rows_by_their_keys(&mut metered).await;
    batches(&mut metered).await;
    lists_of_a_user(&mut metered, &us).await;
    lists_of_a_status(&mut metered, &us).await;
    lists_of_large_orders(&mut metered, &bulk).await;
    metered.settle();
}
