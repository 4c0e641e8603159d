//! The attributes of a table of rows, each as JSON: the same on DynamoDB and in memory.
//!
//! | item | key | attributes |
//! |---|---|---|
//! | row | `<tenant>#<id>` | `Version`, provenance, the row's own except its id, those of its indexes |
//! | part of a row that sums up aggregates | `<tenant>@<aggregate id>` | `Version`, provenance, `Part`, `Target` |
//!
//! A tenant consists of `a-z`, `0-9` and `-`. So the first other character of a key distinguishes rows from parts,
//! whatever the id of a row is, and all keys of a tenant begin in one of two ways.
//!
//! A place where events have left no row keeps its version, and has the attribute `Absent`.

use std::{collections::BTreeMap, num::NonZeroU16};

use millrace_core::{
    AggregateType, StreamId, TenantId,
    ids::parse_uuid,
    projection::{Aggregation, ProjectionError, ProjectionKind, ProjectionSpec, RowChange, RowUpdate},
    row::{Attributes, IndexedAttribute, Position, RowKey, RowSchema},
};
use serde_json::Value;
use uuid::Uuid;

use crate::sum::Summed;

/// The hash key of every table of rows.
pub const KEY: &str = "Key";
/// The version of a row or a part.
pub(crate) const VERSION: &str = "Version";
/// `true` where there is a version and no row.
pub(crate) const ABSENT: &str = "Absent";
/// The part of an aggregate.
pub(crate) const PART: &str = "Part";
/// The key of the row that a part belongs to: the hash of [`TARGET_INDEX`].
pub const TARGET: &str = "Target";
/// How many parts a row has.
pub(crate) const PARTS: &str = "Parts";
/// The index of a table of parts by their rows. It projects keys only.
pub const TARGET_INDEX: &str = "by-target";

/// New values of attributes by name; `None` removes one.
pub(crate) type Assignments = BTreeMap<String, Option<Value>>;

/// How many keys of its index a sharded list has. One key for a status would be a partition that every write goes
/// through.
///
/// A reader reads as many shards as `read` says, so a rollout that changes the number raises `read` before `write`, and
/// lowers it only once no row is left in the shards beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexShards {
    /// How many are read.
    pub read: NonZeroU16,
    /// Over how many rows are spread that are written.
    pub write: NonZeroU16,
}

/// One shard, for reading and writing.
impl Default for IndexShards {
    fn default() -> Self {
        Self { read: NonZeroU16::MIN, write: NonZeroU16::MIN }
    }
}

/// The form of a projection's table.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) source: AggregateType,
    pub(crate) schema: &'static RowSchema,
    pub(crate) kind: ProjectionKind,
    pub(crate) shards: IndexShards,
}

impl Layout {
    pub(crate) fn new(spec: &ProjectionSpec, shards: IndexShards) -> Self {
        Self { source: spec.source.clone(), schema: spec.schema, kind: spec.kind, shards }
    }

    /// How parts make up rows; `None` where rows are the aggregates' own.
    pub(crate) fn aggregation(&self) -> Option<&Aggregation> {
        match &self.kind {
            ProjectionKind::Aggregating(aggregation) => Some(aggregation),
            ProjectionKind::Blind | ProjectionKind::Fold => None,
        }
    }

    /// The key of the item that has the version of a stream.
    pub(crate) fn stream_key(&self, stream: &StreamId) -> String {
        match self.aggregation() {
            Some(_) => format!("{}@{}", stream.tenant, stream.id),
            None => RowKey { tenant: stream.tenant.clone(), id: stream.id.to_string() }.to_string(),
        }
    }

    /// The attributes of a row that has new values in some of its own, with those of the indexes that follow from them.
    pub(crate) fn set(&self, key: &RowKey, set: &Attributes) -> Assignments {
        let mut all: Assignments = set
            .iter()
            .filter(|(name, _)| *name != self.schema.id)
            .map(|(name, value)| (name.clone(), Some(value.clone()).filter(|value| !value.is_null())))
            .collect();
        let text = |by: &IndexedAttribute| Some((by.text)(set.get(by.name)?));
        for list in self.schema.lists {
            if let Some(value) = text(&list.by) {
                let shard = list.sharded.then(|| shard_of(&key.id, self.shards.write));
                let hash = value.map(|value| Value::String(index_key(&key.tenant, &value, shard)));
                all.insert(list.hash_attribute(), hash);
            }
            if let Some(at) = text(&list.order_by) {
                let at = at.and_then(|at| at.parse().ok());
                let position = at.map(|at| Value::String(Position { at, id: key.id.clone() }.to_string()));
                all.insert(list.range_attribute(), position);
            }
        }
        for lookup in self.schema.lookups {
            if let Some(value) = text(&lookup.by) {
                let hash = value.map(|value| Value::String(index_key(&key.tenant, &value, None)));
                all.insert(lookup.hash_attribute(), hash);
            }
        }
        all
    }

