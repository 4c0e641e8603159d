//! Looking back: at a stream as stored, and for the events of one type by their times.
//!
//! As in an audit, and unlike in a fold, an item that is no event is returned with its place, and a gap shows by the
//! versions around it: a look at the past must not fail over one flaw in it.

use std::{cmp::Ordering, future::Future, ops::RangeInclusive};

use millrace_aws::AwsError;
use millrace_core::{StreamId, TenantId, Timestamp};

use crate::{ScannedItem, StoredEvent};

/// Which events come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the oldest to the newest.
    OldestFirst,
    /// From the newest to the oldest.
    NewestFirst,
}

impl Direction {
    /// The order of two things that are ordered from the oldest to the newest by themselves.
    pub fn order<T: Ord>(self, a: &T, b: &T) -> Ordering {
        match self {
            Self::OldestFirst => a.cmp(b),
            Self::NewestFirst => b.cmp(a),
        }
    }
}

/// Part of a stream.
#[derive(Debug, Clone, Default)]
pub struct HistoryPage {
    /// Its items, by version in the requested direction.
    pub items: Vec<ScannedItem>,
    /// Whether more may follow the last one.
    pub more: bool,
}

impl ScannedItem {
    /// The version that the item's key names.
    pub fn version(&self) -> u64 {
        match self {
            Self::Event(event) => event.envelope.version,
            Self::Unreadable(other) => other.version,
        }
    }
}

/// The place of an event among all events of one type: its time, and for those of one time, its place by aggregate and
/// version. The newer is the greater.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// When the event happened.
    pub at: Timestamp,
    /// Its stream.
    pub stream: StreamId,
    /// The version that its key has.
    pub version: u64,
}

impl StoredEvent {
    /// The event's place among all of its type.
    pub fn moment(&self) -> Moment {
        let envelope = &self.envelope;
        Moment { at: envelope.timestamp, stream: envelope.stream(), version: envelope.version }
    }
}

/// A search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// The tenant of the events.
    pub tenant: TenantId,
    /// Of which type.
    pub event_type: String,
    /// The range of times. A range that ends before it begins holds none.
    pub times: RangeInclusive<Timestamp>,
    /// Which of them come first.
    pub direction: Direction,
    /// Only events after this place, in that direction.
    pub beyond: Option<Moment>,
}

impl Search {
    /// Whether an event of the tenant and the type matches the search.
    pub fn holds(&self, moment: &Moment) -> bool {
        let is_beyond = |beyond: &Moment| self.direction.order(beyond, moment) == Ordering::Less;
        self.times.contains(&moment.at) && self.beyond.as_ref().is_none_or(is_beyond)
    }

    /// The times left to search. With a place, they begin or end at the time of that place, inclusive.
    pub(crate) fn times_left(&self) -> RangeInclusive<Timestamp> {
        let (first, last) = (*self.times.start(), *self.times.end());
        match (&self.beyond, self.direction) {
            (None, _) => first..=last,
            (Some(beyond), Direction::OldestFirst) => first.max(beyond.at)..=last,
            (Some(beyond), Direction::NewestFirst) => first..=last.min(beyond.at),
        }
    }
}

/// An event that a search found, or the unreadable item in its place.
#[derive(Debug, Clone)]
pub struct Hit {
    /// Its place.
    pub moment: Moment,
    /// The item there.
    pub item: ScannedItem,
}

/// The result of a search.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The events, by [`Moment`] in the requested direction.
    pub hits: Vec<Hit>,
    /// Whether more follow the last one.
    pub more: bool,
}

/// Reading the past.
pub trait ReadHistory: Clone + Send + Sync + 'static {
    /// The events of a stream with these versions, which begin with 1 at the earliest: at most `limit` of them, and at
    /// least one where there is one. Strongly consistent. One request, which may return a part of the events, as
    /// reported in [`HistoryPage::more`].
    fn history(
        &self,
        stream: &StreamId,
        versions: RangeInclusive<u64>,
        direction: Direction,
        limit: u16,
    ) -> impl Future<Output = Result<HistoryPage, AwsError>> + Send;

    /// The events that match, from an index that lags behind the streams: at most `limit`, fewer where they are large,
    /// and at least one where there is one. `None` where the store was deployed without that index.
    ///
    /// One request for each shard of the index. More where many events have the time at which a shard's part ends: the
    /// index orders by time alone, so the first of them are known only once all events of that time were read.
    fn search(
        &self,
        search: &Search,
        limit: u16,
    ) -> impl Future<Output = Result<Option<Found>, AwsError>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::any_stream;

    #[test]
    fn what_lies_beyond_a_place_is_told_by_time_then_aggregate_then_version() {
        let (one, other) = (any_stream(), any_stream());
        let at = Timestamp::from_unix_micros;
        let moment =
            |micros, stream: &StreamId, version| Moment { at: at(micros), stream: stream.clone(), version };
        let place = moment(5, &one, 5);
        let later = [moment(5, &one, 6), moment(6, &one, 1), moment(6, &other, 1)];
        let earlier = [moment(5, &one, 4), moment(4, &one, 9), moment(4, &other, 9)];
        let search = |direction, beyond: Option<&Moment>| Search {
            tenant: one.tenant.clone(),
            event_type: "UserCreated".to_owned(),
            times: at(1)..=at(9),
            direction,
            beyond: beyond.cloned(),
        };
        for (direction, held, left_out, times) in [
            (Direction::OldestFirst, &later, &earlier, at(5)..=at(9)),
            (Direction::NewestFirst, &earlier, &later, at(1)..=at(5)),
        ] {
            let beyond = search(direction, Some(&place));
            assert!(held.iter().all(|moment| beyond.holds(moment)), "{direction:?}");
            assert!(!left_out.iter().any(|moment| beyond.holds(moment)), "{direction:?}");
            assert!(!beyond.holds(&place), "{direction:?}");
            assert_eq!(beyond.times_left(), times);
            let all = search(direction, None);
            assert!(all.holds(&moment(1, &one, 1)) && all.holds(&moment(9, &one, 1)), "both ends are in");
            assert!(!all.holds(&moment(0, &one, 1)) && !all.holds(&moment(10, &one, 1)));
        }
    }
}
