//! An audit's requests to rows in memory.

use std::ops::Bound;

use millrace_aws::{AwsError, Place, Segment};
use millrace_core::{
    StreamId, TenantId,
    projection::RowUpdate,
    row::{Attributes, Provenance, RowKey, StoredRow},
};
use uuid::Uuid;

use super::{MemoryRows, Part, Table};
use crate::{
    AuditRows, FoundRows, ListedRow, ListedRows, Sum,
    audit::{Expected, made, refused, sum_of, sums_nothing, values},
    layout::{Assignments, VERSION},
    provenance::assignments,
    sum::{PartChange, Summed, target},
};

/// How many keys a page of a scan lists: few, so that most tables do not fit into one.
const LISTED: usize = 7;

/// A row or a part as found in memory.
#[derive(Debug, Clone)]
pub struct MemoryRow {
    key: String,
    version: u64,
    /// The item that it would be on DynamoDB.
    item: Attributes,
}

/// The last key of a page: rows are listed before parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryCursor {
    /// That of a row.
    Row(RowKey),
    /// That of a part.
    Part(String),
}

impl MemoryCursor {
    fn key(&self) -> String {
        match self {
            Self::Row(key) => key.to_string(),
            Self::Part(key) => key.clone(),
        }
    }
}

impl Place for MemoryCursor {
    fn to_text(&self) -> String {
        match self {
            Self::Row(key) => format!("row {key}"),
            Self::Part(key) => format!("part {key}"),
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        match text.split_once(' ')? {
            ("row", key) => Some(Self::Row(key.parse().ok()?)),
            ("part", key) => Some(Self::Part(key.to_owned())),
            _ => None,
        }
    }
}

impl MemoryRow {
    fn new(key: String, version: u64, attributes: Assignments, provenance: Option<&Provenance>) -> Self {
        let mut item = values(attributes);
        item.insert(VERSION.to_owned(), version.into());
        item.extend(provenance.into_iter().flat_map(|made_by| values(assignments(made_by).into())));
        Self { key, version, item }
    }
}

impl MemoryRows {
    /// The row of a stream, or its part.
    fn found(&self, table: &Table, stream: &StreamId) -> Option<MemoryRow> {
        let place = self.layout.stream_key(stream);
        if self.layout.aggregation().is_some() {
            let Part { version, attributes, target, provenance } = table.parts.get(&place)?;
            let attributes = self.layout.part(attributes, target.as_ref());
            return Some(MemoryRow::new(place, *version, attributes, provenance.as_ref()));
        }
        let row = table.rows.rows.get(&place.parse().ok()?)?;
        let attributes = self.layout.put(&row.key, &row.attributes);
        Some(MemoryRow::new(place, row.version, attributes, row.provenance.as_ref()))
    }

    /// Changes a part, and the rows that it contributes to where it can be read.
    fn change_part(&self, table: &mut Table, place: &str, after: &Attributes, tenant: &TenantId) {
        let Some(aggregation) = self.layout.aggregation() else { return };
        let before = table.parts.get(place).map(|part| part.attributes.clone()).unwrap_or_default();
        let change = PartChange::new(aggregation, tenant, before, after.clone());
        let rows = change.and_then(|change| {
            let rows = change
                .rows()
                .into_iter()
                .map(|key| Ok((key.clone(), change.apply(aggregation, key, table.summed(key))?)));
            rows.collect::<Result<Vec<_>, _>>()
        });
        for (key, row) in rows.unwrap_or_default() {
            let provenance = table.rows.rows.get(&key).and_then(|row| row.provenance.clone());
            table.put_summed(self.layout.schema, key, row, provenance);
        }
    }
}

impl AuditRows for MemoryRows {
    type Row = MemoryRow;
    type Cursor = MemoryCursor;

    async fn rows(&self, streams: &[StreamId]) -> Result<FoundRows<MemoryRow>, AwsError> {
        let table = self.table();
        let row = |stream: &StreamId| Some((stream.clone(), self.found(&table, stream)?));
        Ok(FoundRows { found: streams.iter().filter_map(row).collect(), left: Vec::new(), read_units: 1.0 })
    }

    fn version(row: &MemoryRow) -> Option<u64> {
        Some(row.version)
    }

    fn differences(&self, row: &MemoryRow, expected: &RowUpdate) -> Result<Vec<String>, AwsError> {
        Ok(Expected::of(&self.layout, expected)?.differences(&row.item))
    }

