//! Rows as they should be, and how rows that were found differ from them.

use std::{collections::BTreeMap, ops::RangeInclusive};

use millrace_core::{
    DecodeError, Envelope, ProjectionName, StreamId,
    projection::{Aggregation, ProjectionError, ProjectionKind, ProjectionSpec},
    row::{Attributes, Provenance, RowKey, StoredRow},
};

use super::Oracle;

/// The place of a row: its projection and its key. The parts of an aggregating projection are apart from its rows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowPlace {
    /// The projection.
    pub projection: ProjectionName,
    /// The key; of a part, that of its aggregate.
    pub key: RowKey,
    /// Whether it is a part, which no query shows.
    pub is_part: bool,
}

/// A row as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpectedRow {
    /// Its attributes; none where there is no row, but a version in its place.
    pub attributes: Attributes,
    /// Its version. A row that many aggregates feed counts its changes: consecutive events that were written at once are
    /// one, so there may be fewer changes than events.
    pub versions: RangeInclusive<u64>,
    /// The newest event in it; where many aggregates feed it, any event that may have been written last.
    pub provenances: Vec<Provenance>,
    /// Of a row that many aggregates feed, how many of them do.
    pub parts: Option<u64>,
    /// Of a part, the row that it belongs to.
    pub target: Option<RowKey>,
}

/// Rows as they should be.
pub type Rows = BTreeMap<RowPlace, ExpectedRow>;

/// Every state that each row goes through. The states of a row that many aggregates feed depend on their order, so only
/// its last one is here.
pub type States = BTreeMap<RowPlace, Vec<ExpectedRow>>;

/// Rows as a store has them.
pub type FoundRows = BTreeMap<RowPlace, StoredRow>;

impl ExpectedRow {
    /// Whether there may be no trace of it: all parts have left, perhaps by events that were written at once with those by
    /// which they came.
    pub fn may_be_missing(&self) -> bool {
        self.parts == Some(0)
    }

    /// The differences of a row from this one: none, or an entry for each attribute.
    pub fn differences(&self, found: &StoredRow) -> Vec<String> {
        let mut differences = Vec::new();
        if !self.versions.contains(&found.version) {
            differences.push(format!("the version is {}, not {:?}", found.version, self.versions));
        }
        match &found.provenance {
            Some(provenance) if self.provenances.contains(provenance) => {}
            other => differences.push(format!("the provenance is {other:?}, not of {:?}", self.provenances)),
        }
        let (right, other) = (&self.attributes, &found.attributes);
        let names = right.keys().chain(other.keys().filter(|name| !right.contains_key(*name)));
        let wrong = names.filter(|name| right.get(*name) != other.get(*name));
        differences
            .extend(wrong.map(|name| format!("{name} is {:?}, not {:?}", other.get(name), right.get(name))));
        differences
    }
}

/// How found rows differ from the expected ones: not at all, or the first few differences.
pub fn differences(expected: &Rows, found: &FoundRows) -> Vec<String> {
    const MAX: usize = 8;
    let missing = expected
        .iter()
        .filter(|(place, row)| !found.contains_key(*place) && !row.may_be_missing())
        .map(|(place, row)| format!("{place:?} is missing; it should be {row:?}"));
    let wrong = expected.iter().filter_map(|(place, row)| {
        let differences = row.differences(found.get(place)?);
        (!differences.is_empty()).then(|| format!("{place:?}: {}", differences.join("; ")))
    });
    let extra = found.iter().filter(|(place, _)| !expected.contains_key(*place));
    let extra = extra.map(|(place, row)| format!("{place:?} should not be there: {row:?}"));
    missing.chain(wrong).chain(extra).take(MAX).collect()
}

impl Oracle {
    /// The rows of all projections in the end.
    ///
    /// # Errors
    /// If a projection cannot make a row of the events.
    pub fn rows(&self) -> Result<Rows, ProjectionError> {
        let last = |(place, mut states): (_, Vec<ExpectedRow>)| Some((place, states.pop()?));
        Ok(self.states()?.into_iter().filter_map(last).collect())
    }

