//! The one place where the time is read.

use std::time::{SystemTime, UNIX_EPOCH};

use millrace_domain::Timestamp;

/// The present time by the system's clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
