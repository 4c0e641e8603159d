//! The description that is rendered.

use millrace_core::ProjectionName;

use crate::names::{self, NameKind};

/// An application, as far as its infrastructure depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stack {
    /// The application's name, such as `shop`: the default of the templates' parameter `Prefix`.
    pub application: String,
    /// The types of its aggregates, such as `order`.
    pub aggregates: Vec<String>,
    /// Its projections. A projection may be listed with several versions.
    pub projections: Vec<ProjectionResources>,
}

/// A version of a projection: a table, a queue, and a rule that leads events there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProjectionResources {
    /// Its name, such as `order-summaries`.
    pub name: String,
    /// Its version. Each version has resources of its own.
    pub version: u32,
    /// The aggregate types whose events it receives.
    pub sources: Vec<String>,
    /// The indexes of its table.
    pub indexes: Vec<Index>,
    /// How its rows are written.
    pub writes: RowWrites,
}

/// How rows are written. Permissions follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowWrites {
    /// Without reading.
    Blind,
    /// After reading the row.
    Fold,
    /// Together with parts, which are in the same table and are found by an index of their own.
    Aggregating,
}

/// A global secondary index of a read model's table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Index {
    /// Its name, such as `by-status`.
    pub name: String,
    /// The attribute that is its hash key, a string.
    pub hash: String,
    /// The attribute that is its range key, a string.
    pub range: Option<String>,
    /// Whether it holds keys alone. Otherwise it holds all attributes of a row.
    pub keys_only: bool,
}

impl Stack {
    /// An application without aggregates and projections.
    pub fn new(application: impl Into<String>) -> Self {
        Self { application: application.into(), aggregates: Vec::new(), projections: Vec::new() }
    }

    /// Adds an aggregate type.
    #[must_use]
    pub fn aggregate(mut self, aggregate_type: impl Into<String>) -> Self {
        self.aggregates.push(aggregate_type.into());
        self
    }

    /// Adds a projection.
    #[must_use]
    pub fn projection(mut self, projection: ProjectionResources) -> Self {
        self.projections.push(projection);
        self
    }

    /// The aggregate types whose events no projection receives.
    pub(crate) fn unconsumed(&self) -> Vec<&String> {
        let is_consumed = |kind: &String| self.projections.iter().any(|each| each.sources.contains(kind));
        self.aggregates.iter().filter(|kind| !is_consumed(kind)).collect()
    }
}

impl ProjectionResources {
    /// A projection without sources and indexes that writes without reading.
    pub fn new(name: impl Into<String>, version: u32) -> Self {
        let (sources, indexes) = (Vec::new(), Vec::new());
        Self { name: name.into(), version, sources, indexes, writes: RowWrites::Blind }
    }

    /// Says how its rows are written.
    #[must_use]
    pub fn writing(mut self, writes: RowWrites) -> Self {
        self.writes = writes;
        if writes == RowWrites::Aggregating {
            let parts = Index::new(names::PART_INDEX, names::PART_TARGET);
            self.indexes.push(Index { keys_only: true, ..parts });
        }
        self
    }

    /// Adds an aggregate type whose events it receives.
    #[must_use]
    pub fn source(mut self, aggregate_type: impl Into<String>) -> Self {
        self.sources.push(aggregate_type.into());
        self
    }

    /// Adds an index to its table.
    #[must_use]
    pub fn index(mut self, index: Index) -> Self {
        self.indexes.push(index);
        self
    }

    /// Name and version in one, such as `order-summaries-v1`.
    #[must_use]
    pub fn id(&self) -> String {
        ProjectionName::id_of(&self.name, self.version)
    }

    /// The kinds and names of its resources.
    pub(crate) fn physical_names(&self, prefix: &str) -> Vec<(NameKind, String)> {
        let id = &self.id();
        vec![
            (NameKind::Table, names::table(prefix, id)),
            (NameKind::Queue, names::queue(prefix, id)),
            (NameKind::Queue, names::dead_letter_queue(prefix, id)),
            (NameKind::Rule, names::rule(prefix, id)),
        ]
    }
}

impl Index {
    /// An index with a hash key alone.
    pub fn new(name: impl Into<String>, hash: impl Into<String>) -> Self {
        Self { name: name.into(), hash: hash.into(), range: None, keys_only: false }
    }

    /// Sorts the rows of a hash key by an attribute.
    #[must_use]
    pub fn sorted_by(mut self, range: impl Into<String>) -> Self {
        self.range = Some(range.into());
        self
    }
}
