//! `projector redrive`, as an operator runs it.

use std::time::Duration;

use aws_sdk_sqs::{
    Client,
    types::{MessageSystemAttributeName, QueueAttributeName},
};
use millrace_local::StackOptions;
use millrace_tests::{Gate, Ground, World, eventually};
use serde_json::json;

use crate::{
    audit::{Ended, command, ended},
    calls::{create_order, create_user},
};

async fn redrive(ground: &Ground, args: &[&str]) -> Ended {
    ended(command(ground, &[&["redrive"], args].concat())).await
}

/// The queues, raw.
struct Queues<'a> {
    ground: &'a Ground,
    sqs: Client,
}

impl Queues<'_> {
    async fn of(ground: &Ground) -> Queues<'_> {
        Queues { ground, sqs: ground.aws().await.sqs(Duration::from_secs(1)) }
    }

    /// How many messages a queue has that can be received, and how many that are hidden.
    async fn counts(&self, output: &str) -> (u32, u32) {
        let names = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        let request = self.sqs.get_queue_attributes().queue_url(self.ground.output(output));
        let reply = request.set_attribute_names(Some(names.clone().into())).send().await.unwrap();
        let counts = reply.attributes.unwrap();
        let [visible, hidden] = names.map(|name| counts[&name].parse().unwrap());
        (visible, hidden)
    }

    async fn send(&self, output: &str, body: &str) {
        let request = self.sqs.send_message().queue_url(self.ground.output(output)).message_body(body);
        request.send().await.unwrap();
    }

    /// Receives a message without an end to it.
    async fn receive(&self, output: &str) -> Vec<aws_sdk_sqs::types::Message> {
        let request = self.sqs.receive_message().queue_url(self.ground.output(output)).visibility_timeout(0);
        let request = request.wait_time_seconds(0).message_attribute_names("All");
        let request = request.message_system_attribute_names(MessageSystemAttributeName::All);
        request.send().await.unwrap().messages.unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_told_with_their_reasons_and_applied_after_a_fix() {
    let ground =
        Ground::with(&StackOptions { max_receive_count: 1, ..StackOptions::default() }).await.unwrap();
    let world = World::on(ground).await.unwrap();
    let queues = Queues::of(&world.ground).await;
    let john = create_user(&world, "john@example.com").await.unwrap();
    let order = create_order(&world, &john).await.unwrap();
    eventually("its row", async || row(&world, &order.id).await).await;

    // An event comes before its own aggregate does: the store of another region is behind, say.
    let events = world.ground.output("EventStoreTable");
    let dynamodb = world.ground.aws().await.dynamodb();
    use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
    let key = AttributeValue::S(format!("default#order#{}", order.id));
    let delete = dynamodb.delete_item().table_name(events).key("AggregateId", key);
    let delete = delete.key("Version", AttributeValue::N("1".into())).return_values(ReturnValue::AllOld);
    let first = delete.send().await.unwrap().attributes.unwrap();
    let table = world.ground.output("OrderReadModelTable");
    let key = AttributeValue::S(format!("default#{}", order.id));
    dynamodb.delete_item().table_name(table).key("OrderId", key).send().await.unwrap();
    let second = second_event(&first);
    queues.send("OrderQueueUrl", &second).await;
    queues.send("OrderQueueUrl", "no JSON at all").await;
    eventually("two dead letters", async || {
        (queues.counts("OrderDeadLetterQueueUrl").await == (2, 0)).then_some(())
    })
    .await;

    let dry = redrive(&world.ground, &["--dry-run"]).await;
    assert_eq!(dry.code, Some(0), "{dry:?}");
    assert_eq!(
        dry.lines,
        [
            "REASON projection=order-summaries count=1 attempts=1 reason=\"the body is not JSON\"",
            "REASON projection=order-summaries count=1 attempts=1 reason=\"the event store does not have the event\"",
        ]
    );
    assert!(dry.summary.contains("projection=order-summaries complete=yes would_send=2 "), "{dry:?}");
    assert!(dry.summary.contains("projection=user-profiles complete=yes would_send=0 "), "{dry:?}");
    assert_eq!(
        queues.counts("OrderDeadLetterQueueUrl").await,
        (2, 0),
        "nothing was sent, and all can be received"
    );

    // What was missing is there now.
    dynamodb.put_item().table_name(events).set_item(Some(first)).send().await.unwrap();
    let sent = redrive(&world.ground, &["--projection=order-summaries", "--reason=event store"]).await;
    assert_eq!(sent.code, Some(0), "{sent:?}");
    assert!(sent.summary.contains(" sent=1 failed=0 undeleted=0 others=1 newer=0"), "{sent:?}");
    eventually("the row is applied", async || row(&world, &order.id).await.filter(|version| version == "2"))
        .await;
    assert_eq!(queues.counts("OrderDeadLetterQueueUrl").await, (1, 0));

    // The other one fails again, and the run that sends it ends all the same, whether it sees that or not.
    let again = redrive(&world.ground, &[]).await;
    let seen_again = again.summary.contains(" newer=1") || again.summary.contains(" unseen=1");
    assert_eq!(again.code, Some(i32::from(seen_again)), "{again:?}");
    eventually("it is dead again", async || {
        (queues.counts("OrderDeadLetterQueueUrl").await == (1, 0)).then_some(())
    })
    .await;
    let letter = queues.receive("OrderDeadLetterQueueUrl").await.remove(0);
    assert_eq!(letter.body.as_deref(), Some("no JSON at all"));
    world.end().await.unwrap();
}

/// The version of an order's row, if there is one.
async fn row(world: &World, order: &str) -> Option<String> {
    use aws_sdk_dynamodb::types::AttributeValue;
    let get =
        world.ground.aws().await.dynamodb().get_item().table_name(world.ground.output("OrderReadModelTable"));
    let get = get.key("OrderId", AttributeValue::S(format!("default#{order}"))).consistent_read(true);
    get.send().await.unwrap().item?.get("Version")?.as_n().ok().cloned()
}

/// The bus's message of an event that follows an order's first one.
fn second_event(
    first: &std::collections::HashMap<String, aws_sdk_dynamodb::types::AttributeValue>,
) -> String {
    let mut envelope = millrace_event_store::stored_from_item(first).unwrap().envelope;
    envelope.version = 2;
    envelope.event_type = "OrderStatusUpdated".to_owned();
    let data = json!({
        "orderId": envelope.aggregate_id, "status": "ORDER_STATUS_PROCESSING", "updatedAt": "2026-11-23T12:00:00Z",
    });
    envelope.event_data = data.as_object().cloned();
    json!({"version": "0", "id": "7", "source": "millrace", "detail-type": "x", "detail": envelope})
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_sqs_moved_by_itself_go_back_unchanged_and_no_more_than_asked_for() {
    let ground =
        Ground::with(&StackOptions { max_receive_count: 1, ..StackOptions::default() }).await.unwrap();
    let queues = Queues::of(&ground).await;
    let mut bodies: Vec<_> = (0..23).map(|n| format!("{{\"number\": {n}, \"text\": \"名前\"}}")).collect();
    bodies.sort();
    for body in &bodies {
        queues.send("UserQueueUrl", body).await;
    }
    eventually("all of them are dead", async || {
        queues.receive("UserQueueUrl").await;
        (queues.counts("UserDeadLetterQueueUrl").await == (23, 0)).then_some(())
    })
    .await;

    let some = redrive(&ground, &["--max=9", "--projection=user-profiles"]).await;
    assert_eq!(some.code, Some(0), "{some:?}");
    assert_eq!(
        some.lines,
        [
            "REASON projection=user-profiles count=9 attempts=unknown reason=\"not known: moved by the queue itself\""
        ]
    );
    assert_eq!(queues.counts("UserQueueUrl").await, (9, 0));
    assert_eq!(queues.counts("UserDeadLetterQueueUrl").await, (14, 0), "the rest can be received at once");

    let rest = redrive(&ground, &[]).await;
    assert!(rest.code == Some(0) && rest.summary.contains(" sent=14 "), "{rest:?}");
    assert_eq!(queues.counts("UserDeadLetterQueueUrl").await, (0, 0));
    let mut back = Vec::new();
    for _ in 0..bodies.len() {
        for message in queues.receive("UserQueueUrl").await {
            assert!(message.message_attributes.unwrap_or_default().is_empty());
            back.push(message.body.unwrap());
        }
    }
    back.sort();
    assert_eq!(back, bodies);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_is_killed_between_sending_and_deleting_loses_nothing() {
    let ground = Ground::new().await.unwrap();
    let queues = Queues::of(&ground).await;
    queues.send("UserDeadLetterQueueUrl", "a letter").await;
    let gate = Gate::before(ground.endpoint()).await.unwrap();
    gate.hold("DeleteMessageBatch");
    let mut command = command(&ground, &["redrive"]);
    command.env("AWS_ENDPOINT_URL", gate.url());
    let mut child = command.spawn().unwrap();
    gate.until_held(1).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(queues.counts("UserQueueUrl").await, (1, 0), "it was sent");
    assert_eq!(queues.counts("UserDeadLetterQueueUrl").await, (0, 1), "and comes back among the dead");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_redrive_lacks_is_told() {
    let ground = Ground::new().await.unwrap();
    let with = async |name: &str, value: Option<&str>| {
        let mut command = command(&ground, &["redrive"]);
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
        ended(command).await
    };
    let told = with("USER_QUEUE_URL", None).await;
    assert_eq!(told.code, Some(2));
    assert!(told.said.contains("--user-queue-url") && told.said.contains("cargo run -- aws"), "{told:?}");
    let told = with("USER_QUEUE_URL", Some(ground.output("UserDeadLetterQueueUrl"))).await;
    assert!(told.code == Some(2) && told.said.contains("has no dead-letter queue"), "{told:?}");
    let told = with("USER_QUEUE_URL", Some(&format!("{}-x", ground.output("UserQueueUrl")))).await;
    assert!(told.code == Some(3) && told.said.contains("-x cannot be used"), "{told:?}");
}