    async fn list(
        &self,
        segment: Segment,
        from: Option<&MemoryCursor>,
    ) -> Result<ListedRows<MemoryCursor>, AwsError> {
        let table = self.table();
        let (row, part) = match from {
            None => (Bound::Unbounded, Bound::Unbounded),
            Some(MemoryCursor::Row(row)) => (Bound::Excluded(row.clone()), Bound::Unbounded),
            Some(MemoryCursor::Part(part)) => (Bound::Unbounded, Bound::Excluded(part.clone())),
        };
        let rows =
            table.rows.rows.range((row, Bound::Unbounded)).map(|(key, _)| MemoryCursor::Row(key.clone()));
        let rows = rows.take(if matches!(from, Some(MemoryCursor::Part(_))) { 0 } else { usize::MAX });
        let parts =
            table.parts.range((part, Bound::Unbounded)).map(|(key, _)| MemoryCursor::Part(key.clone()));
        let ours = |place: &MemoryCursor| {
            let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, place.key().as_bytes()).as_u128();
            hash % u128::from(segment.of.get()) == u128::from(segment.number)
        };
        let places: Vec<_> = rows.chain(parts).filter(ours).take(LISTED).collect();
        let listed = places.iter().map(|place| ListedRow::of(&self.layout, &place.key())).collect();
        let next = places.last().filter(|_| places.len() == LISTED).cloned();
        Ok(ListedRows { listed, next, read_units: 1.0 })
    }

    async fn replace(&self, row: &MemoryRow, with: &RowUpdate) -> Result<bool, AwsError> {
        let expected = Expected::of(&self.layout, with)?;
        if expected.key != row.key {
            return Err(refused("it is of another row"));
        }
        let mut table = self.table();
        if self.found(&table, &with.stream).is_none_or(|found| found.version != row.version) {
            return Ok(false);
        }
        let attributes = made(with)?;
        let provenance = Some(with.provenance.clone());
        match self.layout.aggregation() {
            Some(aggregation) => {
                let target = target(aggregation, &with.stream.tenant, &attributes).map_err(refused)?;
                self.change_part(&mut table, &row.key, &attributes, &with.stream.tenant);
                let part = Part { version: with.to_version, attributes, target, provenance };
                table.parts.insert(row.key.clone(), part);
            }
            None => {
                let row =
                    StoredRow { key: with.key.clone(), version: with.to_version, attributes, provenance };
                table.rows.put(self.layout.schema, row);
            }
        }
        Ok(true)
    }

    async fn delete(&self, row: &MemoryRow) -> Result<bool, AwsError> {
        let stream = self.layout.stream(&row.key).map_err(refused)?;
        let mut table = self.table();
        if self.found(&table, &stream).is_none_or(|found| found.version != row.version) {
            return Ok(false);
        }
        if self.layout.aggregation().is_some() {
            self.change_part(&mut table, &row.key, &Attributes::new(), &stream.tenant);
            table.parts.remove(&row.key);
        } else if let Ok(key) = row.key.parse() {
            table.rows.take(self.layout.schema, &key);
        }
        Ok(true)
    }

    async fn count(&self) -> Result<u64, AwsError> {
        let table = self.table();
        Ok(u64::try_from(table.rows.rows.len() + table.parts.len()).unwrap_or(u64::MAX))
    }

    async fn sum(&self, key: &RowKey) -> Result<Sum<MemoryRow>, AwsError> {
        let aggregation = self.layout.aggregation().ok_or_else(sums_nothing)?;
        let table = self.table();
        let parts = table.parts.values().filter(|part| part.target.as_ref() == Some(key));
        let sum = sum_of(aggregation, key, parts.map(|part| &part.attributes), Summed::default())?;
        let row = table.rows.rows.get(key).map(|row| {
            let attributes = self.layout.summed(key, &table.summed(key));
            MemoryRow::new(key.to_string(), row.version, attributes, row.provenance.as_ref())
        });
        let found = row.as_ref().map(|row| row.item.clone()).unwrap_or_default();
        Ok(Sum::new(&self.layout, key, row, &found, sum, 1.0))
    }

    async fn replace_sum(&self, sum: &Sum<MemoryRow>) -> Result<bool, AwsError> {
        let mut table = self.table();
        let found = table.rows.rows.get(&sum.key).map(|row| row.version);
        if found != sum.row.as_ref().map(|row| row.version) {
            return Ok(false);
        }
        let provenance = table.rows.rows.get(&sum.key).and_then(|row| row.provenance.clone());
        let version = found.unwrap_or_default().saturating_add(1);
        let row = Summed { version, parts: sum.parts, attributes: sum.expected.clone() };
        table.put_summed(self.layout.schema, sum.key.clone(), row, provenance);
        Ok(true)
    }
}
