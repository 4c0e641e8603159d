//! Poison of every kind among events: one message in twenty.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::{Client, types::Message};
use futures::future::join_all;
use millrace_domain::{Aggregate as _, StreamId, order::Order, user::User};
use millrace_event_store::{AppendEvents as _, Commit, StoredEvent};
use millrace_local::StackOptions;
use millrace_proto::{Envelope, query::GetOrderRequest, types::OrderStatus};
use millrace_tests::{
    Ground, World, eventually,
    lives::{order_event, user_event},
};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    audit::{command, ended},
    calls::{At, create_order, create_user, drained, patient, set_status},
    replica::{SHARDS, store},
};

/// So many clients place so many orders each, one after the other: no more than the emulator has the breath for.
const CLIENTS: usize = 6;
const ORDERS: usize = 10;
const LIFE: [OrderStatus; 3] = [OrderStatus::Processing, OrderStatus::Shipped, OrderStatus::Delivered];

/// How often a message is tried here.
const ATTEMPTS: u16 = 3;

const ORDER_QUEUE: [&str; 2] = ["OrderQueueUrl", "OrderDeadLetterQueueUrl"];
const USER_QUEUE: [&str; 2] = ["UserQueueUrl", "UserDeadLetterQueueUrl"];

/// A message that cannot be applied.
struct Poison {
    /// The queue that it is sent to, and that of its dead letters.
    queues: [&'static str; 2],
    body: String,
    /// How that begins which is said of it.
    reason: &'static str,
}

fn stream(aggregate: &str, id: u128) -> StreamId {
    format!("default#{aggregate}#{}", Uuid::from_u128(id)).parse().unwrap()
}

fn now() -> millrace_domain::Timestamp {
    millrace_runtime::clock::now()
}

/// What a queue gets of an event.
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
    let of = |queues, body: String, reason| Poison { queues, body, reason };
    vec![
        of(ORDER_QUEUE, "no JSON".to_owned(), "the body is not JSON"),
        of(ORDER_QUEUE, "{\"detail\":[1]}".to_owned(), "the body is not an event of the bus"),
        of(ORDER_QUEUE, on_the_bus(&order, |event| event.version = 0), "the envelope's Version"),
        of(ORDER_QUEUE, on_the_bus(&user, |_| ()), "the event belongs to another kind of aggregate"),
        of(
            ORDER_QUEUE,
            on_the_bus(&order, with_data("orderId", json!(Uuid::from_u128(9)))),
            "the event names another aggregate",
        ),
        of(
            ORDER_QUEUE,
            on_the_bus(&order, |event| event.version = 2),
            "the event cannot stand at its version",
        ),
        of(ORDER_QUEUE, on_the_bus(&later, |_| ()), "the event store does not have the event"),
        of(
            USER_QUEUE,
            on_the_bus(&user, |event| event.event_type = "UserForgotten".into()),
            "the event type is unknown",
        ),
        of(USER_QUEUE, on_the_bus(&user, |event| event.schema_version = 9), "the event has schema version 9"),
        of(
            USER_QUEUE,
            on_the_bus(&user, with_data("email", json!({"a": 1}))),
            "the event data is not the JSON of its message",
        ),
        of(USER_QUEUE, on_the_bus(&user, with_data("email", json!("nobody"))), "the event's email"),
    ]
}

struct Queues<'a> {
    ground: &'a Ground,
    sqs: Client,
}

impl Queues<'_> {
    async fn send(&self, poison: &Poison) {
        let request = self.sqs.send_message().queue_url(self.ground.output(poison.queues[0]));
        request.message_body(&poison.body).send().await.unwrap();
    }

    /// The dead letters of a queue, once there are so many; they stay where they are.
    async fn dead_letters(&self, output: &str, count: usize) -> Vec<Message> {
        let mut letters: BTreeMap<String, Message> = BTreeMap::new();
        eventually("the dead letters", async || {
            let request = self.sqs.receive_message().queue_url(self.ground.output(output));
            let request = request.max_number_of_messages(10).visibility_timeout(0).wait_time_seconds(1);
            let reply = request.message_attribute_names("All").send().await.unwrap();
            let found = reply.messages.unwrap_or_default().into_iter();
            letters.extend(found.map(|letter| (letter.message_id.clone().unwrap(), letter)));
            (letters.len() >= count).then_some(())
        })
        .await;
        letters.into_values().collect()
    }
}

/// Brings orders to their ends, and reads each of their versions as soon as it can.
async fn live(world: &World, john: &At) -> Vec<Duration> {
    let mut lags = Vec::new();
    for _ in 0..ORDERS {
        let mut order = create_order(world, john).await.unwrap();
        for status in LIFE.into_iter().map(Some).chain([None]) {
            let replied = Instant::now();
            let request = GetOrderRequest { order_id: order.id.clone(), after: order.after() };
            let read = world.order_queries().get_order(patient(request)).await.unwrap().into_inner();
            assert_eq!(read.order.unwrap().version, order.version);
            lags.push(replied.elapsed());
            if let Some(status) = status {
                order = set_status(world, &order, status).await.unwrap();
            }
        }
    }
    lags
}

