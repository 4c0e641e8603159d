//! Rows as an observer saw them in repeated looks.

use std::collections::BTreeMap;

use millrace_core::row::StoredRow;

use super::{FoundRows, RowPlace, States, Violation, ensure};

/// The observed states of all rows.
#[derive(Debug, Default)]
pub struct Sightings {
    looks: u64,
    /// The states of each row, once for each time that it had changed.
    seen: BTreeMap<RowPlace, Vec<StoredRow>>,
}

impl Sightings {
    /// Notes the present state of all rows.
    ///
    /// # Errors
    /// If an earlier row is gone (I5).
    pub fn note(&mut self, rows: FoundRows) -> Result<(), Violation> {
        let gone = self.seen.keys().find(|place| !rows.contains_key(*place));
        ensure(gone.is_none(), || format!("I5: {gone:?} was there, and is gone"))?;
        for (place, row) in rows {
            let seen = self.seen.entry(place).or_default();
            if seen.last() != Some(&row) {
                seen.push(row);
            }
        }
        self.looks += 1;
        Ok(())
    }

    /// How often all rows were looked at.
    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// How many states of rows were seen.
    pub fn states(&self) -> usize {
        self.seen.values().map(Vec::len).sum()
    }

    /// Compares the observed states with those that rows go through.
    ///
    /// # Errors
    /// If a row went back, was of no stream, or had a state that is not in its history (I5). Of a row that many
    /// aggregates feed, only the version and the last state are known beforehand.
    pub fn check(&self, states: &States) -> Result<(), Violation> {
        for (place, seen) in &self.seen {
            let states =
                states.get(place).ok_or_else(|| Violation(format!("I5: {place:?} is of no stream")))?;
            let mut before = 0;
            for row in seen {
                let version = row.version;
                ensure(before < version, || {
                    format!("I5: {place:?} went from version {before} back to {version}")
                })?;
                before = version;
                let known = states.iter().filter(|state| state.versions.contains(&version));
                let is_sum = states.iter().any(|state| state.versions.start() != state.versions.end());
                let is_right = known.clone().any(|state| is_sum || state.differences(row).is_empty());
                ensure(is_right, || format!("I5: {place:?} was as it never was: {row:?}"))?;
            }
        }
        Ok(())
    }
}
