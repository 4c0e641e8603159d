//! Poison of every kind among events: one message in twenty.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::join_all;
use millrace_core::{Aggregate as _, Envelope, ProjectionName, StreamId};
use millrace_event_store::{AppendEvents as _, Commit, StoredEvent};
use millrace_local::StackOptions;
use millrace_tests::{
    ORDERS, PROJECTIONS, TOTALS, TestApp, USERS, aws_stack_with, eventually,
    lives::{order_event, user_event},
    queues::{Queues, attribute},
};
use serde_json::{Value, json};
use shop::{
    contracts::{query::GetOrderRequest, types::OrderStatus},
    order::Order,
    user::User,
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    audit::{command, ended},
    calls::{At, create_order, create_user, drained, patient, row_version, set_status},
    replica::{SHARDS, store},
};

/// The clients, and the orders that each places in turn: as many as the emulator can take.
const CLIENTS: usize = 6;
const ORDERS_EACH: usize = 10;
const LIFE: [OrderStatus; 3] = [OrderStatus::Processing, OrderStatus::Shipped, OrderStatus::Delivered];

/// The attempts at a message here.
const ATTEMPTS: u16 = 3;

/// A message that cannot be applied.
struct Poison {
    /// The projection whose queue it is sent to.
    projection: ProjectionName,
    body: String,
    /// How that begins which is said of it.
    reason: &'static str,
}

fn stream(aggregate: &str, id: u128) -> StreamId {
    format!("default#{aggregate}#{}", Uuid::from_u128(id)).parse().unwrap()
}

fn now() -> millrace_core::Timestamp {
    millrace_server::clock::now()
}

/// An event's message in a queue.
fn on_the_bus(event: &StoredEvent, change: impl FnOnce(&mut Envelope)) -> String {
    let mut envelope = event.envelope.clone();
    change(&mut envelope);
    json!({"version": "0", "source": "millrace", "detail-type": envelope.event_type, "detail": envelope})
        .to_string()
}

fn with_data(name: &'static str, value: Value) -> impl FnOnce(&mut Envelope) {
    move |envelope| {
        envelope.event_data.as_mut().unwrap().insert(name.to_owned(), value);
    }
}

/// Every kind that is in the message itself.
fn poison() -> Vec<Poison> {
    let order = order_event(&stream(Order::TYPE.as_str(), 1_001), 1, now());
    let later = order_event(&stream(Order::TYPE.as_str(), 1_002), 3, now());
    let user = user_event(&stream(User::TYPE.as_str(), 1_003), 1, now());
    let of = |projection, body: String, reason| Poison { projection, body, reason };
    vec![
        of(ORDERS, "no JSON".to_owned(), "the body is not JSON"),
        of(ORDERS, "{\"detail\":[1]}".to_owned(), "the body is not an event of the bus"),
        of(ORDERS, on_the_bus(&order, |event| event.version = 0), "the envelope's Version"),
        of(ORDERS, on_the_bus(&user, |_| ()), "the event is of another aggregate type"),
        of(ORDERS, on_the_bus(&order, |event| event.version = 2), "the event store does not have the event"),
        of(ORDERS, on_the_bus(&later, |_| ()), "the event store does not have the event"),
        of(
            USERS,
            on_the_bus(&user, |event| event.event_type = "UserForgotten".into()),
            "the event type is unknown",
        ),
        of(USERS, on_the_bus(&user, |event| event.schema_version = 9), "the event has schema version 9"),
        of(
            USERS,
            on_the_bus(&user, with_data("email", json!({"a": 1}))),
            "the event data is not the JSON of its message",
        ),
        of(USERS, on_the_bus(&user, with_data("email", json!("nobody"))), "the event's email"),
    ]
}

/// Brings orders to their ends, and reads each of their versions as soon as it can.
async fn live(app: &TestApp, john: &At) -> Vec<Duration> {
    let mut lags = Vec::new();
    for _ in 0..ORDERS_EACH {
        let mut order = create_order(app, john).await.unwrap();
        for status in LIFE.into_iter().map(Some).chain([None]) {
            let replied = Instant::now();
            let request = GetOrderRequest { order_id: order.id.clone(), after: order.after() };
            let read = app.order_queries().get_order(patient(request)).await.unwrap().into_inner();
            assert_eq!(read.order.unwrap().version, order.version);
            lags.push(replied.elapsed());
            if let Some(status) = status {
                order = set_status(app, &order, status).await.unwrap();
            }
        }
    }
    lags
}

