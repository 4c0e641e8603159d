//! Read-after tokens: their effect on every query, and the cost of waiting.

use std::time::Duration;

use futures::future::BoxFuture;
use millrace_core::Application;
use millrace_proto::query::ReadAfter;
use millrace_query::{QueryService, token::PageTokens};
use proptest::prelude::*;
use query_service::Users;
use shop::{
    UserProfile,
    contracts::{
        query::{
            BatchGetOrdersRequest, BatchGetUserProfilesRequest, GetOrderRequest, GetOrdersByStatusRequest,
            GetOrdersByUserRequest, GetUserByEmailRequest, GetUserProfileRequest, WatchOrderRequest,
            WatchUserProfileRequest, order_query_service_client::OrderQueryServiceClient,
            order_query_service_server::OrderQueryService as _,
            user_query_service_server::UserQueryService as _,
        },
        types,
    },
    order::{Order, OrderStatus},
    user::User,
};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::{
    server::start,
    support::{
        WATCHING, World, after_order, after_user, bad_fields, of_tenant, order_id, reason, token, user_id,
    },
};

/// Asks as a tenant, with a token.
type Query = fn(&World, &str, Option<ReadAfter>) -> BoxFuture<'static, Result<(), Status>>;

/// A query of each kind, about user 1 with the address `john@example.com`, and order 2.
const QUERIES: [Query; 9] = [
    |world, tenant, after| {
        let request = of_tenant(tenant, GetUserProfileRequest { user_id: user_id(1).to_string(), after });
        let service = world.user_service();
        Box::pin(async move { service.get_user_profile(request).await.map(drop) })
    },
    |world, tenant, after| {
        let request = of_tenant(tenant, GetUserByEmailRequest { email: "john@example.com".into(), after });
        let service = world.user_service();
        Box::pin(async move { service.get_user_by_email(request).await.map(drop) })
    },
    |world, tenant, after| {
        let user_ids = vec![user_id(1).to_string()];
        let request = of_tenant(tenant, BatchGetUserProfilesRequest { user_ids, after });
        let service = world.user_service();
        Box::pin(async move { service.batch_get_user_profiles(request).await.map(drop) })
    },
    |world, tenant, after| {
        let request = of_tenant(tenant, GetOrderRequest { order_id: order_id(2).to_string(), after });
        let service = world.order_service();
        Box::pin(async move { service.get_order(request).await.map(drop) })
    },
    |world, tenant, after| {
        let order_ids = vec![order_id(2).to_string()];
        let request = of_tenant(tenant, BatchGetOrdersRequest { order_ids, after });
        let service = world.order_service();
        Box::pin(async move { service.batch_get_orders(request).await.map(drop) })
    },
    |world, tenant, after| {
        let request = GetOrdersByUserRequest { user_id: user_id(1).to_string(), after, ..Default::default() };
        let (request, service) = (of_tenant(tenant, request), world.order_service());
        Box::pin(async move { service.get_orders_by_user(request).await.map(drop) })
    },
    |world, tenant, after| {
        let status = types::OrderStatus::Created.into();
        let request = GetOrdersByStatusRequest { status, after, ..Default::default() };
        let (request, service) = (of_tenant(tenant, request), world.order_service());
        Box::pin(async move { service.get_orders_by_status(request).await.map(drop) })
    },
    |world, tenant, after| {
        let request = WatchUserProfileRequest { user_id: user_id(1).to_string(), seen_version: 0, after };
        let (request, service) = (of_tenant(tenant, request), world.user_service());
        Box::pin(async move { service.watch_user_profile(request).await.map(drop) })
    },
    |world, tenant, after| {
        let request = WatchOrderRequest { order_id: order_id(2).to_string(), seen_version: 0, after };
        let (request, service) = (of_tenant(tenant, request), world.order_service());
        Box::pin(async move { service.watch_order(request).await.map(drop) })
    },
];

async fn world() -> World {
    let world = World::default();
    world.user(1, 1, "john@example.com").await;
    world.place(2, 1, 0).await;
    world
}