    /// The attributes of a row that is exactly this, whatever it was; of none where they are empty.
    pub(crate) fn put(&self, key: &RowKey, attributes: &Attributes) -> Assignments {
        let mut whole = attributes.clone();
        for name in self.schema.attributes {
            whole.entry(*name).or_insert(Value::Null);
        }
        let mut all = self.set(key, &whole);
        all.insert(ABSENT.to_owned(), attributes.is_empty().then_some(Value::Bool(true)));
        all
    }

    /// The attributes of a row that sums up aggregates, except its version.
    pub(crate) fn summed(&self, key: &RowKey, row: &Summed) -> Assignments {
        let mut all = self.put(key, &row.attributes);
        all.insert(PARTS.to_owned(), Some(row.parts.into()));
        all
    }

    /// The attributes of a part that belongs to a row; of none where they are empty.
    pub(crate) fn part(&self, part: &Attributes, target: Option<&RowKey>) -> Assignments {
        let target = target.map(|target| Value::String(target.to_string()));
        [
            (PART, part.get(PART).cloned()),
            (TARGET, target),
            (ABSENT, part.is_empty().then_some(Value::Bool(true))),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Refuses an update that fits no row, whatever there is.
    pub(crate) fn check(&self, update: &RowUpdate) -> Result<(), ProjectionError> {
        if update.stream.aggregate_type != self.source {
            return Err(ProjectionError::OtherAggregateType);
        }
        let own = RowKey { tenant: update.stream.tenant.clone(), id: update.stream.id.to_string() };
        if update.key != own {
            return Err(ProjectionError::OtherAggregate);
        }
        if update.to_version <= update.from_version {
            return Err(ProjectionError::Misplaced);
        }
        match &update.change {
            RowChange::Set(set) if update.from_version == 0 && !set.is_empty() => Err(ProjectionError::NoRow),
            RowChange::Put(_) | RowChange::Set(_) | RowChange::Fold(_) => Ok(()),
        }
    }
}

/// The hash of an index: all rows of a tenant that have a value, or those of one shard.
pub(crate) fn index_key(tenant: &TenantId, value: &str, shard: Option<u16>) -> String {
    match shard {
        Some(shard) => format!("{tenant}#{value}#{shard}"),
        None => format!("{tenant}#{value}"),
    }
}

/// The shard of a row: the remainder of its id, where that is a UUID, else of the UUID (version 5) of its id's text. The
/// same in every release, since stored rows have it.
fn shard_of(id: &str, shards: NonZeroU16) -> u16 {
    let id = parse_uuid(id).unwrap_or_else(|_| Uuid::new_v5(&Uuid::NAMESPACE_OID, id.as_bytes()));
    // A remainder is smaller than its divisor, so it fits.
    u16::try_from(id.as_u128() % u128::from(shards.get())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::contract::app::spec;

    #[test]
    fn the_tenant_begins_every_key_and_what_a_row_has_not_is_removed() {
        let key: RowKey = "acme#00000000-0000-0000-0000-000000000007".parse().unwrap();
        let Value::Object(row) =
            json!({"Owner": "Ada", "Status": "OPEN", "Title": "A", "OpenedAt": "2026-11-23T12:00:00Z"})
        else {
            unreachable!()
        };
        let all = Layout::new(&spec("tickets"), IndexShards::default()).put(&key, &row);
        for (name, value) in [
            ("ByOwnerKey", Some("acme#Ada")),
            ("ByStatusKey", Some("acme#OPEN#0")),
            ("ByTitleKey", Some("acme#a")),
            ("ByLabelKey", None),
            ("Label", None),
        ] {
            assert_eq!(all.get(name), Some(&value.map(Value::from)), "{name}");
        }
    }

    #[test]
    fn a_row_keeps_its_shard() {
        let shards = |shards| NonZeroU16::new(shards).unwrap();
        let uuid = "01234567-89ab-cdef-0123-456789abcdef";
        for (of, shard) in [(1, 0), (4, 3), (1000, 215)] {
            assert_eq!(shard_of(uuid, shards(of)), shard, "of {of}");
        }
        let id = "EUR/名前";
        let shard = Uuid::new_v5(&Uuid::NAMESPACE_OID, id.as_bytes()).as_u128() % 7;
        assert_eq!(u128::from(shard_of(id, shards(7))), shard);
    }
}
