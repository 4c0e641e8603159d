//! What an operation costs, counted where the SDK sends it. The services' own code, without a port, a relay or probes,
//! so that nothing else is counted.

use std::{collections::BTreeMap, ops::Deref, sync::Arc, time::Duration};

use command_service::snapshots;
use millrace_aws::Aws;
use millrace_proto::query::{
    GetOrderRequest, GetOrdersByStatusRequest, GetOrdersByUserRequest, GetUserByEmailRequest,
    GetUserProfileRequest, order_query_service_server::OrderQueryService as _,
    user_query_service_server::UserQueryService as _,
};
use millrace_proto::{
    command::{
        UpdateOrderStatusRequest, UpdateUserProfileRequest,
        order_command_service_server::OrderCommandService as _,
        user_command_service_server::UserCommandService as _,
    },
    types::OrderStatus,
};
use millrace_read_models::{DynamoOrders, DynamoUsers};
use millrace_tests::{Ground, World};
use query_service::{
    models::Models,
    watch::{Hub, OrderRows, Pace, UserRows},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::{
    calls::{create_order, create_user, laptop, patient, user},
    replica::{Replica, SHARDS, store},
};

/// A replica, and its requests.
struct Counted {
    replica: Replica,
    aws: Aws,
}

async fn replica(ground: &Ground) -> Counted {
    let aws = ground.aws().await;
    Counted { replica: Replica::new(&store(ground, &aws, Some(SHARDS)), snapshots::EVERY), aws }
}

impl Deref for Counted {
    type Target = Replica;

    fn deref(&self) -> &Replica {
        &self.replica
    }
}

impl Counted {
    async fn set_status(&self, order_id: &str, status: OrderStatus) -> BTreeMap<String, u64> {
        let request = UpdateOrderStatusRequest {
            order_id: order_id.into(),
            status: status.into(),
            ..Default::default()
        };
        self.orders.update_order_status(Request::new(request)).await.unwrap();
        self.aws.requests().take()
    }
}

fn requests(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
    counts.iter().map(|(operation, count)| ((*operation).to_owned(), *count)).collect()
}

#[tokio::test]
async fn every_command_costs_what_the_architecture_says() {
    let ground = Ground::new().await.unwrap();
    let warm = replica(&ground).await;
    let john = warm
        .users
        .create_user(Request::new(user("john@example.com")))
        .await
        .unwrap()
        .into_inner()
        .aggregate_id;
    assert_eq!(
        warm.aws.requests().take(),
        requests(&[("TransactWriteItems", 1)]),
        "a user, with its address"
    );
    let order =
        warm.orders.create_order(Request::new(laptop(&john))).await.unwrap().into_inner().aggregate_id;
    assert_eq!(warm.aws.requests().take(), requests(&[("PutItem", 1)]), "an order of a known user");
    let sent = warm.set_status(&order, OrderStatus::Processing).await;
    assert_eq!(sent, requests(&[("PutItem", 1)]), "a warm update");

    let rename =
        UpdateUserProfileRequest { user_id: john.clone(), name: Some("Jack".into()), ..Default::default() };
    warm.users.update_user_profile(Request::new(rename)).await.unwrap();
    assert_eq!(warm.aws.requests().take(), requests(&[("PutItem", 1)]), "a new name");
    let address = Some("jack@example.com".into());
    let change = UpdateUserProfileRequest { user_id: john.clone(), email: address, ..Default::default() };
    warm.users.update_user_profile(Request::new(change)).await.unwrap();
    assert_eq!(warm.aws.requests().take(), requests(&[("TransactWriteItems", 1)]), "a new address");

    let cold = replica(&ground).await;
    let sent = cold.set_status(&order, OrderStatus::Shipped).await;
    assert_eq!(sent, requests(&[("PutItem", 1), ("Query", 1)]), "a cold update");
    let cold = replica(&ground).await;
    cold.orders.create_order(Request::new(laptop(&john))).await.unwrap();
    assert_eq!(
        cold.aws.requests().take(),
        requests(&[("PutItem", 1), ("Query", 1)]),
        "an order of an unknown user"
    );
    // `warm` has not seen the update of `cold`: the condition tells it, and the item that comes with it.
    let sent = warm.set_status(&order, OrderStatus::Delivered).await;
    assert_eq!(sent.values().sum::<u64>(), 2, "an update on an old state: {sent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_costs_what_the_architecture_says() {
    const SHARDS: u16 = 4;
    let world = World::new().await.unwrap();
    let john = create_user(&world, "john@example.com").await.unwrap();
    let order = create_order(&world, &john).await.unwrap();
    // Until both rows are there.
    let seen = GetOrderRequest { order_id: order.id.clone(), after: order.after() };
    world.order_queries().get_order(patient(seen.clone())).await.unwrap();
    let profile = GetUserProfileRequest { user_id: john.id.clone(), after: john.after() };
    world.user_queries().get_user_profile(patient(profile.clone())).await.unwrap();

    let aws = world.ground.aws().await;
    let models = Models::new(
        DynamoUsers::new(aws.dynamodb(), world.ground.output("UserReadModelTable")),
        DynamoOrders::new(aws.dynamodb(), world.ground.output("OrderReadModelTable"), SHARDS),
    );
    let pace = Pace { fastest: Duration::MAX, slowest: Duration::MAX };
    let (nobody, end) = (Arc::new(Semaphore::new(0)), CancellationToken::new());
    let watched = Hub::new(UserRows(models.users.clone()), pace, nobody.clone(), end.clone());
    let users = query_service::users::Users::new(models.clone(), watched);
    let watched = Hub::new(OrderRows(models.orders.clone()), pace, nobody, end);
    let orders = query_service::orders::Orders::new(
        models,
        query_service::token::PageTokens::new(b"a key for this test"),
        watched,
    );
    let sent = || aws.requests().take();

    orders.get_order(Request::new(seen)).await.unwrap();
    assert_eq!(sent(), requests(&[("GetItem", 1)]), "GetOrder with a token");
    users.get_user_profile(Request::new(profile)).await.unwrap();
    assert_eq!(sent(), requests(&[("GetItem", 1)]), "GetUserProfile with a token");
    orders
        .get_order(Request::new(GetOrderRequest { order_id: order.id.clone(), after: None }))
        .await
        .unwrap();
    assert_eq!(sent(), requests(&[("GetItem", 1)]), "GetOrder");
    let email = |after| GetUserByEmailRequest { email: "john@example.com".into(), after };
    users.get_user_by_email(Request::new(email(None))).await.unwrap();
    assert_eq!(sent(), requests(&[("Query", 1)]), "GetUserByEmail");
    let by_user = |after| GetOrdersByUserRequest { user_id: john.id.clone(), after, ..Default::default() };
    orders.get_orders_by_user(Request::new(by_user(None))).await.unwrap();
    assert_eq!(sent(), requests(&[("Query", 1)]), "GetOrdersByUser");
    orders.get_orders_by_user(Request::new(by_user(order.after()))).await.unwrap();
    assert_eq!(sent(), requests(&[("GetItem", 1), ("Query", 1)]), "GetOrdersByUser with a token");
    let by_status =
        |after| GetOrdersByStatusRequest { status: OrderStatus::Created.into(), after, ..Default::default() };
    orders.get_orders_by_status(Request::new(by_status(None))).await.unwrap();
    assert_eq!(sent(), requests(&[("Query", SHARDS.into())]), "GetOrdersByStatus");
    orders.get_orders_by_status(Request::new(by_status(order.after()))).await.unwrap();
    assert_eq!(
        sent(),
        requests(&[("GetItem", 1), ("Query", SHARDS.into())]),
        "GetOrdersByStatus with a token"
    );
    world.end().await.unwrap();
}
