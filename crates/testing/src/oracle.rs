//! The truth in the end: all events of a store, and everything that follows from them by the registration alone.
//!
//! The oracle uses none of the code that it judges: no store, no projector, no merging of changes. It folds one event at
//! a time in memory.

use std::collections::{BTreeMap, BTreeSet};

use millrace_core::{Application, Envelope, StreamId};

mod items;
mod rows;
mod sightings;
#[cfg(test)]
pub(crate) mod tests;

pub use rows::{ExpectedRow, FoundRows, RowPlace, Rows, States, differences};
pub use sightings::Sightings;

/// A promise that a history breaks, in words that begin with the promise's number where it has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

/// Holders of unique keys, as a store keeps them: `<tenant>#<scope>#<value>` with the name of the stream.
pub type Holders = BTreeMap<String, String>;

/// Every event of an application, by stream and version.
#[derive(Debug, Clone)]
pub struct Oracle {
    application: Application,
    streams: BTreeMap<StreamId, Vec<Envelope>>,
}

impl Oracle {
    /// The oracle of these events, in whatever order they are.
    ///
    /// # Errors
    /// If they break a promise: versions are 1, 2, 3 … (I3), a command is done once (I2), every event follows those
    /// before it, no key has two holders (I6), and no two events share an id.
    pub fn new(
        application: &Application,
        events: impl IntoIterator<Item = Envelope>,
    ) -> Result<Self, Violation> {
        let mut streams: BTreeMap<StreamId, Vec<Envelope>> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for event in events {
            let id = event.event_id;
            ensure(ids.insert(id), || format!("two events have the id {id}"))?;
            streams.entry(event.stream()).or_default().push(event);
        }
        for (stream, events) in &mut streams {
            events.sort_by_key(|event| event.version);
            let mut commands: Option<&str> = None;
            let mut done = BTreeSet::new();
            for (version, event) in (1..).zip(events.iter()) {
                ensure(event.version == version, || format!("I3: {stream} has no version {version}"))?;
                let command = event.command_id.as_str();
                // Events of one command follow each other.
                let is_new = commands == Some(command) || done.insert(command);
                ensure(is_new, || format!("I2: {stream} has the command {command} twice"))?;
                commands = Some(command);
            }
        }
        let oracle = Self { application: application.clone(), streams };
        oracle.holders()?;
        Ok(oracle)
    }

    /// The application whose events they are.
    pub fn application(&self) -> &Application {
        &self.application
    }

    /// The events of each stream, by version.
    pub fn streams(&self) -> &BTreeMap<StreamId, Vec<Envelope>> {
        &self.streams
    }

    /// All events, stream by stream.
    pub fn events(&self) -> impl Iterator<Item = &Envelope> {
        self.streams.values().flatten()
    }

    /// The holder of each unique key.
    ///
    /// # Errors
    /// If a key has two holders (I6), a stream cannot be folded, or its aggregate is not registered.
    pub fn holders(&self) -> Result<Holders, Violation> {
        let mut holders = Holders::new();
        for (stream, events) in &self.streams {
            let aggregate = self.application.aggregate(&stream.aggregate_type);
            let aggregate =
                aggregate.ok_or_else(|| Violation(format!("{stream} is of no registered aggregate")))?;
            let keys =
                (aggregate.unique_keys)(events).map_err(|error| Violation(format!("{stream}: {error}")))?;
            for key in keys {
                let name = format!("{}#{}#{}", stream.tenant, key.scope, key.value);
                let other = holders.insert(name, stream.to_string());
                ensure(other.is_none(), || format!("I6: {stream} holds what {other:?} holds"))?;
            }
        }
        Ok(holders)
    }
}

/// Equal histories: the application is not compared.
impl PartialEq for Oracle {
    fn eq(&self, other: &Self) -> bool {
        self.streams == other.streams
    }
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation(otherwise())) }
}
