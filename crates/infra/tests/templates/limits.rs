//! Limits of AWS.

use millrace_infra::{Index, InfraError, ProjectionResources, Stack, Template};
use yaml_rust2::Yaml;

use crate::{
    applications::{shop, sized},
    reader::{of_type, properties, section, text, texts},
};

/// The limit of CloudFormation.
const MAX_BYTES: usize = 51_200;

#[test]
fn ten_projections_stay_far_below_the_limit() {
    for stack in [shop(), sized(6, 10)] {
        for template in stack.render().unwrap().in_order() {
            let bytes = template.body().len();
            assert!(bytes < MAX_BYTES / 2, "{}: {bytes} bytes", template.name());
        }
    }
}

#[test]
fn forty_projections_are_rendered() {
    let templates = sized(6, 40).render().unwrap();
    assert_eq!(templates.projections.len(), 40);
    for template in templates.in_order() {
        let bytes = template.body().len();
        assert!(bytes < MAX_BYTES * 2 / 3, "{}: {bytes} bytes", template.name());
    }
}

#[test]
fn a_template_that_would_be_too_large_is_refused() {
    let error = sized(6, 100).render().unwrap_err();
    let InfraError::Limit { subject, found, limit, .. } = &error else { panic!("{error}") };
    assert_eq!(subject, "the template \"application\"");
    assert!(found > limit);
    let message = error.to_string();
    assert!(message.contains(&found.to_string()) && message.contains("51200"), "{message}");
    assert!(message.contains("Move some projections to an application of their own"), "{message}");
}

#[test]
fn the_largest_projection_fits() {
    let template = &with_indexes(20).render().unwrap().projections[0];
    assert!(template.body().len() < MAX_BYTES, "{} bytes", template.body().len());
}

#[test]
fn more_indexes_than_a_table_may_have_are_refused() {
    let error = with_indexes(21).render().unwrap_err();
    assert!(matches!(error, InfraError::Limit { found: 21, limit: 20, unit: "indexes", .. }), "{error}");
}

#[test]
fn an_event_pattern_that_would_be_too_long_is_refused() {
    let types = || (0..200).map(|number| format!("aggregate-{number}"));
    let many = types().fold(Stack::new("shop"), Stack::aggregate);
    let projection = types().fold(ProjectionResources::new("orders", 1), ProjectionResources::source);
    for (stack, expected) in [
        (many.clone().projection(projection), "the projection \"orders-v1\""),
        (many, "aggregates without a projection"),
    ] {
        let error = stack.render().unwrap_err();
        let InfraError::Limit { subject, limit: 2048, .. } = &error else { panic!("{error}") };
        assert_eq!(subject, &format!("the event pattern of {expected}"));
    }
}

#[test]
fn a_policy_that_would_be_too_long_gets_further_parts() {
    let templates = sized(6, 40).render().unwrap();
    let names: Vec<&str> = templates.service_access.iter().map(Template::name).collect();
    assert_eq!(names, ["service-access", "service-access-2", "service-access-3", "service-access-4"]);
    for (template, part) in templates.service_access.iter().chain(&templates.operator_access).zip(1..) {
        for (logical, policy) in of_type(template, "AWS::IAM::ManagedPolicy") {
            let characters = document_length(&policy["Properties"]["PolicyDocument"]);
            assert!(characters <= 6144, "{logical} {part}: {characters} characters");
        }
    }
    let second = &templates.service_access[1];
    assert!(of_type(second, "AWS::IAM::Role").is_empty());
    assert_eq!(second.parameters(), ["Prefix", "OidcProviderArn"]);
    let policy = properties(second, "ProjectorPolicy");
    assert_eq!(text(&policy["ManagedPolicyName"]), "${Prefix}-projector-2");
    let attached = &policy["Roles"]["Fn::If"];
    assert_eq!(text(&attached[0]), "WithRoles");
    assert_eq!(texts(&attached[1]), ["${Prefix}-projector"]);
}

