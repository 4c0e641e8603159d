//! The stack, as the emulator describes it after the deployment, and an event's way through it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test, a panic is the report")]

mod example;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::types::{BillingMode, KeySchemaElement, StreamViewType, TableDescription};
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use aws_sdk_sqs::types::{Message, QueueAttributeName};
use millrace_core::names;
use millrace_infra::Template;
use millrace_local::{Account, LocalError, Stack, StackOptions, test_account};
use serde_json::{Value, json};

use crate::example::application;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A stack in an account of its own.
struct Deployed {
    account: Account,
    config: SdkConfig,
    stack: Stack,
}

async fn deploy(options: &StackOptions) -> Deployed {
    let account = test_account().await.unwrap();
    let config = account.sdk_config().await;
    let stack = Stack::deploy(&account, &application(), options).await.unwrap();
    Deployed { account, config, stack }
}

impl Deployed {
    async fn table(&self, output: &str) -> TableDescription {
        let client = aws_sdk_dynamodb::Client::new(&self.config);
        let described = client.describe_table().table_name(self.stack.output(output).unwrap()).send().await;
        described.unwrap().table.unwrap()
    }

    fn sqs(&self) -> aws_sdk_sqs::Client {
        aws_sdk_sqs::Client::new(&self.config)
    }

    fn events(&self) -> aws_sdk_eventbridge::Client {
        aws_sdk_eventbridge::Client::new(&self.config)
    }

    async fn queue(&self, output: &str) -> BTreeMap<String, String> {
        let described = self
            .sqs()
            .get_queue_attributes()
            .queue_url(self.stack.output(output).unwrap())
            .attribute_names(QueueAttributeName::All)
            .send()
            .await;
        let attributes = described.unwrap().attributes.unwrap();
        attributes.into_iter().map(|(name, value)| (name.as_str().to_owned(), value)).collect()
    }

    async fn publish(&self, source: &str, detail_type: &str, detail: &Value) {
        let entry = PutEventsRequestEntry::builder()
            .event_bus_name(self.stack.output("EventBusName").unwrap())
            .source(source)
            .detail_type(detail_type)
            .detail(detail.to_string())
            .build();
        let published = self.events().put_events().entries(entry).send().await.unwrap();
        assert_eq!(published.failed_entry_count(), 0, "{published:?}");
    }

    /// Receives one message, without waiting where `wait` is zero.
    async fn receive(&self, output: &str, wait: i32) -> Option<Message> {
        self.receive_from(self.stack.output(output).unwrap(), wait).await
    }

    async fn receive_from(&self, url: &str, wait: i32) -> Option<Message> {
        let received = self.sqs().receive_message().queue_url(url).wait_time_seconds(wait).send().await;
        received.unwrap().messages.unwrap_or_default().into_iter().next()
    }
}

/// Each of these could be forgotten once, without an error.
#[test]
fn every_place_of_a_projection_follows_from_the_registration() {
    let app = application();
    let infra = millrace_local::description(&app);
    let templates = infra.render().unwrap();
    let bodies = |templates: &[Template]| templates.iter().map(Template::body).collect::<String>();
    let shared = [
        ("the alarm of a relay that stands still", templates.application.body().to_owned()),
        ("what services may do", bodies(&templates.service_access)),
        ("what operators and KEDA may do", bodies(&templates.operator_access)),
    ];
    let queues: Vec<_> = app.projections().iter().map(|spec| names::queue("prod", &spec.name.id())).collect();
    assert_eq!(infra.queues("prod").unwrap(), queues, "deployables and templates have one convention");
    for (spec, own) in app.projections().iter().zip(&templates.projections) {
        let id = spec.name.id();
        assert_eq!(own.file_name(), format!("{id}.yaml"));
        for (place, text) in &shared {
            assert!(text.contains(&format!("${{Prefix}}-{id}")), "{place} lacks {id}");
        }
        for place in ["-undelivered", "LagAlarm", "DeadLettersAlarm", "ThrottleAlarm"] {
            assert!(own.body().contains(place), "{id} lacks {place}");
        }
    }
}

