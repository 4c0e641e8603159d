//! Time for the relay: its clock, and pauses that a shutdown ends.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use millrace_core::{Backoff, Timestamp};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// The source of the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The work was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stopped;

/// The growing pauses between the attempts at one piece of work.
#[derive(Debug)]
pub(super) struct Pauses {
    backoff: Backoff,
    failures: u32,
    jitter: StdRng,
}

impl Pauses {
    /// Pauses from `first` to `longest`. `name` seeds the jitter, so that replicas and shards spread their attempts.
    pub(super) fn new(first: Duration, longest: Duration, name: impl Hash) -> Self {
        Self {
            backoff: Backoff { first, longest },
            failures: 0,
            jitter: StdRng::seed_from_u64(hash_of(name)),
        }
    }

    /// Begins again from the first pause.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.backoff.after(self.failures, self.jitter.random())
    }
}

/// The same number for the same name.
pub(super) fn hash_of(name: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

pub(super) fn after(time: Timestamp, duration: Duration) -> Timestamp {
    Timestamp::from_unix_micros(time.unix_micros().saturating_add(micros(duration)))
}

pub(super) fn before(time: Timestamp, duration: Duration) -> Timestamp {
    Timestamp::from_unix_micros(time.unix_micros().saturating_sub(micros(duration)))
}

/// The time from `early` to `late`; zero if `late` is earlier.
pub(super) fn since(early: Timestamp, late: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(late.unix_micros().saturating_sub(early.unix_micros())).unwrap_or(0))
}

/// Rounds down to whole milliseconds.
pub(super) fn whole_millis(time: Timestamp) -> Timestamp {
    Timestamp::from_unix_micros(time.unix_micros().div_euclid(1000).saturating_mul(1000))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
