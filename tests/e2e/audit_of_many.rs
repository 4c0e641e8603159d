//! An audit of many events, measured: by hand, since it takes minutes.
//!
//! `cargo test --release -p millrace-tests --test e2e -- --ignored audit_of_many --nocapture`

use std::{collections::HashMap, fs, time::Instant};

use aws_sdk_dynamodb::{
    Client,
    types::{AttributeValue, PutRequest, WriteRequest},
};
use futures::{StreamExt as _, stream};
use millrace_core::{Aggregate as _, CommandDigest, Envelope, StreamId, TenantId};
use millrace_event_store::event_type_key;
use millrace_rows::{WriteOutcome, WriteRows as _};
use millrace_testing::{recorded, time_of};
use millrace_tests::{AwsStack, USERS, aws_stack};
use shop::user::{User, UserCreated, UserEvent, UserProfileUpdated};
use uuid::Uuid;

use crate::{
    audit::{command, ended},
    calls::delete_row,
    past::as_by_the_service,
    replica::dynamo_rows,
};

/// How many events a user has.
const EVENTS: u64 = 5;

/// How many events a request of `BatchWriteItem` holds (DynamoDB API Reference).
const BATCH: usize = 25;

/// A user's events, as the command service would have written them.
fn history(number: u64) -> Vec<Envelope> {
    let id = Uuid::from_u128(u128::from(number) << 64 | 0x9e37_79b9_7f4a_7c15_u128);
    let stream = StreamId { tenant: TenantId::default(), aggregate_type: User::TYPE, id };
    let event = |version: u64| match version {
        1 => UserEvent::UserCreated(UserCreated {
            email: format!("user-{number}@example.com").try_into().unwrap(),
            name: "John Doe".to_owned().try_into().unwrap(),
        }),
        _ => UserEvent::UserProfileUpdated(UserProfileUpdated {
            email: None,
            name: Some(format!("John Doe {version}").try_into().unwrap()),
        }),
    };
    let recorded = |version| as_by_the_service(recorded(&stream, version, time_of(1), &event(version)));
    (1..=EVENTS).map(|version| recorded(version).envelope).collect()
}

