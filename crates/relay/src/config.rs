//! The relay's settings.

use std::{num::NonZeroU32, time::Duration};

use super::stream::FULL_PAGE;

/// How the relay behaves. [`RelayConfig::new`] gives the defaults, which suit AWS: a crashed replica's shards are read
/// by others after about 10 s.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// This replica's name among all that share the lease table. Must be new with every start of the process, such as a
    /// UUID: a replica may take any lease whose owner has its name.
    pub owner: String,
    /// `Source` of every entry on the bus.
    pub source: String,
    /// The shortest interval between the starts of a shard's reads. 250 ms: four reads a second, as AWS's own consumers
    /// do; a shard allows five. A read brings up to 1,000 records. After a full read the next one comes after
    /// [`CATCH_UP`](Self::CATCH_UP), if that is sooner.
    pub poll_interval: Duration,
    /// The longest interval between reads. The interval grows by an eighth with each empty read, and a read with
    /// records, or an event that this process has stored, resets it. 1 s, reached after 6 s of silence.
    pub idle_poll_interval: Duration,
    /// How often the looker lists the shards of the stream, four pages of 100 a second. 10 s.
    pub discovery_interval: Duration,
    /// How often the lease table is read, to take free leases and give up surplus ones. 2.5 s, and longer for a table of
    /// more than 10,000 leases: 250 µs for each. A lease is about 300 bytes, so a replica's readings cost at most 300 RU a
    /// second, however many shards there are.
    pub balance_interval: Duration,
    /// How long a lease lives without being renewed. 8 s. If the clocks of replicas differ by more than this minus
    /// [`renew_interval`](Self::renew_interval), live leases are stolen, which only repeats events.
    pub lease_duration: Duration,
    /// How often a lease is renewed. 2 s.
    pub renew_interval: Duration,
    /// The shortest interval of a shard's checkpoints. 1 s. A crash repeats the events accepted since the last
    /// checkpoint.
    pub checkpoint_interval: Duration,
    /// The greatest trusted age of an unread position at the start of a shard. Beyond it the stream may have dropped
    /// records, and the table is read instead. [`STREAM_TRUST`](Self::STREAM_TRUST). Use a second for an emulator,
    /// which forgets its records when it restarts.
    pub trust_horizon: Duration,
    /// How far before the time of the checkpoint a refill begins. 5 min: an event's time is taken before it is stored,
    /// by another clock.
    pub refill_margin: Duration,
    /// The most bytes of the entries of one call to the bus, and so of one entry. 256 KiB, which every AWS partition
    /// and every SQS queue accepts; since January 2026 most accept 1 MiB (AWS Compute Blog, "More room to build"). A
    /// larger event goes without its data.
    pub max_bytes: usize,
    /// How many calls to the bus one shard makes at a time, each with up to ten events. Events of one aggregate stay in
    /// order. 16: at 20 ms a call they carry 16 × 10 / 0.02 s = 8,000 events a second, which is more than five reads a
    /// second can bring.
    pub lanes: usize,
    /// The number of segments of a refill. The replicas share them as they share shards. 32.
    pub refill_segments: NonZeroU32,
    /// How many segments of refills one replica reads at a time. 4.
    pub refills_at_once: usize,
    /// How many calls to the bus each of these makes at a time. 4: at 20 ms a call, a replica refills up to
    /// 4 × 4 × 10 / 0.02 s = 8,000 events a second beside live events.
    pub refill_lanes: usize,
    /// The pause after a first failure; it doubles up to [`max_backoff`](Self::max_backoff), with jitter. 50 ms.
    pub first_backoff: Duration,
    /// The longest pause between attempts. 5 s.
    pub max_backoff: Duration,
    /// How long the work in flight may take at a shutdown; giving up the leases may take as long again. 500 ms.
    pub drain: Duration,
}

impl RelayConfig {
    /// How long DynamoDB's stream is trusted to keep unread records: 20 of its 24 hours. The rest allows for clocks
    /// that differ.
    pub const STREAM_TRUST: Duration = Duration::from_secs(20 * 60 * 60);

    /// How long the first relay of all, and its successors, trust the shards that it finds. If the first relay dies
    /// before it has read any, events of the day before it, less these minutes, are not lost.
    const FIRST_TRUST: Duration = Duration::from_secs(10 * 60);

    /// The age that the first relay of all assumes for the shards that it finds.
    pub(super) fn age_of_first(&self) -> Duration {
        self.trust_horizon.saturating_sub(Self::FIRST_TRUST)
    }

    /// The interval between the reads of a shard that is behind: five a second, AWS's limit, each with 1,000 records.
    /// So a backlog shrinks by 5,000 events a second, five times as fast as a shard can take writes.
    const CATCH_UP: Duration = Duration::from_millis(200);

    /// The shortest time between two readings of a lease table with this number of leases.
    pub(super) fn read_time(leases: usize) -> Duration {
        const EACH: Duration = Duration::from_micros(250);
        EACH.saturating_mul(u32::try_from(leases).unwrap_or(u32::MAX))
    }

    /// In how much time a shard is read five times at most, however often events are stored: in a second, or sooner
    /// where the intervals are shorter.
    pub(super) fn five_reads(&self) -> Duration {
        5 * self.poll_interval.min(Self::CATCH_UP)
    }

    /// The next interval, after an `interval` whose read brought this number of records.
    pub(super) fn next_poll(&self, interval: Duration, brought: usize) -> Duration {
        match brought {
            0 => (interval + interval / 8).min(self.idle_poll_interval.max(self.poll_interval)),
            FULL_PAGE.. => self.poll_interval.min(Self::CATCH_UP),
            _ => self.poll_interval,
        }
    }

    /// The defaults, for a replica named `owner` that publishes as `source`.
    pub fn new(owner: impl Into<String>, source: impl Into<String>) -> Self {
        Self {
            owner: owner.into(),
            source: source.into(),
            poll_interval: Duration::from_millis(250),
            idle_poll_interval: Duration::from_secs(1),
            discovery_interval: Duration::from_secs(10),
            balance_interval: Duration::from_millis(2_500),
            lease_duration: Duration::from_secs(8),
            renew_interval: Duration::from_secs(2),
            checkpoint_interval: Duration::from_secs(1),
            trust_horizon: Self::STREAM_TRUST,
            refill_margin: Duration::from_secs(5 * 60),
            max_bytes: 256 * 1024,
            lanes: 16,
            refill_segments: NonZeroU32::MIN.saturating_add(31),
            refills_at_once: 4,
            refill_lanes: 4,
            first_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(5),
            drain: Duration::from_millis(500),
        }
    }
}