/// Lets all clients do so at the same time, and says how long it took until what they wrote could be read.
async fn live_all(world: &World, john: &At) -> String {
    let mut lags = join_all((0..CLIENTS).map(|_| live(world, john))).await.concat();
    lags.sort_unstable();
    let [half, most] = [lags.len() / 2, lags.len() * 99 / 100].map(|place| lags[place]);
    format!("{} events, from reply to readable p50 {half:?}, p99 {most:?}", lags.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_of_every_kind_keeps_nobody_waiting_and_what_can_be_mended_is_applied_after_a_redrive() {
    let options = StackOptions { max_receive_count: ATTEMPTS, ..StackOptions::default() };
    let mut world = World::on(Ground::with(&options).await.unwrap()).await.unwrap();
    world.another_projector().await.unwrap();
    let queues = Queues { ground: &world.ground, sqs: world.ground.aws().await.sqs(Duration::from_secs(1)) };
    let john = create_user(&world, "john@example.com").await.unwrap();
    println!("without poison: {}", live_all(&world, &john).await);

    // An order whose second event was written by a release that is newer than this one, and its third after that: the
    // relay brings both.
    let unread = stream(Order::TYPE.as_str(), 2_000);
    let events = store(&world.ground, &world.ground.aws().await, Some(SHARDS));
    for version in 1..=3 {
        let mut event = order_event(&unread, version, now());
        event.envelope.schema_version = if version == 2 { 9 } else { 1 };
        events.append(&Commit { events: vec![event], claims: vec![], releases: vec![] }).await.unwrap();
    }
    let mut all: Vec<(&str, &str)> = vec![
        (ORDER_QUEUE[1], "the event has schema version 9"),
        (ORDER_QUEUE[1], "the event of version 2, which comes first, fails"),
    ];

    let poison = poison();
    all.extend(poison.iter().map(|poison| (poison.queues[1], poison.reason)));
    assert!(all.len() * 20 >= CLIENTS * ORDERS * (1 + LIFE.len()), "one in twenty");
    let sending = async {
        for poison in &poison {
            queues.send(poison).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (told, ()) = tokio::join!(live_all(&world, &john), sending);
    println!("with poison: {told}");

    // Each is found where it belongs, with its reason, and nothing else is.
    for output in [ORDER_QUEUE[1], USER_QUEUE[1]] {
        let reasons: Vec<&str> =
            all.iter().filter(|(queue, _)| *queue == output).map(|(_, reason)| *reason).collect();
        let letters = queues.dead_letters(output, reasons.len()).await;
        let said: Vec<String> = letters.iter().map(|letter| attribute(letter, "Reason")).collect();
        assert_eq!(said.len(), reasons.len(), "{said:?}");
        for reason in reasons {
            assert_eq!(
                said.iter().filter(|said| said.starts_with(reason)).count(),
                1,
                "{reason} in {said:?}"
            );
        }
        for letter in &letters {
            assert_eq!(attribute(letter, "Attempts"), ATTEMPTS.to_string());
            let projection = if output == USER_QUEUE[1] { "user-profiles" } else { "order-summaries" };
            assert_eq!(attribute(letter, "Projection"), projection);
        }
    }
    drained(&world, ORDER_QUEUE[0]).await;
    drained(&world, USER_QUEUE[0]).await;

    // A release that reads the event is as good as an event that this one can read.
    assert_eq!(version(&world, &unread).await, Some(1), "as far as it could be read");
    let update = world.ground.aws().await.dynamodb().update_item();
    let update = update.table_name(world.ground.output("EventStoreTable"));
    let update = update.key("AggregateId", AttributeValue::S(unread.to_string()));
    let update =
        update.key("Version", AttributeValue::N("2".into())).update_expression("SET SchemaVersion = :one");
    update.expression_attribute_values(":one", AttributeValue::N("1".into())).send().await.unwrap();
    let redrive = ended(command(&world.ground, &["redrive", "--projection=order-summaries"])).await;
    assert_eq!(redrive.code, Some(0), "{redrive:?}");
    eventually("the row is whole", async || (version(&world, &unread).await == Some(3)).then_some(())).await;

    // What could not be mended is back, and so is the copy that the bus had of the unread event.
    let again = all.iter().filter(|(queue, _)| *queue == ORDER_QUEUE[1]).count() - 1;
    assert_eq!(queues.dead_letters(ORDER_QUEUE[1], again).await.len(), again);
    drained(&world, ORDER_QUEUE[0]).await;
    world.end().await.unwrap();
}

fn attribute(letter: &Message, name: &str) -> String {
    let attributes = letter.message_attributes.as_ref();
    attributes.and_then(|all| all.get(name)?.string_value.clone()).unwrap_or_default()
}

/// The version of an order's row.
async fn version(world: &World, stream: &StreamId) -> Option<u64> {
    let key = AttributeValue::S(format!("default#{}", stream.id));
    let get = world.ground.aws().await.dynamodb().get_item().key("OrderId", key).consistent_read(true);
    let row = get.table_name(world.ground.output("OrderReadModelTable")).send().await.unwrap().item?;
    row["Version"].as_n().unwrap().parse().ok()
}