#[tokio::test(start_paused = true)]
async fn no_query_hangs_on_a_token_of_a_future_that_does_not_come() {
    let world = world().await;
    let others_token = ("other", after_order(2, 1));
    let futures = [
        ("default", after_user(1, 2)),
        ("default", after_order(2, 2)),
        ("default", after_order(2, u64::MAX)),
        ("default", after_user(3, 1)),
        // A user's id names no order, nor an order's a user.
        ("default", after_order(1, 1)),
        ("default", after_user(2, 1)),
        ("default", after_order(0, 1)),
        ("default", after_user(u128::MAX, 1)),
        others_token,
    ];
    for (n, query) in QUERIES.iter().enumerate() {
        for (tenant, token) in &futures {
            let start = Instant::now();
            let status = query(&world, tenant, token.clone()).await.unwrap_err();
            let said = (status.code(), reason(&status));
            assert_eq!(said, (Code::Unavailable, Some("READ_MODEL_BEHIND".to_owned())), "{n} {token:?}");
            assert!(status.get_error_details().retry_info().is_some(), "{n} {token:?}");
            assert!((2_000..2_010).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_query_hangs_with_a_read_that_is_not_answered() {
    for (n, query) in QUERIES.iter().enumerate() {
        // Without a first reply nothing is known; after one the row is known to be older.
        for (answered, said) in [(0, "STORAGE_UNREACHABLE"), (3, "READ_MODEL_BEHIND")] {
            let world = world().await;
            world.users.answer_only(answered);
            world.orders.answer_only(answered);
            let start = Instant::now();
            let ended = timeout(Duration::from_secs(60), query(&world, "default", after_user(1, 2))).await;
            let status = ended.expect("it ends").unwrap_err();
            assert_eq!((status.code(), reason(&status).as_deref()), (Code::Unavailable, Some(said)), "{n}");
            assert!((2_000..2_010).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_query_waits_for_a_token_of_either_kind() {
    for (n, query) in QUERIES.iter().enumerate() {
        for token in [after_user(1, 2), after_order(2, 2)] {
            let world = world().await;
            let start = Instant::now();
            let writes = async {
                sleep(Duration::from_millis(250)).await;
                world.user(1, 2, "john@example.com").await;
                world.advance(2, 2, OrderStatus::Processing).await;
            };
            let (reply, ()) = tokio::join!(query(&world, "default", token.clone()), writes);
            reply.unwrap();
            let waited = start.elapsed().as_millis();
            assert!((250..=510).contains(&waited), "{n} {token:?}: {waited} ms");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_waits_for_the_first_rows_that_its_aggregate_feeds() {
    let world = world().await;
    let start = Instant::now();
    // The totals of the order's customer never include it.
    let request = GetUserProfileRequest { user_id: user_id(1).to_string(), after: after_order(2, 1) };
    world.user_service().get_user_profile(Request::new(request)).await.unwrap();
    assert_eq!((start.elapsed(), world.customers.requests()), (Duration::ZERO, 0));
}

#[tokio::test(start_paused = true)]
async fn a_token_of_an_aggregate_that_feeds_no_rows_is_answered_at_once() {
    let world = world().await;
    let application = Application::new("shop").aggregate::<User>().aggregate::<Order>();
    let application = application.projection::<UserProfile>().build().unwrap();
    let (tokens, ending) = (PageTokens::of_table("events"), world.ending.clone());
    let store = |_: &_| world.users.clone();
    let service = QueryService::new(&application, store, world.events.clone(), tokens, WATCHING, ending);
    let users = Users(service.rows::<UserProfile, _>().unwrap());
    let request = GetUserProfileRequest { user_id: user_id(1).to_string(), after: after_order(9, 9) };
    users.get_user_profile(Request::new(request)).await.unwrap();
    assert_eq!(world.users.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_of_an_aggregate_that_is_not_registered_is_refused_at_once() {
    let world = world().await;
    for aggregate_type in ["invoice", "users", "User", "", "user#", "order-summaries"] {
        let after = Some(token(aggregate_type, &user_id(1).to_string(), 1));
        for (n, query) in QUERIES.iter().enumerate() {
            let status = query(&world, "default", after.clone()).await.unwrap_err();
            assert_eq!(bad_fields(&status), ["after.aggregate_type"], "{n} {aggregate_type}");
            let said = format!("{:?}", status.get_error_details());
            assert!(!said.contains("order") && !said.contains("user"), "no guess at what is meant: {said}");
        }
    }
    assert_eq!((world.users.reads(), world.orders.reads()), (0, 0));
}

/// The cost of a wait that ends after so many looks at an order, of which there is an older version or nothing yet:
/// reads of the orders, reads of the users, time.
async fn reads(looks: usize, token: u128, exists: bool) -> (usize, usize, Duration) {
    let world = World::default();
    if exists {
        world.place(token, 1, 0).await;
    }
    let (start, version) = (Instant::now(), if exists { 2 } else { 1 });
    let after = after_order(token, version);
    let request = GetOrderRequest { order_id: order_id(token).to_string(), after };
    let service = world.order_service();
    let write = async {
        // Between the look before the last one and the last one.
        while world.orders.gets_of(token) < looks - 1 {
            sleep(Duration::from_millis(1)).await;
        }
        if exists {
            world.advance(token, 2, OrderStatus::Processing).await;
        } else {
            world.place(token, 1, 0).await;
        }
    };
    let reply = if looks == 1 {
        write.await;
        service.get_order(Request::new(request)).await
    } else {
        tokio::join!(service.get_order(Request::new(request)), write).0
    };
    assert_eq!(reply.unwrap().into_inner().order.unwrap().version, version);
    (world.orders.gets_of(token), world.users.gets_of(token), start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn waiting_costs_few_reads() {
    println!(
        "{:>6} {:>12} {:>26} {:>26}",
        "looks", "waited, ms", "reads, of an older row", "reads, of no row yet"
    );
    let mut pauses = 0.0;
    for looks in 1..=12_usize {
        let (there, elsewhere, waited) = reads(looks, 7, true).await;
        assert_eq!((there, elsewhere), (looks, 0), "what is known is read once a look");
        let (own, other, _) = reads(looks, 7, false).await;
        assert_eq!((own, other), (looks, 0), "and so is what is not there yet");
        println!("{looks:>6} {:>12} {there:>26} {:>26}", waited.as_millis(), own + other);
        let waited = waited.as_secs_f64() * 1_000.0;
        // The clock counts whole milliseconds.
        let rounded = looks as f64;
        assert!(waited >= pauses * 0.5 - rounded && waited <= pauses + rounded, "{waited} of {pauses}");
        pauses += (12.0 * 2_f64.powi(i32::try_from(looks).unwrap() - 1)).min(256.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_in_vain_costs_few_reads() {
    let world = world().await;
    for (token, most) in [(after_order(2, 2), 21), (after_order(9, 1), 21)] {
        let before = world.orders.gets() + world.users.gets();
        let request = GetOrderRequest { order_id: order_id(2).to_string(), after: token.clone() };
        world.order_service().get_order(Request::new(request)).await.unwrap_err();
        let reads = world.orders.gets() + world.users.gets() - before;
        println!("{reads} reads in two seconds, with {token:?}");
        assert!(reads <= most, "{reads}");
    }
}

#[tokio::test]
async fn a_caller_who_leaves_stops_the_waiting() {
    const AWAITED: u128 = 7;
    let world = World::default();
    let (channel, _shutdown, _server) = start(&world).await;
    // Once by cancelling a call on an open connection, once by closing the connection.
    for keeps_connection in [true, false] {
        let channel = if keeps_connection { channel.clone() } else { start(&world).await.0 };
        let mut client = OrderQueryServiceClient::new(channel);
        let mut request = Request::new(GetOrdersByStatusRequest {
            status: types::OrderStatus::Created.into(),
            after: after_order(AWAITED, 1),
            ..Default::default()
        });
        request.set_timeout(Duration::from_secs(28));
        let seen = world.orders.gets_of(AWAITED);
        let call = tokio::spawn(async move { client.get_orders_by_status(request).await });
        while world.orders.gets_of(AWAITED) < seen + 3 {
            assert!(!call.is_finished(), "it waits");
            sleep(Duration::from_millis(5)).await;
        }
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());

        // Other callers' failing waits are the clock: each has several looks.
        let mut rounds = 0;
        loop {
            let before = world.orders.gets_of(AWAITED);
            let request = GetOrderRequest { order_id: order_id(9).to_string(), after: after_order(9, 1) };
            let mut other = Request::new(request);
            other.set_timeout(Duration::from_millis(900));
            let looks = world.orders.gets_of(9);
            let mut client = OrderQueryServiceClient::new(start(&world).await.0);
            assert_eq!(client.get_order(other).await.unwrap_err().code(), Code::Unavailable);
            assert!(world.orders.gets_of(9) >= looks + 3);
            if world.orders.gets_of(AWAITED) == before {
                break;
            }
            rounds += 1;
            assert!(rounds < 10, "its row is still looked at, though nobody waits for it");
        }
    }
}

/// A list query: its page size, and whether it is of one user's orders.
fn any_asked() -> impl Strategy<Value = (usize, bool)> {
    (1..6_usize, any::<bool>())
}

proptest! {
    /// The awaited order is anywhere among the others, and pages end anywhere.
    #[test]
    fn an_order_that_changed_is_in_its_new_list_once_and_in_its_old_one_no_more(
        others in 0..12_u128,
        awaited in 0..12_u128,
        (size, filtered) in any_asked(),
        behind in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let world = World::default();
            // Half of the others are in the new status, at odd and even places alike.
            for n in (0..others).filter(|n| *n != awaited) {
                world.place(n, 1, i64::try_from(n).unwrap()).await;
                if n % 2 == 0 {
                    world.advance(n, 2, OrderStatus::Processing).await;
                }
            }
            world.place(awaited, 1, i64::try_from(awaited).unwrap()).await;
            if behind {
                world.orders.rows.hold_index();
            }
            world.advance(awaited, 2, OrderStatus::Processing).await;
            for (status, in_it) in [(types::OrderStatus::Created, 0), (types::OrderStatus::Processing, 1)] {
                let (mut met, mut token, mut pages) = (vec![], String::new(), 0);
                loop {
                    let (orders, next) = list_page(&world, status, filtered, size, token, after_order(awaited, 2)).await;
                    assert!(orders.len() <= size);
                    met.extend(orders);
                    pages += 1;
                    assert!(pages < 40, "a list that does not end");
                    if next.is_empty() { break; }
                    token = next;
                }
                let times = met.iter().filter(|(id, _)| *id == awaited).count();
                assert_eq!(times, in_it, "{status:?}: {met:?}");
                assert!(met.iter().all(|(id, version)| *id != awaited || *version == 2));
                assert!(met.is_sorted_by(|(a, _), (b, _)| a > b), "newest first, none twice: {met:?}");
                let expected = others_in(others, awaited, status) + in_it;
                assert_eq!(met.len(), expected, "{status:?}: {met:?}");
            }
        });
    }
}

/// The number of the other orders in a status.
fn others_in(others: u128, awaited: u128, status: types::OrderStatus) -> usize {
    let moved = status == types::OrderStatus::Processing;
    (0..others).filter(|n| *n != awaited && (n % 2 == 0) == moved).count()
}

/// A page of a list by status, of all orders or of a user's: the orders' numbers and versions, and the next token.
async fn list_page(
    world: &World,
    status: types::OrderStatus,
    filtered: bool,
    size: usize,
    page_token: String,
    after: Option<ReadAfter>,
) -> (Vec<(u128, u64)>, String) {
    let (status, page_size, service) = (status.into(), i32::try_from(size).unwrap(), world.order_service());
    let (orders, next) = if filtered {
        let user_id = user_id(1).to_string();
        let request =
            GetOrdersByUserRequest { user_id, status, page_size, page_token, after, ..Default::default() };
        let reply = service.get_orders_by_user(Request::new(request)).await.unwrap().into_inner();
        (reply.orders, reply.next_page_token)
    } else {
        let request = GetOrdersByStatusRequest { status, page_size, page_token, after, ..Default::default() };
        let reply = service.get_orders_by_status(Request::new(request)).await.unwrap().into_inner();
        (reply.orders, reply.next_page_token)
    };
    let number = |id: &str| id.parse::<uuid::Uuid>().unwrap().as_u128();
    (orders.iter().map(|order| (number(&order.order_id), order.version)).collect(), next)
}