fn item(envelope: &Envelope) -> HashMap<String, AttributeValue> {
    let text = |text: String| AttributeValue::S(text);
    let shard = u32::try_from(envelope.aggregate_id.as_u128() % 4).unwrap();
    let data = envelope.event_data.clone().unwrap().into_iter();
    let data = data.map(|(name, value)| (name, text(value.as_str().unwrap().to_owned()))).collect();
    let stream = StreamId {
        tenant: envelope.tenant_id.clone(),
        aggregate_type: envelope.aggregate_type.clone(),
        id: envelope.aggregate_id,
    };
    [
        ("AggregateId", text(stream.to_string())),
        ("Version", AttributeValue::N(envelope.version.to_string())),
        ("EventId", text(envelope.event_id.to_string())),
        ("TenantId", text(envelope.tenant_id.to_string())),
        ("AggregateType", text(envelope.aggregate_type.to_string())),
        ("EventType", text(envelope.event_type.clone())),
        ("SchemaVersion", AttributeValue::N(envelope.schema_version.to_string())),
        ("Timestamp", text(envelope.timestamp.to_string())),
        ("EventTypeKey", text(event_type_key(&envelope.tenant_id, &envelope.event_type, shard))),
        ("EventData", AttributeValue::M(data)),
        ("CommandId", text(envelope.command_id.to_string())),
        ("CommandDigest", text(CommandDigest(7).to_string())),
        ("CorrelationId", text(envelope.correlation_id.to_string())),
        ("CausationId", text(envelope.causation_id.to_string())),
        ("TraceParent", text(envelope.trace_parent.clone().unwrap())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Writes users with their events and their rows, past the services.
async fn fill(stack: &AwsStack, users: std::ops::Range<u64>) {
    let dynamodb = stack.aws().await.dynamodb_in_bulk();
    let rows = dynamo_rows(stack, &stack.aws().await, USERS);
    let spec = stack.application.projection(USERS.name).unwrap();
    let (dynamodb, rows) = (&dynamodb, &rows);
    let histories = stream::iter(users.map(history));
    let rows = histories.for_each_concurrent(8, async |events| {
        let updates = events.iter().map(|envelope| (spec.update)(envelope).unwrap().unwrap());
        let update = updates.reduce(|whole, update| whole.merge(update).unwrap()).unwrap();
        assert_eq!(rows.write(&update).await.unwrap(), WriteOutcome::Applied);
        for batch in events.chunks(BATCH) {
            write(dynamodb, &stack.events(), batch).await;
        }
    });
    rows.await;
}

async fn write(dynamodb: &Client, table: &str, events: &[Envelope]) {
    let put = |event| {
        let put = PutRequest::builder().set_item(Some(item(event))).build().unwrap();
        WriteRequest::builder().put_request(put).build()
    };
    let requests: Vec<_> = events.iter().map(put).collect();
    let reply = dynamodb.batch_write_item().request_items(table, requests).send().await.unwrap();
    assert!(reply.unprocessed_items.unwrap_or_default().is_empty());
}

/// The most memory that a process had at a time, in KiB, for as long as it can be asked.
fn peak(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().trim_end_matches(" kB").parse().ok()
}

/// Runs an audit, and prints how long it took and how much memory.
async fn measured(stack: &AwsStack, what: &str, args: &[&str]) {
    let mut command = command(stack, &[&["audit"], args].concat());
    let began = Instant::now();
    let mut child = command.spawn().unwrap();
    let (id, mut most) = (child.id(), 0);
    let running = async {
        while child.try_wait().unwrap().is_none() {
            most = most.max(peak(id).unwrap_or_default());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    running.await;
    let (time, output) = (began.elapsed(), child.wait_with_output().unwrap());
    let report = String::from_utf8(output.stdout).unwrap();
    let summary: Vec<_> = report.lines().filter(|line| line.starts_with(['S', 'R'])).collect();
    println!("{what}: {time:?}, {most} KiB at most, exit {:?}\n{}", output.status.code(), summary.join("\n"));
    assert!(output.status.success(), "{report}");
}

/// About the size of an item as DynamoDB counts it.
fn item_bytes(item: &HashMap<String, AttributeValue>) -> usize {
    item.iter().map(|(name, found)| name.len() + value_bytes(found)).sum()
}

fn value_bytes(value: &AttributeValue) -> usize {
    if let Ok(text) = value.as_s() {
        text.len()
    } else if let Ok(values) = value.as_m() {
        3 + item_bytes(values) + values.len()
    } else if let Ok(values) = value.as_l() {
        3 + values.iter().map(value_bytes).sum::<usize>() + values.len()
    } else {
        2
    }
}

/// The average size of a table's items.
async fn average_bytes(stack: &AwsStack, table: String) -> f64 {
    let dynamodb = stack.aws().await.dynamodb();
    let items = dynamodb.scan().table_name(table).into_paginator().items().send();
    let sizes: Vec<usize> =
        items.collect::<Result<Vec<_>, _>>().await.unwrap().iter().map(item_bytes).collect();
    sizes.iter().sum::<usize>() as f64 / sizes.len() as f64
}

/// The figures of docs/operations/audit-and-redrive.md, from the sizes of what is stored. The local AWS does not report
/// units by size, so they follow from the rules (DynamoDB Developer Guide, "Capacity unit consumption"): a scan and a query
/// take what they read in all, a batch each item by itself; a weak read takes half.
#[tokio::test(flavor = "multi_thread")]
async fn an_audit_costs_what_the_documentation_says() {
    const UNIT: f64 = 4096.0;
    const USERS_READ: u64 = 1_000;
    let stack = aws_stack().await.unwrap();
    fill(&stack, 0..USERS_READ).await;
    let since = ["audit", "--since", "2000-01-01T00:00:00Z", "--projection", USERS.name];
    for args in [&["audit", "--projection", USERS.name][..], &since] {
        let ended = ended(command(&stack, args)).await;
        let told = format!(" events={} aggregates={USERS_READ} ", USERS_READ * EVENTS);
        assert!(ended.code == Some(0) && ended.summary.contains(&told), "{ended:?}");
    }
    let event = average_bytes(&stack, stack.events()).await;
    let row = average_bytes(&stack, stack.rows(USERS)).await;
    let an_event = event / UNIT;
    // The row itself, its key in a scan, and the first event of its stream.
    let a_row = (row / UNIT).ceil() + row / UNIT / 2.0 + (event / UNIT).ceil() / 2.0;
    // The index, the stream and the row.
    let events = EVENTS as f64;
    let recent = events * event / UNIT / 2.0 + (events * event / UNIT).ceil() + (row / UNIT).ceil();
    println!("{event:.0} bytes an event, {row:.0} a row: {an_event:.3}, {a_row:.3}, {recent:.3} RU");
    assert!((0.12..0.17).contains(&an_event), "{an_event} RU an event");
    assert!((1.5..1.65).contains(&a_row), "{a_row} RU a row");
    assert!((2.2..2.5).contains(&recent), "{recent} RU an aggregate");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: the module says how to run it"]
async fn memory_does_not_grow_with_what_there_is() {
    let stack = aws_stack().await.unwrap();
    let began = Instant::now();
    let mut users = 0;
    for events in [10_000, 100_000] {
        fill(&stack, users..events / EVENTS).await;
        users = events / EVENTS;
        println!("{events} events are there after {:?}", began.elapsed());
        measured(&stack, &format!("{events} events, nothing amiss"), &[]).await;
        for number in (0..users).step_by(100) {
            delete_row(&stack, USERS, &history(number)[0].aggregate_id.to_string()).await;
        }
        measured(&stack, &format!("{events} events, a row in a hundred missing"), &["--repair"]).await;
    }
    let nothing = ended(command(&stack, &["audit", "--json"])).await;
    assert_eq!(nothing.code, Some(0), "{nothing:?}");
}
