//! Reading the whole store.

use std::collections::{BTreeMap, HashSet};

use millrace_aws::Segment;
use millrace_core::StreamId;

use super::{
    Store,
    given::{assert_same, commit, event, fresh_tenant, large_event, stored, stream_of},
};
use crate::{ScannedItem, StoredEvent};

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
        from = page.next;
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
