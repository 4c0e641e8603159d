//! The outcomes of requests to AWS in the metrics, through a wire with every fault.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use millrace_tests::{Fault, FaultProxy, Throttling, aws_stack, eventually};

/// An operation's counts by outcome.
fn outcomes(shown: &PrometheusHandle, operation: &str) -> BTreeMap<String, u64> {
    let shown = shown.render();
    let of = format!("aws_requests_total{{operation=\"{operation}\",outcome=\"");
    let counts = shown.lines().filter_map(|line| {
        let (outcome, count) = line.strip_prefix(&of)?.split_once("\"} ")?;
        Some((outcome.to_owned(), count.parse().unwrap()))
    });
    counts.filter(|(_, count)| *count > 0).collect()
}

fn counts<const N: usize>(of: [(&str, u64); N]) -> BTreeMap<String, u64> {
    of.map(|(outcome, count)| (outcome.to_owned(), count)).into()
}

async fn get(dynamodb: &Client, table: &str) -> bool {
    let get = dynamodb.get_item().table_name(table).key("Key", AttributeValue::S("nobody".into()));
    get.send().await.is_ok()
}

async fn put(dynamodb: &Client, table: &str) -> bool {
    let put = dynamodb.put_item().table_name(table).item("Key", AttributeValue::S("once".into()));
    put.condition_expression("attribute_not_exists(#k)")
        .expression_attribute_names("#k", "Key")
        .send()
        .await
        .is_ok()
}

/// In one thread, whose metrics are its own.
#[tokio::test]
async fn every_attempt_counts_once_by_how_it_ended() {
    let stack = aws_stack().await.unwrap();
    let proxy = FaultProxy::before(stack.endpoint()).await.unwrap();
    let recorder = PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let dynamodb = proxy.aws(&stack.account).await.dynamodb();
    let table = stack.unique_keys();

    // Each heals with the SDK's next attempt.
    proxy.next("GetItem", Fault::Throttle(Throttling::ProvisionedThroughputExceeded));
    assert!(get(&dynamodb, &table).await);
    proxy.next("GetItem", Fault::ServerError);
    assert!(get(&dynamodb, &table).await);
    proxy.next("GetItem", Fault::Reset);
    assert!(get(&dynamodb, &table).await);
    proxy.next("GetItem", Fault::Hang);
    assert!(get(&dynamodb, &table).await);
    // A request that is itself wrong is refused, and not tried again.
    assert!(!get(&dynamodb, "there-is-no-such-table").await);
    let so_far =
        [("failed", 1), ("ok", 4), ("refused", 1), ("throttled", 1), ("timed_out", 1), ("unreachable", 1)];
    assert_eq!(outcomes(&shown, "GetItem"), counts(so_far));

    // A caller that leaves.
    proxy.next("GetItem", Fault::Hang);
    let left = tokio::time::timeout(Duration::from_millis(200), get(&dynamodb, &table)).await;
    assert!(left.is_err());
    let given_up = async || outcomes(&shown, "GetItem").get("given_up").copied();
    assert_eq!(eventually("an attempt that was given up", given_up).await, 1);

    assert!(put(&dynamodb, &table).await);
    assert!(!put(&dynamodb, &table).await);
    assert_eq!(outcomes(&shown, "PutItem"), counts([("conflict", 1), ("ok", 1)]));
    let all = shown.render();
    assert!(all.contains(r#"aws_requests_total{operation="PutItem",outcome="throttled"} 0"#), "{all}");
    assert!(all.contains(r#"aws_request_seconds_count{operation="GetItem"} 10"#), "{all}");
}
