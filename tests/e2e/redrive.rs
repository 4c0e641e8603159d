//! `projector redrive`, as an operator runs it.

use millrace_local::StackOptions;
use millrace_tests::{
    AwsStack, Gate, ORDERS, TestApp, USERS, aws_stack, aws_stack_with, eventually, queues::Queues,
};
use serde_json::json;

use crate::{
    audit::{Ended, command, ended},
    calls::{create_order, create_user, row_version},
};

async fn redrive(stack: &AwsStack, args: &[&str]) -> Ended {
    ended(command(stack, &[&["redrive"], args].concat())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_told_with_their_reasons_and_applied_after_a_fix() {
    let stack =
        aws_stack_with(&StackOptions { max_receive_count: 1, ..StackOptions::default() }).await.unwrap();
    let app = TestApp::on(stack).await.unwrap();
    let queues = Queues::of(&app.stack).await;
    let john = create_user(&app, "john@example.com").await.unwrap();
    let order = create_order(&app, &john).await.unwrap();
    eventually("its row", async || row_version(&app, ORDERS, &order.id).await).await;

    // An event comes before its own aggregate does: the store of another region is behind, say.
    let events = app.stack.events();
    let dynamodb = app.stack.aws().await.dynamodb();
    use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
    let key = AttributeValue::S(format!("default#order#{}", order.id));
    let delete = dynamodb.delete_item().table_name(&events).key("AggregateId", key);
    let delete = delete.key("Version", AttributeValue::N("1".into())).return_values(ReturnValue::AllOld);
    let first = delete.send().await.unwrap().attributes.unwrap();
    let table = app.stack.rows(ORDERS);
    let key = AttributeValue::S(format!("default#{}", order.id));
    dynamodb.delete_item().table_name(table).key("Key", key).send().await.unwrap();
    let second = second_event(&first);
    queues.send(&app.stack.queue(ORDERS), &[second]).await;
    queues.send(&app.stack.queue(ORDERS), &["no JSON at all"]).await;
    eventually("two dead letters", async || {
        (queues.counts(&app.stack.dead_letters(ORDERS)).await == (2, 0)).then_some(())
    })
    .await;

    let dry = redrive(&app.stack, &["--dry-run"]).await;
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
        queues.counts(&app.stack.dead_letters(ORDERS)).await,
        (2, 0),
        "nothing was sent, and all can be received"
    );

    // The missing event is there now.
    dynamodb.put_item().table_name(&events).set_item(Some(first)).send().await.unwrap();
    let sent = redrive(&app.stack, &["--projection=order-summaries", "--reason=event store"]).await;
    assert_eq!(sent.code, Some(0), "{sent:?}");
    assert!(sent.summary.contains(" sent=1 failed=0 undeleted=0 others=1 newer=0"), "{sent:?}");
    eventually("the row is applied", async || {
        row_version(&app, ORDERS, &order.id).await.filter(|version| *version == 2)
    })
    .await;
    assert_eq!(queues.counts(&app.stack.dead_letters(ORDERS)).await, (1, 0));

    // The other one fails again, and the run that sends it ends all the same, whether it sees that or not.
    let again = redrive(&app.stack, &[]).await;
    let seen_again = again.summary.contains(" newer=1") || again.summary.contains(" unseen=1");
    assert_eq!(again.code, Some(i32::from(seen_again)), "{again:?}");
    eventually("it is dead again", async || {
        (queues.counts(&app.stack.dead_letters(ORDERS)).await == (1, 0)).then_some(())
    })
    .await;
    let letter = queues.look(&app.stack.dead_letters(ORDERS)).await.remove(0);
    assert_eq!(letter.body.as_deref(), Some("no JSON at all"));
    app.end().await.unwrap();
}

/// The bus's message of an event that follows an order's first one.
fn second_event(
    first: &std::collections::HashMap<String, aws_sdk_dynamodb::types::AttributeValue>,
) -> String {
    let mut envelope = millrace_event_store::stored_from_item(first).unwrap().envelope;
    envelope.version = 2;
    envelope.event_type = "OrderStatusUpdated".to_owned();
    let data = json!({ "status": "ORDER_STATUS_PROCESSING" });
    envelope.event_data = data.as_object().cloned();
    json!({"version": "0", "id": "7", "source": "millrace", "detail-type": "x", "detail": envelope})
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_sqs_moved_by_itself_go_back_unchanged_and_no_more_than_asked_for() {
    let stack =
        aws_stack_with(&StackOptions { max_receive_count: 1, ..StackOptions::default() }).await.unwrap();
    let queues = Queues::of(&stack).await;
    let mut bodies: Vec<_> = (0..23).map(|n| format!("{{\"number\": {n}, \"text\": \"名前\"}}")).collect();
    bodies.sort();
    queues.send(&stack.queue(USERS), &bodies).await;
    eventually("all of them are dead", async || {
        queues.look(&stack.queue(USERS)).await;
        (queues.counts(&stack.dead_letters(USERS)).await == (23, 0)).then_some(())
    })
    .await;

    let some = redrive(&stack, &["--max=9", "--projection=user-profiles"]).await;
    assert_eq!(some.code, Some(0), "{some:?}");
    assert_eq!(
        some.lines,
        [
            "REASON projection=user-profiles count=9 attempts=unknown reason=\"not known: moved by the queue itself\""
        ]
    );
    assert_eq!(queues.counts(&stack.queue(USERS)).await, (9, 0));
    assert_eq!(queues.counts(&stack.dead_letters(USERS)).await, (14, 0), "the rest can be received at once");

    let rest = redrive(&stack, &[]).await;
    assert!(rest.code == Some(0) && rest.summary.contains(" sent=14 "), "{rest:?}");
    assert_eq!(queues.counts(&stack.dead_letters(USERS)).await, (0, 0));
    let mut back = Vec::new();
    for _ in 0..bodies.len() {
        for message in queues.look(&stack.queue(USERS)).await {
            assert!(message.message_attributes.unwrap_or_default().is_empty());
            back.push(message.body.unwrap());
        }
    }
    back.sort();
    assert_eq!(back, bodies);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_is_killed_between_sending_and_deleting_loses_nothing() {
    let stack = aws_stack().await.unwrap();
    let queues = Queues::of(&stack).await;
    queues.send(&stack.dead_letters(USERS), &["a letter"]).await;
    let gate = Gate::before(stack.endpoint()).await.unwrap();
    gate.hold("DeleteMessageBatch");
    let mut command = command(&stack, &["redrive"]);
    command.env("AWS_ENDPOINT_URL", gate.url());
    let mut child = command.spawn().unwrap();
    gate.until_held(1).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(queues.counts(&stack.queue(USERS)).await, (1, 0), "it was sent");
    assert_eq!(queues.counts(&stack.dead_letters(USERS)).await, (0, 1), "and comes back among the dead");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_redrive_lacks_is_told() {
    let stack = aws_stack().await.unwrap();
    let with = async |queues: &str| {
        let mut command = command(&stack, &["redrive"]);
        command.env("QUEUE_URLS", queues);
        ended(command).await
    };
    let told = with("nobody@1=a-queue").await;
    assert_eq!(told.code, Some(2));
    assert!(told.said.contains("`nobody@1`") && told.said.contains("cargo run -- aws"), "{told:?}");
    let told = with(&format!("{USERS}={}", stack.dead_letters(USERS))).await;
    assert!(told.code == Some(2) && told.said.contains("has no dead-letter queue"), "{told:?}");
    let told = with(&format!("{USERS}={}-x", stack.queue(USERS))).await;
    assert!(told.code == Some(3) && told.said.contains("-x cannot be used"), "{told:?}");
}
