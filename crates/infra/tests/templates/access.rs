//! Policies and roles.

use std::collections::BTreeSet;

use millrace_infra::Template;

use crate::{
    applications::shop,
    reader::{of_type, properties, referred, section, text, texts},
};

/// The permissions of each program on the shop: `action` on `resource`, the latter without the beginning of its ARN. A
/// resource of `rows`, `lists`, `queues` or `letters` stands for those of all projections, `sums` and `parts` for those
/// whose rows sum up parts.
const PERMISSIONS: [(&str, &[(&str, &str)]); 6] = [
    (
        "CommandServicePolicy",
        &[
            ("dynamodb:PutItem dynamodb:Query dynamodb:DescribeTable dynamodb:Scan", "table/P-events"),
            (
                "dynamodb:DescribeStream dynamodb:GetRecords dynamodb:GetShardIterator",
                "table/P-events/stream/*",
            ),
            ("dynamodb:DeleteItem dynamodb:PutItem", "table/P-unique-keys"),
            ("dynamodb:BatchGetItem dynamodb:GetItem dynamodb:PutItem", "table/P-snapshots"),
            (
                "dynamodb:DeleteItem dynamodb:PutItem dynamodb:Scan dynamodb:UpdateItem",
                "table/P-relay-leases",
            ),
            ("events:PutEvents", "event-bus/P-events"),
        ],
    ),
    (
        "ProjectorPolicy",
        &[
            ("dynamodb:Query", "table/P-events"),
            ("dynamodb:UpdateItem", "rows"),
            ("dynamodb:GetItem", "sums"),
            (
                "sqs:ChangeMessageVisibility sqs:DeleteMessage sqs:GetQueueAttributes sqs:GetQueueUrl \
                 sqs:ReceiveMessage",
                "queues",
            ),
            ("sqs:GetQueueAttributes sqs:GetQueueUrl sqs:SendMessage", "letters"),
        ],
    ),
    (
        "QueryServicePolicy",
        &[
            ("dynamodb:BatchGetItem dynamodb:GetItem", "rows"),
            ("dynamodb:Query", "lists"),
            ("dynamodb:Query", "table/P-events"),
            ("dynamodb:Query", "table/P-events/index/EventType-Timestamp-index"),
        ],
    ),
    (
        "AuditPolicy",
        &[
            ("dynamodb:BatchGetItem dynamodb:DescribeTable dynamodb:Query dynamodb:Scan", "table/P-events"),
            ("dynamodb:Query", "table/P-events/index/EventType-Timestamp-index"),
            ("dynamodb:PutItem dynamodb:Query", "table/P-jobs"),
            (
                "dynamodb:BatchGetItem dynamodb:DescribeTable dynamodb:Scan dynamodb:DeleteItem dynamodb:PutItem \
                 dynamodb:UpdateItem",
                "rows",
            ),
            ("dynamodb:GetItem", "sums"),
            ("dynamodb:Query", "parts"),
        ],
    ),
    (
        "RedrivePolicy",
        &[
            (
                "sqs:ChangeMessageVisibility sqs:DeleteMessage sqs:GetQueueAttributes sqs:GetQueueUrl \
                 sqs:ReceiveMessage",
                "letters",
            ),
            ("sqs:GetQueueAttributes sqs:GetQueueUrl sqs:SendMessage", "queues"),
        ],
    ),
    ("QueueDepthPolicy", &[("sqs:GetQueueAttributes", "queues"), ("cloudwatch:GetMetricData", "*")]),
];

const PROJECTIONS: [&str; 3] = ["P-user-profiles-v1", "P-order-summaries-v1", "P-customer-totals-v1"];
const LISTS: [&str; 3] = [
    "P-user-profiles-v1/index/by-email",
    "P-order-summaries-v1/index/by-user",
    "P-order-summaries-v1/index/by-status",
];

