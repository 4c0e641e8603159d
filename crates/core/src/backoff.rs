//! Pauses between attempts.

use std::time::Duration;

/// Pauses that double up to a longest one. Jitter shortens each to as little as its half, so that processes that failed
/// together do not come back together.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The first pause, at its longest.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl Backoff {
    /// The pause after a number of failures in a row, at least one; `jitter` is a random number from 0 to 1.
    pub fn after(&self, failures: u32, jitter: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        let full = self.first.saturating_mul(doubled).min(self.longest);
        full / 2 + (full / 2).mul_f64(jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_pause_doubles_within_its_bounds(failures in prop_oneof![0..10_u32, any::<u32>()], jitter in 0.0..=1.0_f64) {
            let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(60) };
            let full = Duration::from_secs(1_u64.checked_shl(failures.max(1) - 1).unwrap_or(60).clamp(1, 60));
            let pause = backoff.after(failures, jitter);
            prop_assert!(pause >= full / 2 && pause <= full, "{pause:?}");
        }
    }
}
