//! A stream's events in one update.

use std::panic::{AssertUnwindSafe, catch_unwind};

use millrace_core::{
    Timestamp,
    projection::{ProjectionError, ProjectionSpec, RowUpdate},
    row::Attributes,
};
use millrace_event_store::{ScannedItem, UnreadableItem};

use super::finding::Obstacle;
use crate::{
    ApplyError,
    apply::{merge, update_of_stored},
};

/// The fold of a stream, as far as it can be folded.
#[derive(Default)]
pub(super) struct Fold {
    /// The update from no row to `folded`; `None` before the first event that can be read.
    pub(super) update: Option<RowUpdate>,
    /// The version that all events up to it are folded into.
    pub(super) folded: u64,
    /// The newest version seen; 0 where there was none.
    pub(super) newest: u64,
    /// The time of the last event seen; `None` where none could be read.
    pub(super) latest: Option<Timestamp>,
    /// The first version that cannot be folded, and the reason. It follows `folded`.
    pub(super) obstacle: Option<(u64, Obstacle)>,
}

impl Fold {
    /// Adds the next item of the stream. After an item that cannot be folded, nothing is folded.
    pub(super) fn add(&mut self, spec: &ProjectionSpec, item: &ScannedItem) {
        let version = match item {
            ScannedItem::Event(event) => event.envelope.version,
            ScannedItem::Unreadable(other) => other.version,
        };
        self.newest = self.newest.max(version);
        if let ScannedItem::Event(event) = item {
            self.latest = self.latest.max(Some(event.envelope.timestamp));
        }
        if self.obstacle.is_some() {
            return;
        }
        let next = self.folded.saturating_add(1);
        match self.update_of(spec, item, next) {
            Ok(update) => {
                self.update = Some(update);
                self.folded = next;
            }
            Err(obstacle) => self.obstacle = Some((next, obstacle)),
        }
    }

    /// Notes that another part of the stream came by itself. Such a stream cannot be folded and has to be read again.
    pub(super) fn is_in_parts(&mut self, other: &Self) {
        self.newest = self.newest.max(other.newest);
        self.latest = self.latest.max(other.latest);
        let unread = || (self.folded.saturating_add(1), ApplyError::NotStored.into());
        self.obstacle.get_or_insert_with(unread);
    }

    /// The update so far merged with that of the next item, which should be of the version `next`.
    fn update_of(&self, spec: &ProjectionSpec, item: &ScannedItem, next: u64) -> Result<RowUpdate, Obstacle> {
        let update = match item {
            ScannedItem::Event(event) if event.envelope.version == next => update_of_stored(spec, event)?,
            ScannedItem::Unreadable(UnreadableItem { version, error, .. }) if *version == next => {
                return Err(error.clone().into());
            }
            ScannedItem::Event(_) | ScannedItem::Unreadable(_) => return Err(ApplyError::NotStored.into()),
        };
        match &self.update {
            None => Ok(update),
            Some(before) => {
                merge(before.clone(), update.clone()).ok_or_else(|| reason(before, &update).into())
            }
        }
    }
}

/// Why an update cannot follow a known row.
fn reason(before: &RowUpdate, update: &RowUpdate) -> ApplyError {
    let resolve = || before.change.resolve(&Attributes::new()).and_then(|row| update.change.resolve(&row));
    match catch_unwind(AssertUnwindSafe(resolve)) {
        Ok(Err(error)) => error.into(),
        // It is of another row, or of another version of its stream.
        Ok(Ok(_)) => ProjectionError::Misplaced.into(),
        Err(_) => ApplyError::Panicked,
    }
}