#[tokio::test]
async fn the_tables_have_their_keys_indexes_and_stream() {
    let deployed = deploy(&StackOptions::default()).await;

    let events = deployed.table("EventStoreTable").await;
    assert_eq!(keys(events.key_schema()), "AggregateId HASH, Version RANGE");
    assert_eq!(indexes(&events), ["EventType-Timestamp-index: EventTypeKey HASH, Timestamp RANGE, ALL"]);
    let stream = events.stream_specification().unwrap();
    assert!(stream.stream_enabled());
    assert_eq!(stream.stream_view_type(), Some(&StreamViewType::NewImage));
    assert!(events.latest_stream_arn().is_some());
    assert_eq!(types(&events), "AggregateId S, EventTypeKey S, Timestamp S, Version N");

    let unique = deployed.table("UniqueKeyTable").await;
    assert_eq!((keys(unique.key_schema()), types(&unique)), ("Key HASH".into(), "Key S".into()));
    let snapshots = deployed.table("SnapshotTable").await;
    assert_eq!(keys(snapshots.key_schema()), "AggregateId HASH");
    let leases = deployed.table("RelayLeaseTable").await;
    assert_eq!(keys(leases.key_schema()), "ShardId HASH");
    let jobs = deployed.table("JobTable").await;
    assert_eq!(keys(jobs.key_schema()), "Job HASH, Part RANGE");

    let accounts = deployed.table("AccountsV1Table").await;
    assert_eq!(keys(accounts.key_schema()), "Key HASH");
    assert_eq!(
        indexes(&accounts),
        [
            "by-branch: ByBranchKey HASH, OpenedAtPosition RANGE, ALL",
            "by-kind: ByKindKey HASH, OpenedAtPosition RANGE, ALL",
            "by-number: ByNumberKey HASH, ALL",
        ]
    );
    assert_eq!(types(&accounts), "ByBranchKey S, ByKindKey S, ByNumberKey S, Key S, OpenedAtPosition S");
    let letters = deployed.table("SentLettersV2Table").await;
    assert_eq!((keys(letters.key_schema()), indexes(&letters)), ("Key HASH".to_owned(), Vec::new()));

    for table in [&events, &unique, &snapshots, &leases, &jobs, &accounts, &letters] {
        let billing = table.billing_mode_summary().and_then(|summary| summary.billing_mode());
        assert_eq!(billing, Some(&BillingMode::PayPerRequest), "{:?}", table.table_name());
    }
    for table in [&events, &unique, &leases] {
        assert_eq!(table.deletion_protection_enabled(), Some(true), "{:?}", table.table_name());
    }
}

#[tokio::test]
async fn the_event_type_index_can_be_left_out() {
    let deployed = deploy(&StackOptions { event_type_index: false, ..Default::default() }).await;
    let events = deployed.table("EventStoreTable").await;
    assert_eq!(indexes(&events), Vec::<String>::new());
    assert_eq!(types(&events), "AggregateId S, Version N");
}

#[tokio::test]
async fn the_queues_redrive_to_their_dead_letter_queues() {
    let deployed =
        deploy(&StackOptions { max_receive_count: 7, queue_visibility_seconds: 11, ..Default::default() })
            .await;
    for (queue, dead_letters) in [
        ("AccountsV1QueueUrl", "AccountsV1DeadLetterQueueUrl"),
        ("SentLettersV2QueueUrl", "SentLettersV2DeadLetterQueueUrl"),
    ] {
        let dead_letters = deployed.queue(dead_letters).await;
        assert_eq!(dead_letters["MessageRetentionPeriod"], "1209600");
        assert_eq!(dead_letters["SqsManagedSseEnabled"], "true");

        let queue = deployed.queue(queue).await;
        assert_eq!(queue["VisibilityTimeout"], "11");
        assert_eq!(queue["MessageRetentionPeriod"], "1209600");
        assert_eq!(queue["ReceiveMessageWaitTimeSeconds"], "20");
        assert_eq!(queue["SqsManagedSseEnabled"], "true");
        let redrive: Value = serde_json::from_str(&queue["RedrivePolicy"]).unwrap();
        assert_eq!(redrive["deadLetterTargetArn"], dead_letters["QueueArn"].as_str());
        // A number or a string of digits: CloudFormation itself sends either.
        assert_eq!(redrive["maxReceiveCount"].to_string().trim_matches('"'), "7");
    }
}

#[tokio::test]
async fn only_the_rule_of_a_queue_may_send_to_it() {
    let deployed = deploy(&StackOptions::default()).await;
    for (queue, rule) in
        [("AccountsV1QueueUrl", "bank-accounts-v1"), ("SentLettersV2QueueUrl", "bank-sent-letters-v2")]
    {
        let described =
            deployed.events().describe_rule().event_bus_name("bank-events").name(rule).send().await.unwrap();
        let policy: Value = serde_json::from_str(&deployed.queue(queue).await["Policy"]).unwrap();
        let allowed: Vec<&Value> =
            policy["Statement"].as_array().unwrap().iter().filter(|each| each["Effect"] == "Allow").collect();
        assert_eq!(allowed.len(), 1);
        assert_eq!(allowed[0]["Principal"], json!({ "Service": "events.amazonaws.com" }));
        assert_eq!(allowed[0]["Condition"]["ArnEquals"]["aws:SourceArn"], described.arn().unwrap());
    }
}