    /// Every state that each row goes through, the one of version 1 first.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub fn states(&self) -> Result<States, ProjectionError> {
        self.states_of(|streams| streams)
    }

    /// The rows where aggregates come in the opposite order: equal to [`rows`](Self::rows), unless a projection depends on
    /// the order of aggregates.
    pub(crate) fn rows_backwards(&self) -> Result<Rows, ProjectionError> {
        let states = self.states_of(|mut streams| {
            streams.reverse();
            streams
        })?;
        Ok(states.into_iter().filter_map(|(place, mut states)| Some((place, states.pop()?))).collect())
    }

    fn states_of<'a>(
        &'a self,
        order: impl Fn(Vec<(&'a StreamId, &'a [Envelope])>) -> Vec<(&'a StreamId, &'a [Envelope])>,
    ) -> Result<States, ProjectionError> {
        let mut all = States::new();
        for projection in self.application().projections() {
            let streams =
                self.streams().iter().filter(|(stream, _)| stream.aggregate_type == projection.source);
            let mut sums = Sums::new();
            for (stream, events) in
                order(streams.map(|(stream, events)| (stream, events.as_slice())).collect())
            {
                let key = RowKey { tenant: stream.tenant.clone(), id: stream.id.to_string() };
                let mut states = fold(projection, events)?;
                let is_part = match projection.kind {
                    ProjectionKind::Blind | ProjectionKind::Fold => false,
                    ProjectionKind::Aggregating(aggregation) => {
                        sums.add(&aggregation, stream, &mut states)?;
                        true
                    }
                };
                all.insert(RowPlace { projection: projection.name, key, is_part }, states);
            }
            let place = |key| RowPlace { projection: projection.name, key, is_part: false };
            all.extend(sums.0.into_iter().map(|(key, row)| (place(key), vec![row])));
        }
        Ok(all)
    }
}

/// The row of an aggregate after each of its events.
fn fold(projection: &ProjectionSpec, events: &[Envelope]) -> Result<Vec<ExpectedRow>, ProjectionError> {
    let mut states: Vec<ExpectedRow> = Vec::with_capacity(events.len());
    let nothing = Attributes::new();
    for event in events {
        let no_data = || DecodeError::Malformed("the event is without its data".to_owned());
        let update = (projection.update)(event)?.ok_or_else(no_data)?;
        let before = states.last().map_or(&nothing, |row| &row.attributes);
        states.push(ExpectedRow {
            attributes: update.change.resolve(before)?,
            versions: update.to_version..=update.to_version,
            provenances: vec![update.provenance],
            parts: None,
            target: None,
        });
    }
    Ok(states)
}

/// The rows of an aggregating projection, by their keys.
struct Sums(BTreeMap<RowKey, ExpectedRow>);

impl Sums {
    fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds the parts of an aggregate, one after the other, and notes the row of each.
    fn add(
        &mut self,
        aggregation: &Aggregation,
        stream: &StreamId,
        parts: &mut [ExpectedRow],
    ) -> Result<(), ProjectionError> {
        let (mut before, mut left) = (Attributes::new(), None);
        // An event may be written at once with later ones of its aggregate, whose last one is named then.
        let mut written_last: Vec<_> = parts.iter().flat_map(|part| part.provenances.clone()).collect();
        for part in parts {
            let after = part.attributes.clone();
            let id = (!after.is_empty()).then(|| (aggregation.row_of)(&after)).transpose()?;
            part.target = id.map(|id| RowKey { tenant: stream.tenant.clone(), id });
            let nothing = Attributes::new();
            if left == part.target {
                self.change(aggregation, left.as_ref(), &before, &after, &written_last)?;
            } else {
                self.change(aggregation, left.as_ref(), &before, &nothing, &written_last)?;
                self.change(aggregation, part.target.as_ref(), &nothing, &after, &written_last)?;
            }
            written_last.remove(0);
            (before, left) = (after, part.target.clone());
        }
        Ok(())
    }

    fn change(
        &mut self,
        aggregation: &Aggregation,
        key: Option<&RowKey>,
        before: &Attributes,
        after: &Attributes,
        written_last: &[Provenance],
    ) -> Result<(), ProjectionError> {
        let Some(key) = key else { return Ok(()) };
        let new = || ExpectedRow {
            attributes: Attributes::new(),
            versions: 0..=0,
            provenances: Vec::new(),
            parts: Some(0),
            target: None,
        };
        let row = self.0.entry(key.clone()).or_insert_with(new);
        let parts =
            row.parts.unwrap_or_default() + u64::from(before.is_empty()) - u64::from(after.is_empty());
        row.attributes = match parts {
            0 => Attributes::new(),
            _ => (aggregation.fold)(&row.attributes, &key.id, before, after)?,
        };
        row.parts = Some(parts);
        row.versions = 1..=row.versions.end() + 1;
        row.provenances.extend_from_slice(written_last);
        Ok(())
    }
}
