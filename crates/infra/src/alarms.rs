//! Alarms of CloudWatch.

use crate::{
    parameters::{WITH_ALARM_TOPIC, WITH_ALARMS, WITH_MATH_ALARMS},
    template::resource_if,
    yaml::{Yaml, flag, list, map, number, only_if, reference, sub, text},
};

/// The metrics that an alarm may combine (CloudWatch User Guide, "Limits that apply to alarms based on metric math
/// expressions"). It cannot be raised.
pub(crate) const MAX_METRICS: usize = 10;

const ALARM: &str = "AWS::CloudWatch::Alarm";

/// An alarm on one metric of a queue, by the queue's logical name.
pub(crate) struct QueueAlarm<'a> {
    pub(crate) name: String,
    pub(crate) description: &'a str,
    pub(crate) queue: &'a str,
    pub(crate) metric: &'a str,
    /// Of the values within a minute.
    pub(crate) statistic: &'a str,
    pub(crate) minutes: u32,
    pub(crate) threshold: Yaml,
}

impl QueueAlarm<'_> {
    pub(crate) fn resource(self) -> Yaml {
        let queue = sub(format!("${{{}.QueueName}}", self.queue));
        let mut properties = vec![
            ("AlarmName", sub(self.name)),
            ("AlarmDescription", text(self.description)),
            ("Namespace", text("AWS/SQS")),
            ("MetricName", text(self.metric)),
            ("Dimensions", list([dimension("QueueName", queue)])),
            ("Statistic", text(self.statistic)),
            ("Period", number(60)),
        ];
        properties.extend(evaluation(self.minutes, self.threshold));
        properties.extend(actions());
        resource_if(WITH_ALARMS, ALARM, properties)
    }
}

/// An alarm of messages that arrived in a queue where none should.
pub(crate) fn any_message(name: &str, description: &str, queue: &str) -> Yaml {
    let alarm = QueueAlarm {
        name: name.to_owned(),
        description,
        queue,
        metric: "ApproximateNumberOfMessagesVisible",
        statistic: "Maximum",
        minutes: 1,
        threshold: number(1),
    };
    alarm.resource()
}

/// An alarm on an expression over several metrics, which is 1 where something is wrong.
pub(crate) struct MathAlarm<'a> {
    pub(crate) name: String,
    pub(crate) description: &'a str,
    pub(crate) expression: String,
    pub(crate) metrics: Vec<Yaml>,
    pub(crate) periods: u32,
    /// Whether it is sent to the topic, rather than only read by a composite alarm.
    pub(crate) notifies: bool,
}

impl MathAlarm<'_> {
    pub(crate) fn resource(self) -> Yaml {
        let found =
            map([("Id", text("found")), ("Expression", text(self.expression)), ("ReturnData", flag(true))]);
        let mut properties = vec![
            ("AlarmName", sub(self.name)),
            ("AlarmDescription", text(self.description)),
            ("Metrics", list([found].into_iter().chain(self.metrics))),
        ];
        properties.extend(evaluation(self.periods, number(1)));
        if self.notifies {
            properties.extend(actions());
        }
        resource_if(WITH_MATH_ALARMS, ALARM, properties)
    }
}

/// An alarm that is raised while all of `alarms`, by their logical names, are.
pub(crate) fn all_of(name: String, description: &str, alarms: &[String]) -> Yaml {
    let rule: Vec<String> = alarms.iter().map(|alarm| format!("ALARM(\"${{{alarm}}}\")")).collect();
    let mut properties = vec![
        ("AlarmName", sub(name)),
        ("AlarmDescription", text(description)),
        ("AlarmRule", sub(rule.join(" AND "))),
    ];
    properties.extend(actions());
    resource_if(WITH_MATH_ALARMS, "AWS::CloudWatch::CompositeAlarm", properties)
}

/// A metric within a [`MathAlarm`]: its sum over a period of seconds.
pub(crate) fn metric(
    id: &str,
    (namespace, name): (&str, &str),
    period: u32,
    dimensions: impl IntoIterator<Item = Yaml>,
) -> Yaml {
    let metric =
        map([("Namespace", text(namespace)), ("MetricName", text(name)), ("Dimensions", list(dimensions))]);
    let stat = map([("Stat", text("Sum")), ("Period", number(period)), ("Metric", metric)]);
    map([("Id", text(id)), ("ReturnData", flag(false)), ("MetricStat", stat)])
}

pub(crate) fn dimension(name: &str, value: Yaml) -> Yaml {
    map([("Name", text(name)), ("Value", value)])
}

/// An index as its table's throttling alarm watches it.
pub(crate) struct WatchedIndex<'a> {
    pub(crate) name: &'a str,
    /// The condition under which the index exists, if it does not always.
    pub(crate) condition: Option<&'a str>,
}

/// The alarms of a table that refuses requests, with their logical names. A table with more than four indexes has more
/// metrics than an alarm may combine, and therefore more alarms.
///
/// On-demand tables throttle short bursts, and retries heal that: only five minutes in a row are an alarm.
pub(crate) fn throttling(
    logical: &str,
    table: &str,
    table_name: &str,
    indexes: &[WatchedIndex<'_>],
) -> Vec<(String, Yaml)> {
    let metrics: Vec<Yaml> = ["Read", "Write"]
        .into_iter()
        .flat_map(|operation| throttle_metrics(operation, table, indexes))
        .collect();
    metrics
        .chunks(MAX_METRICS)
        .enumerate()
        .map(|(part, metrics)| {
            let (name, logical) = match part {
                0 => (format!("{table_name}-throttled"), format!("{logical}ThrottleAlarm")),
                _ => (
                    format!("{table_name}-throttled-{}", part + 1),
                    format!("{logical}ThrottleAlarm{}", part + 1),
                ),
            };
            let alarm = MathAlarm {
                name,
                description: "DynamoDB has refused requests to the table or its indexes for five minutes.",
                expression: "SUM(FILL(METRICS(), 0))".to_owned(),
                metrics: metrics.to_vec(),
                periods: 5,
                notifies: true,
            };
            (logical, alarm.resource())
        })
        .collect()
}

/// Refused reads or writes of a table and of each of its indexes.
fn throttle_metrics(operation: &str, table: &str, indexes: &[WatchedIndex<'_>]) -> Vec<Yaml> {
    let metric_name = format!("{operation}ThrottleEvents");
    let id = format!("{}s", operation.to_ascii_lowercase());
    let of_table = || dimension("TableName", reference(table));
    let metric = |id: &str, dimensions: Vec<Yaml>| metric(id, ("AWS/DynamoDB", &metric_name), 60, dimensions);
    let mut metrics = vec![metric(&id, vec![of_table()])];
    for (place, index) in indexes.iter().enumerate() {
        let of_index = dimension("GlobalSecondaryIndexName", text(index.name));
        let metric = metric(&format!("{id}{place}"), vec![of_table(), of_index]);
        metrics.push(match index.condition {
            Some(condition) => only_if(condition, metric),
            None => metric,
        });
    }
    metrics
}

fn evaluation(periods: u32, threshold: Yaml) -> [(&'static str, Yaml); 4] {
    [
        ("EvaluationPeriods", number(periods)),
        ("Threshold", threshold),
        ("ComparisonOperator", text("GreaterThanOrEqualToThreshold")),
        ("TreatMissingData", text("notBreaching")),
    ]
}

fn actions() -> [(&'static str, Yaml); 2] {
    let topic = || only_if(WITH_ALARM_TOPIC, list([reference("AlarmTopicArn")]));
    [("AlarmActions", topic()), ("OKActions", topic())]
}
