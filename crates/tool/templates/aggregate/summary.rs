//! The rows that queries read about {{agg}} aggregates.

use millrace_core::{Change, Patch, Projection, ProjectionName, Recorded, Row, Timestamp};

use super::{Status, Title, {{Agg}}, {{Agg}}Closed, {{Agg}}Created, {{Agg}}Event, {{Agg}}Id};

/// A {{agg}} as queries show it.
#[derive(Debug, Clone, PartialEq, Eq, Row)]
#[row(resource = "{{agg}}", key = {{agg_snake}}_id)]
#[row(list(name = "by-status", by = status, order_by = created_at, sharded))]
pub struct {{Agg}}Summary {
    /// Its id.
    pub {{agg_snake}}_id: {{Agg}}Id,
    /// Its title.
    pub title: Title,
    /// Where it stands.
    pub status: Status,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Projection for {{Agg}}Summary {
    const NAME: ProjectionName = ProjectionName::new("{{agg}}-summaries", 1);
    type Aggregate = {{Agg}};
    type Row = Self;

    fn apply(recorded: &Recorded<{{Agg}}Event>) -> Change<Self> {
        match &recorded.event {
            {{Agg}}Event::{{Agg}}Created({{Agg}}Created { title }) => Change::Put(Self {
                {{agg_snake}}_id: recorded.aggregate_id(),
                title: title.clone(),
                status: Status::Open,
                created_at: recorded.time,
                updated_at: recorded.time,
            }),
            {{Agg}}Event::{{Agg}}Closed({{Agg}}Closed) => {
                Change::Update(Patch::new().set(Self::STATUS, Status::Closed).set(Self::UPDATED_AT, recorded.time))
            }
        }
    }
}