#[tokio::test]
async fn the_rules_lead_each_event_to_its_queue_by_its_aggregate() {
    let deployed =
        deploy(&StackOptions { event_source: Some("branch".to_owned()), ..Default::default() }).await;
    let undelivered = deployed.queue("UndeliveredQueueUrl").await["QueueArn"].clone();
    for (rule, queue, aggregate_type) in [
        ("bank-accounts-v1", "AccountsV1QueueUrl", "account"),
        ("bank-sent-letters-v2", "SentLettersV2QueueUrl", "letter"),
    ] {
        let bus = "bank-events";
        let described =
            deployed.events().describe_rule().event_bus_name(bus).name(rule).send().await.unwrap();
        assert_eq!(described.state().unwrap().as_str(), "ENABLED");
        let pattern: Value = serde_json::from_str(described.event_pattern().unwrap()).unwrap();
        assert_eq!(pattern, json!({ "source": ["branch"], "detail": { "AggregateType": [aggregate_type] } }));

        let targets =
            deployed.events().list_targets_by_rule().event_bus_name(bus).rule(rule).send().await.unwrap();
        let [target] = targets.targets() else { panic!("{targets:?}") };
        assert_eq!(target.arn(), deployed.queue(queue).await["QueueArn"]);
        assert_eq!(target.dead_letter_config().unwrap().arn(), Some(undelivered.as_str()));
        let retries = target.retry_policy().unwrap();
        assert_eq!(retries.maximum_event_age_in_seconds(), Some(86_400));
        assert_eq!(retries.maximum_retry_attempts(), Some(185));
    }

    let event = |of: &str, number: u32| json!({ "AggregateType": of, "number": number });
    deployed.publish("other", "AccountOpened", &event("account", 0)).await;
    deployed.publish("branch", "Unknown", &event("unknown", 1)).await;
    // The type of an event is no matter: a new one needs no new rule.
    deployed.publish("branch", "Unknown", &event("letter", 2)).await;
    deployed.publish("branch", "AccountOpened", &event("account", 3)).await;
    for (queue, detail, detail_type) in [
        ("SentLettersV2QueueUrl", event("letter", 2), "Unknown"),
        ("AccountsV1QueueUrl", event("account", 3), "AccountOpened"),
    ] {
        let message = deployed.receive(queue, 20).await.unwrap();
        let body: Value = serde_json::from_str(message.body().unwrap()).unwrap();
        assert_eq!(body["detail"], detail);
        assert_eq!((&body["source"], &body["detail-type"]), (&json!("branch"), &json!(detail_type)));
        assert!(deployed.receive(queue, 0).await.is_none());
    }
}

#[tokio::test]
async fn an_event_that_no_projection_takes_is_counted_in_a_queue_of_its_own() {
    let deployed = deploy(&StackOptions::default()).await;
    deployed.publish("bank", "NoteTaken", &json!({ "AggregateType": "note" })).await;
    let queue = deployed.sqs().get_queue_url().queue_name("bank-unconsumed").send().await.unwrap();
    let message = deployed.receive_from(queue.queue_url().unwrap(), 20).await.unwrap();
    assert!(message.body().unwrap().contains("NoteTaken"), "{message:?}");
}

#[tokio::test]
async fn a_message_received_too_often_ends_in_the_dead_letter_queue() {
    let options = StackOptions { max_receive_count: 1, queue_visibility_seconds: 1, ..Default::default() };
    let deployed = deploy(&options).await;
    deployed.publish("bank", "AccountOpened", &json!({ "AggregateType": "account" })).await;
    assert!(deployed.receive("AccountsV1QueueUrl", 20).await.is_some());
    let deadline = Instant::now() + TIMEOUT;
    // A queue moves messages only on a receive.
    while deployed.receive("AccountsV1DeadLetterQueueUrl", 0).await.is_none() {
        assert!(deployed.receive("AccountsV1QueueUrl", 1).await.is_none());
        assert!(Instant::now() < deadline);
    }
}

#[tokio::test]
async fn the_bus_has_its_archive() {
    let deployed = deploy(&StackOptions::default()).await;
    let archive = deployed.events().describe_archive().archive_name("bank-events").send().await.unwrap();
    assert_eq!(archive.retention_days(), Some(30));
    let bus = deployed.events().describe_event_bus().name("bank-events").send().await.unwrap();
    assert_eq!(archive.event_source_arn(), bus.arn());
}

