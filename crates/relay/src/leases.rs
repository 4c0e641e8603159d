//! Leases: the reader of each shard, and its progress.

use std::{collections::HashSet, future::Future, num::NonZeroU32};

use millrace_aws::{AwsError, Segment};
use millrace_core::Timestamp;

use super::stream::{Position, Sequence, Shard, ShardId};

/// The progress of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checkpoint {
    /// The shard is read from this position on.
    At(Position),
    /// The bus has accepted the whole shard.
    ShardEnd,
}

const TRIM_HORIZON: &str = "TRIM_HORIZON";
const SHARD_END: &str = "SHARD_END";

impl Checkpoint {
    /// The text in the lease table: a sequence number, `TRIM_HORIZON` or `SHARD_END`.
    pub fn to_text(&self) -> String {
        match self {
            Self::At(Position::TrimHorizon) => TRIM_HORIZON.to_owned(),
            Self::At(Position::After(Sequence(number))) => number.clone(),
            Self::ShardEnd => SHARD_END.to_owned(),
        }
    }

    /// The inverse of [`to_text`](Self::to_text).
    pub fn from_text(text: &str) -> Self {
        match text {
            TRIM_HORIZON => Self::At(Position::TrimHorizon),
            SHARD_END => Self::ShardEnd,
            number => Self::At(Position::After(Sequence(number.to_owned()))),
        }
    }
}

/// A checkpoint and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The position up to which the bus has accepted the shard.
    pub checkpoint: Checkpoint,
    /// After a record: the time of the last accepted event, so that a refill knows where to begin. At the trim horizon:
    /// the time when a relay first knew of the shard or last had it refilled; records in the stream may have been a day
    /// older. Of a segment: the time of the oldest event to refill.
    pub time: Timestamp,
}

/// The key of the lease of the replica that lists the stream's shards. No shard has it: a stream's label contains no `#`.
pub const LOOKER: &str = "looker#";

/// The shard that a lease's shard continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parent {
    /// A release has written the lease that did not write parents. The looker adds it. Also of leases that are no
    /// shards'.
    Unknown,
    /// None.
    None,
    /// This one.
    Shard(ShardId),
}

const NO_PARENT: &str = "NONE";

impl Parent {
    /// The parent of a shard that is listed.
    pub fn of(shard: &Shard) -> Self {
        shard.parent.clone().map_or(Self::None, Self::Shard)
    }

    /// The shard, if there is one and it is known.
    pub fn shard(&self) -> Option<&ShardId> {
        match self {
            Self::Unknown | Self::None => None,
            Self::Shard(shard) => Some(shard),
        }
    }

    /// The text in the lease table: a shard or `NONE`; nothing if it is unknown.
    pub fn to_text(&self) -> Option<&str> {
        match self {
            Self::Unknown => None,
            Self::None => Some(NO_PARENT),
            Self::Shard(shard) => Some(shard.as_str()),
        }
    }

    /// The inverse of [`to_text`](Self::to_text).
    pub fn from_text(text: Option<&str>) -> Self {
        match text {
            None => Self::Unknown,
            Some(NO_PARENT) => Self::None,
            Some(shard) => Self::Shard(ShardId::from(shard)),
        }
    }
}

/// A shard's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The shard.
    pub shard: ShardId,
    /// The replica that reads it, if any.
    pub owner: Option<String>,
    /// Grows with every new owner, so that a former owner can no longer write.
    pub fence: u64,
    /// When it becomes free unless it is renewed, in whole milliseconds.
    pub expires_at: Timestamp,
    /// The shard's progress.
    pub progress: Progress,
    /// The shard that it continues.
    pub parent: Parent,
    /// Whether the stream lists the shard no more, though it is not finished: if it cannot be opened, it is gone.
    pub is_unlisted: bool,
}

impl Lease {
    /// Whether nothing is left to read.
    pub fn is_finished(&self) -> bool {
        self.progress.checkpoint == Checkpoint::ShardEnd
    }
}

/// A refill from the table, divided into segments, each with a lease as a shard has. The replica that writes it down
/// need not do it: the replicas that take its segments do, each from the segment's checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefillJob {
    /// Newer refills have higher numbers, and no number is used again.
    pub number: u64,
    /// The refill publishes every event of this time or later that was stored when its first segment was taken.
    pub since: Timestamp,
    /// The number of segments.
    pub segments: NonZeroU32,
}

/// The prefix of a refill's key and of its segments' leases. No shard has it: a stream's label contains no `#`.
const REFILL: &str = "refill#";

impl RefillJob {
    /// The key of the refill itself.
    pub fn key(&self) -> String {
        format!("{REFILL}{}", self.number)
    }

