//! Policies and roles: what each service and each operator's command may do, and no more.

use crate::{
    InfraError, ProjectionResources, RowWrites, Stack, arn,
    error::SPLIT_APPLICATION,
    names, parameters,
    parameters::WITH_ROLES,
    policy::{Statement, document, policies},
    template::{Draft, PREFIX, Template, resource, resource_if},
    yaml::{Yaml, arn_of, list, map, number, only_if, reference, sub, text},
};

/// Everything that has a policy.
pub(crate) const PROGRAMS: [&str; 6] =
    ["command-service", "projector", "query-service", "audit", "redrive", "queue-depth"];

/// A service or an operator's command.
struct Program {
    name: &'static str,
    description: &'static str,
    /// Whether it has a service account of its own, and so a role.
    has_role: bool,
    /// Permissions that do not depend on projections.
    fixed: Vec<Statement>,
    /// Permissions for a projection.
    each: fn(&ProjectionResources) -> Vec<Statement>,
}

/// A program's policies in parts, each within the size of a policy.
struct Access {
    program: Program,
    parts: Vec<Vec<Statement>>,
}

/// The templates of the three services' policies and roles.
pub(crate) fn services(stack: &Stack) -> Result<Vec<Template>, InfraError> {
    let description = "Millrace: policies and roles of the services, each with what it uses and no more.";
    templates(stack, "service-access", description, [command_service(), projector(), query_service()])
}

/// The templates of the operator's commands' policies and roles.
pub(crate) fn operators(stack: &Stack) -> Result<Vec<Template>, InfraError> {
    let description = "Millrace: policies and roles of the operator's commands, and the policy of KEDA.";
    templates(stack, "operator-access", description, [audit(), redrive(), queue_depth()])
}

/// A template with the roles and the first part of each policy, and one for every further part. So the size of a
/// template is bounded by that of a policy.
fn templates(
    stack: &Stack,
    name: &str,
    description: &'static str,
    programs: [Program; 3],
) -> Result<Vec<Template>, InfraError> {
    let mut access = Vec::new();
    for program in programs {
        let parts = policies(
            program.name,
            &program.fixed,
            &stack.projections,
            program.each,
            stack.max_prefix_length(),
        )?;
        access.push(Access { program, parts });
    }
    let last = access.iter().map(|each| each.parts.len()).max().unwrap_or_default();
    let mut templates = Vec::new();
    for part in 1..=last {
        let mut draft = Draft::new(description);
        draft.settings(parameters::prefix(stack));
        draft.settings(parameters::roles(part == 1));
        access.iter().for_each(|each| add(&mut draft, each, part));
        templates.push(draft.finish(numbered(name, part), SPLIT_APPLICATION)?);
    }
    Ok(templates)
}

/// Adds a part of a program's policy. The first is attached to the role where that stands; the others attach themselves
/// to it, because they are in stacks of their own.
fn add(draft: &mut Draft, access: &Access, part: usize) {
    let Some(statements) = access.parts.get(part - 1) else { return };
    let Program { name, description, has_role, .. } = access.program;
    let pascal = names::pascal_case(name);
    let policy = format!("{pascal}Policy");
    let mut properties = vec![
        ("ManagedPolicyName", sub(numbered(&names::access(PREFIX, name), part))),
        ("Description", text(description)),
        ("PolicyDocument", document(statements)),
    ];
    if has_role && part > 1 {
        let role = list([sub(names::access(PREFIX, name))]);
        properties.push(("Roles", only_if(WITH_ROLES, role)));
    }
    draft.resource(&policy, resource("AWS::IAM::ManagedPolicy", properties));
    if has_role && part == 1 {
        let role = format!("{pascal}Role");
        draft.resource(&role, self::role(name, description, &policy));
        draft.output_if(WITH_ROLES, format!("{role}Arn"), arn_of(&role));
    }
}

/// `projector`, `projector-2`, `projector-3` …
fn numbered(name: &str, part: usize) -> String {
    if part == 1 { name.to_owned() } else { format!("{name}-{part}") }
}

