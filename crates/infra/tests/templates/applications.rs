//! Descriptions that the tests render.

use millrace_infra::{Index, ProjectionResources, RowWrites, Stack};

/// The example application.
pub(crate) fn shop() -> Stack {
    Stack::new("shop")
        .aggregate("user")
        .aggregate("order")
        .projection(
            ProjectionResources::new("user-profiles", 1)
                .source("user")
                .index(Index::new("by-email", "ByEmailKey")),
        )
        .projection(
            ProjectionResources::new("order-summaries", 1)
                .source("order")
                .index(Index::new("by-user", "ByUserKey").sorted_by("ByUserSort"))
                .index(Index::new("by-status", "ByStatusKey").sorted_by("ByStatusSort")),
        )
        .projection(
            ProjectionResources::new("customer-totals", 1).source("order").writing(RowWrites::Aggregating),
        )
}

/// An application of some size, each of its projections with three lists over all aggregates.
pub(crate) fn sized(aggregates: usize, projections: usize) -> Stack {
    let types: Vec<String> = (0..aggregates).map(|number| format!("aggregate-{number}")).collect();
    let with_aggregates = types.iter().fold(Stack::new("warehouse"), |stack, kind| stack.aggregate(kind));
    (0..projections).fold(with_aggregates, |stack, number| {
        let projection = ProjectionResources::new(format!("order-summaries-n{number}"), 1);
        let projection = types.iter().fold(projection, |projection, kind| projection.source(kind));
        stack.projection(
            projection
                .index(Index::new("by-user", "ByUserKey").sorted_by("ByUserSort"))
                .index(Index::new("by-status", "ByStatusKey").sorted_by("ByStatusSort"))
                .index(Index::new("by-country", "ByCountryKey").sorted_by("ByCountrySort")),
        )
    })
}
