//! How long to wait before trying again.

use std::time::Duration;

/// Waits that double up to a longest one, each shortened by chance to as little as its half, so that many who failed
/// together do not come back together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    /// The first wait, at its longest.
    pub(crate) first: Duration,
    /// The longest wait.
    pub(crate) longest: Duration,
}

impl Backoff {
    /// The wait after so many failures, at least one; `chance` is 0 to 1.
    pub(crate) fn after(&self, failures: u32, chance: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        let full = self.first.saturating_mul(doubled).min(self.longest);
        full / 2 + (full / 2).mul_f64(chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_wait_doubles_within_its_bounds(failures in 0..u32::MAX, chance in 0.0..=1.0_f64) {
            let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(60) };
            let full = Duration::from_secs(1_u64.checked_shl(failures.max(1) - 1).unwrap_or(60).clamp(1, 60));
            let wait = backoff.after(failures, chance);
            prop_assert!(wait >= full / 2 && wait <= full, "{wait:?}");
        }
    }
}
