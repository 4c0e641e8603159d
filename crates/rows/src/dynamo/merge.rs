//! Merging the rows that the keys of an index have of one list.
//!
//! Each key shows the newest of its rows down to some place. A row is certain to come next in the list only where every
//! key was read down to it. So rows past the place where one key ended are of no use until that key is read further.

use std::collections::BTreeMap;

use millrace_core::row::{Position, StoredRow};

use crate::ListPage;

/// How many rows to request from each of the shards, so that their newest are `limit` rows or more, as a rule.
///
/// Ids are spread evenly, so each shard has its share of the newest rows, give or take: the square root of the share is
/// the standard deviation at most (it is binomial), and three of them are seldom exceeded.
pub(super) fn share(limit: u16, shards: u16) -> u16 {
    if shards <= 1 {
        return limit;
    }
    let nine_shares = 9 * u32::from(limit) / u32::from(shards);
    // The root of a number of that size fits.
    let deviations = u16::try_from(nine_shares.isqrt()).unwrap_or(limit);
    limit.div_ceil(shards).saturating_add(deviations).saturating_add(2).min(limit)
}

/// The reason that a page of a list is not complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gap {
    /// The key that has to be read further.
    pub(super) key: usize,
    /// From where.
    pub(super) below: Position,
    /// How many rows are missing.
    pub(super) missing: u16,
}

/// A page of a list, under construction.
#[derive(Debug)]
pub(super) struct Merge {
    limit: u16,
    /// The newest rows so far, each with its place: no more than `limit`, so that many keys take no more memory than
    /// few.
    rows: Vec<(Position, StoredRow)>,
    /// Whether older ones were dropped.
    let_go: bool,
    /// How far each key was read that was not read to its end.
    ends: BTreeMap<usize, Position>,
}

/// The rows that a key of an index showed.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// Rows with their places, newest first.
    pub(super) rows: Vec<(Position, StoredRow)>,
    /// How far the key was read; `None` where that is its end.
    pub(super) end: Option<Position>,
}

impl Merge {
    pub(super) fn new(limit: u16) -> Self {
        Self { limit, rows: Vec::new(), let_go: false, ends: BTreeMap::new() }
    }

    /// Takes in the rows of a key.
    pub(super) fn add(&mut self, key: usize, shown: Shown) {
        self.rows.extend(shown.rows);
        self.rows.sort_by(|(one, a), (other, b)| other.cmp(one).then(b.version.cmp(&a.version)));
        // A row is under one key. While it moves to another, since the number of shards was changed, both may show it.
        self.rows.dedup_by(|(one, _), (other, _)| one == other);
        self.let_go |= self.rows.len() > self.limit.into();
        self.rows.truncate(self.limit.into());
        match shown.end {
            Some(end) => self.ends.insert(key, end),
            None => self.ends.remove(&key),
        };
    }

    /// The next read; `None` where that would not make the page any longer.
    pub(super) fn gap(&self) -> Option<Gap> {
        let (key, below) = self.ends.iter().max_by_key(|(_, end)| *end)?;
        let certain = u16::try_from(self.certain(Some(below))).unwrap_or(u16::MAX);
        (certain < self.limit).then(|| Gap { key: *key, below: below.clone(), missing: self.limit - certain })
    }

    /// How many of the rows are certain, where all keys were read down to a place.
    fn certain(&self, end: Option<&Position>) -> usize {
        end.map_or(self.rows.len(), |end| self.rows.partition_point(|(place, _)| place >= end))
    }

    /// The page, as far as it is certain.
    pub(super) fn page(mut self) -> ListPage {
        let read_to = self.ends.values().max().cloned();
        self.rows.truncate(self.certain(read_to.as_ref()));
        let last = self.rows.last().map(|(place, _)| place.clone()).filter(|_| self.let_go);
        ListPage { rows: self.rows.into_iter().map(|(_, row)| row).collect(), end: read_to.max(last) }
    }
}

#[cfg(test)]
mod tests {
    use millrace_core::{
        Timestamp,
        row::{Attributes, RowKey},
    };
    use proptest::{collection::vec, prelude::*};
    use uuid::Uuid;

    use super::*;

    fn place(time: i64, id: u128) -> Position {
        Position { at: Timestamp::from_unix_micros(time), id: Uuid::from_u128(id).to_string() }
    }

    fn row(place: &Position, version: u64) -> (Position, StoredRow) {
        let key = RowKey { tenant: "acme".parse().unwrap(), id: place.id.clone() };
        let time = serde_json::Value::String(place.at.to_string());
        let attributes = Attributes::from_iter([("CreatedAt".to_owned(), time)]);
        (place.clone(), StoredRow { key, version, attributes, provenance: None })
    }

    fn places(page: &ListPage) -> Vec<Position> {
        let place = |row: &StoredRow| Position {
            at: row.attributes["CreatedAt"].as_str().unwrap().parse().unwrap(),
            id: row.key.id.clone(),
        };
        page.rows.iter().map(place).collect()
    }

    /// A key as DynamoDB has it.
    struct Key {
        /// Newest first.
        places: Vec<Position>,
        /// How many rows one request returns at most, whatever its limit: as when they are large.
        page: usize,
    }