/// A role for the service account with the program's name. The conditions of its trust are named after the issuer, and
/// CloudFormation has no keys with placeholders: so the document is a text.
fn role(name: &str, description: &str, policy: &str) -> Yaml {
    let trust = format!(
        r#"{{
  "Version": "2012-10-17",
  "Statement": [{{
    "Effect": "Allow",
    "Principal": {{ "Federated": "${{OidcProviderArn}}" }},
    "Action": "sts:AssumeRoleWithWebIdentity",
    "Condition": {{ "StringEquals": {{
      "${{Issuer}}:aud": "sts.amazonaws.com",
      "${{Issuer}}:sub": "system:serviceaccount:${{KubernetesNamespace}}:{name}"
    }} }}
  }}]
}}"#
    );
    let provider = list([text(":oidc-provider/"), reference("OidcProviderArn")]);
    let issuer = map([("Fn::Select", list([number(1), map([("Fn::Split", provider)])]))]);
    let trust = map([("Fn::Sub", list([text(trust), map([("Issuer", issuer)])]))]);
    resource_if(
        WITH_ROLES,
        "AWS::IAM::Role",
        [
            ("RoleName", sub(names::access(PREFIX, name))),
            ("Description", text(description)),
            ("ManagedPolicyArns", list([reference(policy)])),
            ("AssumeRolePolicyDocument", trust),
        ],
    )
}

fn command_service() -> Program {
    let events = names::events(PREFIX);
    let table = |name: String| [arn::table(&name)];
    let fixed = vec![
        Statement::new("AppendAndLoad", &["dynamodb:PutItem", "dynamodb:Query"], table(events.clone())),
        Statement::new("Refill", &["dynamodb:DescribeTable", "dynamodb:Scan"], table(events.clone())),
        Statement::new(
            "ReadTheStream",
            &["dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator"],
            [arn::streams(&events)],
        ),
        Statement::new(
            "ClaimAndRelease",
            &["dynamodb:DeleteItem", "dynamodb:PutItem"],
            table(names::unique_keys(PREFIX)),
        ),
        Statement::new(
            "Snapshots",
            &["dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:PutItem"],
            table(names::snapshots(PREFIX)),
        ),
        Statement::new(
            "Leases",
            &["dynamodb:DeleteItem", "dynamodb:PutItem", "dynamodb:Scan", "dynamodb:UpdateItem"],
            table(names::relay_leases(PREFIX)),
        ),
        Statement::new("Publish", &["events:PutEvents"], [arn::event_bus(&names::bus(PREFIX))]),
    ];
    Program {
        name: "command-service",
        description: "Commands and the relay. No read models.",
        has_role: true,
        fixed,
        each: |_| Vec::new(),
    }
}

fn projector() -> Program {
    let events = [arn::table(&names::events(PREFIX))];
    Program {
        name: "projector",
        description: "Projections. Reads single streams of the event store.",
        has_role: true,
        fixed: vec![Statement::new("FillGaps", &["dynamodb:Query"], events)],
        each: |projection| {
            vec![
                Statement::new("WriteRows", &["dynamodb:UpdateItem"], [table_of(projection)]),
                Statement::new("ReadRowsFirst", &["dynamodb:GetItem"], read_first(projection)),
                Statement::new(
                    "Consume",
                    &[
                        "sqs:ChangeMessageVisibility",
                        "sqs:DeleteMessage",
                        "sqs:GetQueueAttributes",
                        "sqs:GetQueueUrl",
                        "sqs:ReceiveMessage",
                    ],
                    [queue_of(projection)],
                ),
                Statement::new(
                    "GiveUp",
                    &["sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:SendMessage"],
                    [dead_letters_of(projection)],
                ),
            ]
        },
    }
}

fn query_service() -> Program {
    let events = names::events(PREFIX);
    let history = [arn::table(&events), arn::index(&events, names::EVENT_TYPE_INDEX)];
    Program {
        name: "query-service",
        description: "Queries. Nothing is written.",
        has_role: true,
        fixed: vec![Statement::new("ReadThePast", &["dynamodb:Query"], history)],
        each: |projection| {
            let table = names::table(PREFIX, &projection.id());
            let lists = projection.indexes.iter().filter(|index| !index.keys_only);
            let indexes = lists.map(|index| arn::index(&table, &index.name));
            vec![
                Statement::new(
                    "ReadRows",
                    &["dynamodb:BatchGetItem", "dynamodb:GetItem"],
                    [table_of(projection)],
                ),
                Statement::new("ReadLists", &["dynamodb:Query"], indexes),
            ]
        },
    }
}

