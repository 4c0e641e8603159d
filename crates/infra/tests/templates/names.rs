//! Names that are refused, and names that are declared twice.

use millrace_infra::{Index, InfraError, ProjectionResources, Stack, names::NameKind};

use crate::{
    applications::shop,
    reader::{section, text},
};

fn refused(stack: &Stack) -> InfraError {
    let error = stack.render().unwrap_err();
    // Every message ends with the way out: a sentence that names something to do.
    let message = error.to_string();
    let way_out = message.rsplit(". ").next().unwrap();
    assert!(way_out.split(' ').count() > 3, "{message}");
    error
}

#[track_caller]
fn assert_name(stack: &Stack, expected_kind: NameKind, expected_name: &str) {
    let error = refused(stack);
    let InfraError::Name { kind, name, .. } = &error else { panic!("{error}") };
    assert_eq!((*kind, name.as_str()), (expected_kind, expected_name), "{error}");
    assert!(error.to_string().contains(expected_name), "{error}");
}

fn with(projection: ProjectionResources) -> Stack {
    Stack::new("shop").aggregate("order").projection(projection.source("order"))
}

#[test]
fn an_application_has_the_name_of_a_prefix() {
    for name in ["", "Shop", "7shop", "sh_op", "shöp", &"s".repeat(41)] {
        assert_name(&Stack::new(name), NameKind::Prefix, name);
    }
}

#[test]
fn a_projection_is_named_by_words() {
    for name in
        ["", "Orders", "order_summaries", "order--summaries", "-orders", "orders-", "orders-2nd", "7orders"]
    {
        assert_name(&with(ProjectionResources::new(name, 1)), NameKind::Projection, name);
    }
}

#[test]
fn names_too_long_for_their_resource_are_refused() {
    // The rule has the least room: 64 characters with prefix and version.
    let longest = "o".repeat(64 - "shop-".len() - "-v1".len());
    with(ProjectionResources::new(&longest, 1)).render().unwrap();
    let rule = format!("shop-{longest}-v10");
    assert_name(&with(ProjectionResources::new(&longest, 10)), NameKind::Rule, &rule);
    assert_name(
        &Stack::new("s".repeat(40))
            .aggregate("order")
            .projection(ProjectionResources::new("orders-by-customer-and-country", 1).source("order")),
        NameKind::Queue,
        &format!("{}-orders-by-customer-and-country-v1-dead-letters", "s".repeat(40)),
    );
}

#[test]
fn the_parameter_allows_no_prefix_that_would_make_a_name_too_long() {
    assert_eq!(shop().max_prefix_length(), 40);
    let stack = with(ProjectionResources::new("orders-by-customer-and-country", 1));
    assert_eq!(stack.max_prefix_length(), 30);
    for template in stack.render().unwrap().in_order() {
        let pattern = text(&section(template, "Parameters")["Prefix"]["AllowedPattern"]);
        assert_eq!(pattern, "[a-z][a-z0-9-]{0,29}");
    }
    stack.queues(&"p".repeat(30)).unwrap();
    let error = stack.queues(&"p".repeat(31)).unwrap_err();
    assert!(matches!(error, InfraError::Name { kind: NameKind::Rule | NameKind::Queue, .. }), "{error}");
}

#[test]
fn indexes_and_attributes_have_names_that_dynamodb_accepts() {
    for name in ["by", "by user", "by/user", &"b".repeat(256)] {
        let projection = ProjectionResources::new("orders", 1).index(Index::new(name, "User"));
        assert_name(&with(projection), NameKind::Index, name);
    }
    for attribute in ["", "Us\ner", &"u".repeat(256)] {
        let projection = ProjectionResources::new("orders", 1).index(Index::new("by-user", attribute));
        let error = refused(&with(projection));
        assert!(matches!(error, InfraError::Name { kind: NameKind::Attribute, .. }), "{error}");
    }
}

#[test]
fn an_index_needs_two_attributes_for_two_keys() {
    let index = Index::new("by-user", "User").sorted_by("User");
    let error = refused(&with(ProjectionResources::new("orders", 1).index(index)));
    assert!(matches!(error, InfraError::IndexKey { .. }), "{error}");
}

#[test]
fn what_is_declared_twice_is_refused() {
    let orders = || ProjectionResources::new("orders", 1);
    let by_user = || Index::new("by-user", "User");
    for (stack, thing, name) in [
        (Stack::new("shop").aggregate("order").aggregate("order"), "aggregate", "order"),
        (with(orders()).projection(orders().source("order")), "projection", "orders-v1"),
        (with(orders().source("order")), "source", "order"),
        (with(orders().index(by_user()).index(by_user())), "index", "by-user"),
    ] {
        let error = refused(&stack);
        let InfraError::Duplicate { thing: found, name: twice, .. } = &error else { panic!("{error}") };
        assert_eq!((*found, twice.as_str()), (thing, name));
    }
}

#[test]
fn a_projection_has_sources_that_the_application_knows() {
    let error = refused(&Stack::new("shop").projection(ProjectionResources::new("orders", 1)));
    assert!(matches!(error, InfraError::NoSources { .. }), "{error}");

    let stack = Stack::new("shop").aggregate("user").aggregate("stock");
    let error = refused(&stack.projection(ProjectionResources::new("orders", 1).source("order")));
    let message = error.to_string();
    assert!(message.contains("\"order\"") && message.contains("user, stock"), "{message}");
}
