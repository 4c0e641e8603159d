//! Times in requests: to the nanosecond, while events have whole microseconds.

use std::cmp::Ordering;

use millrace_core::{Invalid, Timestamp};
use millrace_proto as proto;
use millrace_rows::TimeRange;
use millrace_server::Violations;

/// 9999-12-31T23:59:59Z: the last second in `google.protobuf.Timestamp`.
const LAST_SECOND: i64 = 253_402_300_799;

/// Reads a range of times from the fields of these names: its start is part of it, its end is not. Either may be
/// absent.
pub(crate) fn range(
    violations: &mut Violations,
    (since_field, since): (&str, Option<proto::Timestamp>),
    (before_field, before): (&str, Option<proto::Timestamp>),
) -> Option<TimeRange> {
    let since = since.map(|time| violations.field(since_field, checked(time)));
    let start = since.flatten();
    let before =
        before.map(|time| violations.field(before_field, checked(time).and_then(|time| end(start, time))));
    // An absent time is good, a refused one is not.
    let good = |time: Option<Option<proto::Timestamp>>| time.map_or(Some(None), |read| read.map(Some));
    Some(TimeRange { since: good(since)?.map(first_since), before: good(before)?.map(first_since) })
}

/// The last microsecond at or before a time.
pub(crate) fn until(time: proto::Timestamp) -> Result<Timestamp, Invalid> {
    let time = checked(time)?;
    Ok(from_micros(time.seconds, i64::from(time.nanos / 1_000)))
}

/// A time of the years 1970 to 9999.
fn checked(time: proto::Timestamp) -> Result<proto::Timestamp, Invalid> {
    if (0..=LAST_SECOND).contains(&time.seconds) && (0..=999_999_999).contains(&time.nanos) {
        Ok(time)
    } else {
        Err(Invalid("must be a time of the years 1970 to 9999"))
    }
}

/// The end of a range, which lies after its start.
fn end(since: Option<proto::Timestamp>, before: proto::Timestamp) -> Result<proto::Timestamp, Invalid> {
    let beginning = proto::Timestamp { seconds: 0, nanos: 0 };
    match (compare(&before, &since.unwrap_or(beginning)), since) {
        (Ordering::Greater, _) => Ok(before),
        (Ordering::Less | Ordering::Equal, Some(_)) => {
            Err(Invalid("must be later than the start of the range"))
        }
        (Ordering::Less | Ordering::Equal, None) => Err(Invalid("must be later than the beginning of 1970")),
    }
}

fn compare(a: &proto::Timestamp, b: &proto::Timestamp) -> Ordering {
    (a.seconds, a.nanos).cmp(&(b.seconds, b.nanos))
}

/// The first microsecond at or after a time. Events have whole microseconds, so those since then, or before, are the
/// same.
fn first_since(time: proto::Timestamp) -> Timestamp {
    from_micros(time.seconds, (i64::from(time.nanos) + 999).div_euclid(1_000))
}

fn from_micros(seconds: i64, micros: i64) -> Timestamp {
    // It cannot overflow: the seconds were checked.
    Timestamp::from_unix_micros(seconds.saturating_mul(1_000_000).saturating_add(micros))
}

#[cfg(test)]
mod tests {
    use millrace_server::Failure;
    use proptest::{option, prelude::*};

    use super::*;

    fn time(seconds: i64, nanos: i32) -> proto::Timestamp {
        proto::Timestamp { seconds, nanos }
    }

    fn nanos(time: proto::Timestamp) -> i128 {
        i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
    }

    /// The range, or the bad fields.
    fn read(
        since: Option<proto::Timestamp>,
        before: Option<proto::Timestamp>,
    ) -> Result<TimeRange, Vec<String>> {
        let mut violations = Violations::default();
        let read = range(&mut violations, ("created_since", since), ("created_before", before));
        violations.finish(read).map_err(|failure| {
            let Failure::InvalidArgument(all) = failure else { panic!("{failure:?}") };
            all.into_iter().map(|violation| violation.field).collect()
        })
    }

    #[test]
    fn a_range_that_is_none_is_refused_by_the_field_that_is_bad() {
        let good = Some(time(7, 7));
        let bad =
            [(-1, 0), (LAST_SECOND + 1, 0), (7, -1), (7, 1_000_000_000), (i64::MIN, 0), (i64::MAX, i32::MAX)];
        for (seconds, nanos) in bad {
            let bad = Some(time(seconds, nanos));
            assert_eq!(read(bad, None).unwrap_err(), ["created_since"], "{bad:?}");
            assert_eq!(read(None, bad).unwrap_err(), ["created_before"], "{bad:?}");
            assert_eq!(read(good, bad).unwrap_err(), ["created_before"], "{bad:?}");
            assert!(until(time(seconds, nanos)).is_err(), "{bad:?}");
        }
        for before in [time(7, 7), time(7, 6), time(6, 999_999_999), time(0, 0)] {
            assert_eq!(read(good, Some(before)).unwrap_err(), ["created_before"], "{before:?}");
        }
        assert_eq!(read(None, Some(time(0, 0))).unwrap_err(), ["created_before"]);
        assert_eq!(
            read(Some(time(-7, 0)), Some(time(-8, 0))).unwrap_err(),
            ["created_since", "created_before"]
        );
        assert_eq!(read(None, None), Ok(TimeRange::default()));
        assert!(read(Some(time(0, 0)), Some(time(LAST_SECOND, 999_999_999))).is_ok());
        assert!(until(time(0, 0)).is_ok() && until(time(LAST_SECOND, 999_999_999)).is_ok());
    }

    fn any_time() -> impl Strategy<Value = proto::Timestamp> {
        // A narrow range, so that many lie in one microsecond.
        (0..2_i64, 0..4_000_i32).prop_map(|(seconds, nanos)| time(seconds, nanos))
    }

    proptest! {
        #[test]
        fn a_range_holds_its_start_and_all_before_its_end_to_the_nanosecond(
            since in option::of(any_time()),
            before in option::of(any_time()),
            micros in (0..2_i64, 0..5_i64).prop_map(|(seconds, micros)| seconds * 1_000_000 + micros),
        ) {
            if let Ok(times) = read(since, before) {
                let placed = i128::from(micros) * 1_000;
                let held = since.is_none_or(|since| nanos(since) <= placed)
                    && before.is_none_or(|before| placed < nanos(before));
                prop_assert_eq!(times.contains(Timestamp::from_unix_micros(micros)), held);
            } else {
                let since = since.map_or(0, nanos);
                prop_assert!(before.is_some_and(|before| nanos(before) <= since));
            }
        }

        #[test]
        fn what_is_until_a_time_is_not_later_to_the_nanosecond(
            bound in (0..=LAST_SECOND, 0..1_000_000_000_i32).prop_map(|(seconds, nanos)| time(seconds, nanos)),
            offset in -3..=3_i64,
        ) {
            let event = Timestamp::from_unix_micros(until(bound).unwrap().unix_micros() + offset);
            let exact = i128::from(event.unix_micros()) * 1_000;
            prop_assert_eq!(event <= until(bound).unwrap(), exact <= nanos(bound));
        }
    }
}