/// Lets all clients do so at the same time, and says how long it took until their writes could be read.
async fn live_all(app: &TestApp, john: &At) -> String {
    let mut lags = join_all((0..CLIENTS).map(|_| live(app, john))).await.concat();
    lags.sort_unstable();
    let [half, most] = [lags.len() / 2, lags.len() * 99 / 100].map(|place| lags[place]);
    format!("{} events, from reply to readable p50 {half:?}, p99 {most:?}", lags.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_of_every_kind_keeps_nobody_waiting_and_what_can_be_mended_is_applied_after_a_redrive() {
    let options = StackOptions { max_receive_count: ATTEMPTS, ..StackOptions::default() };
    let mut app = TestApp::on(aws_stack_with(&options).await.unwrap()).await.unwrap();
    app.another_projector().await.unwrap();
    let queues = Queues::of(&app.stack).await;
    let john = create_user(&app, "john@example.com").await.unwrap();
    println!("without poison: {}", live_all(&app, &john).await);

    // An order whose second event was written by a release that is newer than this one, and its third after that: the
    // relay brings both.
    let unread = stream(Order::TYPE.as_str(), 2_000);
    let events = store(&app.stack, &app.stack.aws().await, Some(SHARDS));
    for version in 1..=3 {
        let mut event = order_event(&unread, version, now());
        event.envelope.schema_version = if version == 2 { 9 } else { 1 };
        events.append(&Commit { events: vec![event], claims: vec![], releases: vec![] }).await.unwrap();
    }
    let mut all: Vec<(ProjectionName, &str)> = vec![
        (ORDERS, "the event has schema version 9"),
        (ORDERS, "the event of version 2, which comes first, fails"),
        (TOTALS, "the event has schema version 9"),
        (TOTALS, "the event of version 2, which comes first, fails"),
    ];

    let poison = poison();
    all.extend(poison.iter().map(|poison| (poison.projection, poison.reason)));
    assert!(all.len() * 20 >= CLIENTS * ORDERS_EACH * (1 + LIFE.len()), "one in twenty");
    let sending = async {
        for poison in &poison {
            queues.send(&app.stack.queue(poison.projection), &[&poison.body]).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (told, ()) = tokio::join!(live_all(&app, &john), sending);
    println!("with poison: {told}");

    // Each is found where it belongs, with its reason, and nothing else is.
    for projection in PROJECTIONS {
        let reasons: Vec<&str> =
            all.iter().filter(|(of, _)| *of == projection).map(|(_, reason)| *reason).collect();
        let letters = queues.messages(&app.stack.dead_letters(projection), reasons.len()).await;
        let said: Vec<String> = letters.iter().map(|letter| attribute(letter, "Reason")).collect();
        assert_eq!(said.len(), reasons.len(), "{said:?}");
        for reason in &reasons {
            let expected = reasons.iter().filter(|other| *other == reason).count();
            let found = said.iter().filter(|said| said.starts_with(reason)).count();
            assert_eq!(found, expected, "{reason} in {said:?}");
        }
        for letter in &letters {
            assert_eq!(attribute(letter, "Attempts"), ATTEMPTS.to_string());
            assert_eq!(attribute(letter, "Projection"), projection.name);
        }
    }
    drained(&app, ORDERS).await;
    drained(&app, USERS).await;

    // A release that reads the event is as good as an event that this one can read.
    assert_eq!(
        row_version(&app, ORDERS, &unread.id.to_string()).await,
        Some(1),
        "as far as it could be read"
    );
    let update = app.stack.aws().await.dynamodb().update_item();
    let update = update.table_name(app.stack.events());
    let update = update.key("AggregateId", AttributeValue::S(unread.to_string()));
    let update =
        update.key("Version", AttributeValue::N("2".into())).update_expression("SET SchemaVersion = :one");
    update.expression_attribute_values(":one", AttributeValue::N("1".into())).send().await.unwrap();
    let redrive = ended(command(&app.stack, &["redrive", "--projection=order-summaries"])).await;
    assert_eq!(redrive.code, Some(0), "{redrive:?}");
    eventually("the row is whole", async || {
        (row_version(&app, ORDERS, &unread.id.to_string()).await == Some(3)).then_some(())
    })
    .await;

    // The broken messages are back, and so is the bus's copy of the unread event.
    let again = all.iter().filter(|(of, _)| *of == ORDERS).count() - 1;
    assert_eq!(queues.messages(&app.stack.dead_letters(ORDERS), again).await.len(), again);
    drained(&app, ORDERS).await;
    app.end().await.unwrap();
}
