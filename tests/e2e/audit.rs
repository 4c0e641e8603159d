//! `projector audit`, as an operator runs it.

use std::{
    collections::HashMap,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use futures::future::{join, join_all};
use millrace_core::ProjectionName;
use millrace_tests::{
    AwsStack, Fault, FaultProxy, Gate, ORDERS, PATIENCE, PROJECTIONS, TOTALS, TestApp, Throttling, aws_stack,
    eventually, process::Deployable, scan::scan,
};
use serde_json::Value;
use shop::contracts::types::OrderStatus;

use crate::calls::{At, create_order, create_user, delete_row, patient, set_status};

type Item = HashMap<String, AttributeValue>;

/// How a command of the projector's ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code.
    pub(crate) code: Option<i32>,
    /// The report's lines without the summary, in no order.
    pub(crate) lines: Vec<String>,
    /// The summary.
    pub(crate) summary: String,
    /// Standard error.
    pub(crate) said: String,
}

/// A command of the projector's, about to be run.
pub(crate) fn command(stack: &AwsStack, args: &[&str]) -> Command {
    let mut command = Deployable::Projector.command(stack);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command to its end.
pub(crate) async fn ended(mut command: Command) -> Ended {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    for words in [&text, &said] {
        assert_eq!(scan(words), [], "a report names no person and no secret");
    }
    let (summary, mut lines): (Vec<String>, Vec<String>) = text
        .lines()
        .map(str::to_owned)
        .partition(|line| line.starts_with("SUMMARY") || line.starts_with("REQUESTS"));
    lines.sort();
    Ended { code: output.status.code(), lines, summary: summary.join("\n"), said }
}

async fn audit(stack: &AwsStack, args: &[&str]) -> Ended {
    ended(command(stack, &[&["audit"], args].concat())).await
}

fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// The tables of rows, raw, and hands on them.
struct Rows<'a> {
    stack: &'a AwsStack,
    dynamodb: Client,
}

impl Rows<'_> {
    async fn of(stack: &AwsStack) -> Rows<'_> {
        Rows { stack, dynamodb: stack.aws().await.dynamodb() }
    }

    async fn table(&self, projection: ProjectionName) -> Vec<Item> {
        let scan = self.dynamodb.scan().table_name(self.stack.rows(projection)).consistent_read(true);
        let mut items = scan.send().await.unwrap().items.unwrap_or_default();
        items.sort_by_key(|item| format!("{:?}", item["Key"]));
        items
    }

    /// Every row.
    async fn all(&self) -> Vec<Item> {
        join_all(PROJECTIONS.map(|projection| self.table(projection))).await.concat()
    }

    async fn order(&self, order: &At) -> Item {
        let get = self.dynamodb.get_item().table_name(self.stack.rows(ORDERS));
        let get = get.key("Key", text(format!("default#{}", order.id))).consistent_read(true);
        get.send().await.unwrap().item.unwrap_or_default()
    }

    async fn put(&self, table: String, item: Item) {
        let put = self.dynamodb.put_item().table_name(table);
        put.set_item(Some(item)).send().await.unwrap();
    }

    /// Sets an attribute of an order's row.
    async fn alter(&self, order: &At, attribute: &str, value: AttributeValue) {
        let update = self.dynamodb.update_item().table_name(self.stack.rows(ORDERS));
        let update = update.key("Key", text(format!("default#{}", order.id)));
        let update = update.update_expression("SET #a = :v").expression_attribute_names("#a", attribute);
        update.expression_attribute_values(":v", value).send().await.unwrap();
    }

    /// Says of an order's event by which schema it is written.
    async fn set_schema(&self, order: &At, version: u64, schema: &str) {
        let update = self.dynamodb.update_item().table_name(self.stack.events());
        let update = update.key("AggregateId", text(format!("default#order#{}", order.id)));
        let update = update.key("Version", AttributeValue::N(version.to_string()));
        let update = update.update_expression("SET SchemaVersion = :v");
        update.expression_attribute_values(":v", AttributeValue::N(schema.into())).send().await.unwrap();
    }
}

