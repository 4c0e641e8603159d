//! The stack of a projection.

use millrace_infra::{Index, ProjectionResources, Stack, Template};
use yaml_rust2::{Yaml, YamlLoader};

use crate::{
    applications::shop,
    reader::{of_type, properties, referred, section, text, texts},
};

/// The shop's projections with their sources and indexes, the latter as they are written below.
const PROJECTIONS: [(&str, &str, &[&str]); 3] = [
    ("user-profiles-v1", "user", &["by-email: ByEmailKey, ALL"]),
    (
        "order-summaries-v1",
        "order",
        &["by-user: ByUserKey, ByUserSort, ALL", "by-status: ByStatusKey, ByStatusSort, ALL"],
    ),
    ("customer-totals-v1", "order", &["by-target: Target, KEYS_ONLY"]),
];

fn templates() -> Vec<Template> {
    shop().render().unwrap().projections
}

#[test]
fn each_projection_has_a_stack_of_its_own() {
    let names: Vec<String> = templates().iter().map(|template| template.name().to_owned()).collect();
    assert_eq!(names, PROJECTIONS.map(|(id, ..)| id));
}

#[test]
fn a_projection_has_exactly_its_resources() {
    for template in templates() {
        let resources = section(&template, "Resources");
        let found: Vec<_> =
            resources.iter().map(|(name, each)| (name.as_str(), each["Type"].as_str().unwrap())).collect();
        assert_eq!(
            found,
            [
                ("DeadLetterQueue", "AWS::SQS::Queue"),
                ("DeadLetterQueuePolicy", "AWS::SQS::QueuePolicy"),
                ("DeadLettersAlarm", "AWS::CloudWatch::Alarm"),
                ("HeldBackAlarm", "AWS::CloudWatch::Alarm"),
                ("LagAlarm", "AWS::CloudWatch::Alarm"),
                ("Queue", "AWS::SQS::Queue"),
                ("QueuePolicy", "AWS::SQS::QueuePolicy"),
                ("Rule", "AWS::Events::Rule"),
                ("Table", "AWS::DynamoDB::Table"),
                ("ThrottleAlarm", "AWS::CloudWatch::Alarm"),
            ]
        );
    }
}

