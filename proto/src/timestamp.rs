//! `google.protobuf.Timestamp` with its canonical JSON.

use chrono::{DateTime, SecondsFormat};
use millrace_core::Invalid;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

/// `google.protobuf.Timestamp`. Its JSON is canonical: RFC 3339 in UTC with a `Z`, and 0, 3, 6 or 9 digits after the
/// second.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds within that second, 0 to 999,999,999.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        u32::try_from(self.nanos)
            .ok()
            .and_then(|nanos| DateTime::from_timestamp(self.seconds, nanos))
            .ok_or_else(|| ser::Error::custom("the time is out of range"))?
            .to_rfc3339_opts(SecondsFormat::AutoSi, true)
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time =
            DateTime::parse_from_rfc3339(&text).map_err(|_| de::Error::custom("not a time by RFC 3339"))?;
        // A leap second is written as nanoseconds beyond the second, which still fit.
        let nanos = i32::try_from(time.timestamp_subsec_nanos()).map_err(de::Error::custom)?;
        Ok(Self { seconds: time.timestamp(), nanos })
    }
}

/// A time of the domain in the contract's type.
pub fn time_to_proto(time: millrace_core::Timestamp) -> Timestamp {
    let micros = time.unix_micros();
    // `Timestamp` holds years up to 9999 only, and microseconds within a second always fit.
    let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or(0);
    Timestamp { seconds: micros.div_euclid(1_000_000), nanos }
}

/// A time of a contract in the core's type.
pub fn time_from_proto(time: Option<Timestamp>) -> Result<millrace_core::Timestamp, Invalid> {
    let time = time.ok_or(Invalid("is missing"))?;
    let micros =
        time.seconds.checked_mul(1_000_000).and_then(|s| s.checked_add(i64::from(time.nanos) / 1_000));
    micros.map(millrace_core::Timestamp::from_unix_micros).ok_or(Invalid("is out of range"))
}

#[cfg(test)]
mod tests {
    use millrace_core::Timestamp as Time;

    use super::*;

    #[test]
    fn a_time_survives_its_message() {
        for (micros, seconds, nanos) in [(0, 0, 0), (1_999_999, 1, 999_999_000), (7_000_001, 7, 1_000)] {
            let (time, message) = (Time::from_unix_micros(micros), Timestamp { seconds, nanos });
            assert_eq!(time_to_proto(time), message);
            assert_eq!(time_from_proto(Some(message)), Ok(time));
        }
    }
}
