//! Points in time, as events carry them.

use std::{fmt, str::FromStr};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::Invalid;

/// A point in time, UTC, in whole microseconds.
///
/// Its text is RFC 3339 with exactly six digits after the second and a `Z`, so that texts sort as times do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(DateTime<Utc>);

/// 9999-12-31T23:59:59Z: the last second that RFC 3339 and `google.protobuf.Timestamp` can name.
const LAST_SECOND: i64 = 253_402_300_799;

impl Timestamp {
    /// The time that lies `microseconds` after 1970-01-01T00:00:00Z, held within the years 1970 to 9999.
    pub fn from_unix_micros(microseconds: i64) -> Self {
        let held = microseconds.clamp(0, LAST_SECOND * 1_000_000);
        Self(DateTime::from_timestamp_micros(held).unwrap_or_default())
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub fn unix_micros(self) -> i64 {
        self.0.timestamp_micros()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

impl FromStr for Timestamp {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parsed = DateTime::parse_from_rfc3339(text).map_err(|_| Invalid("must be a time by RFC 3339"))?;
        Ok(Self::from_unix_micros(parsed.timestamp_micros()))
    }
}

impl TryFrom<String> for Timestamp {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> Self {
        time.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_time_survives_its_text_and_texts_sort_as_times(a in 0..LAST_SECOND * 1_000_000, b in 0..LAST_SECOND * 1_000_000) {
            let (a, b) = (Timestamp::from_unix_micros(a), Timestamp::from_unix_micros(b));
            prop_assert_eq!(a.to_string().parse::<Timestamp>().unwrap(), a);
            prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
        }
    }

    #[test]
    fn a_time_is_held_within_the_years_1970_to_9999() {
        for (micros, held) in [(i64::MIN, 0), (-1, 0), (i64::MAX, LAST_SECOND * 1_000_000)] {
            assert_eq!(Timestamp::from_unix_micros(micros).unix_micros(), held);
        }
    }

    #[test]
    fn a_text_that_is_no_time_is_refused() {
        for text in ["", "yesterday", "2026-11-23", "2026-13-01T00:00:00Z"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }
}