/// Creates some orders of three events each, waits until they are in their rows, and ends everything.
async fn settled(stack: AwsStack, count: usize) -> (AwsStack, Vec<At>) {
    let app = Box::pin(TestApp::on(stack)).await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    let orders = join_all((0..count).map(|_| async {
        let order = create_order(&app, &john).await.unwrap();
        set_status(&app, &order, OrderStatus::Processing).await.unwrap();
        set_status(&app, &order, OrderStatus::Shipped).await.unwrap()
    }))
    .await;
    wait_for(&app, &orders).await;
    let stack = app.stack.clone();
    app.end().await.unwrap();
    (stack, orders)
}

/// Waits until orders are in their rows.
async fn wait_for(app: &TestApp, orders: &[At]) {
    use shop::contracts::query::GetOrderRequest;
    join_all(orders.iter().map(|order| async {
        let request = GetOrderRequest { order_id: order.id.clone(), after: order.after() };
        app.order_queries().get_order(patient(request)).await.unwrap();
    }))
    .await;
}

/// Spoils rows, one in each possible way, and returns the lines to be reported.
async fn spoil(rows: &Rows<'_>, orders: &[At]) -> Vec<String> {
    let of = |kind: &str, order: &At, rest: &str| {
        format!("{kind} projection=order-summaries tenant=default aggregate={}{rest}", order.id)
    };
    delete_row(rows.stack, ORDERS, &orders[0].id).await;

    let mut older = rows.order(&orders[1]).await;
    older.insert("Version".into(), AttributeValue::N("1".into()));
    older.insert("Status".into(), text("CREATED"));
    older.insert("ByStatusKey".into(), text("default#CREATED#0"));
    rows.put(rows.stack.rows(ORDERS), older).await;

    rows.alter(&orders[2], "UpdatedAt", text("2026-11-23T12:00:00.000000Z")).await;
    rows.alter(&orders[3], "ByStatusKey", text("default#SHIPPED#99")).await;
    rows.alter(&orders[4], "Version", AttributeValue::N("9".into())).await;

    let mut orphan = rows.order(&orders[5]).await;
    let nobody = uuid::Uuid::new_v4();
    orphan.insert("Key".into(), text(format!("default#{nobody}")));
    rows.put(rows.stack.rows(ORDERS), orphan).await;

    rows.alter(&orders[6], "Version", text("3")).await;

    // Older events may well have been of other shards, so which attributes differ besides is left open.
    let mut behind = of("BEHIND", &orders[1], " row=1 store=3");
    behind.push_str(" attributes=");
    vec![
        of("MISSING", &orders[0], " store=3"),
        behind,
        of("DIFFERENT", &orders[2], " row=3 store=3 attributes=UpdatedAt"),
        of("DIFFERENT", &orders[3], " row=3 store=3 attributes=ByStatusKey"),
        of("AHEAD", &orders[4], " row=9 store=3"),
        format!("ORPHANED projection=order-summaries tenant=default aggregate={nobody} row=3"),
        of("DIFFERENT", &orders[6], " store=3 attributes=Version"),
    ]
}

