//! Looking back.

use std::{cmp::Reverse, ops::RangeInclusive};

use millrace_core::{AggregateType, StreamId, TenantId, Timestamp};

use super::{
    Store,
    given::{assert_same, commit, event, fresh_tenant, large_event, stored, stream_of},
    scans::as_event,
};
use crate::{Direction, Moment, Search, StoredEvent};

const DIRECTIONS: [Direction; 2] = [Direction::OldestFirst, Direction::NewestFirst];

/// The versions of a range, by parts of at most `limit` events.
async fn versions<S: Store>(
    store: &S,
    stream: &StreamId,
    range: RangeInclusive<u64>,
    direction: Direction,
    limit: u16,
) -> Vec<u64> {
    let (mut first, mut last) = range.into_inner();
    let mut all: Vec<u64> = Vec::new();
    loop {
        let part = store.history(stream, first..=last, direction, limit).await.expect("a part is read");
        assert!(part.items.len() <= usize::from(limit), "{} events in a part of {limit}", part.items.len());
        assert!(!(part.more && part.items.is_empty()), "an empty part that is not the last one never ends");
        all.extend(part.items.into_iter().map(|item| as_event(item).envelope.version));
        let Some(reached) = all.last().filter(|_| part.more) else { return all };
        match direction {
            Direction::OldestFirst => first = reached + 1,
            Direction::NewestFirst => last = reached - 1,
        }
    }
}

/// A stream is read in parts by range of versions, gaps and all, from either end.
pub async fn a_stream_is_read_from_either_end<S: Store>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    let there: Vec<u64> = (1..=12).filter(|version| *version != 5).collect();
    for version in &there {
        stored(store, &commit([event(&stream, *version)])).await;
    }
    for direction in DIRECTIONS {
        for limit in [1, 3, 100] {
            for range in [1..=u64::MAX, 1..=12, 1..=1, 4..=6, 5..=5, 12..=12, 12..=99, 13..=99, 0..=2] {
                let mut expected: Vec<_> = there.iter().copied().filter(|v| range.contains(v)).collect();
                expected.sort_by(|a, b| direction.order(a, b));
                let found = versions(store, &stream, range.clone(), direction, limit).await;
                assert_eq!(found, expected, "{range:?} {direction:?} by {limit}");
            }
        }
        #[expect(clippy::reversed_empty_ranges, reason = "a range that holds nothing")]
        for nothing in [3..=2, 1..=0, u64::MAX..=0] {
            assert!(versions(store, &stream, nothing, direction, 10).await.is_empty());
        }
        for other in [stream_of(&stream.tenant), StreamId { tenant: fresh_tenant(), ..stream.clone() }] {
            assert!(versions(store, &other, 1..=u64::MAX, direction, 10).await.is_empty());
        }
    }
    let part = store.history(&stream, 1..=1, Direction::OldestFirst, 10).await.expect("a part is read");
    let first = part.items.into_iter().map(as_event).collect::<Vec<_>>();
    assert_same(&first, &load_first(store, &stream).await);
}

async fn load_first<S: Store>(store: &S, stream: &StreamId) -> Vec<StoredEvent> {
    store.page(stream, 0, 1).await.expect("a page is read").events
}

/// The next request returns the events that a request left out.
pub async fn a_part_of_large_events_is_followed_by_the_rest<S: Store>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    for version in 1..=8 {
        stored(store, &commit([large_event(&stream, version, 300_000)])).await;
    }
    assert_eq!(
        versions(store, &stream, 1..=8, Direction::OldestFirst, 100).await,
        (1..=8).collect::<Vec<_>>()
    );
    assert_eq!(
        versions(store, &stream, 1..=8, Direction::NewestFirst, 100).await,
        (1..=8).rev().collect::<Vec<_>>()
    );
}

/// An event of a type and a time.
fn at(stream: &StreamId, version: u64, event_type: &str, micros: i64) -> StoredEvent {
    let mut event = event(stream, version);
    event.envelope.event_type = event_type.to_owned();
    event.envelope.timestamp = time(micros);
    event
}

fn time(micros: i64) -> Timestamp {
    Timestamp::from_unix_micros(1_800_000_000_000_000 + micros)
}

fn search(tenant: &TenantId, times: RangeInclusive<i64>, direction: Direction) -> Search {
    Search {
        tenant: tenant.clone(),
        event_type: "UserCreated".to_owned(),
        times: time(*times.start())..=time(*times.end()),
        direction,
        beyond: None,
    }
}

/// All results of a search, by pages of at most `limit` events. Checks that the last page says so.
async fn pages<S: Store>(store: &S, mut search: Search, limit: u16) -> Vec<Vec<StoredEvent>> {
    let mut pages: Vec<Vec<StoredEvent>> = Vec::new();
    loop {
        let found = store.search(&search, limit).await.expect("events are searched for");
        let found = found.expect("there is an index");
        assert!(found.hits.len() <= usize::from(limit), "{} events on a page of {limit}", found.hits.len());
        search.beyond = found.hits.last().map(|hit| hit.moment.clone()).or(search.beyond);
        let hits = found.hits.into_iter().map(|hit| (hit.moment, as_event(hit.item)));
        pages.push(hits.map(|(moment, event)| checked(moment, event)).collect());
        if !found.more {
            return pages;
        }
        assert!(pages.len() < 1_000, "a search that does not end");
        assert!(pages.last().is_some_and(|page| !page.is_empty()), "more follows nothing");
    }
}

fn checked(moment: Moment, event: StoredEvent) -> StoredEvent {
    assert_eq!(moment, event.moment(), "an event is met at its place");
    event
}

