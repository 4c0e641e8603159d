//! The fault proxy's behaviour, seen through the SDK with the deployables' retries: other tests rely on it.

use std::{collections::BTreeMap, future::ready, time::Duration};

use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    operation::put_item::{PutItemError, PutItemOutput, builders::PutItemFluentBuilder},
    types::{AttributeValue, Put, ReturnConsumedCapacity, TransactWriteItem},
};
use futures::{StreamExt as _, future::join_all, stream};
use millrace_aws::{Aws, AwsError};
use millrace_tests::{
    ATTEMPT_TIMEOUT, Answer, AwsStack, Fault, FaultKind, FaultProxy, Faults, PATIENCE, Traffic, USERS,
    aws_stack, eventually,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

type Item = std::collections::HashMap<String, AttributeValue>;
type PutResult = Result<PutItemOutput, SdkError<PutItemError>>;

/// A wire with a client at one end and an account at the other.
struct Line {
    stack: AwsStack,
    proxy: FaultProxy,
    aws: Aws,
    dynamodb: Client,
}

impl Line {
    async fn new() -> Self {
        let stack = aws_stack().await.unwrap();
        let proxy = FaultProxy::before(stack.endpoint()).await.unwrap();
        let aws = proxy.aws(&stack.account).await;
        let dynamodb = aws.dynamodb();
        Self { stack, proxy, aws, dynamodb }
    }

    /// A table without an index.
    fn table(&self) -> String {
        self.stack.snapshots()
    }

    fn put(&self, key: &str) -> PutItemFluentBuilder {
        self.dynamodb.put_item().table_name(self.table()).item("AggregateId", text(key))
    }

    /// Creates an item unless it is there.
    async fn create(&self, key: &str) -> PutResult {
        self.put(key).condition_expression("attribute_not_exists(AggregateId)").send().await
    }

    /// Adds one to an item's counter.
    async fn increment(&self, key: &str) {
        let update = self.dynamodb.update_item().table_name(self.table()).key("AggregateId", text(key));
        let update = update.update_expression("ADD Counted :one");
        update.expression_attribute_values(":one", number(1)).send().await.unwrap();
    }

    /// The stored item, read past the wire.
    async fn there(&self, key: &str) -> Option<Item> {
        let get = self.stack.aws().await.dynamodb().get_item().table_name(self.table());
        get.key("AggregateId", text(key)).consistent_read(true).send().await.unwrap().item
    }

    async fn counted(&self, key: &str) -> Option<AttributeValue> {
        self.there(key).await?.remove("Counted")
    }

    /// The operation's traffic since the last call.
    fn take(&self, operation: &str) -> Traffic {
        self.proxy.take().get(operation).copied().unwrap_or_default()
    }

    fn injected(&self, kind: FaultKind) -> u64 {
        self.proxy.injected().get(&kind).copied().unwrap_or_default()
    }
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn meets_condition(put: PutResult) -> bool {
    put.unwrap_err().into_service_error().is_conditional_check_failed_exception()
}

#[tokio::test]
async fn a_lost_reply_is_of_a_call_that_took_effect() {
    let line = Line::new().await;
    line.proxy.next("PutItem", Fault::ResetAfter);
    assert!(meets_condition(line.create("a").await), "the retry meets what the first attempt did");
    assert!(line.there("a").await.is_some());
    assert_eq!(line.injected(FaultKind::ResetAfter), 1);
    let put = line.take("PutItem");
    assert_eq!((put.requests, put.write_units, put.failed_conditions), (2, 1.0, 1));
}

#[tokio::test]
async fn a_call_whose_connections_are_cut_beforehand_does_nothing() {
    let line = Line::new().await;
    line.proxy.next("PutItem", Fault::Reset);
    line.create("a").await.expect("one retry is enough");
    (0..3).for_each(|_| line.proxy.next("PutItem", Fault::Reset));
    let failed = AwsError::from(line.create("b").await.unwrap_err());
    assert!(matches!(failed, AwsError::Unreachable { .. }), "{failed:?}");
    assert!(line.there("b").await.is_none());
    assert_eq!(line.injected(FaultKind::Reset), 4);
    let put = line.take("PutItem");
    assert_eq!((put.requests, put.write_units), (5, 1.0));
}

#[tokio::test]
async fn a_throttled_attempt_is_made_again_and_three_are_the_end() {
    use millrace_tests::Throttling::{ProvisionedThroughputExceeded, RequestLimitExceeded, Throttling};

    let line = Line::new().await;
    for throttling in [ProvisionedThroughputExceeded, Throttling, RequestLimitExceeded] {
        let key = format!("{throttling:?}");
        (0..3).for_each(|_| line.proxy.next("PutItem", Fault::Throttle(throttling)));
        let failed = AwsError::from(line.create(&key).await.unwrap_err());
        assert!(matches!(failed, AwsError::Throttled { .. }), "{key}: {failed:?}");
        assert!(line.there(&key).await.is_none(), "{key}");
        line.proxy.next("PutItem", Fault::Throttle(throttling));
        line.create(&key).await.expect("one retry is enough");
    }
    assert_eq!(line.injected(FaultKind::Throttle), 12);
    assert_eq!(line.take("PutItem").requests, 3 * (3 + 2));

    let receive = line.aws.sqs(Duration::ZERO).receive_message();
    let receive = receive.queue_url(line.stack.queue(USERS));
    (0..3).for_each(|_| line.proxy.next("ReceiveMessage", Fault::Throttle(RequestLimitExceeded)));
    let failed = AwsError::from(receive.send().await.unwrap_err());
    assert!(matches!(failed, AwsError::Throttled { .. }), "{failed:?}");
}

#[tokio::test]
async fn a_server_error_comes_before_the_effect_or_after_it() {
    let line = Line::new().await;
    (0..3).for_each(|_| line.proxy.next("PutItem", Fault::ServerError));
    let failed = AwsError::from(line.create("a").await.unwrap_err());
    assert!(matches!(failed, AwsError::Unreachable { .. }), "{failed:?}");
    assert!(line.there("a").await.is_none());
    line.proxy.next("PutItem", Fault::ServerErrorAfter);
    assert!(meets_condition(line.create("a").await), "the retry meets what the first attempt did");
    assert!(line.there("a").await.is_some());
    assert_eq!((line.injected(FaultKind::ServerError), line.injected(FaultKind::ServerErrorAfter)), (3, 1));
}

#[tokio::test]
async fn a_duplicate_takes_effect_twice_and_is_answered_once() {
    let line = Line::new().await;
    line.proxy.next("UpdateItem", Fault::Duplicate(Answer::First));
    line.increment("a").await;
    assert_eq!(line.counted("a").await, Some(number(2)));
    line.proxy.next("PutItem", Fault::Duplicate(Answer::First));
    line.create("b").await.expect("the first one was the only one");
    line.proxy.next("PutItem", Fault::Duplicate(Answer::Second));
    assert!(meets_condition(line.create("c").await), "the second one meets the first one");
    assert!(line.there("b").await.is_some() && line.there("c").await.is_some());
    assert_eq!(line.injected(FaultKind::Duplicate), 3);
    let traffic = line.proxy.take();
    let (update, put) = (traffic["UpdateItem"], traffic["PutItem"]);
    assert_eq!((update.requests, update.write_units), (1, 2.0), "AWS did it twice");
    assert_eq!((put.requests, put.write_units, put.failed_conditions), (2, 2.0, 2));
}

#[tokio::test]
async fn a_call_that_hangs_ends_by_the_clients_time_out() {
    let line = Line::new().await;
    line.proxy.next("UpdateItem", Fault::Hang);
    line.proxy.next("PutItem", Fault::HangAfter);
    let (created, ()) = tokio::join!(line.create("a"), line.increment("b"));
    assert!(meets_condition(created), "the first attempt had taken effect");
    assert_eq!(line.counted("b").await, Some(number(1)), "the first attempt had not");
    assert_eq!((line.injected(FaultKind::Hang), line.injected(FaultKind::HangAfter)), (1, 1));
    let traffic = line.proxy.take();
    assert_eq!((traffic["UpdateItem"].requests, traffic["PutItem"].requests), (2, 2));
}

#[tokio::test]
async fn a_late_request_takes_effect_although_its_client_is_gone() {
    let line = Line::new().await;
    // Longer than an attempt may take.
    line.proxy.next("UpdateItem", Fault::Delay(ATTEMPT_TIMEOUT + Duration::from_secs(2)));
    line.increment("a").await;
    assert_eq!(line.take("UpdateItem").requests, 2);
    let twice = async || (line.counted("a").await == Some(number(2))).then_some(());
    eventually("the late attempt's effect", twice).await;

    line.proxy.next("UpdateItem", Fault::Delay(Duration::from_millis(20)));
    line.proxy.next("UpdateItem", Fault::DelayAfter(Duration::from_millis(20)));
    line.increment("a").await;
    line.increment("a").await;
    assert_eq!(line.counted("a").await, Some(number(4)));
    assert_eq!((line.injected(FaultKind::Delay), line.injected(FaultKind::DelayAfter)), (2, 1));
}

#[tokio::test]
async fn bytes_and_units_are_those_of_the_call_itself() {
    const KIB: usize = 1024;
    let line = Line::new().await;
    let names = "AggregateId".len() + "a".len() + "Data".len();
    let put = async |size: usize| {
        let put = line.put("a").item("Data", text(&"x".repeat(size - names)));
        assert!(put.send().await.unwrap().consumed_capacity.is_none(), "nobody asked for it");
        line.take("PutItem")
    };
    let three = put(3 * KIB).await;
    assert_eq!((three.requests, three.write_units, three.read_units), (1, 3.0, 0.0));
    assert_eq!(three.response_bytes, "{}".len() as u64);
    let more = put(3 * KIB + 1).await;
    assert_eq!((more.write_units, more.request_bytes), (4.0, three.request_bytes + 1));
    assert!((3 * KIB as u64..4 * KIB as u64).contains(&three.request_bytes), "{three:?}");

    let asked = line.put("a").return_consumed_capacity(ReturnConsumedCapacity::Total).send().await.unwrap();
    assert_eq!(
        asked.consumed_capacity.and_then(|consumed| consumed.capacity_units),
        Some(4.0),
        "what it was"
    );
    assert_eq!(line.take("PutItem").write_units, 4.0);

    let item = |key: &str| {
        let put = Put::builder().table_name(line.table()).item("AggregateId", text(key));
        TransactWriteItem::builder().put(put.build().unwrap()).build()
    };
    let transaction = line.dynamodb.transact_write_items().transact_items(item("b"));
    transaction.transact_items(item("c")).send().await.unwrap();
    assert_eq!(line.take("TransactWriteItems").write_units, 2.0 * 2.0, "twice a write's");
}

#[tokio::test]
async fn an_index_and_the_size_of_what_is_read_count() {
    let line = Line::new().await;
    let table = &line.stack.events();
    for version in 1..=3 {
        let put = line.dynamodb.put_item().table_name(table).item("AggregateId", text("a"));
        let put = put.item("Version", number(version)).item("Data", text(&"x".repeat(2900)));
        let put = put.item("EventTypeKey", text("k")).item("Timestamp", text("t"));
        put.send().await.unwrap();
    }
    let puts = line.take("PutItem");
    assert_eq!((puts.requests, puts.write_units), (3, 3.0 * (3.0 + 3.0)), "the table and its index");
    for (consistent, units) in [(true, 3.0), (false, 1.5)] {
        let query = line.dynamodb.query().table_name(table).key_condition_expression("AggregateId = :id");
        let query = query.expression_attribute_values(":id", text("a")).consistent_read(consistent);
        let found = query.send().await.unwrap();
        assert_eq!((found.count, found.items().len()), (3, 3));
        assert!(found.consumed_capacity.is_none(), "nobody asked for it");
        let query = line.take("Query");
        assert_eq!(query, Traffic { read_units: units, write_units: 0.0, ..query }, "9 KB in blocks of 4");
        assert!((8700..9500).contains(&query.response_bytes), "{query:?}");
    }
}

#[tokio::test]
async fn every_service_is_metered_by_operation() {
    let line = Line::new().await;
    let queue = line.stack.queue(USERS);
    let receive = line.aws.sqs(Duration::ZERO).receive_message().queue_url(queue);
    receive.wait_time_seconds(0).send().await.unwrap();
    line.aws.eventbridge().list_event_buses().send().await.unwrap();
    line.aws.streams().list_streams().send().await.unwrap();
    line.dynamodb.list_tables().send().await.unwrap();
    let traffic = line.proxy.take();
    let operations: Vec<_> = traffic.keys().map(String::as_str).collect();
    assert_eq!(operations, ["ListEventBuses", "ListStreams", "ListTables", "ReceiveMessage"]);
    for (operation, traffic) in traffic {
        assert_eq!((traffic.requests, traffic.read_units, traffic.write_units), (1, 0.0, 0.0), "{operation}");
        assert!(traffic.request_bytes > 0 && traffic.response_bytes > 0, "{operation}: {traffic:?}");
    }
    assert_eq!(line.proxy.traffic(), BTreeMap::new(), "taken is taken");
}

/// A request without an SDK, on a connection of its own.
async fn raw_request(proxy: &FaultProxy) -> TcpStream {
    let mut client = TcpStream::connect(proxy.url().strip_prefix("http://").unwrap()).await.unwrap();
    let request = "POST / HTTP/1.1\r\nhost: wire\r\nconnection: close\r\ncontent-length: 2\r\n\
                   x-amz-target: DynamoDB_20120810.ListTables\r\n\r\n{}";
    client.write_all(request.as_bytes()).await.unwrap();
    client
}

#[tokio::test]
async fn a_cut_connection_ends_without_a_byte() {
    let line = Line::new().await;
    for (fault, all) in [(None, false), (Some(Fault::Reset), true), (Some(Fault::ResetAfter), true)] {
        if let Some(fault) = fault {
            line.proxy.next("ListTables", fault);
        }
        let mut client = raw_request(&line.proxy).await;
        let mut reply = Vec::new();
        client.read_to_end(&mut reply).await.unwrap();
        assert_eq!(reply.is_empty(), all, "{fault:?}: {}", String::from_utf8_lossy(&reply));
    }
    let lists = line.take("ListTables");
    assert_eq!((lists.requests, lists.request_bytes), (3, 3 * 2));
}

/// The attempts and the success of each of many calls, and the faults by kind.
async fn fates(seed: u64) -> (Vec<(u64, bool)>, BTreeMap<FaultKind, u64>) {
    let line = Line::new().await;
    line.put("warm").send().await.unwrap();
    line.aws.requests().take();
    let kinds = [FaultKind::Throttle, FaultKind::ServerError, FaultKind::ServerErrorAfter];
    let kinds = kinds.into_iter().chain([FaultKind::Reset, FaultKind::ResetAfter, FaultKind::Duplicate]);
    line.proxy.disturb(kinds.fold(Faults::none(seed), |faults, kind| faults.with(kind, 100)));
    let mut calls = Vec::new();
    for n in 0..40 {
        let came_through = line.put(&n.to_string()).send().await.is_ok();
        calls.push((line.aws.requests().take()["PutItem"], came_through));
    }
    (calls, line.proxy.injected())
}

#[tokio::test]
async fn the_same_seed_brings_the_same_faults() {
    let (first, again, other) = tokio::join!(fates(7), fates(7), fates(8));
    assert_eq!(first, again);
    assert_ne!(first, other);
    assert_eq!(first.1.len(), 6, "each kind happened: {first:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn most_calls_come_through_a_storm_and_none_that_did_is_lost() {
    const CALLS: usize = 300;
    let line = Line::new().await;
    line.proxy.disturb(Faults::storm(7));
    let puts = (0..CALLS).map(|n| n.to_string()).map(async |key| {
        let put = line.put(&key).send().await;
        put.is_ok().then_some(key)
    });
    // Not all at once: the local AWS is slower than the real one.
    let stored: Vec<_> = stream::iter(puts).buffer_unordered(16).filter_map(ready).collect().await;
    assert!(stored.len() > CALLS * 95 / 100, "{} of {CALLS}", stored.len());
    for key in &stored {
        assert!(line.there(key).await.is_some(), "{key}");
    }
    let injected = line.proxy.injected();
    assert!(injected.len() >= 6 && injected.values().sum::<u64>() > 60, "{injected:?}");

    line.proxy.next("PutItem", Fault::Reset);
    line.proxy.calm();
    let puts = (0..20).map(|n| line.put(&n.to_string()).send());
    assert!(join_all(puts).await.iter().all(Result::is_ok));
    assert_eq!(line.proxy.injected(), injected, "nothing more");
}

#[tokio::test]
async fn a_dropped_wire_takes_everything_with_it() {
    let Line { proxy, .. } = Line::new().await;
    proxy.next("ListTables", Fault::Hang);
    proxy.next("ListTables", Fault::Delay(Duration::from_secs(3600)));
    let mut clients = [raw_request(&proxy).await, raw_request(&proxy).await];
    eventually("both requests", async || (proxy.injected().len() == 2).then_some(())).await;
    let address = proxy.url().strip_prefix("http://").unwrap().to_owned();
    drop(proxy);
    for client in &mut clients {
        let mut reply = Vec::new();
        let end = tokio::time::timeout(PATIENCE, client.read_to_end(&mut reply)).await;
        end.expect("it does not wait for its reply any more").unwrap();
        assert!(reply.is_empty());
    }
    eventually("a closed port", async || TcpStream::connect(&address).await.is_err().then_some(())).await;
}
