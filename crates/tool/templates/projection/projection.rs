//! {{Projection}}: rows about {{agg}} aggregates.

use millrace_core::{Change, Projection, ProjectionName, Recorded, Row, Timestamp};

use super::{ {{Agg}}, {{Agg}}Event, {{Agg}}Id};

/// A row for each {{agg}}.
#[derive(Debug, Clone, PartialEq, Eq, Row)]
#[row(resource = "{{agg}}", key = {{agg_snake}}_id)]
pub struct {{Projection}} {
    /// The {{agg}}.
    pub {{agg_snake}}_id: {{Agg}}Id,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Projection for {{Projection}} {
    const NAME: ProjectionName = ProjectionName::new("{{projection}}", 1);
    // To be removed when a service reads them by `queries.rows::<{{Projection}}, _>()`: see `queries.rs`.
    const HAS_QUERIES: bool = false;
    type Aggregate = {{Agg}};
    type Row = Self;

    fn apply(recorded: &Recorded<{{Agg}}Event>) -> Change<Self> {
        Change::Put(Self { {{agg_snake}}_id: recorded.aggregate_id(), updated_at: recorded.time })
    }
}
