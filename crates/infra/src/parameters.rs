//! Parameters of the templates, each with the conditions that depend on it.

use crate::{
    Stack,
    template::Settings,
    yaml::{Yaml, equals, list, map, not, number, reference, text, texts},
};

pub(crate) const WITH_ALARMS: &str = "WithAlarms";
pub(crate) const WITH_ALARM_TOPIC: &str = "WithAlarmTopic";
pub(crate) const WITH_ARCHIVE: &str = "WithArchive";
pub(crate) const WITH_CAPACITY: &str = "WithCapacity";
pub(crate) const WITH_EVENT_TYPE_INDEX: &str = "WithEventTypeIndex";
pub(crate) const WITH_MATH_ALARMS: &str = "WithMathAlarms";
pub(crate) const WITH_ROLES: &str = "WithRoles";

/// `Prefix`, which begins every name. Its pattern allows no prefix that would make a name too long.
pub(crate) fn prefix(stack: &Stack) -> Settings {
    let length = stack.max_prefix_length();
    let parameter = map([
        ("Type", text("String")),
        ("Default", text(&stack.application)),
        ("AllowedPattern", text(format!("[a-z][a-z0-9-]{{0,{}}}", length.saturating_sub(1)))),
        (
            "ConstraintDescription",
            text(format!("up to {length} lower-case letters, digits and hyphens, beginning with a letter")),
        ),
        (
            "Description",
            text(
                "Begins every name, so that several deployments fit into an account. All stacks of a deployment have \
                 the same.",
            ),
        ),
    ]);
    Settings { parameters: vec![("Prefix", parameter)], conditions: Vec::new() }
}

pub(crate) fn event_source(stack: &Stack) -> Settings {
    let parameter = map([
        ("Type", text("String")),
        ("Default", text(&stack.application)),
        ("AllowedPattern", text(r"(?!aws\.)[A-Za-z0-9_./-]{1,256}")),
        (
            "ConstraintDescription",
            text("a source that EventBridge accepts; those that begin with \"aws.\" are its own"),
        ),
        ("Description", text("The Source of every published event; the rules match on it.")),
    ]);
    Settings { parameters: vec![("EventSource", parameter)], conditions: Vec::new() }
}

/// How DynamoDB is paid for.
pub(crate) fn capacity() -> Settings {
    let billing = map([
        ("Type", text("String")),
        ("Default", text("PAY_PER_REQUEST")),
        ("AllowedValues", texts(["PAY_PER_REQUEST", "PROVISIONED"])),
        ("Description", text("How DynamoDB is paid for, by request or by provisioned capacity.")),
    ]);
    let reads = "With PROVISIONED, the reads a second of each table and index. Application Auto Scaling can scale them.";
    let writes = "With PROVISIONED, the writes a second of each table and index.";
    Settings {
        parameters: vec![
            ("BillingMode", billing),
            ("ReadCapacityUnits", count(5, None, reads)),
            ("WriteCapacityUnits", count(5, None, writes)),
        ],
        conditions: vec![(WITH_CAPACITY, equals("BillingMode", "PROVISIONED"))],
    }
}

pub(crate) fn event_type_index() -> Settings {
    let description = "Whether events can be read by type and time. Without the index an append costs half, and \
                       scanning the table is the only way to read by type.";
    Settings {
        parameters: vec![("DeployEventTypeIndex", switch(description))],
        conditions: vec![(WITH_EVENT_TYPE_INDEX, equals("DeployEventTypeIndex", "true"))],
    }
}

pub(crate) fn index_shards() -> Settings {
    let description = "Partitions that each hot index key is spread over. Writers and readers must agree on it; the \
                       stack only hands it on to its outputs.";
    Settings { parameters: vec![("IndexShards", count(4, Some(256), description))], conditions: Vec::new() }
}

pub(crate) fn archive() -> Settings {
    let days = "How many days the bus keeps events for replay.";
    Settings {
        parameters: vec![
            ("DeployArchive", switch("Whether the bus has an archive.")),
            ("ArchiveRetentionDays", count(30, None, days)),
        ],
        conditions: vec![(WITH_ARCHIVE, equals("DeployArchive", "true"))],
    }
}

