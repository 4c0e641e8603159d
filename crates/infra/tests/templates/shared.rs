//! The stacks that all projections share.

use millrace_infra::names;

use crate::{
    applications::shop,
    reader::{of_type, properties, referred, section, text, texts},
};

#[test]
fn data_that_cannot_be_computed_again_is_retained_and_recoverable() {
    let data = shop().render().unwrap().data;
    for (logical, name) in [
        ("EventStoreTable", "${Prefix}-events"),
        ("UniqueKeyTable", "${Prefix}-unique-keys"),
        ("RelayLeaseTable", "${Prefix}-relay-leases"),
    ] {
        let table = &section(&data, "Resources")[logical];
        assert_eq!(table["DeletionPolicy"].as_str(), Some("Retain"));
        assert_eq!(table["UpdateReplacePolicy"].as_str(), Some("Retain"));
        let table = &table["Properties"];
        assert_eq!(text(&table["TableName"]), name);
        assert_eq!(table["DeletionProtectionEnabled"].as_bool(), Some(true));
        let recovery = &table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"];
        assert_eq!(recovery.as_bool(), Some(true));
    }
    for computed in ["SnapshotTable", "JobTable"] {
        let table = &section(&data, "Resources")[computed];
        assert_eq!(table["DeletionPolicy"].as_str(), Some("Delete"));
    }
}

#[test]
fn the_event_store_has_its_stream_and_perhaps_its_index() {
    let table = properties(&shop().render().unwrap().data, "EventStoreTable");
    assert_eq!(text(&table["StreamSpecification"]["StreamViewType"]), "NEW_IMAGE");
    let [condition, indexes, without] = &table["GlobalSecondaryIndexes"]["Fn::If"].as_vec().unwrap()[..]
    else {
        panic!("a condition")
    };
    assert_eq!(text(condition), "WithEventTypeIndex");
    assert_eq!(text(&indexes[0]["IndexName"]), names::EVENT_TYPE_INDEX);
    assert_eq!(referred(without), "AWS::NoValue");
    let attributes = &table["AttributeDefinitions"]["Fn::If"];
    assert_eq!(attributes[1].as_vec().unwrap().len(), 4);
    assert_eq!(attributes[2].as_vec().unwrap().len(), 2);
}

#[test]
fn the_bus_has_an_archive() {
    let application = shop().render().unwrap().application;
    assert_eq!(text(&properties(&application, "EventBus")["Name"]), "${Prefix}-events");
    assert_eq!(section(&application, "Resources")["EventArchive"]["Condition"].as_str(), Some("WithArchive"));
    let archive = properties(&application, "EventArchive");
    assert_eq!(text(&archive["ArchiveName"]), "${Prefix}-events");
    assert_eq!(text(&archive["SourceArn"]), "${EventBus.Arn}");
    assert_eq!(referred(&archive["RetentionDays"]), "ArchiveRetentionDays");
}

#[test]
fn every_rule_of_the_bus_may_send_what_it_could_not_deliver() {
    let application = shop().render().unwrap().application;
    let statements =
        properties(&application, "UndeliveredQueuePolicy")["PolicyDocument"]["Statement"].clone();
    let rules = text(&statements[0]["Condition"]["ArnLike"]["aws:SourceArn"]);
    assert!(rules.ends_with(":rule/${Prefix}-events/*"), "{rules}");
    assert_eq!(text(&statements[1]["Sid"]), "OnlyOverTls");
}

#[test]
fn outputs_name_what_all_projections_share() {
    let templates = shop().render().unwrap();
    assert_eq!(
        templates.data.outputs(),
        [
            "EventStoreTable",
            "UniqueKeyTable",
            "SnapshotTable",
            "RelayLeaseTable",
            "JobTable",
            "EventTypeIndex"
        ]
    );
    assert_eq!(
        templates.application.outputs(),
        ["AwsRegion", "EventBusName", "EventSource", "IndexShards", "UndeliveredQueueUrl"]
    );
    assert_eq!(
        templates.service_access[0].outputs(),
        ["CommandServiceRoleArn", "ProjectorRoleArn", "QueryServiceRoleArn"]
    );
    assert_eq!(templates.operator_access[0].outputs(), ["AuditRoleArn", "RedriveRoleArn"]);
}

#[test]
fn the_prefix_and_the_source_are_by_default_the_application() {
    for template in shop().render().unwrap().in_order() {
        let parameters = section(template, "Parameters");
        assert_eq!(parameters["Prefix"]["Default"].as_str(), Some("shop"));
        assert!(
            parameters.get("EventSource").is_none_or(|source| source["Default"].as_str() == Some("shop"))
        );
    }
}

#[test]
fn the_stacks_are_created_in_order() {
    let templates = shop().render().unwrap();
    let stacks: Vec<String> = templates.in_order().map(|template| template.stack_name("shop")).collect();
    assert_eq!(
        stacks,
        [
            "shop-data",
            "shop-application",
            "shop-service-access",
            "shop-operator-access",
            "shop-user-profiles-v1",
            "shop-order-summaries-v1",
            "shop-customer-totals-v1",
        ]
    );
}

#[test]
fn an_application_without_projections_has_what_its_commands_need() {
    let templates = millrace_infra::Stack::new("counter").aggregate("counter").render().unwrap();
    assert!(templates.projections.is_empty());
    assert!(of_type(&templates.application, "AWS::Events::EventBus").contains_key("EventBus"));
    let policies = of_type(&templates.operator_access[0], "AWS::IAM::ManagedPolicy");
    assert_eq!(policies.into_keys().collect::<Vec<_>>(), ["AuditPolicy"]);
    let statements =
        properties(&templates.service_access[0], "QueryServicePolicy")["PolicyDocument"]["Statement"].clone();
    assert_eq!(statements.as_vec().unwrap().len(), 1);
    assert_eq!(texts(&statements[0]["Resource"]).len(), 2);
}