    /// The names of its segments' leases: `refill#<number>/<segment>/<segments>`.
    pub fn segments(&self) -> impl Iterator<Item = ShardId> {
        Segment::all(self.segments)
            .map(|Segment { number, of }| ShardId::from(format!("{}/{number}/{of}", self.key())))
    }

    /// The number of a refill of this key.
    pub fn number_of(key: &str) -> Option<u64> {
        key.strip_prefix(REFILL)?.parse().ok()
    }
}

/// The segment of a lease; `None` for a shard's lease.
pub fn segment_of(lease: &ShardId) -> Option<Segment> {
    let mut parts = lease.as_str().strip_prefix(REFILL)?.splitn(3, '/').skip(1);
    let (number, of) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(Segment { number, of })
}

/// A replica that can take leases, whether it holds any or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its name.
    pub owner: String,
    /// When it counts as gone unless it announces itself again.
    pub expires_at: Timestamp,
}

/// The content of the lease table.
#[derive(Debug, Clone, Default)]
pub struct LeaseTable {
    /// The leases of shards.
    pub leases: Vec<Lease>,
    /// The refills.
    pub refills: Vec<RefillJob>,
    /// The leases of their segments.
    pub segments: Vec<Lease>,
    /// The replicas.
    pub replicas: Vec<Replica>,
    /// The lease of the replica that lists the stream's shards.
    pub looker: Option<Lease>,
    /// The latest known time at which every listed shard had its lease. A shard without a lease is younger.
    pub complete_at: Option<Timestamp>,
}

impl LeaseTable {
    /// Whether a segment of the refill has been taken.
    pub(crate) fn has_begun(&self, refill: &RefillJob) -> bool {
        let taken: HashSet<&ShardId> = self.segments.iter().map(|lease| &lease.shard).collect();
        refill.segments().any(|segment| taken.contains(&segment))
    }

    /// The number of a new refill. It is derived from the time so that a deleted refill's number is not used again: a
    /// call about that refill may still be under way.
    pub(crate) fn next_number(&self, now: Timestamp) -> u64 {
        let newest = self.refills.iter().map(|refill| refill.number).max().unwrap_or_default();
        newest.saturating_add(1).max(u64::try_from(now.unix_micros()).unwrap_or_default())
    }
}

/// The store of leases. Each conditional write names its condition, and most return whether it held.
pub trait Leases: Clone + Send + Sync + 'static {
    /// The whole table, strongly consistent.
    fn list(&self) -> impl Future<Output = Result<LeaseTable, AwsError>> + Send;

    /// Creates a shard's first lease, unless there is one.
    fn create(&self, lease: &Lease) -> impl Future<Output = Result<bool, AwsError>> + Send;

    /// Makes `owner` the owner of a lease under the next fence, unless its fence or expiry differs from `seen`. Returns
    /// the new lease.
    fn take(
        &self,
        seen: &Lease,
        owner: &str,
        expires_at: Timestamp,
    ) -> impl Future<Output = Result<Option<Lease>, AwsError>> + Send;

    /// Writes a lease's expiry and progress, unless its owner or fence has changed or it was renewed for longer: a late
    /// write must not take the progress back.
    fn keep(&self, lease: &Lease) -> impl Future<Output = Result<bool, AwsError>> + Send;

    /// Like [`keep`](Self::keep), and leaves the lease without an owner.
    fn release(&self, lease: &Lease) -> impl Future<Output = Result<bool, AwsError>> + Send;

    /// Writes the parent and whether the shard is unlisted, and nothing else, if there is the lease.
    fn correct(&self, lease: &Lease) -> impl Future<Output = Result<(), AwsError>> + Send;

    /// Deletes a finished lease, unless its fence has changed.
    fn forget(&self, seen: &Lease) -> impl Future<Output = Result<(), AwsError>> + Send;

    /// Registers a replica, or extends its registration.
    fn announce(&self, replica: &Replica) -> impl Future<Output = Result<(), AwsError>> + Send;

    /// Notes a time at which every listed shard had its lease; see [`LeaseTable::complete_at`]. A time earlier than the
    /// noted one changes nothing.
    fn note_complete(&self, at: Timestamp) -> impl Future<Output = Result<(), AwsError>> + Send;

    /// Writes a refill down, unless one of its number exists.
    fn begin_refill(&self, refill: &RefillJob) -> impl Future<Output = Result<bool, AwsError>> + Send;

    /// Deletes a refill, but not the leases of its segments.
    fn end_refill(&self, refill: &RefillJob) -> impl Future<Output = Result<(), AwsError>> + Send;

    /// Deletes a replica's registration; the inverse of [`announce`](Self::announce).
    fn withdraw(&self, owner: &str) -> impl Future<Output = Result<(), AwsError>> + Send;
}
