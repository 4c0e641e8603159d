//! Merging the events that the shards of the index by type and time return.
//!
//! The index orders the events of a shard by their times, and those of one time in an order that DynamoDB does not
//! document. A search has the total order of [`Moment`](crate::Moment), so an event is certain to come next only when
//! every shard has shown all of its events of that time. Until then the other shards are read further.

use crate::{Direction, Found, Hit, Search};

/// The limit on the weight of a search's events together, in bytes as DynamoDB counts them: ten times the largest
/// event.
const MAX_BYTES: usize = 4 << 20;

/// The limit of a shard's later requests: it has many events of one time, or large ones.
const NEXT_LIMIT: usize = 500;

/// The next request to a shard.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted<K> {
    /// Which shard, from 0 on.
    pub(crate) shard: u32,
    /// Where it goes on; `None` at its beginning.
    pub(crate) from: Option<K>,
    /// How many events.
    pub(crate) limit: usize,
}

/// The events that a shard returned.
#[derive(Debug)]
pub(crate) struct Shown<K> {
    /// Its events, each with its weight in bytes.
    pub(crate) hits: Vec<(Hit, usize)>,
    /// Where it goes on, with the time there as the index has it; `None` at its end.
    pub(crate) next: Option<(K, String)>,
}

/// How far a shard was read.
#[derive(Debug)]
enum Progress<K> {
    Unread,
    /// All events before the time `until` were shown, and some of those at that time.
    Within {
        from: K,
        until: String,
    },
    Whole,
}

/// A search in progress: the events found so far, and how far each shard was read.
#[derive(Debug)]
pub(crate) struct Merge<'a, K> {
    search: &'a Search,
    limit: usize,
    /// The first of all events found: one more than the limit, to know whether there are more.
    first: Vec<(Hit, usize)>,
    shards: Vec<Progress<K>>,
}

impl<'a, K: Clone> Merge<'a, K> {
    /// The beginning of a search over `shards` shards.
    pub(crate) fn new(search: &'a Search, shards: u32, limit: u16) -> Self {
        let limit = usize::from(limit.max(1));
        Self { search, limit, first: Vec::new(), shards: (0..shards).map(|_| Progress::Unread).collect() }
    }

    /// The requests needed before the search is done; none where it is done.
    pub(crate) fn wanted(&self) -> Vec<Wanted<K>> {
        let last = self.is_full().then(|| self.first.last()).flatten();
        let last = last.map(|(hit, _)| hit.moment.at.to_string());
        // One beyond those that are kept shows that their times are complete; and one was on the page before.
        let first_limit = self.limit + 2 + usize::from(self.search.beyond.is_some());
        let ask = |(shard, progress): (u32, &Progress<K>)| match progress {
            Progress::Unread => Some(Wanted { shard, from: None, limit: first_limit }),
            Progress::Within { from, until } => {
                let may_matter = last.as_ref().is_none_or(|last| match self.search.direction {
                    Direction::OldestFirst => until <= last,
                    Direction::NewestFirst => until >= last,
                });
                let limit = first_limit.max(NEXT_LIMIT);
                may_matter.then(|| Wanted { shard, from: Some(from.clone()), limit })
            }
            Progress::Whole => None,
        };
        (0..).zip(&self.shards).filter_map(ask).collect()
    }

    /// Takes in a page of a shard. Events that can no longer be among the first are dropped, so that many shards, or
    /// many events of one time, take no more memory than few.
    pub(crate) fn add(&mut self, shard: u32, shown: Shown<K>) {
        let searched = |(hit, _): &(Hit, usize)| self.search.holds(&hit.moment);
        self.first.extend(shown.hits.into_iter().filter(searched));
        self.first.sort_by(|(a, _), (b, _)| self.search.direction.order(&a.moment, &b.moment));
        let mut bytes = 0;
        let fitting = self.first.iter().take_while(|(_, weight)| {
            bytes += weight;
            bytes <= MAX_BYTES
        });
        let kept = fitting.count() + 1;
        self.first.truncate(kept.min(self.limit + 1));
        let progress = match shown.next {
            Some((from, until)) => Progress::Within { from, until },
            None => Progress::Whole,
        };
        if let Some(known) = usize::try_from(shard).ok().and_then(|shard| self.shards.get_mut(shard)) {
            *known = progress;
        }
    }

    /// Whether the limit of events or of bytes is exceeded.
    fn is_full(&self) -> bool {
        let bytes: usize = self.first.iter().map(|(_, weight)| weight).sum();
        self.first.len() > self.limit || bytes > MAX_BYTES
    }

    /// The result, once nothing more is wanted.
    pub(crate) fn found(mut self) -> Found {
        let more = self.is_full();
        if more {
            // It only showed that there are more.
            self.first.pop();
        }
        Found { hits: self.first.into_iter().map(|(hit, _)| hit).collect(), more }
    }
}

#[cfg(test)]
mod tests {
    use millrace_core::{AggregateType, StreamId, Timestamp};
    use proptest::{collection::vec, prelude::*, sample::select};
    use uuid::Uuid;

    use super::*;
    use crate::{Moment, ScannedItem, UnreadableItem};

    fn moment(micros: u32, stream: u8, version: u8) -> Moment {
        let stream = StreamId {
            tenant: "acme".parse().unwrap(),
            aggregate_type: AggregateType::new("user"),
            id: Uuid::from_u128(stream.into()),
        };
        Moment { at: Timestamp::from_unix_micros(micros.into()), stream, version: version.into() }
    }

    fn hit(moment: &Moment) -> Hit {
        let error = crate::ItemError::Missing("EventId");
        let other = UnreadableItem { stream: None, key: String::new(), version: moment.version, error };
        Hit { moment: moment.clone(), item: ScannedItem::Unreadable(other) }
    }

