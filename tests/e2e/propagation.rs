//! From the event store to the read models: the rows end right on every way that an event can take.

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use aws_sdk_sqs::types::Message;
use futures::future::join_all;
use millrace_core::ProjectionName;
use millrace_local::StackOptions;
use millrace_server::TraceParent;
use millrace_testing::random::Seed;
use millrace_testing::{
    local::{read_oracle, read_rows},
    oracle::differences,
};
use millrace_tests::{
    ORDERS, Replied as _, TOTALS, TestApp, aws_stack_with, eventually,
    queues::{Queues, attribute},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::{Value, json};
use shop::contracts::{
    command::{
        CreateOrderRequest, UpdateOrderStatusRequest, order_command_service_client::OrderCommandServiceClient,
    },
    query::{GetCustomerTotalsRequest, GetOrderRequest, OrderSummary},
    types::OrderStatus,
};
use tonic::Request;

use crate::calls::{
    At, create_order, create_user, delete_row, drained, laptop, patient, row_item, set_status,
};

async fn read(app: &TestApp, order: &At) -> OrderSummary {
    let request = GetOrderRequest { order_id: order.id.clone(), after: order.after() };
    app.order_queries().get_order(patient(request)).await.unwrap().into_inner().order.unwrap()
}

/// The bus's messages of an order's events, read from the event store.
async fn messages(app: &TestApp, order: &At) -> Vec<String> {
    use millrace_event_store::{DynamoReader, ReadEvents as _};
    let reader = DynamoReader::new(app.stack.aws().await.dynamodb(), app.stack.events());
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

async fn send(app: &TestApp, bodies: &[String]) {
    Queues::of(&app.stack).await.send(&app.stack.queue(ORDERS), bodies).await;
}

/// The dead letters of orders' events, once there are so many.
async fn dead_letters(app: &TestApp, count: usize) -> Vec<Message> {
    Queues::of(&app.stack).await.messages(&app.stack.dead_letters(ORDERS), count).await
}

#[tokio::test(flavor = "multi_thread")]
async fn events_delivered_again_reversed_and_shuffled_leave_the_rows_that_order_leaves() {
    let mut app = TestApp::new().await.unwrap();
    app.another_projector().await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    let mut orders = Vec::new();
    for _ in 0..4 {
        let mut order = create_order(&app, &john).await.unwrap();
        for status in [OrderStatus::Processing, OrderStatus::Shipped, OrderStatus::Delivered] {
            order = set_status(&app, &order, status).await.unwrap();
        }
        orders.push(order);
    }
    let before = join_all(orders.iter().map(|order| read(&app, order))).await;
    let mut all: Vec<String> = join_all(orders.iter().map(|order| messages(&app, order))).await.concat();
    assert_eq!(all.len(), 16);

    // Over rows that are there: nothing changes.
    all.reverse();
    send(&app, &all).await;
    drained(&app, ORDERS).await;
    assert!(dead_letters(&app, 0).await.is_empty(), "they were applied, not given up");
    assert_eq!(join_all(orders.iter().map(|order| read(&app, order))).await, before);

    // Without rows: they come back, from messages in any order, each three times.
    for order in &orders {
        delete_row(&app.stack, ORDERS, &order.id).await;
    }
    let mut thrice = [all.clone(), all.clone(), all].concat();
    thrice.shuffle(&mut rand::rng());
    send(&app, &thrice).await;
    drained(&app, ORDERS).await;
    assert_eq!(join_all(orders.iter().map(|order| read(&app, order))).await, before);
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_row_is_healed_by_the_last_event_alone() {
    let app = TestApp::new().await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    let order = create_order(&app, &john).await.unwrap();
    let order = set_status(&app, &order, OrderStatus::Processing).await.unwrap();
    let before = read(&app, &order).await;
    let last = messages(&app, &order).await.pop().unwrap();
    delete_row(&app.stack, ORDERS, &order.id).await;
    send(&app, &[last]).await;
    assert_eq!(read(&app, &order).await, before);
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_applied_ends_with_its_reason_and_holds_nobody_up() {
    let stack =
        aws_stack_with(&StackOptions { max_receive_count: 2, ..StackOptions::default() }).await.unwrap();
    let app = TestApp::on(stack).await.unwrap();
    let poison = |detail: Value| {
        json!({"version": "0", "id": "7", "source": "millrace", "detail-type": "OrderCreated", "detail": detail}).to_string()
    };
    let bodies = ["no JSON at all".to_owned(), poison(json!({"EventId": 7})), poison(json!([[[[[[]]]]]]))];
    send(&app, &bodies).await;
    let john = create_user(&app, "john@example.com").await.unwrap();
    let order = create_order(&app, &john).await.unwrap();
    assert_eq!(read(&app, &order).await.version, 1, "others are not held up");

    let dead = dead_letters(&app, 3).await;
    assert_eq!(dead.len(), 3);
    for letter in dead {
        assert!(bodies.contains(letter.body.as_ref().unwrap()), "the body is unchanged");
        assert!(!attribute(&letter, "Reason").is_empty(), "{letter:?}");
        assert_eq!(attribute(&letter, "Attempts"), "2");
    }
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_sent_back_is_applied() {
    let stack =
        aws_stack_with(&StackOptions { max_receive_count: 1, ..StackOptions::default() }).await.unwrap();
    let app = TestApp::on(stack).await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    let order = create_order(&app, &john).await.unwrap();
    let order = set_status(&app, &order, OrderStatus::Processing).await.unwrap();
    let before = read(&app, &order).await;
    let last = messages(&app, &order).await.pop().unwrap();

    // The order's first event goes missing, and its row with it: the second alone cannot be applied.
    let dynamodb = app.stack.aws().await.dynamodb();
    let events = app.stack.events();
    let stream = AttributeValue::S(format!("default#order#{}", order.id));
    let first = dynamodb.delete_item().table_name(&events).key("AggregateId", stream);
    let first = first.key("Version", AttributeValue::N("1".into())).return_values(ReturnValue::AllOld);
    let first = first.send().await.unwrap().attributes.unwrap();
    delete_row(&app.stack, ORDERS, &order.id).await;
    send(&app, &[last]).await;
    let dead = dead_letters(&app, 1).await.remove(0);

    // The event is repaired, and the dead letter is sent back as it is.
    dynamodb.put_item().table_name(&events).set_item(Some(first)).send().await.unwrap();
    send(&app, &[dead.body.unwrap()]).await;
    assert_eq!(read(&app, &order).await, before);
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_projectors_and_what_is_left_of_two_relays_bring_every_event_to_its_row() {
    let mut app = TestApp::new().await.unwrap();
    let first_owner = eventually("an owner of the stream's shard", async || owner(&app).await).await;
    let second = app.another_command_service().await.unwrap();
    app.another_projector().await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    let orders = join_all((0..60).map(|_| create_order(&app, &john))).await;
    // The stream has one shard, and the replica that came first reads it. It vanishes without a word.
    app.crash_first_command_service();
    let mut later = OrderCommandServiceClient::new(second);
    let more = later.create_order(laptop(&john.id)).await.unwrap().reply();
    let more = Ok(At::from(more));
    for order in orders.into_iter().chain([more]) {
        let order: At = order.unwrap();
        assert_eq!(read(&app, &order).await.version, 1);
    }
    assert_ne!(owner(&app).await, Some(first_owner), "the shard has changed hands");
    app.end().await.unwrap();
}

/// The statuses of each of four orders in turn.
const LIVES: [&[OrderStatus]; 4] = [
    &[],
    &[OrderStatus::Processing, OrderStatus::Shipped],
    &[OrderStatus::Cancelled],
    &[OrderStatus::Processing, OrderStatus::Cancelled],
];

#[tokio::test(flavor = "multi_thread")]
async fn totals_are_the_fold_of_all_orders_after_lost_repeated_and_shuffled_deliveries() {
    let seed = Seed::draw("cargo test -p millrace-tests --test e2e -- totals_are_the_fold");
    let mut rng = StdRng::seed_from_u64(seed.value());
    let mut app = TestApp::new().await.unwrap();
    app.another_projector().await.unwrap();
    let customers = [
        create_user(&app, "john@example.com").await.unwrap(),
        create_user(&app, "jane@example.com").await.unwrap(),
    ];
    let mut orders = Vec::new();
    for (n, life) in LIVES.iter().cycle().take(12).enumerate() {
        let mut order = create_order(&app, &customers[n % 2]).await.unwrap();
        for status in *life {
            order = set_status(&app, &order, *status).await.unwrap();
        }
        orders.push(order);
    }
    let expected = read_oracle(&app.stack).await.unwrap().items(app.stack.index_shards()).unwrap();
    let wrong = async || differences(&expected, &read_rows(&app.stack).await.unwrap());
    eventually("the rows of all histories", async || wrong().await.is_empty().then_some(())).await;
    let request = GetCustomerTotalsRequest { user_id: customers[0].id.clone(), after: orders[10].after() };
    let totals = app.customer_queries().get_customer_totals(patient(request)).await.unwrap().into_inner();
    let totals = totals.totals.unwrap();
    assert_eq!((totals.orders, totals.cancelled), (3, 3), "as everybody can count them: {totals:?}");

    // From nothing: of each order some messages are lost, as long as its last one comes, and all are repeated and late.
    drained(&app, TOTALS).await;
    clear(&app, TOTALS).await;
    let mut sent = Vec::new();
    for order in &orders {
        let messages = messages(&app, order).await;
        for (n, message) in messages.iter().enumerate() {
            let fewest = usize::from(n + 1 == messages.len());
            sent.extend(vec![message.clone(); rng.random_range(fewest..4)]);
        }
    }
    sent.shuffle(&mut rng);
    let queues = Queues::of(&app.stack).await;
    for _ in 0..2 {
        // The second time over rows that are there: nothing changes.
        queues.send(&app.stack.queue(TOTALS), &sent).await;
        drained(&app, TOTALS).await;
        assert_eq!(wrong().await, [] as [String; 0]);
        assert_eq!(queues.counts(&app.stack.dead_letters(TOTALS)).await, (0, 0), "applied, and not given up");
        sent.reverse();
    }
    app.end().await.unwrap();
}

/// Takes away everything that a projection has.
async fn clear(app: &TestApp, projection: ProjectionName) {
    let (dynamodb, table) = (app.stack.aws().await.dynamodb(), app.stack.rows(projection));
    let items = dynamodb.scan().table_name(&table).consistent_read(true).into_paginator().items().send();
    for item in items.collect::<Result<Vec<_>, _>>().await.unwrap() {
        dynamodb.delete_item().table_name(&table).key("Key", item["Key"].clone()).send().await.unwrap();
    }
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
async fn assert_made_by(app: &TestApp, order: &At, [event, correlation, cause]: [&str; 3], trace_id: u128) {
    assert_eq!(read(app, order).await.version, order.version);
    let row = row_item(app, ORDERS, &order.id).await.unwrap();
    let says = |name: &str| row[name].as_s().unwrap().as_str();
    assert_eq!([says("EventId"), says("CorrelationId"), says("CausationId")], [event, correlation, cause]);
    let trace: TraceParent = says("TraceParent").parse().unwrap();
    assert_eq!(trace.trace_id(), format!("{trace_id:032x}"));

    let message: Value = serde_json::from_str(messages(app, order).await.last().unwrap()).unwrap();
    for name in ["EventId", "CorrelationId", "CausationId", "TraceParent"] {
        assert_eq!(message["detail"][name], says(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_names_its_newest_event_and_the_command_the_correlation_and_the_trace_behind_it() {
    let app = TestApp::new().await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    let request = CreateOrderRequest {
        command_id: Some("place".into()),
        correlation_id: Some("checkout 注文".into()),
        ..laptop(&john.id)
    };
    let reply = app.orders().create_order(traced(request, 1)).await.unwrap().reply();
    let order = At::from(reply.clone());
    assert_made_by(&app, &order, [&reply.event_id, "checkout 注文", "place"], 1).await;

    let change = async |status: OrderStatus, trace_id| {
        let request = UpdateOrderStatusRequest {
            order_id: order.id.clone(),
            status: status.into(),
            command_id: Some(format!("command {trace_id}")),
            correlation_id: Some(format!("work {trace_id}")),
            ..Default::default()
        };
        let reply = app.orders().update_order_status(traced(request, trace_id)).await.unwrap().reply();
        let order = At::from(reply.clone());
        let (correlation, cause) = (format!("work {trace_id}"), format!("command {trace_id}"));
        assert_made_by(&app, &order, [&reply.event_id, &correlation, &cause], trace_id).await;
        order
    };
    let order = change(OrderStatus::Processing, 2).await;

    // A row that says nothing of it, or nothing that can be read, is as good; the next event puts it right.
    let key = AttributeValue::S(format!("default#{}", order.id));
    let dynamodb = app.stack.aws().await.dynamodb();
    let strip = dynamodb.update_item().table_name(app.stack.rows(ORDERS));
    let strip = strip.update_expression("SET CorrelationId = :n REMOVE EventId, CausationId, TraceParent");
    let strip = strip.expression_attribute_values(":n", AttributeValue::N("7".into()));
    let before = read(&app, &order).await;
    strip.key("Key", key).send().await.unwrap();
    assert_eq!(read(&app, &order).await, before);
    change(OrderStatus::Shipped, 3).await;
    app.end().await.unwrap();
}

/// The owner of the lease of the stream's only shard.
async fn owner(app: &TestApp) -> Option<String> {
    let scan = app.stack.aws().await.dynamodb().scan().table_name(app.stack.relay_leases());
    let items = scan.consistent_read(true).send().await.unwrap().items.unwrap_or_default();
    items.iter().find_map(|item| item.get("Owner")?.as_s().ok().cloned())
}