/// Fails unless each line begins with an expected text, and each expected text begins a line.
#[track_caller]
fn assert_lines(ended: &Ended, expected: &[String]) {
    assert_eq!(ended.lines.len(), expected.len(), "{ended:?}");
    for line in expected {
        assert!(ended.lines.iter().any(|told| told.starts_with(line)), "{line} is not told: {ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_amiss_is_reported_then_repaired_and_then_gone() {
    let (stack, orders) = settled(aws_stack().await.unwrap(), 9).await;
    let rows = Rows::of(&stack).await;
    let right = rows.all().await;
    let sound = audit(&stack, &["--grace=0"]).await;
    assert_eq!((sound.code, sound.lines.len()), (Some(0), 0), "{sound:?}");
    // An order counts with its summary, and with its part of the customer's totals.
    assert!(sound.summary.contains(" events=28 aggregates=19 other_events=0 rows=20 "), "{sound:?}");

    let mut expected = spoil(&rows, &orders).await;
    rows.set_schema(&orders[7], 3, "2").await;
    let unreadable = [ORDERS, TOTALS].map(|projection| {
        let (projection, id) = (projection.name, &orders[7].id);
        format!(
            "UNREADABLE projection={projection} tenant=default aggregate={id} row=3 store=3 version=3 reason=newer_schema"
        )
    });
    expected.extend(unreadable.clone());
    let found = audit(&stack, &["--grace=0", "--segments=3"]).await;
    assert_eq!(found.code, Some(1), "{found:?}");
    assert_lines(&found, &expected);
    assert!(
        found.summary.contains(" different=3 ahead=1 orphaned=1 unreadable=2 busy=0 healed=0 left=9 "),
        "{found:?}"
    );

    let repaired = audit(&stack, &["--grace=0", "--repair"]).await;
    assert_eq!(repaired.code, Some(1), "what cannot be read is left: {repaired:?}");
    assert_lines(&repaired, &expected);
    let healed = repaired.lines.iter().filter(|line| line.contains(" repair=")).count();
    assert!(healed == 7 && !repaired.lines.iter().any(|line| line.contains("repair=failed")), "{repaired:?}");
    assert_lines(&audit(&stack, &["--grace=0"]).await, &unreadable);

    rows.set_schema(&orders[7], 3, "1").await;
    let clean = audit(&stack, &["--grace=0", "--json"]).await;
    assert_eq!(clean.code, Some(0), "{clean:?}");
    let summary: Value = serde_json::from_str(&clean.lines[0]).unwrap();
    assert_eq!((&summary["summary"]["complete"], &summary["summary"]["left"]), (&"yes".into(), &0.into()));
    assert_eq!(rows.all().await, right, "every row is what it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_and_their_parts_are_held_against_their_events_and_put_right() {
    let (stack, orders) = settled(aws_stack().await.unwrap(), 3).await;
    let rows = Rows::of(&stack).await;
    // A repair does not restore a sum's version and the ids of its last event.
    let totals = async || {
        let mut items = rows.table(TOTALS).await;
        for item in &mut items {
            item.retain(|name, _| name != "Version" && !name.ends_with("Id") && name != "TraceParent");
        }
        items
    };
    let right = totals().await;
    let [user] =
        right.iter().filter_map(|item| item["Key"].as_s().ok()?.split_once('#')).collect::<Vec<_>>()[..]
    else {
        panic!("one customer: {right:?}")
    };
    let sum = text(format!("default#{}", user.1));
    let part = text(format!("default@{}", orders[0].id));
    let table = stack.rows(TOTALS);
    let alter = async || {
        let update = rows.dynamodb.update_item().table_name(&table).key("Key", sum.clone());
        let update = update.update_expression("SET Orders = :n");
        update.expression_attribute_values(":n", AttributeValue::N("99".into())).send().await.unwrap();
    };
    let delete = async |key: &AttributeValue| {
        rows.dynamodb.delete_item().table_name(&table).key("Key", key.clone()).send().await.unwrap();
    };
    let of_sum = |kind: &str| format!("{kind} projection=customer-totals tenant=default id=\"{}\"", user.1);
    let of_part =
        format!("MISSING projection=customer-totals tenant=default aggregate={} store=3", orders[0].id);
    for (what, line) in
        [("altered", of_sum("DIFFERENT")), ("sum deleted", of_sum("MISSING")), ("part deleted", of_part)]
    {
        match what {
            "altered" => alter().await,
            "sum deleted" => delete(&sum).await,
            _ => delete(&part).await,
        }
        let found = audit(&stack, &["--grace=0"]).await;
        assert!(
            found.lines.iter().any(|told| told.starts_with(&line)),
            "{what}: {line} is not told: {found:?}"
        );
        assert!(found.lines.iter().all(|told| told.contains("customer-totals")), "{what}: {found:?}");
        let repaired = audit(&stack, &["--grace=0", "--repair"]).await;
        assert_eq!(repaired.code, Some(0), "{what}: {repaired:?}");
        assert_eq!(totals().await, right, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_nobodys_is_told_and_left_alone() {
    let (stack, orders) = settled(aws_stack().await.unwrap(), 1).await;
    let rows = Rows::of(&stack).await;
    let mut stranger = rows.order(&orders[0]).await;
    stranger.insert("Key".into(), text("who am I"));
    rows.put(rows.stack.rows(ORDERS), stranger.clone()).await;
    let version = ("Version".to_owned(), AttributeValue::N("7".into()));
    rows.put(stack.events(), [("AggregateId".to_owned(), text("what\nis this")), version].into()).await;
    let found = audit(&stack, &["--repair"]).await;
    assert_eq!(found.code, Some(1));
    let expected = [
        "ORPHANED projection=order-summaries key=\"who am I\"",
        r#"UNREADABLE key="what\\nis this" version=7 reason=no_event detail="AggregateId "#,
    ];
    assert_lines(&found, &expected.map(str::to_owned));
    assert!(rows.all().await.contains(&stranger));
}

#[tokio::test(flavor = "multi_thread")]
async fn live_traffic_beside_audits_is_no_finding_and_needs_no_repair() {
    const WRITERS: usize = 4;
    const ROUNDS: usize = 30;
    let mut app = TestApp::new().await.unwrap();
    app.another_projector().await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    let done = AtomicBool::new(false);
    let write = async || {
        let mut orders = Vec::new();
        for _ in 0..ROUNDS {
            let order = create_order(&app, &john).await.unwrap();
            let order = set_status(&app, &order, OrderStatus::Processing).await.unwrap();
            orders.push(set_status(&app, &order, OrderStatus::Shipped).await.unwrap());
        }
        orders
    };
    let writing = async {
        let orders = join_all((0..WRITERS).map(|_| write())).await.concat();
        done.store(true, Ordering::Relaxed);
        orders
    };
    let auditing = async {
        let mut audits = 0;
        while !done.load(Ordering::Relaxed) || audits < 2 {
            let repair: &[&str] = if audits % 2 == 0 { &[] } else { &["--repair"] };
            let ended = audit(&app.stack, repair).await;
            // On a slow machine the row that all orders feed is never at rest: then an audit says so, and no more.
            let only_busy =
                ended.lines.iter().all(|line| line.starts_with("BUSY projection=customer-totals "));
            assert!(only_busy, "audit {audits}: {ended:?}");
            assert_eq!(ended.code, Some(i32::from(!ended.lines.is_empty())), "audit {audits}: {ended:?}");
            audits += 1;
        }
        audits
    };
    let (orders, audits) = join(writing, auditing).await;
    println!("{audits} audits beside {} events", orders.len() * 3);
    wait_for(&app, &orders).await;
    let after = audit(&app.stack, &["--grace=0"]).await;
    let told = format!(" events={} aggregates={} ", orders.len() * 3 + 1, orders.len() * 2 + 1);
    assert!(after.code == Some(0) && after.summary.contains(&told), "{after:?}");
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_slows_an_audit_down_and_changes_nothing() {
    let (stack, orders) = settled(aws_stack().await.unwrap(), 9).await;
    let rows = Rows::of(&stack).await;
    let right = rows.all().await;
    let expected = spoil(&rows, &orders).await;
    let proxy = FaultProxy::before(stack.endpoint()).await.unwrap();
    // More in a row than the SDK's own attempts at a call.
    let operations = ["Scan", "BatchGetItem", "Query", "UpdateItem", "PutItem", "DeleteItem"];
    for operation in operations {
        for _ in 0..8 {
            proxy.next(operation, Fault::Throttle(Throttling::RequestLimitExceeded));
        }
    }
    let mut command = command(&stack, &["audit", "--grace=0", "--repair", "--segments=1"]);
    command.env("AWS_ENDPOINT_URL", proxy.url());
    let ended = ended(command).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_lines(&ended, &expected);
    for operation in operations {
        assert!(proxy.traffic()[operation].requests > 8, "{operation} was throttled and tried again");
    }
    assert_eq!(rows.all().await, right);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sigterm_an_audit_says_that_it_is_not_complete() {
    let (stack, _) = settled(aws_stack().await.unwrap(), 1).await;
    let gate = Gate::before(stack.endpoint()).await.unwrap();
    gate.hold("BatchGetItem");
    let mut command = command(&stack, &["audit"]);
    command.env("AWS_ENDPOINT_URL", gate.url());
    let mut child = command.spawn().unwrap();
    gate.until_held(1).await;
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    gate.open();
    let status =
        tokio::time::timeout(PATIENCE, eventually("its end", async || child.try_wait().unwrap())).await;
    assert_eq!(status.unwrap().code(), Some(3));
    let output = child.wait_with_output().unwrap();
    let (report, said) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(report.contains("SUMMARY complete=no"), "{report}");
    assert!(said.contains("told to end"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_audit_goes_on_where_it_was() {
    let (stack, orders) = settled(aws_stack().await.unwrap(), 3).await;
    for order in &orders {
        delete_row(&stack, ORDERS, &order.id).await;
    }
    let gate = Gate::before(stack.endpoint()).await.unwrap();
    // The repair of a missing row.
    gate.hold("UpdateItem");
    let args = ["audit", "--repair", "--grace=0", "--segments=1"];
    let mut first = command(&stack, &args);
    first.env("AWS_ENDPOINT_URL", gate.url());
    let mut first = first.spawn().unwrap();
    gate.until_held(1).await;
    let dynamodb = stack.aws().await.dynamodb();
    let done = async || {
        let get = dynamodb.get_item().table_name(stack.jobs()).consistent_read(true);
        let get = get.key("Job", text("audit-repair")).key("Part", text("part/events/0"));
        let part = get.send().await.unwrap().item?;
        (part["State"].as_m().unwrap()["done"] == AttributeValue::Bool(true)).then_some(())
    };
    eventually("a segment that is read", done).await;
    let refused = ended(command(&stack, &args)).await;
    assert!(refused.code == Some(3) && refused.said.contains("another process"), "{refused:?}");
    first.kill().unwrap();
    first.wait().unwrap();

    let proxy = FaultProxy::before(stack.endpoint()).await.unwrap();
    let mut second = command(&stack, &args);
    second.env("AWS_ENDPOINT_URL", proxy.url());
    let second = ended(second).await;
    assert_eq!(second.code, Some(0), "{second:?}");
    assert!(second.summary.contains(" missing=3 ") && second.summary.contains(" healed=3 "), "{second:?}");
    let events = format!("table/{}", stack.events());
    let scanned =
        proxy.accesses().into_iter().any(|it| it.action == "dynamodb:Scan" && it.resource == events);
    assert!(!scanned, "the event store was read before");
    let clean = audit(&stack, &["--grace=0"]).await;
    assert_eq!((clean.code, clean.lines.len()), (Some(0), 0), "{clean:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn recent_changes_are_compared_alone() {
    let (stack, orders) = settled(aws_stack().await.unwrap(), 3).await;
    let lacking = audit(&stack, &["--recent"]).await;
    assert!(lacking.code == Some(3) && lacking.said.contains("run one without --recent"), "{lacking:?}");
    assert_eq!(audit(&stack, &["--grace=0"]).await.code, Some(0));
    let rows = Rows::of(&stack).await;
    rows.alter(&orders[1], "UpdatedAt", text("2026-11-23T12:00:00.000000Z")).await;
    let found = audit(&stack, &["--recent"]).await;
    let line = format!("DIFFERENT projection=order-summaries tenant=default aggregate={}", orders[1].id);
    assert_eq!(found.code, Some(1), "{found:?}");
    assert_lines(&found, &[line]);
    let later = audit(&stack, &["--since", "2100-01-01T00:00:00Z"]).await;
    assert!(later.code == Some(0) && later.summary.contains(" events=0 "), "{later:?}");
    let due = audit(&stack, &["--every=30"]).await;
    assert!(due.code == Some(0) && due.summary.is_empty(), "{due:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_audit_lacks_is_told_with_what_to_do_about_it() {
    let stack = aws_stack().await.unwrap();
    let with = async |variables: &[(&str, &str)]| {
        let mut command = command(&stack, &["audit"]);
        command.envs(variables.iter().copied());
        ended(command).await
    };
    let told = with(&[("EVENT_STORE_TABLE", "no table"), ("INDEX_SHARDS_WRITE", "0")]).await;
    assert_eq!(told.code, Some(2));
    for word in ["--event-store-table", "--index-shards-write", "cargo run -- aws"] {
        assert!(told.said.contains(word), "{word} is not told: {}", told.said);
    }
    let told = with(&[("ROWS_TABLES", "nobody@1=a-table")]).await;
    assert!(told.code == Some(2) && told.said.contains("customer-totals@1"), "{told:?}");
    let told = with(&[("AWS_REGION", ""), ("AWS_EC2_METADATA_DISABLED", "true")]).await;
    assert!(told.code == Some(2) && told.said.contains("set AWS_REGION"), "{told:?}");
    let told = with(&[("EVENT_STORE_TABLE", "no-such-table")]).await;
    assert_eq!(told.code, Some(3));
    assert!(told.said.contains("scanning the event store: AWS refused"), "{told:?}");
}