    /// A shard as DynamoDB has it: by time, and by chance where times are the same.
    struct Shard {
        entries: Vec<(Moment, usize)>,
        /// How many events one request returns at most, whatever its limit: as when they are large.
        page: usize,
    }

    impl Shard {
        fn of(mut entries: Vec<(Moment, usize)>, page: usize, direction: Direction) -> Self {
            // Stable: those of one time stay as chance had them.
            entries.sort_by(|(a, _), (b, _)| direction.order(&a.at, &b.at));
            Self { entries, page }
        }

        /// A page of the matching entries after a place. Places are numbers of entries.
        fn show(&self, search: &Search, from: Option<usize>, limit: usize) -> Shown<usize> {
            let times = search.times_left();
            let there = self.entries.iter().enumerate().filter(|(_, (moment, _))| times.contains(&moment.at));
            let rest: Vec<_> = there.filter(|(place, _)| from.is_none_or(|from| *place > from)).collect();
            let count = limit.min(self.page);
            let next = (rest.len() >= count).then(|| rest[count - 1]);
            Shown {
                hits: rest.iter().take(count).map(|(_, (moment, weight))| (hit(moment), *weight)).collect(),
                next: next.map(|(place, (moment, _))| (place, moment.at.to_string())),
            }
        }
    }

    /// A search over shards, and how many requests it took.
    fn find(search: &Search, shards: &[Shard], limit: u16) -> (Vec<Moment>, bool, usize) {
        let mut requests = 0;
        let mut merge = Merge::new(search, u32::try_from(shards.len()).unwrap(), limit);
        loop {
            let wanted = merge.wanted();
            if wanted.is_empty() {
                let found = merge.found();
                return (found.hits.into_iter().map(|hit| hit.moment).collect(), found.more, requests);
            }
            for Wanted { shard, from, limit } in wanted {
                requests += 1;
                assert!(requests < 10_000, "a search that does not end");
                let shown = shards[usize::try_from(shard).unwrap()].show(search, from, limit);
                merge.add(shard, shown);
                assert!(merge.first.len() <= merge.limit + 1, "no more is kept than can be of use");
            }
        }
    }

    fn search(direction: Direction) -> Search {
        Search {
            tenant: "acme".parse().unwrap(),
            event_type: "UserCreated".to_owned(),
            times: Timestamp::from_unix_micros(2)..=Timestamp::from_unix_micros(9_000),
            direction,
            beyond: None,
        }
    }

    fn any_shards() -> impl Strategy<Value = Vec<(Vec<(Moment, usize)>, usize)>> {
        // Few times, so that many events have the same; weights of which nine or ten, or any number, fit.
        let weight = select(vec![100, 100, 100, 450_000]);
        let entry = (0..12_u32, any::<u8>(), any::<u8>(), weight)
            .prop_map(|(micros, stream, version, weight)| (moment(micros, stream, version), weight));
        vec((vec(entry, 0..60), 1..40_usize), 1..5)
    }

    proptest! {
        #[test]
        fn pages_meet_every_event_once_in_order_however_the_shards_are_ordered_and_cut(
            shards in any_shards(),
            limit in 1..30_u16,
            direction in select(vec![Direction::OldestFirst, Direction::NewestFirst]),
        ) {
            let mut search = search(direction);
            let mut expected: Vec<Moment> =
                shards.iter().flat_map(|(entries, _)| entries).map(|(moment, _)| moment.clone()).collect();
            expected.retain(|moment| search.holds(moment));
            expected.sort_by(|a, b| direction.order(a, b));
            // An event is in one shard, once.
            expected.dedup();
            let mut seen = std::collections::HashSet::new();
            let shards: Vec<_> = shards
                .into_iter()
                .map(|(mut entries, page)| {
                    entries.retain(|(moment, _)| seen.insert((moment.at, moment.stream.id, moment.version)));
                    Shard::of(entries, page, direction)
                })
                .collect();
            let mut met = Vec::new();
            loop {
                let (page, more, _) = find(&search, &shards, limit);
                prop_assert!(page.len() <= usize::from(limit));
                prop_assert!(!(more && page.is_empty()), "more follows nothing");
                met.extend(page.clone());
                prop_assert!(met.len() <= expected.len(), "more than there is");
                search.beyond = page.last().cloned().or(search.beyond);
                if !more {
                    break;
                }
            }
            prop_assert_eq!(met, expected);
        }
    }

    #[test]
    fn a_page_takes_one_request_a_shard_where_no_times_are_the_same() {
        for direction in [Direction::OldestFirst, Direction::NewestFirst] {
            let shards: Vec<_> = (0..4_u8)
                .map(|shard| {
                    let entry = |n: u32| (moment(4 * n + u32::from(shard), shard, 1), 100);
                    Shard::of((0..500).map(entry).collect(), 1_000, direction)
                })
                .collect();
            for limit in [1, 20, 100] {
                let mut search = search(direction);
                for _ in 0..10 {
                    let (page, more, requests) = find(&search, &shards, limit);
                    assert_eq!(
                        (page.len(), more, requests),
                        (limit.into(), true, 4),
                        "{direction:?} {limit}"
                    );
                    search.beyond = page.last().cloned();
                }
            }
        }
    }

    #[test]
    fn one_shard_that_has_the_whole_page_is_asked_once() {
        let direction = Direction::OldestFirst;
        let entry = |n: u32| (moment(n, 0, 1), 100);
        let shards = [
            Shard::of((0..500).map(entry).collect(), 1_000, direction),
            Shard::of((1_000..1_500).map(entry).collect(), 1_000, direction),
        ];
        assert_eq!(find(&search(direction), &shards, 20).2, 2);
    }
}
