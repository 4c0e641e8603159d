//! From the registration to the infrastructure.

use millrace_core::{
    Application,
    projection::{ProjectionKind, ProjectionSpec},
};
use millrace_infra::{Index, ProjectionResources, RowWrites, Stack};

/// The infrastructure of an application, ready to be rendered.
#[must_use]
pub fn description(application: &Application) -> Stack {
    let mut stack = Stack::new(application.name());
    for aggregate in application.aggregates() {
        stack = stack.aggregate(aggregate.aggregate_type.as_str());
    }
    for projection in application.projections() {
        stack = stack.projection(resources(projection));
    }
    stack
}

fn resources(projection: &ProjectionSpec) -> ProjectionResources {
    let writes = match projection.kind {
        ProjectionKind::Blind => RowWrites::Blind,
        ProjectionKind::Fold => RowWrites::Fold,
        ProjectionKind::Aggregating(_) => RowWrites::Aggregating,
    };
    let mut resources = ProjectionResources::new(projection.name.name, projection.name.version)
        .source(projection.source.as_str())
        .writing(writes);
    for list in projection.schema.lists {
        resources =
            resources.index(Index::new(list.name, list.hash_attribute()).sorted_by(list.range_attribute()));
    }
    for lookup in projection.schema.lookups {
        resources = resources.index(Index::new(lookup.name, lookup.hash_attribute()));
    }
    resources
}