#[test]
fn the_read_model_has_its_key_and_its_indexes() {
    for (template, (id, _, expected)) in templates().iter().zip(PROJECTIONS) {
        let table = properties(template, "Table");
        assert_eq!(text(&table["TableName"]), format!("${{Prefix}}-{id}"));
        assert_eq!(keys(&table["KeySchema"]), "Key");
        let indexes = table["GlobalSecondaryIndexes"].as_vec().unwrap();
        let found: Vec<String> = indexes
            .iter()
            .map(|index| {
                let attributes = text(&index["Projection"]["ProjectionType"]);
                format!("{}: {}, {attributes}", text(&index["IndexName"]), keys(&index["KeySchema"]))
            })
            .collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn attributes_are_defined_once_and_only_where_a_key_uses_them() {
    let stack = Stack::new("shop").aggregate("order").projection(
        ProjectionResources::new("orders", 3)
            .source("order")
            .index(Index::new("by-user", "User").sorted_by("At"))
            .index(Index::new("by-status", "Status").sorted_by("At"))
            .index(Index::new("by-key", "Key")),
    );
    let table = properties(&stack.render().unwrap().projections[0], "Table");
    let defined = table["AttributeDefinitions"].as_vec().unwrap().iter();
    let defined: Vec<_> =
        defined.map(|each| (text(&each["AttributeName"]), text(&each["AttributeType"]))).collect();
    assert_eq!(defined, ["Key", "At", "Status", "User"].map(|name| (name.to_owned(), "S".to_owned())));
}

#[test]
fn a_read_model_without_lists_has_no_indexes() {
    let projection = ProjectionResources::new("orders", 1).source("order");
    let stack = Stack::new("shop").aggregate("order").projection(projection);
    let table = properties(&stack.render().unwrap().projections[0], "Table");
    assert!(table["GlobalSecondaryIndexes"].is_badvalue());
}

#[test]
fn the_rule_matches_on_source_and_aggregate_type_alone() {
    for (template, (id, source, _)) in templates().iter().zip(PROJECTIONS) {
        let rule = properties(template, "Rule");
        assert_eq!(text(&rule["EventBusName"]), "${Prefix}-events");
        assert_eq!(text(&rule["Name"]), format!("${{Prefix}}-{id}"));
        let pattern = &rule["EventPattern"];
        assert_eq!(pattern.as_hash().unwrap().len(), 2);
        assert_eq!(referred(&pattern["source"][0]), "EventSource");
        assert_eq!(pattern["detail"].as_hash().unwrap().len(), 1);
        assert_eq!(texts(&pattern["detail"]["AggregateType"]), [source]);

        let target = &rule["Targets"][0];
        assert_eq!(text(&target["Arn"]), "${Queue.Arn}");
        assert_eq!(text(&target["SqsParameters"]["MessageGroupId"]), "$.detail.TenantId");
        assert!(text(&target["DeadLetterConfig"]["Arn"]).ends_with(":${Prefix}-undelivered"));
        assert_eq!(target["RetryPolicy"]["MaximumEventAgeInSeconds"].as_i64(), Some(86_400));
    }
}

#[test]
fn a_projection_of_several_aggregates_has_one_rule() {
    let projection = ProjectionResources::new("totals", 1).source("user").source("order");
    let stack = Stack::new("shop").aggregate("user").aggregate("order").projection(projection);
    let template = &stack.render().unwrap().projections[0];
    assert_eq!(of_type(template, "AWS::Events::Rule").len(), 1);
    let rule = properties(template, "Rule");
    assert_eq!(texts(&rule["EventPattern"]["detail"]["AggregateType"]), ["user", "order"]);
}

#[test]
fn queues_are_encrypted_and_keep_messages_for_two_weeks() {
    for (template, (id, ..)) in templates().iter().zip(PROJECTIONS) {
        for (logical, name) in [
            ("Queue", format!("${{Prefix}}-{id}")),
            ("DeadLetterQueue", format!("${{Prefix}}-{id}-dead-letters")),
        ] {
            let queue = properties(template, logical);
            assert_eq!(text(&queue["QueueName"]), name);
            assert_eq!(queue["SqsManagedSseEnabled"].as_bool(), Some(true));
            assert_eq!(queue["MessageRetentionPeriod"].as_i64(), Some(1_209_600));
        }
        let queue = properties(template, "Queue");
        assert_eq!(text(&queue["RedrivePolicy"]["deadLetterTargetArn"]), "${DeadLetterQueue.Arn}");
        assert_eq!(referred(&queue["RedrivePolicy"]["maxReceiveCount"]), "MaxReceiveCount");
        assert_eq!(referred(&queue["VisibilityTimeout"]), "QueueVisibilitySeconds");
    }
}

#[test]
fn only_the_rule_sends_to_its_queue_and_only_over_tls() {
    for template in templates() {
        let statements = properties(&template, "QueuePolicy")["PolicyDocument"]["Statement"].clone();
        let [send, tls] = &statements.as_vec().unwrap()[..] else { panic!("two statements") };
        assert_eq!(text(&send["Principal"]["Service"]), "events.amazonaws.com");
        assert_eq!(text(&send["Condition"]["ArnEquals"]["aws:SourceArn"]), "${Rule.Arn}");
        assert_only_over_tls(tls, "Queue");

        let statements =
            properties(&template, "DeadLetterQueuePolicy")["PolicyDocument"]["Statement"].clone();
        let [tls] = &statements.as_vec().unwrap()[..] else { panic!("one statement") };
        assert_only_over_tls(tls, "DeadLetterQueue");
    }
}

#[test]
fn a_read_model_goes_with_its_stack() {
    for template in templates() {
        let table = &section(&template, "Resources")["Table"];
        assert_eq!(table["DeletionPolicy"].as_str(), Some("Delete"));
        assert!(table["Properties"]["DeletionProtectionEnabled"].is_badvalue());
    }
}

#[test]
fn outputs_name_the_projection_with_its_version() {
    assert_eq!(
        templates()[1].outputs(),
        ["OrderSummariesV1Table", "OrderSummariesV1QueueUrl", "OrderSummariesV1DeadLetterQueueUrl"]
    );
}

#[test]
fn versions_of_a_projection_stand_side_by_side() {
    let order = |version| ProjectionResources::new("orders", version).source("order");
    let stack = Stack::new("shop").aggregate("order").projection(order(1)).projection(order(2));
    let templates = stack.render().unwrap();
    let names = templates.projections.iter().map(|template| template.stack_name("shop"));
    assert_eq!(names.collect::<Vec<_>>(), ["shop-orders-v1", "shop-orders-v2"]);
    let [first, second] = &templates.projections[..] else { panic!("two stacks") };
    assert!(first.outputs().iter().all(|output| !second.outputs().contains(output)));
}

#[test]
fn the_queue_of_each_projection_is_known_and_keda_looks_at_it() {
    let queues = shop().queues("live").unwrap();
    assert_eq!(queues, PROJECTIONS.map(|(id, ..)| format!("live-{id}")));

    let files = shop().keda();
    let scaled_object = &YamlLoader::load_from_str(&files[1].1).unwrap()[1]["spec"];
    let triggers = scaled_object["triggers"].as_vec().unwrap();
    for (kind, queue) in [("aws-sqs-queue", "queueURL"), ("aws-cloudwatch", "dimensionValue")] {
        let of_kind = triggers.iter().filter(|each| text(&each["type"]) == kind);
        let asked: Vec<_> = of_kind.map(|each| text(&each["metadata"][queue])).collect();
        assert_eq!(asked, PROJECTIONS.map(|(id, ..)| format!("prefix-{id}")), "{kind}");
    }
    assert!(Stack::new("shop").keda().is_empty(), "KEDA refuses a scaler without triggers");
}

fn keys(schema: &Yaml) -> String {
    let keys = schema.as_vec().unwrap().iter().zip(["HASH", "RANGE"]).map(|(key, kind)| {
        assert_eq!(key["KeyType"].as_str(), Some(kind));
        text(&key["AttributeName"])
    });
    keys.collect::<Vec<_>>().join(", ")
}

#[track_caller]
fn assert_only_over_tls(statement: &Yaml, queue: &str) {
    assert_eq!(text(&statement["Effect"]), "Deny");
    assert_eq!(text(&statement["Resource"]), format!("${{{queue}.Arn}}"));
    assert_eq!(text(&statement["Condition"]["Bool"]["aws:SecureTransport"]), "false");
}
