//! A stream's events in one change.

use millrace_domain::Timestamp;
use millrace_event_store::{Met, NoEvent};
use millrace_read_models::Change as _;

use super::finding::Obstacle;
use crate::{Failure, apply::stored, projection::Projection};

/// What a stream comes to, as far as it can be folded.
pub(super) struct Fold<P: Projection> {
    /// What leads from no row to `folded`; `None` before the first event that can be read.
    pub(super) change: Option<P::Change>,
    /// The version that all events up to it are folded into.
    pub(super) folded: u64,
    /// The newest version that was met; 0 where none was.
    pub(super) newest: u64,
    /// When the last event that was met happened; `None` where none could be read.
    pub(super) latest: Option<Timestamp>,
    /// The first version that cannot be folded, and why. It follows `folded`.
    pub(super) obstacle: Option<(u64, Obstacle)>,
}

impl<P: Projection> Default for Fold<P> {
    fn default() -> Self {
        Self { change: None, folded: 0, newest: 0, latest: None, obstacle: None }
    }
}

impl<P: Projection> Fold<P> {
    /// Adds what was met next of the stream. Nothing is folded past what cannot be.
    pub(super) fn add(&mut self, met: &Met) {
        let version = match met {
            Met::Event(event) => event.envelope.version,
            Met::NoEvent(other) => other.version,
        };
        self.newest = self.newest.max(version);
        if let Met::Event(event) = met {
            self.latest = self.latest.max(Some(event.envelope.timestamp));
        }
        if self.obstacle.is_some() {
            return;
        }
        let next = self.folded.saturating_add(1);
        match self.change_of(met, next) {
            Ok(change) => {
                self.change = Some(change);
                self.folded = next;
            }
            Err(obstacle) => self.obstacle = Some((next, obstacle)),
        }
    }

    /// Takes note that another part of the stream was met by itself. That cannot be folded: the stream has to be read.
    pub(super) fn is_in_parts(&mut self, other: &Self) {
        self.newest = self.newest.max(other.newest);
        self.latest = self.latest.max(other.latest);
        let unread = || (self.folded.saturating_add(1), Failure::NotStored.into());
        self.obstacle.get_or_insert_with(unread);
    }

    /// The change so far with what was met next, which should be of the version `next`.
    fn change_of(&self, met: &Met, next: u64) -> Result<P::Change, Obstacle> {
        let change = match met {
            Met::Event(event) if event.envelope.version == next => stored::<P>(event)?,
            Met::NoEvent(NoEvent { version, error, .. }) if *version == next => {
                return Err(error.clone().into());
            }
            Met::Event(_) | Met::NoEvent(_) => return Err(Failure::NotStored.into()),
        };
        match &self.change {
            None => Ok(change),
            Some(before) => before.clone().then(change).ok_or_else(|| Failure::Misplaced.into()),
        }
    }
}
