//! An attacker's ids and tenants, over a connection: each is refused by the name of its field, before any read. So no
//! key is ever made of them.

use futures::future::BoxFuture;
use millrace_proto::query::{
    AsOf, GetHistoryRequest, ReadAfter, SearchEventsRequest, as_of::Point,
    history_service_client::HistoryServiceClient,
};
use shop::contracts::{
    query::{
        BatchGetOrdersRequest, BatchGetUserProfilesRequest, GetCustomerTotalsRequest, GetOrderAsOfRequest,
        GetOrderRequest, GetOrdersByStatusRequest, GetOrdersByUserRequest, GetUserByEmailRequest,
        GetUserProfileAsOfRequest, GetUserProfileRequest, WatchOrderRequest, WatchUserProfileRequest,
        customer_query_service_client::CustomerQueryServiceClient,
        order_query_service_client::OrderQueryServiceClient,
        user_query_service_client::UserQueryServiceClient,
    },
    types,
};
use tonic::{Request, Status, transport::Channel};

use crate::{
    events::user,
    server::start,
    support::{self, World, bad_fields, order_id, user_id},
};

/// A call with an id, and the id's field.
type Call = (fn(Channel, String) -> BoxFuture<'static, Result<(), Status>>, &'static str);

fn users(channel: Channel) -> UserQueryServiceClient<Channel> {
    UserQueryServiceClient::new(channel)
}

fn orders(channel: Channel) -> OrderQueryServiceClient<Channel> {
    OrderQueryServiceClient::new(channel)
}

fn customers(channel: Channel) -> CustomerQueryServiceClient<Channel> {
    CustomerQueryServiceClient::new(channel)
}

fn history(channel: Channel) -> HistoryServiceClient<Channel> {
    HistoryServiceClient::new(channel)
}

fn good() -> String {
    order_id(1).to_string()
}

fn token(aggregate_id: &str) -> Option<ReadAfter> {
    Some(support::token("order", aggregate_id, 1))
}

fn as_of() -> Option<AsOf> {
    Some(AsOf { point: Some(Point::Version(1)) })
}

/// Every field of every call with an id, an address or an event type.
const CALLS: [Call; 18] = [
    (
        |channel, user_id| {
            let request = GetUserProfileRequest { user_id, after: None };
            Box::pin(async move { users(channel).get_user_profile(request).await.map(drop) })
        },
        "user_id",
    ),
    (
        |channel, email| {
            let request = GetUserByEmailRequest { email, after: None };
            Box::pin(async move { users(channel).get_user_by_email(request).await.map(drop) })
        },
        "email",
    ),
    (
        |channel, id| {
            let request = BatchGetUserProfilesRequest { user_ids: vec![good(), id], after: None };
            Box::pin(async move { users(channel).batch_get_user_profiles(request).await.map(drop) })
        },
        "user_ids[1]",
    ),
    (
        |channel, user_id| {
            let request = WatchUserProfileRequest { user_id, seen_version: 0, after: None };
            Box::pin(async move { users(channel).watch_user_profile(request).await.map(drop) })
        },
        "user_id",
    ),
    (
        |channel, order_id| {
            let request = GetOrderRequest { order_id, after: None };
            Box::pin(async move { orders(channel).get_order(request).await.map(drop) })
        },
        "order_id",
    ),
    (
        |channel, id| {
            let request = BatchGetOrdersRequest { order_ids: vec![good(), id], after: None };
            Box::pin(async move { orders(channel).batch_get_orders(request).await.map(drop) })
        },
        "order_ids[1]",
    ),
    (
        |channel, user_id| {
            let request = GetOrdersByUserRequest { user_id, ..Default::default() };
            Box::pin(async move { orders(channel).get_orders_by_user(request).await.map(drop) })
        },
        "user_id",
    ),
    (
        |channel, order_id| {
            let request = WatchOrderRequest { order_id, seen_version: 0, after: None };
            Box::pin(async move { orders(channel).watch_order(request).await.map(drop) })
        },
        "order_id",
    ),
    (
        |channel, id| {
            let status = types::OrderStatus::Created.into();
            let request = GetOrdersByStatusRequest { status, after: token(&id), ..Default::default() };
            Box::pin(async move { orders(channel).get_orders_by_status(request).await.map(drop) })
        },
        "after.aggregate_id",
    ),
    (
        |channel, id| {
            let request = GetOrderRequest { order_id: good(), after: token(&id) };
            Box::pin(async move { orders(channel).get_order(request).await.map(drop) })
        },
        "after.aggregate_id",
    ),
    (
        |channel, id| {
            let request = GetOrderRequest { order_id: good(), after: Some(support::token(&id, &good(), 1)) };
            Box::pin(async move { orders(channel).get_order(request).await.map(drop) })
        },
        "after.aggregate_type",
    ),
    (
        |channel, user_id| {
            let request = GetCustomerTotalsRequest { user_id, after: None };
            Box::pin(async move { customers(channel).get_customer_totals(request).await.map(drop) })
        },
        "user_id",
    ),
    (
        |channel, aggregate_id| {
            let aggregate_type = "user".to_owned();
            let request = GetHistoryRequest { aggregate_type, aggregate_id, ..Default::default() };
            Box::pin(async move { history(channel).get_history(request).await.map(drop) })
        },
        "aggregate_id",
    ),
    (
        |channel, aggregate_type| {
            let aggregate_id = good();
            let request = GetHistoryRequest { aggregate_type, aggregate_id, ..Default::default() };
            Box::pin(async move { history(channel).get_history(request).await.map(drop) })
        },
        "aggregate_type",
    ),
    (
        |channel, user_id| {
            let request = GetUserProfileAsOfRequest { user_id, as_of: as_of() };
            Box::pin(async move { users(channel).get_user_profile_as_of(request).await.map(drop) })
        },
        "user_id",
    ),
    (
        |channel, order_id| {
            let request = GetOrderAsOfRequest { order_id, as_of: as_of() };
            Box::pin(async move { orders(channel).get_order_as_of(request).await.map(drop) })
        },
        "order_id",
    ),
    (
        |channel, event_type| {
            let request = SearchEventsRequest { event_type, ..Default::default() };
            Box::pin(async move { history(channel).search_events(request).await.map(drop) })
        },
        "event_type",
    ),
    (
        |channel, id| {
            let event_type = "UserCreated".to_owned();
            let request = SearchEventsRequest { event_type, after: token(&id), ..Default::default() };
            Box::pin(async move { history(channel).search_events(request).await.map(drop) })
        },
        "after.aggregate_id",
    ),
];

