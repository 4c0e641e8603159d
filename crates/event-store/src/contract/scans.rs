//! Reading the whole store.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use millrace_aws::{Place, Segment};
use millrace_core::{StreamId, Timestamp};

use super::{
    Store,
    given::{assert_same, commit, event, fresh_tenant, large_event, stored, stream_of},
};
use crate::{IndexRange, ScannedItem, StoredEvent};

pub(super) fn as_event(item: ScannedItem) -> StoredEvent {
    match item {
        ScannedItem::Event(event) => *event,
        ScannedItem::Unreadable(other) => panic!("an event that was stored is read as none: {other:?}"),
    }
}

/// Everything in a segment, by many pages.
async fn segment<S: Store>(store: &S, segment: Segment) -> Vec<StoredEvent> {
    let (mut all, mut from) = (Vec::new(), None);
    loop {
        let page = store.scan(segment, from.as_ref()).await.expect("a page is scanned");
        all.extend(page.items.into_iter().map(as_event));
        // As another process would go on.
        from =
            page.next.map(|place| S::Place::from_text(&place.to_text()).expect("a place survives its text"));
        if from.is_none() {
            return all;
        }
    }
}

/// In any number of segments, a scan finds every event once, and no stream lies in two segments.
pub async fn a_scan_meets_every_event_once_and_each_stream_in_one_segment<S: Store>(store: &S) {
    let tenant = fresh_tenant();
    let mut expected = BTreeMap::new();
    for length in 1..=12 {
        let stream = stream_of(&tenant);
        let events: Vec<_> = (1..=length).map(|version| event(&stream, version)).collect();
        stored(store, &commit(events.clone())).await;
        expected.insert(stream, events);
    }
    // More than a page of DynamoDB.
    let stream = stream_of(&tenant);
    let large: Vec<_> = (1..=8).map(|version| large_event(&stream, version, 300_000)).collect();
    for one in &large {
        stored(store, &commit([one.clone()])).await;
    }
    expected.insert(stream, large);
    for segments in [1, 3, 16] {
        let mut met: BTreeMap<StreamId, (u32, Vec<StoredEvent>)> = BTreeMap::new();
        for part in Segment::all(segments.try_into().expect("more than 0")) {
            let ours =
                segment(store, part).await.into_iter().filter(|event| event.envelope.tenant_id == tenant);
            for event in ours {
                let (home, events) =
                    met.entry(event.envelope.stream()).or_insert_with(|| (part.number, Vec::new()));
                assert_eq!(*home, part.number, "a stream lies in two segments");
                events.push(event);
            }
        }
        assert_eq!(met.len(), expected.len(), "in {segments} segments");
        for (stream, (_, mut events)) in met {
            // The local AWS scans versions as texts: 1, 10, 2.
            events.sort_by_key(|event| event.envelope.version);
            assert_same(&events, &expected[&stream]);
        }
    }
    // The count is approximate, so its value is not checked.
    store.count().await.expect("events can be counted");
}

/// A stream that cannot be folded can still be looked at.
pub async fn a_look_shows_a_stream_with_its_gaps<S: Store>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    let versions: Vec<u64> = (1..=9).filter(|version| *version != 2).chain([20, 21, 22]).collect();
    for version in &versions {
        stored(store, &commit([event(&stream, *version)])).await;
    }
    let (mut met, mut from) = (Vec::new(), None);
    loop {
        let page = store.look(&stream, from.as_ref()).await.expect("a stream is looked at");
        met.extend(page.items.into_iter().map(|item| as_event(item).envelope.version));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(met, versions);
    let unknown = store.look(&stream_of(&fresh_tenant()), None).await.expect("no stream is no error");
    assert!(unknown.items.is_empty() && unknown.next.is_none());
}

/// In all shards together, the index shows each aggregate with an event of the type since the time, and no other.
pub async fn the_index_shows_the_aggregates_with_events_since_a_time<S: Store>(store: &S) {
    let (tenant, other) = (fresh_tenant(), fresh_tenant());
    let streams: Vec<_> = (0..20).map(|_| stream_of(&tenant)).collect();
    let since = event(&streams[0], 1).envelope.timestamp;
    let old = Timestamp::from_unix_micros(since.unix_micros() - 1);
    let mut expected = BTreeSet::new();
    for (n, stream) in streams.iter().chain([&stream_of(&other)]).enumerate() {
        let mut first = event(stream, 1);
        if n % 4 == 0 {
            first.envelope.timestamp = old;
        }
        if n % 4 == 1 {
            first.envelope.event_type = "AnotherType".to_owned();
        }
        stored(store, &commit([first])).await;
        if n % 4 > 1 && stream.tenant == tenant {
            stored(store, &commit([event(stream, 2)])).await;
            expected.insert(stream.clone());
        }
    }
    let event_type = event(&streams[0], 1).envelope.event_type;
    let shards = 16.try_into().expect("more than 0");
    let mut touched = BTreeSet::new();
    for shard in Segment::all(shards) {
        let range = IndexRange { tenant: tenant.clone(), event_type: event_type.clone(), shard, since };
        let mut from = None;
        loop {
            let page = store.touched(&range, from.as_ref()).await.expect("a page of the index is read");
            touched.extend(page.streams);
            from = page.next;
            if from.is_none() {
                break;
            }
        }
    }
    assert_eq!(touched, expected);
}

/// A stream has begun when it has its first event, and not before.
pub async fn streams_that_have_begun_are_told_from_others<S: Store>(store: &S) {
    let tenant = fresh_tenant();
    let [begun, headless, unknown] = [(); 3].map(|()| stream_of(&tenant));
    stored(store, &commit([event(&begun, 1)])).await;
    stored(store, &commit([event(&headless, 2)])).await;
    let asked = [unknown, begun.clone(), headless];
    let answer = store.begun(&asked).await.expect("streams are asked about");
    assert_eq!((answer.begun, answer.left), (HashSet::from([begun]), Vec::new()));
    assert!(store.begun(&[]).await.expect("none is no error").begun.is_empty());
}
