//! Calls that many tests make.

use std::{collections::HashMap, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use millrace_core::{Aggregate, ProjectionName};
use millrace_proto::{
    Timestamp,
    query::{AsOf, GetHistoryRequest, ReadAfter, as_of::Point},
};
use millrace_tests::{AwsStack, Replied as _, Reply, TestApp, queues::Queues};
use shop::contracts::{
    Money,
    command::{CreateOrderRequest, CreateUserRequest, UpdateOrderStatusRequest},
    types::{OrderItem, OrderStatus},
};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

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
    pub(crate) aggregate_type: String,
    pub(crate) id: String,
    pub(crate) version: u64,
}

impl At {
    /// The read-after token.
    pub(crate) fn after(&self) -> Option<ReadAfter> {
        let Self { aggregate_type, id, version } = self.clone();
        Some(ReadAfter { aggregate_type, aggregate_id: id, version })
    }
}

impl From<Reply> for At {
    fn from(reply: Reply) -> Self {
        Self { aggregate_type: reply.aggregate_type, id: reply.aggregate_id, version: reply.version }
    }
}

/// The read-after token of an aggregate.
pub(crate) fn after<A: Aggregate>(id: impl ToString, version: u64) -> Option<ReadAfter> {
    Some(ReadAfter { aggregate_type: A::TYPE.to_string(), aggregate_id: id.to_string(), version })
}

/// The moment of a version.
pub(crate) fn as_of_version(version: u64) -> Option<AsOf> {
    Some(AsOf { point: Some(Point::Version(version)) })
}

/// The moment of a time.
pub(crate) fn as_of_time(time: Timestamp) -> Option<AsOf> {
    Some(AsOf { point: Some(Point::Time(time)) })
}

/// Asks for the newest events of an aggregate.
pub(crate) fn history_of<A: Aggregate>(id: impl ToString) -> GetHistoryRequest {
    GetHistoryRequest {
        aggregate_type: A::TYPE.to_string(),
        aggregate_id: id.to_string(),
        ..Default::default()
    }
}

pub(crate) async fn create_user(app: &TestApp, email: &str) -> Result<At, Status> {
    Ok(app.users().create_user(user(email)).await?.reply().into())
}

pub(crate) async fn create_order(app: &TestApp, user: &At) -> Result<At, Status> {
    Ok(app.orders().create_order(laptop(&user.id)).await?.reply().into())
}

pub(crate) async fn set_status(app: &TestApp, order: &At, status: OrderStatus) -> Result<At, Status> {
    let request =
        UpdateOrderStatusRequest { order_id: order.id.clone(), status: status.into(), ..Default::default() };
    Ok(app.orders().update_order_status(request).await?.reply().into())
}

/// The item of a row of the default tenant, as its table has it.
pub(crate) async fn row_item(
    app: &TestApp,
    projection: ProjectionName,
    id: &str,
) -> Option<HashMap<String, AttributeValue>> {
    let get = app.stack.aws().await.dynamodb().get_item().table_name(app.stack.rows(projection));
    let get = get.key("Key", AttributeValue::S(format!("default#{id}"))).consistent_read(true);
    get.send().await.unwrap().item
}

/// The version of a row of the default tenant.
pub(crate) async fn row_version(app: &TestApp, projection: ProjectionName, id: &str) -> Option<u64> {
    row_item(app, projection, id).await?["Version"].as_n().unwrap().parse().ok()
}

/// Takes a row of the default tenant away.
pub(crate) async fn delete_row(stack: &AwsStack, projection: ProjectionName, id: &str) {
    let delete = stack.aws().await.dynamodb().delete_item().table_name(stack.rows(projection));
    delete.key("Key", AttributeValue::S(format!("default#{id}"))).send().await.unwrap();
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

/// Waits until a projection's queue has nothing in it, in flight messages included.
pub(crate) async fn drained(app: &TestApp, projection: ProjectionName) {
    Queues::of(&app.stack).await.drained(&app.stack.queue(projection)).await;
}
