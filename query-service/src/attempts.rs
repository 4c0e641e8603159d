//! Attempts, with pauses between them.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The first pause, and the longest one. Each is twice the one before.
const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(200);

/// The longest of the caller's time that is left for the answer to travel, and the least part of it.
const TRAVEL: Duration = Duration::from_millis(100);
const TRAVEL_PART: u32 = 10;

/// How long a caller who named no deadline is kept waiting.
const PATIENCE: Duration = Duration::from_secs(2);

/// Attempts until a caller stops waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempts {
    /// When a further attempt is of no more use.
    pub(crate) end: Instant,
    pause: Duration,
}

impl Attempts {
    /// Attempts from now on, until shortly before the caller's deadline, so that the caller learns what became of them.
    pub(crate) fn until(deadline: Option<Instant>) -> Self {
        Self { end: give_up_at(Instant::now(), deadline), pause: FIRST }
    }

    /// Waits until the next attempt. `false` where there is no time for one.
    pub(crate) async fn next(&mut self) -> bool {
        // Those who wait for the same do not keep step.
        let next = Instant::now() + self.pause.mul_f64(rand::random_range(0.75..1.25));
        self.pause = (self.pause * 2).min(LONGEST);
        sleep_until(next.min(self.end)).await;
        next < self.end
    }
}

/// When waiting is of no more use.
fn give_up_at(now: Instant, deadline: Option<Instant>) -> Instant {
    match deadline {
        None => now + PATIENCE,
        Some(deadline) => {
            let left = deadline.saturating_duration_since(now);
            now + (left - TRAVEL.min(left / TRAVEL_PART))
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
        assert_eq!(give_up_at(now + PATIENCE, Some(now)), now + PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn each_pause_is_twice_the_one_before_up_to_a_bound_and_a_quarter_more_or_less() {
        let mut attempts = Attempts::until(None);
        let (start, mut last) = (Instant::now(), Instant::now());
        for expected in [10, 20, 40, 80, 160, 200, 200, 200, 200] {
            assert!(attempts.next().await);
            let paused = last.elapsed();
            let (least, most) =
                (Duration::from_millis(expected) * 3 / 4, Duration::from_millis(expected) * 5 / 4);
            // The clock counts whole milliseconds.
            assert!(paused + Duration::from_millis(1) >= least && paused <= most + Duration::from_millis(1));
            last = Instant::now();
        }
        while attempts.next().await {}
        assert!(start.elapsed() - PATIENCE <= Duration::from_millis(1), "{:?}", start.elapsed());
        assert!(!attempts.next().await && !attempts.next().await, "the end stays the end");
    }
}
