//! What can be chosen about the relay.

use std::time::Duration;

/// How the relay behaves. [`RelayConfig::new`] gives the defaults, which suit AWS: a crashed replica's shards are read
/// by others after about 10 s.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// This replica's name among all that share the lease table. Must be new with every start of the process, such as a
    /// UUID: whoever has the name of a lease's owner may take it.
    pub owner: String,
    /// `Source` of every entry on the bus.
    pub source: String,
    /// How long a shard's reads lie apart, from start to start, unless the last one brought
    /// [`EAGER_RECORDS`](Self::EAGER_RECORDS) or more. 250 ms: four reads a second, as AWS's own consumers do; a shard
    /// allows five.
    pub poll_interval: Duration,
    /// How often the stream is asked for its shards; also done when a shard ends. 10 s.
    pub discovery_interval: Duration,
    /// How often the lease table is read, to take what is free and give up what is too much. 2.5 s.
    pub balance_interval: Duration,
    /// How long a lease lives without being renewed. 8 s. Clocks of replicas may differ by less than this minus
    /// [`renew_interval`](Self::renew_interval) before live leases are stolen, which would only repeat events.
    pub lease_duration: Duration,
    /// How often a lease is renewed. 2 s.
    pub renew_interval: Duration,
    /// How far apart the checkpoints of a shard are at least. 1 s. A crash repeats what was accepted since the last one.
    pub checkpoint_interval: Duration,
    /// How old an unread position at the start of a shard may be before the stream is suspected to have dropped records
    /// behind it, and the table is asked instead. 20 h, since DynamoDB keeps records for 24 h. A second where the stream
    /// may forget at any time, as an emulator does when it restarts.
    pub trust_horizon: Duration,
    /// By how much a refill reaches back behind the time of the checkpoint. 5 min: an event's time is taken before it is
    /// stored, by a clock of its own.
    pub refill_margin: Duration,
    /// The most that the entries of one call to the bus may take, in bytes, and so the most that one may. 256 KiB, which
    /// every AWS partition and every SQS queue accepts; since January 2026 most accept 1 MiB (AWS Compute Blog, "More
    /// room to build"). A larger event goes without its data.
    pub max_bytes: usize,
    /// How many calls to the bus one shard makes at a time. Events of one aggregate stay in order within a shard. 4.
    pub lanes: usize,
    /// The pause after a first failure; it doubles up to [`max_backoff`](Self::max_backoff), with jitter. 50 ms.
    pub first_backoff: Duration,
    /// The longest pause between attempts. 5 s.
    pub max_backoff: Duration,
    /// How long the work in flight may take to end at a shutdown; giving up the leases may take as long again. 500 ms.
    pub drain: Duration,
}

impl RelayConfig {
    /// A read of so many records is followed by the next one at once: there is a backlog.
    pub const EAGER_RECORDS: usize = 100;

    /// The defaults, for a replica named `owner` that publishes as `source`.
    pub fn new(owner: impl Into<String>, source: impl Into<String>) -> Self {
        Self {
            owner: owner.into(),
            source: source.into(),
            poll_interval: Duration::from_millis(250),
            discovery_interval: Duration::from_secs(10),
            balance_interval: Duration::from_millis(2_500),
            lease_duration: Duration::from_secs(8),
            renew_interval: Duration::from_secs(2),
            checkpoint_interval: Duration::from_secs(1),
            trust_horizon: Duration::from_secs(20 * 60 * 60),
            refill_margin: Duration::from_secs(5 * 60),
            max_bytes: 256 * 1024,
            lanes: 4,
            first_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(5),
            drain: Duration::from_millis(500),
        }
    }
}
