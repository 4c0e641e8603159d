//! Calls that many tests make.

use std::{env, time::Duration};

use millrace_proto::{
    Money,
    command::{CreateOrderRequest, CreateUserRequest, UpdateOrderStatusRequest},
    query::ReadAfter,
    types::{OrderItem, OrderStatus},
};
use millrace_tests::{World, eventually};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

/// What a course of chance comes of: `SEED` where it is set, to take the same course again. It is printed.
pub(crate) fn seed() -> u64 {
    let seed = env::var("SEED").ok().map_or_else(rand::random, |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    seed
}

/// A user to create.
pub(crate) fn user(email: &str) -> CreateUserRequest {
    CreateUserRequest { email: email.into(), name: "John Doe".into(), ..Default::default() }
}

/// The recipe's order: a laptop at 999.99 USD.
pub(crate) fn laptop(user_id: &str) -> CreateOrderRequest {
    let price = Money { currency_code: "USD".into(), units: 999, nanos: 990_000_000 };
    CreateOrderRequest {
        user_id: user_id.into(),
        items: vec![OrderItem { product: "laptop".into(), quantity: 1, price: Some(price.clone()) }],
        total_amount: Some(price),
        ..Default::default()
    }
}

/// An aggregate's id and version, as a reply to a command names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) id: String,
    pub(crate) version: u64,
}

impl At {
    /// The read-after token.
    pub(crate) fn after(&self) -> Option<ReadAfter> {
        Some(ReadAfter { aggregate_id: self.id.clone(), version: self.version })
    }
}

pub(crate) async fn create_user(world: &World, email: &str) -> Result<At, Status> {
    let reply = world.users().create_user(user(email)).await?.into_inner();
    Ok(At { id: reply.aggregate_id, version: reply.version })
}

pub(crate) async fn create_order(world: &World, user: &At) -> Result<At, Status> {
    let reply = world.orders().create_order(laptop(&user.id)).await?.into_inner();
    Ok(At { id: reply.aggregate_id, version: reply.version })
}

pub(crate) async fn set_status(world: &World, order: &At, status: OrderStatus) -> Result<At, Status> {
    let request =
        UpdateOrderStatusRequest { order_id: order.id.clone(), status: status.into(), ..Default::default() };
    let reply = world.orders().update_order_status(request).await?.into_inner();
    Ok(At { id: reply.aggregate_id, version: reply.version })
}

/// A request that waits for a read model as long as a call may take: no test is to fail because a machine is slow.
pub(crate) fn patient<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(28));
    request
}

/// The reason in a status's ErrorInfo; empty where there is none.
pub(crate) fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// Waits until a queue has nothing in it, in flight messages included.
pub(crate) async fn drained(world: &World, queue: &str) {
    use aws_sdk_sqs::types::QueueAttributeName::{
        ApproximateNumberOfMessages, ApproximateNumberOfMessagesDelayed,
        ApproximateNumberOfMessagesNotVisible,
    };
    let client = world.ground.aws().await.sqs(std::time::Duration::ZERO);
    let names = [
        ApproximateNumberOfMessages,
        ApproximateNumberOfMessagesDelayed,
        ApproximateNumberOfMessagesNotVisible,
    ];
    eventually("an empty queue", async || {
        let request = client.get_queue_attributes().queue_url(world.ground.output(queue));
        let found = request.set_attribute_names(Some(names.to_vec())).send().await.unwrap();
        found.attributes?.values().all(|count| count == "0").then_some(())
    })
    .await;
}