pub(crate) fn queues() -> Settings {
    let receives = "Deliveries of a message before SQS itself moves it to the dead letters, without a reason. The \
                    projector gives messages up sooner, with a reason (MAX_ATTEMPTS, MAX_WAIT_DAYS). One that waits \
                    for days is delivered hundreds of times, so this is as large as SQS allows.";
    let visibility = "How long a received message stays hidden unless the projector extends it: the messages of a \
                      killed projector are late by as much.";
    Settings {
        parameters: vec![
            ("MaxReceiveCount", count(1000, Some(1000), receives)),
            ("QueueVisibilitySeconds", count(8, Some(43_200), visibility)),
        ],
        conditions: Vec::new(),
    }
}

/// Whether there are alarms. `over_several_metrics` says whether the template has such alarms.
pub(crate) fn alarms(over_several_metrics: bool) -> Settings {
    let topic = map([
        ("Type", text("String")),
        ("Default", text("")),
        ("AllowedPattern", text("|arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:.+")),
        ("ConstraintDescription", text("the ARN of an SNS topic, or nothing")),
        ("Description", text("The SNS topic that alarms are sent to, if any.")),
    ]);
    let mut settings = Settings {
        parameters: vec![
            ("DeployAlarms", switch("Whether there are CloudWatch alarms.")),
            ("AlarmTopicArn", topic),
        ],
        conditions: vec![
            (WITH_ALARMS, equals("DeployAlarms", "true")),
            (WITH_ALARM_TOPIC, not(equals("AlarmTopicArn", ""))),
        ],
    };
    if over_several_metrics {
        let description = "Whether there are alarms over several metrics too: throttling, a stopped relay. The \
                           local AWS has none.";
        settings.parameters.push(("DeployMathAlarms", switch(description)));
        let both = list([map([("Condition", text(WITH_ALARMS))]), equals("DeployMathAlarms", "true")]);
        settings.conditions.push((WITH_MATH_ALARMS, map([("Fn::And", both)])));
    }
    settings
}

pub(crate) fn max_lag() -> Settings {
    let parameter = map([
        ("Type", text("Number")),
        ("Default", number(300)),
        ("MinValue", number(60)),
        ("Description", text("The age in seconds of a queue's oldest message at which there is an alarm.")),
    ]);
    let held_back = "The messages of a queue that are hidden for half an hour on end at which there is an alarm: they \
                     wait for a newer release or a busy table. More than are in flight on a good day.";
    Settings {
        parameters: vec![("MaxLagSeconds", parameter), ("MaxHeldBack", count(100, None, held_back))],
        conditions: Vec::new(),
    }
}

/// The parameters for the service accounts that take the roles on. Only a template with roles, not merely attached
/// policies, needs the namespace.
pub(crate) fn roles(with_namespace: bool) -> Settings {
    let provider = map([
        ("Type", text("String")),
        ("Default", text("")),
        ("AllowedPattern", text("|arn:[a-z-]+:iam::[0-9]{12}:oidc-provider/.+")),
        ("ConstraintDescription", text("the ARN of an IAM OIDC provider, or nothing")),
        (
            "Description",
            text(
                "The IAM OIDC provider of the EKS cluster whose service accounts take the roles on. Without one there \
                 are only the policies, to attach to roles of your own.",
            ),
        ),
    ]);
    let namespace = map([
        ("Type", text("String")),
        ("Default", text("millrace")),
        ("AllowedPattern", text("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")),
        ("ConstraintDescription", text("a namespace of Kubernetes")),
        ("Description", text("The namespace of those service accounts.")),
    ]);
    let mut parameters = vec![("OidcProviderArn", provider)];
    if with_namespace {
        parameters.push(("KubernetesNamespace", namespace));
    }
    Settings { parameters, conditions: vec![(WITH_ROLES, not(equals("OidcProviderArn", "")))] }
}

fn switch(description: &str) -> Yaml {
    map([
        ("Type", text("String")),
        ("Default", text("true")),
        ("AllowedValues", texts(["true", "false"])),
        ("Description", text(description)),
    ])
}

/// A whole number of at least one.
fn count(default: u32, max: Option<u32>, description: &str) -> Yaml {
    let mut entries = vec![("Type", text("Number")), ("Default", number(default)), ("MinValue", number(1))];
    entries.extend(max.map(|max| ("MaxValue", number(max))));
    entries.push(("Description", text(description)));
    map(entries)
}

/// The value of `IndexShards` and the like.
pub(crate) fn value(parameter: &str) -> Yaml {
    reference(parameter)
}
