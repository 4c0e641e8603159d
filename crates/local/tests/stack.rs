//! The stack, as the emulator describes it after the deployment, and an event's way through it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test, a panic is the report")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::types::{BillingMode, KeySchemaElement, StreamViewType, TableDescription};
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use aws_sdk_sqs::types::{Message, QueueAttributeName};
use millrace_local::{LocalError, Stack, StackOptions, test_account};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

/// A stack in an account of its own.
struct Deployed {
    config: SdkConfig,
    stack: Stack,
}

async fn deploy(options: &StackOptions) -> Deployed {
    let config = test_account().await.unwrap().sdk_config().await;
    let stack = Stack::deploy(&config, options).await.unwrap();
    Deployed { config, stack }
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
        let received = self
            .sqs()
            .receive_message()
            .queue_url(self.stack.output(output).unwrap())
            .wait_time_seconds(wait)
            .send()
            .await;
        received.unwrap().messages.unwrap_or_default().into_iter().next()
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

    let users = deployed.table("UserReadModelTable").await;
    assert_eq!(keys(users.key_schema()), "UserId HASH");
    assert_eq!(indexes(&users), ["Email-index: EmailKey HASH, ALL"]);
    let orders = deployed.table("OrderReadModelTable").await;
    assert_eq!(keys(orders.key_schema()), "OrderId HASH");
    assert_eq!(
        indexes(&orders),
        [
            "Status-index: StatusKey HASH, CreatedKey RANGE, ALL",
            "UserId-index: UserId HASH, CreatedKey RANGE, ALL"
        ]
    );
    assert_eq!(types(&orders), "CreatedKey S, OrderId S, StatusKey S, UserId S");

    for table in [&events, &unique, &snapshots, &leases, &users, &orders] {
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
    for (queue, dead_letters) in
        [("UserQueueUrl", "UserDeadLetterQueueUrl"), ("OrderQueueUrl", "OrderDeadLetterQueueUrl")]
    {
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
        [("UserQueueUrl", "millrace-user-events"), ("OrderQueueUrl", "millrace-order-events")]
    {
        let described = deployed
            .events()
            .describe_rule()
            .event_bus_name("millrace-events")
            .name(rule)
            .send()
            .await
            .unwrap();
        let policy: Value = serde_json::from_str(&deployed.queue(queue).await["Policy"]).unwrap();
        let allowed: Vec<&Value> =
            policy["Statement"].as_array().unwrap().iter().filter(|each| each["Effect"] == "Allow").collect();
        assert_eq!(allowed.len(), 1);
        assert_eq!(allowed[0]["Principal"], json!({ "Service": "events.amazonaws.com" }));
        assert_eq!(allowed[0]["Condition"]["ArnEquals"]["aws:SourceArn"], described.arn().unwrap());
    }
}

#[tokio::test]
async fn the_rules_lead_each_event_to_its_queue() {
    let deployed = deploy(&StackOptions { event_source: "shop".to_owned(), ..Default::default() }).await;
    let undelivered = deployed.queue("UndeliveredQueueUrl").await["QueueArn"].clone();
    for (rule, queue, types) in [
        ("millrace-user-events", "UserQueueUrl", ["UserCreated", "UserProfileUpdated"]),
        ("millrace-order-events", "OrderQueueUrl", ["OrderCreated", "OrderStatusUpdated"]),
    ] {
        let bus = "millrace-events";
        let described =
            deployed.events().describe_rule().event_bus_name(bus).name(rule).send().await.unwrap();
        assert_eq!(described.state().unwrap().as_str(), "ENABLED");
        let pattern: Value = serde_json::from_str(described.event_pattern().unwrap()).unwrap();
        assert_eq!(pattern, json!({ "source": ["shop"], "detail-type": types }));

        let targets =
            deployed.events().list_targets_by_rule().event_bus_name(bus).rule(rule).send().await.unwrap();
        let [target] = targets.targets() else { panic!("{targets:?}") };
        assert_eq!(target.arn(), deployed.queue(queue).await["QueueArn"]);
        assert_eq!(target.dead_letter_config().unwrap().arn(), Some(undelivered.as_str()));
        let retries = target.retry_policy().unwrap();
        assert_eq!(retries.maximum_event_age_in_seconds(), Some(86_400));
        assert_eq!(retries.maximum_retry_attempts(), Some(185));
    }

    deployed.publish("other", "UserCreated", &json!({ "number": 0 })).await;
    deployed.publish("shop", "Unknown", &json!({ "number": 1 })).await;
    deployed.publish("shop", "OrderCreated", &json!({ "number": 2 })).await;
    deployed.publish("shop", "UserCreated", &json!({ "number": 3 })).await;
    for (queue, number, detail_type) in
        [("OrderQueueUrl", 2, "OrderCreated"), ("UserQueueUrl", 3, "UserCreated")]
    {
        let message = deployed.receive(queue, 20).await.unwrap();
        let body: Value = serde_json::from_str(message.body().unwrap()).unwrap();
        assert_eq!(body["detail"], json!({ "number": number }));
        assert_eq!((&body["source"], &body["detail-type"]), (&json!("shop"), &json!(detail_type)));
        assert!(deployed.receive(queue, 0).await.is_none());
    }
}

#[tokio::test]
async fn a_message_received_too_often_ends_in_the_dead_letter_queue() {
    let options = StackOptions { max_receive_count: 1, queue_visibility_seconds: 1, ..Default::default() };
    let deployed = deploy(&options).await;
    deployed.publish("millrace", "UserCreated", &json!({})).await;
    assert!(deployed.receive("UserQueueUrl", 20).await.is_some());
    let deadline = Instant::now() + PATIENCE;
    // A queue moves messages only when somebody receives.
    while deployed.receive("UserDeadLetterQueueUrl", 0).await.is_none() {
        assert!(deployed.receive("UserQueueUrl", 1).await.is_none());
        assert!(Instant::now() < deadline);
    }
}

#[tokio::test]
async fn the_bus_has_its_archive() {
    let deployed = deploy(&StackOptions::default()).await;
    let archive = deployed.events().describe_archive().archive_name("millrace-events").send().await.unwrap();
    assert_eq!(archive.retention_days(), Some(30));
    let bus = deployed.events().describe_event_bus().name("millrace-events").send().await.unwrap();
    assert_eq!(archive.event_source_arn(), bus.arn());
}

#[tokio::test]
async fn a_stack_can_be_deployed_again_and_changed() {
    let first = deploy(&StackOptions::default()).await;
    let again = Stack::deploy(&first.config, &StackOptions::default()).await.unwrap();
    assert_eq!(again.outputs(), first.stack.outputs());

    let changed = StackOptions { index_shards: 9, queue_visibility_seconds: 77, ..Default::default() };
    let stack = Stack::deploy(&first.config, &changed).await.unwrap();
    assert_eq!(stack.output("IndexShards").unwrap(), "9");
    assert_eq!(first.queue("UserQueueUrl").await["VisibilityTimeout"], "77");
}

#[tokio::test]
async fn stacks_with_other_prefixes_stand_side_by_side() {
    let first = deploy(&StackOptions::default()).await;
    let second =
        Stack::deploy(&first.config, &StackOptions { prefix: "second".to_owned(), ..Default::default() })
            .await
            .unwrap();
    let differing: BTreeSet<&String> =
        second.outputs().keys().filter(|key| second.outputs()[*key] != first.stack.outputs()[*key]).collect();
    let same = ["AwsRegion", "EventSource", "EventTypeIndex", "IndexShards"].map(str::to_owned);
    assert!(second.outputs().keys().all(|key| differing.contains(key) != same.contains(key)), "{second:?}");
}

#[tokio::test]
async fn a_stack_that_cannot_be_made_names_the_resource_and_the_reason() {
    let config = test_account().await.unwrap().sdk_config().await;
    let events = aws_sdk_eventbridge::Client::new(&config);
    events.create_event_bus().name("millrace-events").send().await.unwrap();

    let error = Stack::deploy(&config, &StackOptions::default()).await.unwrap_err();
    assert!(matches!(error, LocalError::Deploy { .. }), "{error}");
    assert!(error.to_string().contains("EventBus: "), "{error}");
}

#[tokio::test]
async fn the_environment_names_everything_that_the_deployables_need() {
    let deployed = deploy(&StackOptions::default()).await;
    let env = deployed.stack.env();
    let names: Vec<&str> = env.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "AWS_REGION",
            "EVENT_BUS_NAME",
            "EVENT_SOURCE",
            "EVENT_STORE_TABLE",
            "EVENT_TYPE_INDEX",
            "INDEX_SHARDS",
            "ORDER_DEAD_LETTER_QUEUE_URL",
            "ORDER_QUEUE_URL",
            "ORDER_READ_MODEL_TABLE",
            "RELAY_LEASE_TABLE",
            "SNAPSHOT_TABLE",
            "UNDELIVERED_QUEUE_URL",
            "UNIQUE_KEY_TABLE",
            "USER_DEAD_LETTER_QUEUE_URL",
            "USER_QUEUE_URL",
            "USER_READ_MODEL_TABLE",
        ]
    );
}