#[test]
fn each_projection_is_in_a_policy_of_every_program() {
    let stack = sized(6, 40);
    let templates = stack.render().unwrap();
    for (access, program, times) in [
        (&templates.service_access, "Projector", 3),
        (&templates.service_access, "QueryService", 4),
        (&templates.operator_access, "Audit", 2),
        (&templates.operator_access, "Redrive", 2),
        (&templates.operator_access, "QueueDepth", 1),
    ] {
        let policies =
            access.iter().filter_map(|each| section(each, "Resources").remove(&format!("{program}Policy")));
        let resources: Vec<String> = policies.flat_map(|policy| resources(&policy)).collect();
        for projection in &stack.projections {
            let id = format!("${{Prefix}}-{}", projection.id());
            let of_projection = resources.iter().filter(|resource| {
                let rest = resource.split_once(&id).map(|(_, rest)| rest);
                rest.is_some_and(|rest| {
                    rest.is_empty() || rest.starts_with("/index/") || rest == "-dead-letters"
                })
            });
            assert_eq!(of_projection.count(), times, "{program}, {id}");
        }
    }
}

/// The resources of all statements of a policy.
fn resources(policy: &Yaml) -> Vec<String> {
    let statements = policy["Properties"]["PolicyDocument"]["Statement"].as_vec().unwrap();
    statements.iter().flat_map(|statement| texts(&statement["Resource"])).collect()
}

#[test]
fn a_projection_too_large_for_a_policy_is_refused() {
    let projection =
        (0..20).fold(ProjectionResources::new("orders", 1).source("order"), |projection, number| {
            projection.index(Index::new(format!("by-{number:0>250}"), format!("Attribute{number}")))
        });
    let error = Stack::new("shop").aggregate("order").projection(projection).render().unwrap_err();
    assert!(matches!(error, InfraError::Limit { limit: 6144, .. }), "{error}");
}

#[test]
fn more_policies_than_a_role_accepts_are_refused() {
    let projections = with_indexes(20).projections;
    let stack = (1..30).fold(Stack::new("shop").aggregate("order"), |stack, version| {
        let mut projection = projections[0].clone();
        projection.version = version;
        stack.projection(projection)
    });
    let error = stack.render().unwrap_err();
    assert!(matches!(error, InfraError::Limit { unit: "managed policies", limit: 10, .. }), "{error}");
}

#[test]
fn a_pattern_that_would_be_too_long_is_refused() {
    let types: Vec<String> =
        (0..60).map(|number| format!("aggregate-with-a-long-name-{number:0>3}")).collect();
    let stack = types.iter().fold(Stack::new("shop"), |stack, kind| stack.aggregate(kind));
    let projection = types
        .iter()
        .fold(ProjectionResources::new("everything", 1), |projection, kind| projection.source(kind));
    let error = stack.projection(projection).render().unwrap_err();
    assert!(matches!(error, InfraError::Limit { limit: 2048, .. }), "{error}");
}

fn with_indexes(count: usize) -> Stack {
    let projection =
        (0..count).fold(ProjectionResources::new("orders", 1).source("order"), |projection, number| {
            projection.index(
                Index::new(format!("by-{number}"), format!("Key{number}")).sorted_by(format!("Sort{number}")),
            )
        });
    Stack::new("shop").aggregate("order").projection(projection)
}

/// The characters of a policy in a region with a long name, with the longest prefix that the parameter allows.
fn document_length(document: &Yaml) -> usize {
    let mut length = r#"{"Version":"2012-10-17","Statement":[]}"#.len();
    for statement in document["Statement"].as_vec().unwrap() {
        length +=
            r#"{"Sid":"","Effect":"Allow","Action":[],"Resource":[]},"#.len() + text(&statement["Sid"]).len();
        let resources = texts(&statement["Resource"]).into_iter().map(|resource| {
            resource
                .replace("${AWS::Partition}", "aws-us-gov")
                .replace("${AWS::Region}", "ap-southeast-1")
                .replace("${AWS::AccountId}", "111122223333")
                .replace("${Prefix}", &"p".repeat(40))
        });
        length += resources.chain(texts(&statement["Action"])).map(|text| text.len() + 3).sum::<usize>();
    }
    length
}