    impl Key {
        fn of(mut places: Vec<Position>, page: usize) -> Self {
            places.sort_by(|a, b| b.cmp(a));
            Self { places, page }
        }

        fn show(&self, before: Option<&Position>, limit: u16) -> Shown {
            let from = before.map_or(0, |before| self.places.partition_point(|place| place >= before));
            let count = self.page.min(limit.into());
            let shown: Vec<_> = self.places[from..].iter().take(count).collect();
            let end = (shown.len() == count).then(|| shown.last().map(|place| (*place).clone())).flatten();
            Shown { rows: shown.into_iter().map(|place| row(place, 1)).collect(), end }
        }
    }

    /// A page of a list, and how many requests it took.
    fn page(keys: &[Key], before: Option<&Position>, limit: u16) -> (ListPage, usize) {
        let mut merge = Merge::new(limit);
        let first = share(limit, u16::try_from(keys.len()).unwrap());
        for (n, key) in keys.iter().enumerate() {
            merge.add(n, key.show(before, first));
            assert!(merge.rows.len() <= limit.into(), "no more is kept than is asked for");
        }
        let Some(Gap { key, below, missing }) = merge.gap() else { return (merge.page(), keys.len()) };
        merge.add(key, keys[key].show(Some(&below), missing));
        (merge.page(), keys.len() + 1)
    }

    proptest! {
        #[test]
        fn pages_show_every_row_once_newest_first_however_the_keys_are_filled_and_cut(
            // Few times, so that many rows have the same.
            keys in vec((vec((0..9_i64, any::<u128>()), 0..60), 1..40_usize), 1..6),
            limit in 1..30_u16,
        ) {
            let keys = keys.into_iter().map(|(places, page)| {
                Key::of(places.into_iter().map(|(time, id)| place(time, id)).collect(), page)
            });
            let keys: Vec<_> = keys.collect();
            let mut expected: Vec<_> = keys.iter().flat_map(|key| key.places.clone()).collect();
            expected.sort_by(|a, b| b.cmp(a));
            let (mut seen, mut before) = (Vec::new(), None::<Position>);
            loop {
                let (page, requests) = page(&keys, before.as_ref(), limit);
                prop_assert!(requests <= keys.len() + 1);
                prop_assert!(page.rows.len() <= usize::from(limit));
                seen.extend(places(&page));
                prop_assert_eq!(&seen[..], &expected[..seen.len()]);
                let Some(end) = page.end else { break };
                prop_assert!(before.is_none_or(|before| end < before), "no headway");
                let passed = expected.iter().take_while(|place| **place >= end).count();
                prop_assert_eq!(seen.len(), passed, "all down to the end was shown");
                before = Some(end);
            }
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn of_one_key_nothing_is_read_that_was_not_asked_for(rows in 0..300_i64, limit in 1..102_u16) {
            let key = [Key::of((0..rows).map(|n| place(n, 1)).collect(), 1_000)];
            let (page, requests) = page(&key, None, limit);
            prop_assert_eq!(requests, 1);
            prop_assert_eq!(page.rows.len(), usize::try_from(rows).unwrap().min(limit.into()));
        }
    }

    #[test]
    fn a_row_that_two_keys_show_is_listed_once_at_its_newest_version() {
        for newest in [0, 1] {
            let mut merge = Merge::new(9);
            for key in 0..2 {
                let version = if key == newest { 2 } else { 1 };
                merge.add(key, Shown { rows: vec![row(&place(1, 1), version)], end: None });
            }
            assert_eq!(merge.page(), ListPage { rows: vec![row(&place(1, 1), 2).1], end: None });
        }
    }

    /// Ids that are spread as hashes are, the same each time.
    fn spread(n: u64) -> u128 {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, &n.to_be_bytes()).as_u128()
    }

    #[test]
    fn a_share_of_each_shard_is_enough_for_nearly_every_page() {
        println!(
            "{:>7} {:>6} {:>6} {:>10} {:>10} {:>11}",
            "shards", "limit", "share", "one more", "short", "of pages"
        );
        for (shards, limit) in [(4, 21), (4, 101), (16, 21), (16, 101), (64, 21), (64, 101), (256, 101)] {
            let mut places_of = vec![Vec::new(); usize::from(shards)];
            for n in 0..40_000 {
                let id = spread(n);
                let shard = usize::try_from(id % u128::from(shards)).unwrap();
                places_of[shard].push(place(n.try_into().unwrap(), id));
            }
            let keys: Vec<_> = places_of.into_iter().map(|places| Key::of(places, usize::MAX)).collect();
            let (mut pages, mut one_more, mut short, mut before) = (0, 0, 0, None);
            while pages < 300 {
                let (page, requests) = page(&keys, before.as_ref(), limit);
                pages += 1;
                one_more += usize::from(requests > keys.len());
                short += usize::from(page.rows.len() < usize::from(limit - 1));
                // A page with one row less than the limit.
                before = places(&page).get(usize::from(limit - 2)).cloned().or(page.end);
            }
            let share = share(limit, shards);
            println!("{shards:>7} {limit:>6} {share:>6} {one_more:>10} {short:>10} {pages:>11}");
            assert!(one_more * 5 < pages && short * 50 < pages, "{one_more}, {short} of {pages}");
        }
    }
}
