//! Blocks of remembered commands: which commands the events of a part of a stream are of.

use millrace_core::{EventId, StreamId};

/// How many versions a block is of. Block 0 begins with version 1.
pub const BLOCK_VERSIONS: u64 = 512;

/// The most blocks that are read at a time (DynamoDB API Reference, `BatchGetItem`).
pub const MAX_BLOCKS: usize = 100;

/// How many blocks of a stream are kept; each takes the place of the one so many before it. They are of a million events,
/// more than one partition takes in 17 minutes.
pub const KEPT_BLOCKS: u64 = 2_048;

/// The commands of 512 consecutive events. Discardable: the stream yields it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandBlock {
    /// The aggregate's stream.
    pub stream: StreamId,
    /// Which block: that of the versions from `number * 512 + 1` on.
    pub number: u64,
    /// The id of the event before its first; `None` for block 0. With it, blocks form a chain: each proves the one before.
    pub before: Option<EventId>,
    /// The id of its last event.
    pub last: EventId,
    /// The latest time of its events, in seconds since 1970.
    pub newest: i64,
    /// For each event the upper half of its command's fingerprint, in order of versions.
    pub fingerprints: Vec<u32>,
}

impl CommandBlock {
    /// The number of the block that a version belongs to.
    pub fn of(version: u64) -> u64 {
        version.saturating_sub(1) / BLOCK_VERSIONS
    }

    /// The version of the last event of the block before this one; 0 for the first.
    pub fn base(number: u64) -> u64 {
        number.saturating_mul(BLOCK_VERSIONS)
    }

    /// The version of its last event.
    pub fn last_version(&self) -> u64 {
        Self::base(self.number.saturating_add(1))
    }

    /// Where it is kept among the blocks of its stream.
    pub(crate) fn slot(number: u64) -> u64 {
        number % KEPT_BLOCKS
    }
}