fn audit() -> Program {
    let events = [arn::table(&names::events(PREFIX))];
    let read = &["dynamodb:BatchGetItem", "dynamodb:DescribeTable", "dynamodb:Query", "dynamodb:Scan"];
    Program {
        name: "audit",
        description: "projector audit, with --repair.",
        has_role: true,
        fixed: vec![
            Statement::new("ReadEvents", read, events),
            Statement::new(
                "ReadRecentEvents",
                &["dynamodb:Query"],
                [arn::index(&names::events(PREFIX), names::EVENT_TYPE_INDEX)],
            ),
            Statement::new(
                "KeepProgress",
                &["dynamodb:PutItem", "dynamodb:Query"],
                [arn::table(&names::jobs(PREFIX))],
            ),
        ],
        each: |projection| {
            vec![
                Statement::new(
                    "ReadRows",
                    &["dynamodb:BatchGetItem", "dynamodb:DescribeTable", "dynamodb:Scan"],
                    [table_of(projection)],
                ),
                Statement::new("ReadSums", &["dynamodb:GetItem"], of_parts(projection, table_of(projection))),
                Statement::new(
                    "ReadParts",
                    &["dynamodb:Query"],
                    of_parts(projection, part_index_of(projection)),
                ),
                Statement::new(
                    "Repair",
                    &["dynamodb:DeleteItem", "dynamodb:PutItem", "dynamodb:UpdateItem"],
                    [table_of(projection)],
                ),
            ]
        },
    }
}

fn redrive() -> Program {
    Program {
        name: "redrive",
        description: "projector redrive.",
        has_role: true,
        fixed: Vec::new(),
        each: |projection| {
            vec![
                Statement::new(
                    "TakeLetters",
                    &[
                        "sqs:ChangeMessageVisibility",
                        "sqs:DeleteMessage",
                        "sqs:GetQueueAttributes",
                        "sqs:GetQueueUrl",
                        "sqs:ReceiveMessage",
                    ],
                    [dead_letters_of(projection)],
                ),
                Statement::new(
                    "SendBack",
                    &["sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:SendMessage"],
                    [queue_of(projection)],
                ),
            ]
        },
    }
}

fn queue_depth() -> Program {
    Program {
        name: "queue-depth",
        description: "For what scales the projector by its queues, such as the role of the KEDA operator.",
        has_role: false,
        fixed: Vec::new(),
        each: |projection| {
            vec![
                Statement::new("ReadDepth", &["sqs:GetQueueAttributes"], [queue_of(projection)]),
                // CloudWatch knows no narrower resource.
                Statement::new("ReadAge", &["cloudwatch:GetMetricData"], ["*".to_owned()]),
            ]
        },
    }
}

fn table_of(projection: &ProjectionResources) -> String {
    arn::table(&names::table(PREFIX, &projection.id()))
}

/// The table of a projection that reads a row before it writes it.
fn read_first(projection: &ProjectionResources) -> Option<String> {
    match projection.writes {
        RowWrites::Blind => None,
        RowWrites::Fold | RowWrites::Aggregating => Some(table_of(projection)),
    }
}

/// A resource of a projection whose rows sum up parts.
fn of_parts(projection: &ProjectionResources, resource: String) -> Option<String> {
    match projection.writes {
        RowWrites::Blind | RowWrites::Fold => None,
        RowWrites::Aggregating => Some(resource),
    }
}

fn part_index_of(projection: &ProjectionResources) -> String {
    let table = names::table(PREFIX, &projection.id());
    arn::index(&table, names::PART_INDEX)
}

fn queue_of(projection: &ProjectionResources) -> String {
    arn::queue(&names::queue(PREFIX, &projection.id()))
}

fn dead_letters_of(projection: &ProjectionResources) -> String {
    arn::queue(&names::dead_letter_queue(PREFIX, &projection.id()))
}
