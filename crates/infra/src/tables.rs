//! Tables of DynamoDB.

use crate::{
    parameters::WITH_CAPACITY,
    yaml::{Yaml, flag, list, map, only_if, reference, sub, text},
};

/// The fate of a table whose stack is deleted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It stays, protected from deletion and recoverable to any point in time.
    Retained,
    /// Deleted with the stack, because it is a fold of the event store.
    Recomputed,
}

/// A table that consists of its key alone.
pub(crate) fn keyed_table(kept: Kept, name: &str, key: &str) -> Yaml {
    let properties =
        vec![("AttributeDefinitions", list([attribute(key, "S")])), ("KeySchema", key_schema(key, None))];
    table(kept, name, properties)
}

/// A table with its keys, indexes and stream as `properties`.
pub(crate) fn table(kept: Kept, name: &str, properties: Vec<(&str, Yaml)>) -> Yaml {
    let retained = kept == Kept::Retained;
    let policy = if retained { "Retain" } else { "Delete" };
    let mut all = vec![
        ("TableName", sub(name)),
        ("BillingMode", reference("BillingMode")),
        ("ProvisionedThroughput", throughput()),
    ];
    all.extend(properties);
    if retained {
        let recovery = map([("PointInTimeRecoveryEnabled", flag(true))]);
        all.push(("PointInTimeRecoverySpecification", recovery));
        all.push(("DeletionProtectionEnabled", flag(true)));
    }
    // `false` selects the key that AWS owns: encrypted at rest, without charges of KMS.
    all.push(("SSESpecification", map([("SSEEnabled", flag(false))])));
    map([
        ("Type", text("AWS::DynamoDB::Table")),
        ("DeletionPolicy", text(policy)),
        ("UpdateReplacePolicy", text(policy)),
        ("Properties", map(all)),
    ])
}

pub(crate) fn attribute(name: &str, kind: &str) -> Yaml {
    map([("AttributeName", text(name)), ("AttributeType", text(kind))])
}

pub(crate) fn key_schema(hash: &str, range: Option<&str>) -> Yaml {
    let key = |name: &str, kind| map([("AttributeName", text(name)), ("KeyType", text(kind))]);
    let range = range.map(|range| key(range, "RANGE"));
    list([key(hash, "HASH")].into_iter().chain(range))
}

/// A global secondary index, with all attributes or with keys alone.
pub(crate) fn index(name: &str, hash: &str, range: Option<&str>, keys_only: bool) -> Yaml {
    let attributes = if keys_only { "KEYS_ONLY" } else { "ALL" };
    map([
        ("IndexName", text(name)),
        ("KeySchema", key_schema(hash, range)),
        ("Projection", map([("ProjectionType", text(attributes))])),
        ("ProvisionedThroughput", throughput()),
    ])
}

fn throughput() -> Yaml {
    let units = map([
        ("ReadCapacityUnits", reference("ReadCapacityUnits")),
        ("WriteCapacityUnits", reference("WriteCapacityUnits")),
    ]);
    only_if(WITH_CAPACITY, units)
}
