//! The stores on DynamoDB pass the suites that the ones in memory pass.

use millrace_event_store::{DynamoStore, Tables};
use millrace_read_models::{DynamoOrders, DynamoUsers};
use millrace_tests::Ground;

#[tokio::test]
async fn the_event_store_keeps_its_contract() {
    let ground = Ground::new().await.unwrap();
    let tables = Tables {
        events: ground.output("EventStoreTable").into(),
        unique_keys: ground.output("UniqueKeyTable").into(),
        snapshots: ground.output("SnapshotTable").into(),
    };
    let store = DynamoStore::new(ground.aws().await.dynamodb(), tables, 4.try_into().ok());
    millrace_event_store::contract::run_all(&store).await;
}

#[tokio::test]
async fn the_user_profiles_keep_their_contract() {
    let ground = Ground::new().await.unwrap();
    let client = ground.aws().await.dynamodb();
    millrace_read_models::contract::users(&DynamoUsers::new(client, ground.output("UserReadModelTable")))
        .await;
}

#[tokio::test]
async fn the_order_summaries_keep_their_contract() {
    let ground = Ground::new().await.unwrap();
    let client = ground.aws().await.dynamodb();
    let orders = DynamoOrders::new(client, ground.output("OrderReadModelTable"), 4);
    millrace_read_models::contract::orders(&orders).await;
}
