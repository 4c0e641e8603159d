//! Decides when a repeated failure is logged.

use std::time::Duration;

use tokio::time::Instant;

/// How long attempts fail before a line is logged. Retries heal shorter outages, which metrics show.
const WORTH_A_LINE: Duration = Duration::from_secs(60);

/// The interval of further lines.
const REMINDER: Duration = Duration::from_secs(10 * 60);

/// Repeated work, and for how long it has failed.
///
/// A line in the log is for a person who must act. A single failure needs nobody: it is counted, and the next attempt
/// may succeed. Failures without an end are logged after a minute, and every ten minutes from then on.
#[derive(Debug, Clone, Default)]
pub struct FailureLogThrottle {
    failing_since: Option<Instant>,
    logged: Option<Instant>,
}

impl FailureLogThrottle {
    /// Notes a failure. Returns for how long the attempts have failed if a line is due.
    pub fn failed(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let lasted = now - *self.failing_since.get_or_insert(now);
        let due = self.logged.map_or(lasted >= WORTH_A_LINE, |logged| now - logged >= REMINDER);
        due.then(|| {
            self.logged = Some(now);
            lasted
        })
    }

    /// Notes a success.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// For how long attempts have failed; zero after a success.
    pub fn failing_for(&self) -> Duration {
        self.failing_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_that_last_are_logged_after_a_minute_and_every_ten() {
        let mut throttle = FailureLogThrottle::default();
        let mut logged = Vec::new();
        for second in 0..=1_300_u64 {
            if let Some(lasted) = throttle.failed() {
                assert_eq!(lasted.as_secs(), second);
                logged.push(second);
            }
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(logged, [60, 660, 1_260]);
        assert_eq!(throttle.failing_for().as_secs(), 1_301);
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_begins_anew() {
        let mut throttle = FailureLogThrottle::default();
        for _ in 0..100 {
            for _ in 0..59 {
                assert_eq!(throttle.failed(), None);
                sleep(Duration::from_secs(1)).await;
            }
            throttle.succeeded();
            assert_eq!(throttle.failing_for(), Duration::ZERO);
        }
    }
}
