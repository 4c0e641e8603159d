//! The commands that an aggregate remembers.

use std::{collections::VecDeque, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Answered, REMEMBERED_COMMANDS};

/// How many commands one piece holds.
const PIECE: usize = 16;

/// The last [`REMEMBERED_COMMANDS`] commands.
///
/// Every command copies its aggregate's root, since the one before stays in the cache until the event is stored. So
/// copies share pieces of commands, and only the newest piece is copied.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    /// Full pieces, the oldest first. Of the oldest some may be forgotten already.
    full: VecDeque<Arc<[Answered]>>,
    /// The newest commands: one piece at most, and empty only if all is.
    newest: Vec<Answered>,
}

impl Remembered {
    /// Remembers one more, and forgets those beyond the bound.
    pub(super) fn push(&mut self, answered: Answered) {
        if self.newest.len() == PIECE {
            self.full.push_back(std::mem::take(&mut self.newest).into());
        }
        self.newest.push(answered);
        if self.len() >= REMEMBERED_COMMANDS + PIECE {
            self.full.pop_front();
        }
    }

    /// The last one.
    pub(super) fn last(&self) -> Option<&Answered> {
        self.newest.last()
    }

    /// The last one, to be changed.
    pub(super) fn last_mut(&mut self) -> Option<&mut Answered> {
        self.newest.last_mut()
    }

    /// All that are remembered, the newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = &Answered> {
        self.held().rev().take(REMEMBERED_COMMANDS)
    }

    /// All that take memory, the oldest first: a few more than are remembered.
    pub(super) fn held(&self) -> impl DoubleEndedIterator<Item = &Answered> {
        self.full.iter().flat_map(|piece| piece.iter()).chain(&self.newest)
    }

    fn len(&self) -> usize {
        self.full.len() * PIECE + self.newest.len()
    }

    /// All that are remembered, the oldest first.
    fn oldest_first(&self) -> impl Iterator<Item = &Answered> {
        self.held().skip(self.len().saturating_sub(REMEMBERED_COMMANDS))
    }
}

impl Clone for Remembered {
    fn clone(&self) -> Self {
        // A copy is made to remember one more.
        let mut newest = Vec::with_capacity((self.newest.len() + 1).min(PIECE));
        newest.extend_from_slice(&self.newest);
        Self { full: self.full.clone(), newest }
    }
}

/// The ends of pieces depend on where the remembering began, and do not matter.
impl PartialEq for Remembered {
    fn eq(&self, other: &Self) -> bool {
        self.newest_first().eq(other.newest_first())
    }
}

impl Eq for Remembered {}

impl FromIterator<Answered> for Remembered {
    fn from_iter<I: IntoIterator<Item = Answered>>(all: I) -> Self {
        let mut remembered = Self::default();
        all.into_iter().for_each(|answered| remembered.push(answered));
        remembered
    }
}

/// In a snapshot it is a list, the oldest first.
impl Serialize for Remembered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.oldest_first())
    }
}

impl<'de> Deserialize<'de> for Remembered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{CommandDigest, CommitReceipt, EventId};

    fn answered(number: usize) -> Answered {
        let version = u64::try_from(number).unwrap();
        let event_id = EventId(Uuid::from_u128(u128::from(version)));
        let command_id = number.to_string().parse().unwrap();
        Answered::new(command_id, CommandDigest(7), CommitReceipt { version, event_id })
    }

    proptest! {
        #[test]
        fn what_is_remembered_is_the_end_of_what_was_told(first in 0..300_usize, then in 0..300_usize) {
            let all: Vec<_> = (0..first + then).map(answered).collect();
            let remembered: Remembered = all[..first].iter().cloned().collect();
            // A restored snapshot, and a copy that shares pieces, hold the same commands.
            let kept = serde_json::to_value(&remembered).unwrap();
            let mut restored: Remembered = serde_json::from_value(kept).unwrap();
            let mut copy = remembered.clone();
            for answered in &all[first..] {
                copy.push(answered.clone());
                restored.push(answered.clone());
            }
            let end = &all[all.len().saturating_sub(REMEMBERED_COMMANDS)..];
            for remembered in [&copy, &restored] {
                prop_assert!(remembered.newest_first().eq(end.iter().rev()));
                prop_assert!(remembered.oldest_first().eq(end));
                prop_assert_eq!(remembered.last(), all.last());
                prop_assert!(remembered.held().count() < REMEMBERED_COMMANDS + PIECE);
            }
            prop_assert_eq!(&copy, &restored);
            prop_assert!(remembered.oldest_first().eq(&all[first.saturating_sub(REMEMBERED_COMMANDS)..first]));
        }
    }
}