async fn assert_found<S: Store>(store: &S, search: &Search, limit: u16, expected: &[StoredEvent]) {
    let found = pages(store, search.clone(), limit).await.concat();
    let places = |events: &[StoredEvent]| {
        let place = |event: &StoredEvent| {
            (event.moment().at.unix_micros(), event.envelope.aggregate_id, event.envelope.version)
        };
        events.iter().map(place).collect::<Vec<_>>()
    };
    assert_eq!(places(&found), places(expected), "{search:?} by {limit}");
    assert_eq!(found, expected);
}

/// A search finds all events of one type in a range of times, both ends included, of every aggregate, once each.
pub async fn a_search_meets_every_event_of_its_type_and_times_once_and_in_order<S: Store>(store: &S) {
    let tenant = fresh_tenant();
    let mut all = Vec::new();
    for n in 0..30_i64 {
        let kind = if n % 3 == 0 { "order" } else { "user" };
        let stream = StreamId { aggregate_type: AggregateType::new(kind), ..stream_of(&tenant) };
        // Times of two streams each, later versions at earlier times among them.
        let events = [(1, "UserCreated", n / 2), (2, "UserErased", n), (3, "UserCreated", 20 - n / 2)];
        let events = events.map(|(version, event_type, micros)| at(&stream, version, event_type, micros));
        stored(store, &commit(events.clone())).await;
        all.extend(events);
    }
    all.retain(|event| event.envelope.event_type == "UserCreated");
    all.sort_by_key(StoredEvent::moment);
    for direction in DIRECTIONS {
        for (times, limit) in
            [(-99..=99, 1), (-99..=99, 7), (-99..=99, 100), (5..=12, 4), (7..=7, 1), (21..=99, 5)]
        {
            let search = search(&tenant, times, direction);
            let mut expected: Vec<_> = all
                .iter()
                .filter(|event| search.times.contains(&event.envelope.timestamp))
                .cloned()
                .collect();
            expected.sort_by(|a, b| direction.order(&a.moment(), &b.moment()));
            assert_found(store, &search, limit, &expected).await;
        }
        #[expect(clippy::reversed_empty_ranges, reason = "a range that holds nothing")]
        let nothing = search(&tenant, 12..=5, direction);
        assert_found(store, &nothing, 5, &[]).await;
        // The search begins beyond the last event of all, or beyond a moment that no event has.
        let mut behind = search(&tenant, -99..=99, direction);
        let last = all.iter().map(StoredEvent::moment).max_by(|a, b| direction.order(a, b));
        behind.beyond = last;
        assert_found(store, &behind, 5, &[]).await;
        behind.beyond = Some(Moment { at: time(8), stream: stream_of(&tenant), version: 9 });
        let expected: Vec<_> = all.iter().filter(|event| behind.holds(&event.moment())).cloned().collect();
        assert_eq!(pages(store, behind, 9).await.concat().len(), expected.len());
    }
}

/// Events of one time are found in the order of their aggregates and versions, however many there are and wherever a
/// page ends among them.
pub async fn a_search_tells_events_of_one_time_apart<S: Store>(store: &S) {
    let tenant = fresh_tenant();
    let mut all = Vec::new();
    for (length, micros) in [(1, 0), (130, 1), (90, 1), (60, 1), (3, 2)] {
        let stream = stream_of(&tenant);
        let events: Vec<_> =
            (1..=length).map(|version| at(&stream, version, "UserCreated", micros)).collect();
        for part in events.chunks(50) {
            stored(store, &commit(part)).await;
        }
        all.extend(events);
    }
    all.sort_by_key(StoredEvent::moment);
    for limit in [17, 60, 100] {
        assert_found(store, &search(&tenant, 0..=9, Direction::OldestFirst), limit, &all).await;
    }
    all.sort_by_key(|event| Reverse(event.moment()));
    for limit in [17, 60, 100] {
        assert_found(store, &search(&tenant, 0..=9, Direction::NewestFirst), limit, &all).await;
    }
}

/// Events of another tenant, or of another type with the same prefix, are not found.
pub async fn a_search_sees_its_own_tenant_only<S: Store>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    let events = [at(&stream, 1, "UserCreated", 1), at(&stream, 2, "UserCreatedAgain", 1)];
    stored(store, &commit(events.clone())).await;
    for direction in DIRECTIONS {
        assert_found(store, &search(&stream.tenant, 0..=9, direction), 10, &events[..1]).await;
        assert_found(store, &search(&fresh_tenant(), 0..=9, direction), 10, &[]).await;
        for other in ["UserCreate", "usercreated", "UserCreated#0", ""] {
            let search = Search { event_type: other.to_owned(), ..search(&stream.tenant, 0..=9, direction) };
            assert_found(store, &search, 10, &[]).await;
        }
    }
}

/// The size of one search result is bounded in bytes too.
pub async fn a_search_of_large_events_ends_early_and_goes_on<S: Store>(store: &S) {
    let tenant = fresh_tenant();
    let mut all = Vec::new();
    for n in 0..24 {
        let stream = stream_of(&tenant);
        let mut event = large_event(&stream, 1, 380_000);
        event.envelope.timestamp = time(n / 5);
        stored(store, &commit([event.clone()])).await;
        all.push(event);
    }
    all.sort_by_key(StoredEvent::moment);
    for direction in DIRECTIONS {
        all.sort_by(|a, b| direction.order(&a.moment(), &b.moment()));
        let pages = pages(store, search(&tenant, 0..=9, direction), 100).await;
        for page in &pages {
            assert!(page.len() <= 12, "{} events of 380 KB are found at once", page.len());
        }
        assert_eq!(pages.concat(), all);
    }
}
