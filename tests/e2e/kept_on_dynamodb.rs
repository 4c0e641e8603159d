//! The stores on DynamoDB pass the suites that the ones in memory pass.

use std::num::NonZeroU16;

use aws_sdk_dynamodb::types::AttributeValue;
use millrace_aws::Aws;
use millrace_event_store::{DynamoStore, Tables};
use millrace_rows::{DynamoRows, IndexShards, contract};
use millrace_testing::local::{AwsStack, FaultKind, FaultProxy, Faults};
use millrace_tests::aws_stack;

#[tokio::test]
async fn the_event_store_keeps_its_contract() {
    let stack = aws_stack().await.unwrap();
    let tables =
        Tables { events: stack.events(), unique_keys: stack.unique_keys(), snapshots: stack.snapshots() };
    let store = DynamoStore::new(stack.aws().await.dynamodb(), tables, 4.try_into().ok());
    millrace_event_store::contract::run_all(&store).await;
}

/// A stack of the suite's own application.
async fn desk() -> AwsStack {
    AwsStack::new(&contract::application(), &Default::default()).await.unwrap()
}

fn rows(stack: &AwsStack, aws: &Aws, projection: &str) -> DynamoRows {
    let spec = contract::spec(projection);
    let shards = NonZeroU16::new(4).unwrap();
    let shards = IndexShards { read: shards, write: shards };
    DynamoRows::new(aws.dynamodb(), stack.rows(spec.name), &spec, shards)
}

#[tokio::test]
async fn blind_rows_keep_their_contract() {
    let stack = desk().await;
    contract::blind(&rows(&stack, &stack.aws().await, "tickets")).await;
}

#[tokio::test]
async fn folded_rows_keep_their_contract() {
    let stack = desk().await;
    contract::fold(&rows(&stack, &stack.aws().await, "ticket-logs")).await;
}

#[tokio::test]
async fn sums_keep_their_contract() {
    let stack = desk().await;
    contract::aggregating(&rows(&stack, &stack.aws().await, "workloads")).await;
}

#[tokio::test]
async fn parts_that_cannot_be_read_are_put_right() {
    let stack = desk().await;
    let client = stack.aws().await.dynamodb();
    let table = stack.rows(contract::spec("workloads").name);
    contract::unreadable_parts(&rows(&stack, &stack.aws().await, "workloads"), async |stream| {
        let key = AttributeValue::S(format!("{}@{}", stream.tenant, stream.id));
        let update =
            client.update_item().table_name(&table).key("Key", key).update_expression("SET Part = :p");
        update.expression_attribute_values(":p", AttributeValue::N("7".to_owned())).send().await.unwrap();
    })
    .await;
}

/// Replies are lost, requests come twice and late, and transactions meet each other.
#[tokio::test]
async fn totals_are_the_sum_of_all_parts_in_a_storm() {
    let stack = desk().await;
    let proxy = FaultProxy::before(stack.endpoint()).await.unwrap();
    let store = rows(&stack, &proxy.aws_with(&stack.account, Aws::ATTEMPT_TIMEOUT).await, "workloads");
    let reader = rows(&stack, &stack.aws().await, "workloads");
    for seed in 0..4 {
        proxy.disturb(Faults::storm(seed).with(FaultKind::ResetAfter, 150));
        contract::totals_are_the_sum_of_all_parts(&store, &reader, seed).await;
    }
    let injected = proxy.injected();
    assert!(injected.contains_key(&FaultKind::ResetAfter), "{injected:?}");
}
