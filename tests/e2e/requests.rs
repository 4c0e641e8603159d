//! The cost of a command, counted where the SDK sends it. The services' own code, without a port, a relay or probes,
//! so that nothing else is counted.

use std::{collections::BTreeMap, ops::Deref};

use millrace_aws::Aws;
use millrace_command::snapshots;
use millrace_tests::{AwsStack, Replied as _, aws_stack};
use shop::contracts::{
    command::{
        UpdateOrderStatusRequest, UpdateUserProfileRequest,
        order_command_service_server::OrderCommandService as _,
        user_command_service_server::UserCommandService as _,
    },
    types::OrderStatus,
};
use tonic::Request;

use crate::{
    calls::{laptop, user},
    replica::{Replica, SHARDS, store},
};

/// A replica, and its requests.
struct Counted {
    replica: Replica,
    aws: Aws,
}

async fn replica(stack: &AwsStack) -> Counted {
    let aws = stack.aws().await;
    Counted { replica: Replica::new(&store(stack, &aws, Some(SHARDS)), snapshots::EVERY), aws }
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
    let stack = aws_stack().await.unwrap();
    let warm = replica(&stack).await;
    let john =
        warm.users.create_user(Request::new(user("john@example.com"))).await.unwrap().reply().aggregate_id;
    assert_eq!(
        warm.aws.requests().take(),
        requests(&[("TransactWriteItems", 1)]),
        "a user, with its address"
    );
    let order = warm.orders.create_order(Request::new(laptop(&john))).await.unwrap().reply().aggregate_id;
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

    let cold = replica(&stack).await;
    let sent = cold.set_status(&order, OrderStatus::Shipped).await;
    assert_eq!(sent, requests(&[("PutItem", 1), ("Query", 1)]), "a cold update");
    let cold = replica(&stack).await;
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
