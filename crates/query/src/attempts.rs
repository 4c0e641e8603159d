//! Attempts, with pauses between them.

use std::time::Duration;

use millrace_core::Backoff;
use tokio::time::{Instant, sleep_until};

const BACKOFF: Backoff = Backoff { first: Duration::from_millis(12), longest: Duration::from_millis(256) };

/// The longest time that is reserved for the reply to travel, and the least part of it.
const TRAVEL_TIME: Duration = Duration::from_millis(100);
const TRAVEL_PART: u32 = 10;

/// The time-out of a caller without a deadline.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// Attempts until a caller stops waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempts {
    /// The end of the time for attempts.
    pub(crate) end: Instant,
    failures: u32,
}

impl Attempts {
    /// Attempts from now on, until shortly before the caller's deadline, so that the caller receives the result.
    pub(crate) fn until(deadline: Option<Instant>) -> Self {
        Self { end: give_up_at(Instant::now(), deadline), failures: 0 }
    }

    /// Waits until the next attempt. `false` if there is no time for one.
    pub(crate) async fn next(&mut self) -> bool {
        self.failures = self.failures.saturating_add(1);
        let next = Instant::now() + BACKOFF.after(self.failures, rand::random());
        sleep_until(next.min(self.end)).await;
        next < self.end
    }
}

/// The time at which to stop waiting.
fn give_up_at(now: Instant, deadline: Option<Instant>) -> Instant {
    match deadline {
        None => now + DEFAULT_TIMEOUT,
        Some(deadline) => {
            let left = deadline.saturating_duration_since(now);
            now + (left - TRAVEL_TIME.min(left / TRAVEL_PART))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_before_the_caller_stops_waiting() {
        let now = Instant::now();
        let waits = |deadline: Duration| give_up_at(now, Some(now + deadline)) - now;
        assert_eq!(give_up_at(now, None) - now, Duration::from_secs(2));
        assert_eq!(waits(Duration::from_secs(10)), Duration::from_millis(9_900));
        assert_eq!(waits(Duration::from_millis(100)), Duration::from_millis(90));
        assert_eq!(waits(Duration::ZERO), Duration::ZERO);
        assert_eq!(give_up_at(now + DEFAULT_TIMEOUT, Some(now)), now + DEFAULT_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn each_pause_is_up_to_twice_the_one_before_within_a_bound() {
        let mut attempts = Attempts::until(None);
        let (start, mut last) = (Instant::now(), Instant::now());
        for longest in [12, 24, 48, 96, 192, 256, 256, 256] {
            assert!(attempts.next().await);
            let paused = last.elapsed();
            let (longest, rounding) = (Duration::from_millis(longest), Duration::from_millis(1));
            // The clock counts whole milliseconds.
            assert!(paused + rounding >= longest / 2 && paused <= longest + rounding, "{paused:?}");
            last = Instant::now();
        }
        while attempts.next().await {}
        assert!(start.elapsed() - DEFAULT_TIMEOUT <= Duration::from_millis(1), "{:?}", start.elapsed());
        assert!(!attempts.next().await && !attempts.next().await, "the end stays the end");
    }
}
