//! Rows in memory: for tests, by the same contract as on DynamoDB.

#[cfg(any(test, feature = "audit"))]
mod audit;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millrace_aws::AwsError;
use millrace_core::{
    Row, StreamId, TenantId, Versioned,
    projection::{Aggregation, ProjectionSpec, RowUpdate},
    row::{Attributes, LookupSchema, Position, Provenance, RowKey, RowSchema, StoredRow},
};

#[cfg(any(test, feature = "audit"))]
pub use self::audit::{MemoryCursor, MemoryRow};
use crate::{
    Consistency, IndexShards, ListPage, ListQuery, MAX_EXAMINED, MAX_FOUND, ReadRows, RowBatch, WriteError,
    WriteOutcome, WriteRows,
    layout::Layout,
    list::{newest_first, text},
    sum::{PartChange, Summed},
};

/// The rows of one projection in memory. Clones share them.
#[derive(Debug, Clone)]
pub struct MemoryRows {
    layout: Layout,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    rows: Rows,
    /// The rows that the indexes show while they are held; otherwise they show the present ones.
    held: Option<Rows>,
    /// How many parts each row has.
    counts: BTreeMap<RowKey, u64>,
    /// The parts of rows that sum up aggregates, by the key that each has on DynamoDB.
    parts: BTreeMap<String, Part>,
}