/// What the local stack leaves out, and a real account has.
#[tokio::test]
async fn with_an_oidc_provider_there_is_a_role_for_each_service_account() {
    let config = test_account().await.unwrap().sdk_config().await;
    let client = aws_sdk_cloudformation::Client::new(&config);
    let parameters = [
        ("DeployArchive", "false"),
        ("DeployMathAlarms", "false"),
        ("BillingMode", "PROVISIONED"),
        ("AlarmTopicArn", "arn:aws:sns:eu-west-1:111122223333:on-call"),
        (
            "OidcProviderArn",
            "arn:aws:iam::111122223333:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/0123",
        ),
    ];
    let parameters = parameters.map(|(key, value)| {
        aws_sdk_cloudformation::types::Parameter::builder().parameter_key(key).parameter_value(value).build()
    });
    let created = client
        .create_stack()
        .stack_name("millrace")
        .template_body(include_str!("../../../infra/template.yaml"))
        .set_parameters(Some(parameters.into()))
        .capabilities(aws_sdk_cloudformation::types::Capability::CapabilityNamedIam);
    created.send().await.unwrap();

    let deadline = Instant::now() + PATIENCE;
    let stack = loop {
        let described = client.describe_stacks().stack_name("millrace").send().await.unwrap();
        let stack = described.stacks.unwrap().remove(0);
        match stack.stack_status().unwrap().as_str() {
            "CREATE_COMPLETE" => break stack,
            status => assert!(status.ends_with("_IN_PROGRESS") && Instant::now() < deadline, "{stack:?}"),
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    };
    let outputs = stack.outputs().iter().map(|output| (output.output_key().unwrap(), output.output_value()));
    let roles: BTreeMap<&str, &str> = outputs
        .filter(|(key, _)| key.ends_with("RoleArn"))
        .map(|(key, arn)| (key, arn.unwrap().rsplit('/').next().unwrap()))
        .collect();
    assert_eq!(
        roles,
        BTreeMap::from([
            ("AuditRoleArn", "millrace-audit"),
            ("CommandServiceRoleArn", "millrace-command-service"),
            ("ProjectorRoleArn", "millrace-projector"),
            ("QueryServiceRoleArn", "millrace-query-service"),
            ("RedriveRoleArn", "millrace-redrive"),
        ])
    );
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