#[test]
fn each_program_may_do_what_it_does_and_nothing_else() {
    let templates = shop().render().unwrap();
    let access = [&templates.service_access[0], &templates.operator_access[0]];
    let policies: usize = access.iter().map(|each| of_type(each, "AWS::IAM::ManagedPolicy").len()).sum();
    assert_eq!(policies, PERMISSIONS.len());
    for (policy, permissions) in PERMISSIONS {
        let template =
            access.into_iter().find(|each| section(each, "Resources").contains_key(policy)).unwrap();
        let expected: BTreeSet<_> =
            permissions.iter().flat_map(|(actions, resource)| expanded(actions, resource)).collect();
        assert_eq!(allowed(template, policy), expected, "{policy}");
    }
}

#[test]
fn a_role_is_for_the_service_account_with_its_name() {
    let templates = shop().render().unwrap();
    for (template, names) in [
        (&templates.service_access[0], &["command-service", "projector", "query-service"][..]),
        (&templates.operator_access[0], &["audit", "redrive"]),
    ] {
        let roles = of_type(template, "AWS::IAM::Role");
        assert_eq!(roles.len(), names.len());
        for name in names {
            let (logical, role) = roles
                .iter()
                .find(|(_, role)| text(&role["Properties"]["RoleName"]) == format!("${{Prefix}}-{name}"))
                .unwrap();
            assert_eq!(role["Condition"].as_str(), Some("WithRoles"));
            let policy = referred(&role["Properties"]["ManagedPolicyArns"][0]).to_owned();
            assert_eq!(policy, logical.replace("Role", "Policy"));
            assert_eq!(
                text(&properties(template, &policy)["ManagedPolicyName"]),
                format!("${{Prefix}}-{name}")
            );
            let trust = &role["Properties"]["AssumeRolePolicyDocument"]["Fn::Sub"];
            let document = text(&trust[0]);
            assert!(document.contains(r#""Federated": "${OidcProviderArn}""#));
            assert!(document.contains(r#""${Issuer}:aud": "sts.amazonaws.com""#));
            let account =
                format!(r#""${{Issuer}}:sub": "system:serviceaccount:${{KubernetesNamespace}}:{name}""#);
            assert!(document.contains(&account));
            assert!(!trust[1]["Issuer"].is_badvalue());
        }
    }
}

/// The pairs of action and resource that a policy allows.
fn allowed(template: &Template, policy: &str) -> BTreeSet<(String, String)> {
    let statements = properties(template, policy)["PolicyDocument"]["Statement"].clone();
    let mut pairs = BTreeSet::new();
    for statement in statements.as_vec().unwrap() {
        assert_eq!(text(&statement["Effect"]), "Allow");
        for action in texts(&statement["Action"]) {
            let service = action.split(':').next().unwrap();
            let beginning =
                format!("arn:${{AWS::Partition}}:{service}:${{AWS::Region}}:${{AWS::AccountId}}:");
            for resource in texts(&statement["Resource"]) {
                // Actions that know no resource.
                let known = if resource == "*" { Some("*") } else { resource.strip_prefix(&beginning) };
                let known = known.unwrap_or_else(|| panic!("{resource}"));
                pairs.insert((action.clone(), known.replace("${Prefix}", "P")));
            }
        }
    }
    pairs
}

fn expanded(actions: &str, resource: &str) -> Vec<(String, String)> {
    let resources: Vec<String> = match resource {
        "rows" => PROJECTIONS.map(|name| format!("table/{name}")).into(),
        "sums" => vec!["table/P-customer-totals-v1".to_owned()],
        "parts" => vec!["table/P-customer-totals-v1/index/by-target".to_owned()],
        "lists" => LISTS.map(|name| format!("table/{name}")).into(),
        "queues" => PROJECTIONS.map(str::to_owned).into(),
        "letters" => PROJECTIONS.map(|name| format!("{name}-dead-letters")).into(),
        other => vec![other.to_owned()],
    };
    let pairs = actions
        .split_whitespace()
        .flat_map(|action| resources.iter().map(move |resource| (action.to_owned(), resource.clone())));
    pairs.collect()
}
