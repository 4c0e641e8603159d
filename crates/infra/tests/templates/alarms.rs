//! Alarms.

use std::collections::BTreeSet;

use millrace_infra::{Index, ProjectionResources, Stack, Template};
use yaml_rust2::Yaml;

use crate::{
    applications::{shop, sized},
    reader::{of_type, properties, referred, section, text, texts},
};

const ALARM: &str = "AWS::CloudWatch::Alarm";

#[test]
fn every_table_but_that_of_jobs_and_every_queue_has_its_alarms() {
    let templates = shop().render().unwrap();
    let names: BTreeSet<String> = templates.in_order().flat_map(alarm_names).collect();
    let expected = [
        "customer-totals-v1-dead-letters",
        "customer-totals-v1-held-back",
        "customer-totals-v1-lag",
        "customer-totals-v1-throttled",
        "events-throttled",
        "order-summaries-v1-dead-letters",
        "order-summaries-v1-held-back",
        "order-summaries-v1-lag",
        "order-summaries-v1-throttled",
        "relay-leases-throttled",
        "relay-stopped",
        "snapshots-throttled",
        "undelivered",
        "unique-keys-throttled",
        "user-profiles-v1-dead-letters",
        "user-profiles-v1-held-back",
        "user-profiles-v1-lag",
        "user-profiles-v1-throttled",
    ];
    assert_eq!(names, expected.map(str::to_owned).into());
}

#[test]
fn alarms_go_to_the_topic_if_there_is_one() {
    for template in shop().render().unwrap().in_order() {
        for (_, alarm) in of_type(template, ALARM) {
            for actions in ["AlarmActions", "OKActions"] {
                let choice = &alarm["Properties"][actions]["Fn::If"];
                assert_eq!(text(&choice[0]), "WithAlarmTopic");
                assert_eq!(referred(&choice[1][0]), "AlarmTopicArn");
            }
        }
    }
}

#[test]
fn alarms_over_several_metrics_can_be_left_out() {
    for template in shop().render().unwrap().in_order() {
        for (_, alarm) in of_type(template, ALARM) {
            let over_several = !alarm["Properties"]["Metrics"].is_badvalue();
            let condition = if over_several { "WithMathAlarms" } else { "WithAlarms" };
            assert_eq!(alarm["Condition"].as_str(), Some(condition));
        }
    }
}

#[test]
fn the_relay_alarm_watches_every_queue() {
    for projections in [1, 9] {
        let stack = sized(2, projections);
        let application = stack.render().unwrap().application;
        let alarm = properties(&application, "RelayStoppedAlarm");
        assert_eq!(watched(&alarm), queues(&stack));
        assert!(expression(&alarm).contains("FILL(stored, 0) > 0"));
        for place in 0..projections {
            assert!(expression(&alarm).contains(&format!("FILL(sent{place}, 0)")));
        }
    }
}

#[test]
fn events_that_no_projection_takes_are_counted_for_the_relay_alarm() {
    assert!(!shop().render().unwrap().application.body().contains("Unconsumed"));
    let stack = shop().aggregate("invoice").aggregate("cart");
    for (stack, queues) in
        [(stack.clone(), queues(&stack)), (Stack::new("shop").aggregate("invoice").aggregate("cart"), vec![])]
    {
        let application = stack.render().unwrap().application;
        let watched = watched(&properties(&application, "RelayStoppedAlarm"));
        assert_eq!(watched, [queues, vec!["${Prefix}-unconsumed".to_owned()]].concat());
        let (rule, queue) =
            (properties(&application, "UnconsumedRule"), properties(&application, "UnconsumedQueue"));
        assert_eq!(texts(&rule["EventPattern"]["detail"]["AggregateType"]), ["invoice", "cart"]);
        assert_eq!(text(&queue["QueueName"]), "${Prefix}-unconsumed");
    }
}

#[test]
fn many_queues_are_watched_in_parts_that_one_alarm_combines() {
    let stack = sized(2, 40);
    let application = stack.render().unwrap().application;
    let combined = &section(&application, "Resources")["RelayStoppedAlarm"];
    assert_eq!(combined["Type"].as_str(), Some("AWS::CloudWatch::CompositeAlarm"));
    let combined = &combined["Properties"];
    assert_eq!(text(&combined["AlarmName"]), "${Prefix}-relay-stopped");
    assert!(!combined["AlarmActions"].is_badvalue());

    let mut all = Vec::new();
    let rule = text(&combined["AlarmRule"]);
    for part in rule.split(" AND ") {
        let logical = part.trim_start_matches("ALARM(\"${").trim_end_matches("}\")");
        let part = properties(&application, logical);
        assert!(part["AlarmActions"].is_badvalue(), "only the combined alarm notifies");
        all.extend(watched(&part));
    }
    assert_eq!(all, queues(&stack));
}

#[test]
fn no_alarm_combines_more_than_ten_metrics() {
    let indexes = (0..20).map(|number| Index::new(format!("by-{number}"), format!("Attribute{number}")));
    let projection =
        indexes.fold(ProjectionResources::new("orders", 1).source("order"), ProjectionResources::index);
    let many_indexes = Stack::new("shop").aggregate("order").projection(projection);
    for stack in [shop(), sized(6, 40), many_indexes.clone()] {
        for template in stack.render().unwrap().in_order() {
            for (logical, alarm) in of_type(template, ALARM) {
                assert!(stats(&alarm["Properties"]).len() <= 10, "{logical}");
            }
        }
    }
    // Reads and writes of a table and 20 indexes.
    let template = &many_indexes.render().unwrap().projections[0];
    let throttling: usize =
        of_type(template, ALARM).values().map(|alarm| stats(&alarm["Properties"]).len()).sum();
    assert_eq!(throttling, 42);
}

fn alarm_names(template: &Template) -> Vec<String> {
    let alarms = of_type(template, ALARM).into_values();
    let names = alarms.map(|alarm| text(&alarm["Properties"]["AlarmName"]));
    names.map(|name| name.strip_prefix("${Prefix}-").unwrap().to_owned()).collect()
}

/// The metrics that an alarm retrieves, rather than computes.
fn stats(alarm: &Yaml) -> Vec<Yaml> {
    let Some(metrics) = alarm["Metrics"].as_vec() else { return Vec::new() };
    let metrics = metrics.iter().map(|metric| match metric["Fn::If"].as_vec() {
        Some(choice) => choice[1].clone(),
        None => metric.clone(),
    });
    metrics.filter(|metric| !metric["MetricStat"].is_badvalue()).collect()
}

fn expression(alarm: &Yaml) -> String {
    text(&alarm["Metrics"][0]["Expression"])
}

/// The queues that an alarm watches.
fn watched(alarm: &Yaml) -> Vec<String> {
    let metrics = stats(alarm).into_iter().map(|metric| metric["MetricStat"]["Metric"].clone());
    let of_queues = metrics.filter(|metric| metric["Namespace"].as_str() == Some("AWS/SQS"));
    of_queues.map(|metric| text(&metric["Dimensions"][0]["Value"])).collect()
}

fn queues(stack: &Stack) -> Vec<String> {
    stack.projections.iter().map(|projection| format!("${{Prefix}}-{}", projection.id())).collect()
}
