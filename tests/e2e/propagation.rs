//! From the event store to the read models: whatever way an event takes, the rows end as they should.

use aws_sdk_sqs::types::{MessageSystemAttributeName, SendMessageBatchRequestEntry};
use futures::future::join_all;
use millrace_local::StackOptions;
use millrace_proto::{
    query::{GetOrderRequest, OrderSummary},
    types::OrderStatus,
};
use millrace_tests::{Ground, World, eventually};
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};

use crate::calls::{At, create_order, create_user, set_status};

async fn read(world: &World, order: &At) -> OrderSummary {
    let request = GetOrderRequest { order_id: order.id.clone(), after: order.after() };
    world.order_queries().get_order(request).await.unwrap().into_inner().order.unwrap()
}

/// The bus's messages of an order's events, read from the event store.
async fn messages(world: &World, order: &At) -> Vec<String> {
    use millrace_event_store::{DynamoReader, ReadEvents as _};
    let reader =
        DynamoReader::new(world.ground.aws().await.dynamodb(), world.ground.output("EventStoreTable"));
    let stream = format!("default#order#{}", order.id).parse().unwrap();
    let page = reader.page(&stream, 0, 100).await.unwrap();
    let message = |event: millrace_event_store::StoredEvent| {
        json!({
            "version": "0", "id": "7", "source": "millrace", "account": "0", "time": "2026-11-23T12:00:00Z",
            "region": "us-east-1", "resources": [], "detail-type": event.envelope.event_type,
            "detail": event.envelope,
        })
        .to_string()
    };
    page.events.into_iter().map(message).collect()
}

async fn send(world: &World, queue: &str, bodies: &[String]) {
    let client = world.ground.aws().await.sqs(std::time::Duration::ZERO);
    for batch in bodies.chunks(10) {
        let entries = batch.iter().enumerate().map(|(n, body)| {
            SendMessageBatchRequestEntry::builder().id(n.to_string()).message_body(body).build().unwrap()
        });
        let url = world.ground.output(queue);
        let sent =
            client.send_message_batch().queue_url(url).set_entries(Some(entries.collect())).send().await;
        assert!(sent.unwrap().failed().is_empty());
    }
}

/// Waits until a queue has nothing in it, in flight messages included.
async fn drained(world: &World, queue: &str) {
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

#[tokio::test(flavor = "multi_thread")]
async fn events_delivered_again_reversed_and_shuffled_leave_the_rows_that_order_leaves() {
    let mut world = World::new().await.unwrap();
    world.another_projector().await.unwrap();
    let john = create_user(&world, "john@example.com").await.unwrap();
    let mut orders = Vec::new();
    for _ in 0..4 {
        let mut order = create_order(&world, &john).await.unwrap();
        for status in [OrderStatus::Processing, OrderStatus::Shipped, OrderStatus::Delivered] {
            order = set_status(&world, &order, status).await.unwrap();
        }
        orders.push(order);
    }
    let before = join_all(orders.iter().map(|order| read(&world, order))).await;
    let mut all: Vec<String> = join_all(orders.iter().map(|order| messages(&world, order))).await.concat();
    assert_eq!(all.len(), 16);

    // Over rows that are there: nothing changes.
    all.reverse();
    send(&world, "OrderQueueUrl", &all).await;
    drained(&world, "OrderQueueUrl").await;
    assert_eq!(join_all(orders.iter().map(|order| read(&world, order))).await, before);

    // Without rows: they come back, from messages in any order, each three times.
    let table = world.ground.output("OrderReadModelTable");
    let dynamodb = world.ground.aws().await.dynamodb();
    for order in &orders {
        let key = aws_sdk_dynamodb::types::AttributeValue::S(format!("default#{}", order.id));
        dynamodb.delete_item().table_name(table).key("OrderId", key).send().await.unwrap();
    }
    let mut thrice = [all.clone(), all.clone(), all].concat();
    thrice.shuffle(&mut rand::rng());
    send(&world, "OrderQueueUrl", &thrice).await;
    drained(&world, "OrderQueueUrl").await;
    assert_eq!(join_all(orders.iter().map(|order| read(&world, order))).await, before);
    world.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_row_is_healed_by_the_last_event_alone() {
    let world = World::new().await.unwrap();
    let john = create_user(&world, "john@example.com").await.unwrap();
    let order = create_order(&world, &john).await.unwrap();
    let order = set_status(&world, &order, OrderStatus::Processing).await.unwrap();
    let before = read(&world, &order).await;
    let last = messages(&world, &order).await.pop().unwrap();
    let key = aws_sdk_dynamodb::types::AttributeValue::S(format!("default#{}", order.id));
    let table = world.ground.output("OrderReadModelTable");
    world
        .ground
        .aws()
        .await
        .dynamodb()
        .delete_item()
        .table_name(table)
        .key("OrderId", key)
        .send()
        .await
        .unwrap();
    send(&world, "OrderQueueUrl", &[last]).await;
    assert_eq!(read(&world, &order).await, before);
    world.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_applied_ends_with_its_reason_and_holds_nobody_up() {
    let ground =
        Ground::with(&StackOptions { max_receive_count: 2, ..StackOptions::default() }).await.unwrap();
    let world = World::on(ground).await.unwrap();
    let poison = |detail: Value| {
        json!({"version": "0", "id": "7", "source": "millrace", "detail-type": "OrderCreated", "detail": detail}).to_string()
    };
    let bodies = ["no JSON at all".to_owned(), poison(json!({"EventId": 7})), poison(json!([[[[[[]]]]]]))];
    send(&world, "OrderQueueUrl", &bodies).await;
    let john = create_user(&world, "john@example.com").await.unwrap();
    let order = create_order(&world, &john).await.unwrap();
    assert_eq!(read(&world, &order).await.version, 1, "others are not held up");

    let client = world.ground.aws().await.sqs(std::time::Duration::from_secs(1));
    let mut dead = Vec::new();
    eventually("three dead letters", async || {
        let request = client.receive_message().queue_url(world.ground.output("OrderDeadLetterQueueUrl"));
        let request = request.max_number_of_messages(10).message_attribute_names("All").wait_time_seconds(1);
        let request = request.message_system_attribute_names(MessageSystemAttributeName::All);
        dead.extend(request.send().await.unwrap().messages.unwrap_or_default());
        (dead.len() >= 3).then_some(())
    })
    .await;
    assert_eq!(dead.len(), 3);
    for letter in dead {
        assert!(bodies.contains(letter.body.as_ref().unwrap()), "the body is unchanged");
        let attributes = letter.message_attributes.unwrap_or_default();
        let attribute =
            |name: &str| attributes.get(name).and_then(|a| a.string_value.clone()).unwrap_or_default();
        assert!(!attribute("Reason").is_empty(), "{attributes:?}");
        assert_eq!(attribute("Attempts"), "2");
    }
    world.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_relays_and_two_projectors_bring_every_event_to_its_row() {
    let mut world = World::new().await.unwrap();
    world.another_command_service().await.unwrap();
    world.another_projector().await.unwrap();
    let john = create_user(&world, "john@example.com").await.unwrap();
    let orders = join_all((0..60).map(|_| create_order(&world, &john))).await;
    for order in orders {
        let order = order.unwrap();
        assert_eq!(read(&world, &order).await.version, 1);
    }
    world.end().await.unwrap();
}
