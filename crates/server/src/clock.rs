//! The one place where the time is read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millrace_core::Timestamp;

/// The present time by the system's clock.
pub fn now() -> Timestamp {
    Timestamp::from_unix_micros(i64::try_from(since_epoch().as_micros()).unwrap_or(i64::MAX))
}

/// The present time since 1970-01-01T00:00:00Z.
pub(crate) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