async fn world() -> World {
    let world = World::default();
    world.user(1, 1, "john@example.com").await;
    world.place(1, 1, 0).await;
    world.history(&user(1), 2).await;
    world
}

#[tokio::test]
async fn no_key_is_made_of_an_id_that_is_none() {
    let world = world().await;
    let (channel, _shutdown, _server) = start(&world).await;
    let id = user_id(1).to_string();
    let hostile = [
        String::new(),
        "#".to_owned(),
        format!("default#{id}"),
        format!("{id}#"),
        format!("{id}#1"),
        format!("user#{id}"),
        id.replace('-', "#"),
        id.replace('-', ""),
        format!("{id}\u{0}"),
        format!("\u{0}{id}"),
        format!("{id}\n"),
        format!("{id}\r\n"),
        format!("\u{1b}[31m{id}"),
        format!("{id}\u{7f}"),
        format!(" {id}"),
        format!("{{{id}}}"),
        // Digits of other scripts, and letters that look like a hyphen or like nothing.
        id.replace('0', "٠"),
        id.replace('0', "０"),
        id.replace('-', "‐"),
        format!("{id}\u{200b}"),
        format!("\u{202e}{id}"),
        "标识符".to_owned(),
        "💥".repeat(9),
        "0".repeat(36),
        format!("{id}{id}"),
        "x".repeat(100_000),
        "#".repeat(100_000),
    ];
    for (n, (call, field)) in CALLS.iter().enumerate() {
        for id in &hostile {
            let status = call(channel.clone(), id.clone()).await.unwrap_err();
            assert_eq!(bad_fields(&status), [*field], "{n}: {id:.80}");
        }
    }
    let reads = [&world.users, &world.orders, &world.customers].map(|rows| rows.reads());
    assert_eq!(reads, [0, 0, 0], "nothing was read");
}

#[tokio::test]
async fn no_key_is_made_of_a_tenant_that_is_none() {
    let world = world().await;
    let (channel, _shutdown, _server) = start(&world).await;
    let long = "x".repeat(65);
    for tenant in ["", "#", "default#", "a#b", "Default", "a b", "a_b", "a.b", "a/b", &long] {
        let mut request =
            Request::new(GetUserProfileRequest { user_id: user_id(1).to_string(), after: None });
        request.metadata_mut().insert("x-tenant-id", tenant.parse().unwrap());
        let status = users(channel.clone()).get_user_profile(request).await.unwrap_err();
        assert_eq!(bad_fields(&status), ["x-tenant-id"], "{tenant:?}");
    }
    let reads = [&world.users, &world.orders, &world.customers].map(|rows| rows.reads());
    assert_eq!(reads, [0, 0, 0], "nothing was read");
}