#[tokio::test]
async fn a_stack_can_be_deployed_again_and_changed() {
    let first = deploy(&StackOptions::default()).await;
    let again = Stack::deploy(&first.account, &application(), &StackOptions::default()).await.unwrap();
    assert_eq!(again.outputs(), first.stack.outputs());

    let changed = StackOptions { index_shards: 9, queue_visibility_seconds: 77, ..Default::default() };
    let stack = Stack::deploy(&first.account, &application(), &changed).await.unwrap();
    assert_eq!(stack.output("IndexShards").unwrap(), "9");
    assert_eq!(first.queue("AccountsV1QueueUrl").await["VisibilityTimeout"], "77");
}

#[tokio::test]
async fn stacks_with_other_prefixes_stand_side_by_side() {
    let first = deploy(&StackOptions::default()).await;
    let options = StackOptions { prefix: Some("second".to_owned()), ..Default::default() };
    let second = Stack::deploy(&first.account, &application(), &options).await.unwrap();
    assert_eq!((first.stack.prefix(), second.prefix()), ("bank", "second"));
    let differing: BTreeSet<&String> =
        second.outputs().keys().filter(|key| second.outputs()[*key] != first.stack.outputs()[*key]).collect();
    let same = ["AwsRegion", "EventSource", "EventTypeIndex", "IndexShards"].map(str::to_owned);
    assert!(second.outputs().keys().all(|key| differing.contains(key) != same.contains(key)), "{second:?}");
}

#[tokio::test]
async fn a_stack_that_cannot_be_made_names_the_resource_and_the_reason() {
    let account = test_account().await.unwrap();
    let events = aws_sdk_eventbridge::Client::new(&account.sdk_config().await);
    events.create_event_bus().name("bank-events").send().await.unwrap();

    let error = Stack::deploy(&account, &application(), &StackOptions::default()).await.unwrap_err();
    assert!(matches!(&error, LocalError::Deploy { stack, .. } if stack == "bank-application"), "{error}");
    assert!(error.to_string().contains("EventBus: "), "{error}");
}

#[tokio::test]
async fn an_endpoint_where_nothing_listens_is_named_with_the_request() {
    let account = Account::unique("http://127.0.0.1:9");
    let error = Stack::deploy(&account, &application(), &StackOptions::default()).await.unwrap_err();
    assert!(error.to_string().starts_with("CreateStack failed: "), "{error}");
}

/// Deployables derive the names of the deployed resources.
#[tokio::test]
async fn the_prefix_is_all_that_the_deployables_need() {
    let prefix = "p-1";
    let deployed = deploy(&StackOptions { prefix: Some(prefix.to_owned()), ..Default::default() }).await;
    let expected = BTreeMap::from([("MILLRACE_PREFIX".to_owned(), prefix.to_owned())]);
    assert_eq!(deployed.stack.env(), expected);
    let letters = application().projections()[1].name;
    for (output, name) in [
        ("EventStoreTable", names::events(prefix)),
        ("EventBusName", names::bus(prefix)),
        ("UniqueKeyTable", names::unique_keys(prefix)),
        ("SnapshotTable", names::snapshots(prefix)),
        ("RelayLeaseTable", names::relay_leases(prefix)),
        ("JobTable", names::jobs(prefix)),
        ("SentLettersV2Table", names::table(prefix, &letters.id())),
        ("SentLettersV2QueueUrl", names::queue(prefix, &letters.id())),
        ("SentLettersV2DeadLetterQueueUrl", names::dead_letter_queue(prefix, &letters.id())),
    ] {
        let deployed = deployed.stack.output(output).unwrap();
        assert_eq!(deployed.rsplit('/').next(), Some(name.as_str()), "{output}");
    }
}

fn keys(schema: &[KeySchemaElement]) -> String {
    let keys: Vec<String> =
        schema.iter().map(|key| format!("{} {}", key.attribute_name(), key.key_type().as_str())).collect();
    keys.join(", ")
}

fn types(table: &TableDescription) -> String {
    let types: BTreeSet<String> = table
        .attribute_definitions()
        .iter()
        .map(|attribute| format!("{} {}", attribute.attribute_name(), attribute.attribute_type().as_str()))
        .collect();
    types.into_iter().collect::<Vec<_>>().join(", ")
}

fn indexes(table: &TableDescription) -> Vec<String> {
    let mut indexes: Vec<String> = table
        .global_secondary_indexes()
        .iter()
        .map(|index| {
            let projection = index.projection().and_then(|projection| projection.projection_type()).unwrap();
            format!("{}: {}, {}", index.index_name().unwrap(), keys(index.key_schema()), projection.as_str())
        })
        .collect();
    indexes.sort();
    indexes
}
