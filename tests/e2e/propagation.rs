//! From the event store to the read models: whatever way an event takes, the rows end as they should.

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use aws_sdk_sqs::types::{Message, SendMessageBatchRequestEntry};
use futures::future::join_all;
use millrace_local::StackOptions;
use millrace_proto::{
    command::{
        CreateOrderRequest, UpdateOrderStatusRequest, order_command_service_client::OrderCommandServiceClient,
    },
    query::{GetOrderRequest, OrderSummary},
    types::OrderStatus,
};
use millrace_runtime::TraceParent;
use millrace_tests::{Ground, World, eventually};
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};
use tonic::Request;

use crate::calls::{At, create_order, create_user, drained, laptop, patient, set_status};

async fn read(world: &World, order: &At) -> OrderSummary {
    let request = GetOrderRequest { order_id: order.id.clone(), after: order.after() };
    world.order_queries().get_order(patient(request)).await.unwrap().into_inner().order.unwrap()
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

/// Takes so many dead letters of orders' events, or whatever there is at the moment where none is asked for.
async fn dead_letters(world: &World, count: usize) -> Vec<Message> {
    let client = world.ground.aws().await.sqs(std::time::Duration::from_secs(1));
    let mut dead = Vec::new();
    eventually("the dead letters", async || {
        let request = client.receive_message().queue_url(world.ground.output("OrderDeadLetterQueueUrl"));
        let request = request.max_number_of_messages(10).message_attribute_names("All").wait_time_seconds(1);
        dead.extend(request.send().await.unwrap().messages.unwrap_or_default());
        (dead.len() >= count).then_some(())
    })
    .await;
    dead
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
    assert!(dead_letters(&world, 0).await.is_empty(), "they were applied, not given up");
    assert_eq!(join_all(orders.iter().map(|order| read(&world, order))).await, before);

    // Without rows: they come back, from messages in any order, each three times.
    let table = world.ground.output("OrderReadModelTable");
    let dynamodb = world.ground.aws().await.dynamodb();
    for order in &orders {
        let key = AttributeValue::S(format!("default#{}", order.id));
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
    let key = AttributeValue::S(format!("default#{}", order.id));
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

    let dead = dead_letters(&world, 3).await;
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
async fn a_dead_letter_that_is_sent_back_is_applied() {
    let ground =
        Ground::with(&StackOptions { max_receive_count: 1, ..StackOptions::default() }).await.unwrap();
    let world = World::on(ground).await.unwrap();
    let john = create_user(&world, "john@example.com").await.unwrap();
    let order = create_order(&world, &john).await.unwrap();
    let order = set_status(&world, &order, OrderStatus::Processing).await.unwrap();
    let before = read(&world, &order).await;
    let last = messages(&world, &order).await.pop().unwrap();

    // The order's first event goes missing, and its row with it: the second alone cannot be applied.
    let dynamodb = world.ground.aws().await.dynamodb();
    let (events, rows) = (world.ground.output("EventStoreTable"), world.ground.output("OrderReadModelTable"));
    let stream = AttributeValue::S(format!("default#order#{}", order.id));
    let first = dynamodb.delete_item().table_name(events).key("AggregateId", stream);
    let first = first.key("Version", AttributeValue::N("1".into())).return_values(ReturnValue::AllOld);
    let first = first.send().await.unwrap().attributes.unwrap();
    let row = AttributeValue::S(format!("default#{}", order.id));
    dynamodb.delete_item().table_name(rows).key("OrderId", row).send().await.unwrap();
    send(&world, "OrderQueueUrl", &[last]).await;
    let dead = dead_letters(&world, 1).await.remove(0);

    // It is put right, and the dead letter is sent back as it is.
    dynamodb.put_item().table_name(events).set_item(Some(first)).send().await.unwrap();
    send(&world, "OrderQueueUrl", &[dead.body.unwrap()]).await;
    assert_eq!(read(&world, &order).await, before);
    world.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_projectors_and_what_is_left_of_two_relays_bring_every_event_to_its_row() {
    let mut world = World::new().await.unwrap();
    let first_owner = eventually("an owner of the stream's shard", async || owner(&world).await).await;
    let second = world.another_command_service().await.unwrap();
    world.another_projector().await.unwrap();
    let john = create_user(&world, "john@example.com").await.unwrap();
    let orders = join_all((0..60).map(|_| create_order(&world, &john))).await;
    // The stream has one shard, and the replica that came first reads it. It vanishes without a word.
    world.crash_first_command_service();
    let mut later = OrderCommandServiceClient::new(second);
    let more = later.create_order(laptop(&john.id)).await.unwrap().into_inner();
    let more = Ok(At { id: more.aggregate_id, version: more.version });
    for order in orders.into_iter().chain([more]) {
        let order: At = order.unwrap();
        assert_eq!(read(&world, &order).await.version, 1);
    }
    assert_ne!(owner(&world).await, Some(first_owner), "the shard has changed hands");
    world.end().await.unwrap();
}

/// A command that belongs to a trace of its caller's.
fn traced<T>(message: T, trace_id: u128) -> Request<T> {
    let mut request = patient(message);
    let parent = format!("00-{trace_id:032x}-b7ad6b7169203331-01");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request
}

/// Fails unless an order's row, once it is as new as `order`, names this event, correlation, cause and trace, as the
/// event itself does.
async fn assert_made_by(world: &World, order: &At, [event, correlation, cause]: [&str; 3], trace_id: u128) {
    assert_eq!(read(world, order).await.version, order.version);
    let key = AttributeValue::S(format!("default#{}", order.id));
    let get = world.ground.aws().await.dynamodb().get_item().key("OrderId", key).consistent_read(true);
    let get = get.table_name(world.ground.output("OrderReadModelTable")).send();
    let row = get.await.unwrap().item.unwrap();
    let says = |name: &str| row[name].as_s().unwrap().as_str();
    assert_eq!([says("EventId"), says("CorrelationId"), says("CausationId")], [event, correlation, cause]);
    let trace: TraceParent = says("TraceParent").parse().unwrap();
    assert_eq!(trace.trace_id(), format!("{trace_id:032x}"));

    let message: Value = serde_json::from_str(messages(world, order).await.last().unwrap()).unwrap();
    for name in ["EventId", "CorrelationId", "CausationId", "TraceParent"] {
        assert_eq!(message["detail"][name], says(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_names_its_newest_event_and_the_command_the_correlation_and_the_trace_behind_it() {
    let world = World::new().await.unwrap();
    let john = create_user(&world, "john@example.com").await.unwrap();
    let request = CreateOrderRequest {
        command_id: Some("place".into()),
        correlation_id: Some("checkout 注文".into()),
        ..laptop(&john.id)
    };
    let reply = world.orders().create_order(traced(request, 1)).await.unwrap().into_inner();
    let order = At { id: reply.aggregate_id, version: reply.version };
    assert_made_by(&world, &order, [&reply.event_id, "checkout 注文", "place"], 1).await;

    let change = async |status: OrderStatus, trace_id| {
        let request = UpdateOrderStatusRequest {
            order_id: order.id.clone(),
            status: status.into(),
            command_id: Some(format!("command {trace_id}")),
            correlation_id: Some(format!("work {trace_id}")),
            ..Default::default()
        };
        let reply = world.orders().update_order_status(traced(request, trace_id)).await.unwrap().into_inner();
        let order = At { id: reply.aggregate_id, version: reply.version };
        let (correlation, cause) = (format!("work {trace_id}"), format!("command {trace_id}"));
        assert_made_by(&world, &order, [&reply.event_id, &correlation, &cause], trace_id).await;
        order
    };
    let order = change(OrderStatus::Processing, 2).await;

    // A row that says nothing of it, or nothing that can be read, is as good; the next event puts it right.
    let key = AttributeValue::S(format!("default#{}", order.id));
    let dynamodb = world.ground.aws().await.dynamodb();
    let strip = dynamodb.update_item().table_name(world.ground.output("OrderReadModelTable"));
    let strip = strip.update_expression("SET CorrelationId = :n REMOVE EventId, CausationId, TraceParent");
    let strip = strip.expression_attribute_values(":n", AttributeValue::N("7".into()));
    let before = read(&world, &order).await;
    strip.key("OrderId", key).send().await.unwrap();
    assert_eq!(read(&world, &order).await, before);
    change(OrderStatus::Shipped, 3).await;
    world.end().await.unwrap();
}

/// Who reads the stream's only shard.
async fn owner(world: &World) -> Option<String> {
    let scan = world.ground.aws().await.dynamodb().scan().table_name(world.ground.output("RelayLeaseTable"));
    let items = scan.consistent_read(true).send().await.unwrap().items.unwrap_or_default();
    items.iter().find_map(|item| item.get("Owner")?.as_s().ok().cloned())
}