/// Rows and their indexes.
#[derive(Debug, Clone, Default)]
struct Rows {
    rows: BTreeMap<RowKey, StoredRow>,
    /// By list, tenant and value.
    lists: BTreeMap<(&'static str, TenantId, String), BTreeSet<Position>>,
    /// By look-up, tenant and value.
    lookups: BTreeMap<(&'static str, TenantId, String), BTreeSet<RowKey>>,
}

/// The part of an aggregate.
#[derive(Debug, Clone, PartialEq)]
struct Part {
    version: u64,
    /// None where the aggregate contributes nothing.
    attributes: Attributes,
    target: Option<RowKey>,
    provenance: Option<Provenance>,
}

impl Rows {
    fn put(&mut self, schema: &RowSchema, row: StoredRow) {
        self.take(schema, &row.key);
        for list in schema.lists {
            if let (Some(value), Some(position)) = (text(&row.attributes, &list.by), row.position(list)) {
                let places = self.lists.entry((list.name, row.key.tenant.clone(), value)).or_default();
                places.insert(position);
            }
        }
        for lookup in schema.lookups {
            if let Some(value) = text(&row.attributes, &lookup.by) {
                let holders = self.lookups.entry((lookup.name, row.key.tenant.clone(), value)).or_default();
                holders.insert(row.key.clone());
            }
        }
        self.rows.insert(row.key.clone(), row);
    }

    fn take(&mut self, schema: &RowSchema, key: &RowKey) -> Option<StoredRow> {
        let row = self.rows.remove(key)?;
        for list in schema.lists {
            if let (Some(value), Some(position)) = (text(&row.attributes, &list.by), row.position(list))
                && let Some(places) = self.lists.get_mut(&(list.name, key.tenant.clone(), value))
            {
                places.remove(&position);
            }
        }
        for lookup in schema.lookups {
            if let Some(value) = text(&row.attributes, &lookup.by)
                && let Some(holders) = self.lookups.get_mut(&(lookup.name, key.tenant.clone(), value))
            {
                holders.remove(key);
            }
        }
        Some(row)
    }
}

impl Table {
    fn shown(&self) -> &Rows {
        self.held.as_ref().unwrap_or(&self.rows)
    }

    fn summed(&self, key: &RowKey) -> Summed {
        let row = self.rows.rows.get(key);
        Summed {
            version: row.map_or(0, |row| row.version),
            parts: self.counts.get(key).copied().unwrap_or_default(),
            attributes: row.map(|row| row.attributes.clone()).unwrap_or_default(),
        }
    }

    fn put_summed(&mut self, schema: &RowSchema, key: RowKey, row: Summed, provenance: Option<Provenance>) {
        let Summed { version, parts, attributes } = row;
        self.counts.insert(key.clone(), parts);
        self.rows.put(schema, StoredRow { key, version, attributes, provenance });
    }
}

impl MemoryRows {
    /// No rows yet of a projection.
    pub fn new(spec: &ProjectionSpec) -> Self {
        Self { layout: Layout::new(spec, IndexShards::default()), table: Arc::default() }
    }

    /// Adds rows unchanged, replacing those with the same key.
    pub fn extend<R: Row>(&self, rows: impl IntoIterator<Item = Versioned<R>>) {
        let mut table = self.table();
        for Versioned { tenant, version, row } in rows {
            let mut attributes = row.to_attributes().unwrap_or_default();
            attributes.retain(|_, value| !value.is_null());
            let key = RowKey { tenant, id: row.id().to_string() };
            table.rows.put(self.layout.schema, StoredRow { key, version, attributes, provenance: None });
        }
    }

    /// Freezes the indexes at the present rows, whatever is written, until they are released.
    pub fn hold_index(&self) {
        let mut table = self.table();
        table.held = Some(table.rows.clone());
    }

    /// Lets the indexes show the present rows again.
    pub fn release_index(&self) {
        self.table().held = None;
    }

    /// Every row, with its version and without an order that means anything; places without a row among them.
    pub fn all(&self) -> Vec<StoredRow> {
        self.table().rows.rows.values().cloned().collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_row(&self, update: &RowUpdate) -> Result<WriteOutcome, WriteError> {
        let mut table = self.table();
        let row = table.rows.rows.get(&update.key);
        let found = row.map_or(0, |row| row.version);
        if found != update.from_version {
            return Ok(WriteOutcome::VersionMismatch(found));
        }
        let none = Attributes::new();
        let mut attributes = update.change.resolve(row.map_or(&none, |row| &row.attributes))?;
        if !attributes.is_empty() {
            attributes.insert(self.layout.schema.id.to_owned(), update.key.id.clone().into());
        }
        let row = StoredRow {
            key: update.key.clone(),
            version: update.to_version,
            attributes,
            provenance: Some(update.provenance.clone()),
        };
        table.rows.put(self.layout.schema, row);
        Ok(WriteOutcome::Applied)
    }

    fn write_part(&self, aggregation: &Aggregation, update: &RowUpdate) -> Result<WriteOutcome, WriteError> {
        let mut table = self.table();
        let place = self.layout.stream_key(&update.stream);
        let part = table.parts.get(&place);
        let found = part.map_or(0, |part| part.version);
        if found != update.from_version {
            return Ok(WriteOutcome::VersionMismatch(found));
        }
        let before = part.map(|part| part.attributes.clone()).unwrap_or_default();
        let after = update.change.resolve(&before)?;
        let change = PartChange::new(aggregation, &update.stream.tenant, before, after)?;
        let rows = change.rows().into_iter().map(|key| {
            let row = change.apply(aggregation, key, table.summed(key))?;
            Ok::<_, WriteError>((key.clone(), row))
        });
        for (key, row) in rows.collect::<Result<Vec<_>, _>>()? {
            table.put_summed(self.layout.schema, key, row, Some(update.provenance.clone()));
        }
        let part = Part {
            version: update.to_version,
            attributes: change.after,
            target: change.to,
            provenance: Some(update.provenance.clone()),
        };
        table.parts.insert(place, part);
        Ok(WriteOutcome::Applied)
    }
}

impl WriteRows for MemoryRows {
    async fn write(&self, update: &RowUpdate) -> Result<WriteOutcome, WriteError> {
        self.layout.check(update)?;
        match self.layout.aggregation() {
            Some(aggregation) => self.write_part(aggregation, update),
            None => self.write_row(update),
        }
    }
}

impl ReadRows for MemoryRows {
    async fn get(&self, key: &RowKey) -> Result<Option<StoredRow>, AwsError> {
        Ok(self.table().rows.rows.get(key).cloned())
    }

    async fn get_many(&self, keys: &[RowKey], _: Consistency) -> Result<RowBatch, AwsError> {
        let table = self.table();
        let row = |key: &RowKey| Some((key.clone(), Ok(table.rows.rows.get(key)?.clone())));
        Ok(RowBatch { found: keys.iter().filter_map(row).collect(), left: Vec::new(), read_units: 0.0 })
    }

    async fn applied_version(&self, stream: &StreamId) -> Result<u64, AwsError> {
        let table = self.table();
        if self.layout.aggregation().is_some() {
            let part = table.parts.get(&self.layout.stream_key(stream));
            return Ok(part.map_or(0, |part| part.version));
        }
        let key = RowKey { tenant: stream.tenant.clone(), id: stream.id.to_string() };
        Ok(table.rows.rows.get(&key).map_or(0, |row| row.version))
    }

    async fn lookup(
        &self,
        lookup: &'static LookupSchema,
        tenant: &TenantId,
        value: &str,
    ) -> Result<Vec<StoredRow>, AwsError> {
        let table = self.table();
        let shown = table.shown();
        let holders = shown.lookups.get(&(lookup.name, tenant.clone(), value.to_owned()));
        let rows = holders.into_iter().flatten().filter_map(|key| shown.rows.get(key));
        let rows = rows.take(MAX_FOUND.into()).cloned().collect();
        Ok(newest_first(rows, lookup.order_by.as_ref()))
    }

    async fn page(
        &self,
        query: &ListQuery,
        before: Option<&Position>,
        limit: u16,
    ) -> Result<ListPage, AwsError> {
        let table = self.table();
        let shown = table.shown();
        let place = (query.list.name, query.tenant.clone(), query.value.clone());
        let start = Position::start_of(query.times.since);
        let ends = [query.times.before.map(|end| Position::start_of(Some(end))), before.cloned()];
        let end = ends.into_iter().flatten().min();
        if end.as_ref().is_some_and(|end| *end <= start) {
            return Ok(ListPage::default());
        }
        let bounds = (Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded));
        let places = shown.lists.get(&place).map(|places| places.range(bounds).rev());
        let most = if query.filter.is_some() { MAX_EXAMINED.into() } else { usize::MAX };
        let mut page = ListPage::default();
        for (examined, position) in places.into_iter().flatten().enumerate() {
            if examined == most || page.rows.len() == usize::from(limit) {
                return Ok(page);
            }
            page.end = Some(position.clone());
            let key = RowKey { tenant: query.tenant.clone(), id: position.id.clone() };
            page.rows.extend(shown.rows.get(&key).filter(|row| query.holds(row)).cloned());
        }
        Ok(ListPage { end: None, ..page })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{contract, layout::PART};

    fn rows(projection: &str) -> MemoryRows {
        MemoryRows::new(&contract::spec(projection))
    }

    #[tokio::test]
    async fn blind_rows_keep_the_contract() {
        contract::blind(&rows("tickets")).await;
    }

    #[tokio::test]
    async fn folded_rows_keep_the_contract() {
        contract::fold(&rows("ticket-logs")).await;
    }

    #[tokio::test]
    async fn sums_keep_the_contract() {
        contract::aggregating(&rows("workloads")).await;
    }

    #[tokio::test]
    async fn parts_that_cannot_be_read_are_put_right() {
        let rows = rows("workloads");
        contract::unreadable_parts(&rows, async |stream| {
            let mut table = rows.table();
            let part = table.parts.get_mut(&rows.layout.stream_key(stream)).unwrap();
            part.attributes.insert(PART.to_owned(), 7.into());
        })
        .await;
    }

    proptest! {
        #[test]
        fn totals_are_the_sum_of_all_parts_in_any_order(seed: u64) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let rows = rows("workloads");
            runtime.block_on(contract::totals_are_the_sum_of_all_parts(&rows, &rows, seed));
        }
    }

    #[tokio::test]
    async fn held_indexes_show_rows_as_they_were() {
        let rows = rows("tickets");
        contract::held_indexes(&rows, || rows.hold_index(), || rows.release_index()).await;
    }
}
