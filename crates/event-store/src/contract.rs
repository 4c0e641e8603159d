//! The contract of every store: one function a fact, each on streams of its own.
//!
//! The functions panic where a store breaks the contract, for they are tests. They run on any runtime; races on a store
//! in memory need a multi-threaded one.
#![allow(clippy::panic, reason = "a panic is how a test fails")]

mod given;
mod history;
mod keys;
mod scans;

use given::{
    WRITERS, append, assert_conflict, assert_holds, assert_same, commit, email, event_with, large_event,
    load, moving, race, stored,
};
pub use given::{event, fresh_tenant, stream_of};
pub use history::*;
pub use keys::*;
use millrace_aws::AwsError;
use millrace_core::{AggregateType, EventId, StreamId};
pub use scans::*;
use serde_json::{Value, json};

use crate::{
    AppendError, AppendEvents, BLOCK_VERSIONS, CommandBlock, Commit, Entry, KEPT_BLOCKS, MAX_BLOCKS,
    ReadHistory, Replaces, ScanEvents, Snapshot, Snapshots,
};

/// All that a store can do.
pub trait Store: AppendEvents + ReadHistory + ScanEvents + Snapshots {}

impl<S: AppendEvents + ReadHistory + ScanEvents + Snapshots> Store for S {}

/// The limit of a transaction.
const ACTIONS: u64 = 100;

/// Checks every fact, one after another.
pub async fn run_all<S: Store>(store: &S) {
    an_unknown_stream_is_empty(store).await;
    a_stream_is_loaded_whole_and_in_order(store).await;
    a_stream_larger_than_a_page_is_loaded_whole(store).await;
    a_gap_in_a_stream_is_loud(store).await;
    a_load_brings_the_newest_events_or_those_between_two_versions(store).await;
    a_load_follows_a_stream_larger_than_a_page(store).await;
    a_scan_meets_every_event_once_and_each_stream_in_one_segment(store).await;
    a_look_shows_a_stream_with_its_gaps(store).await;
    the_index_shows_the_aggregates_with_events_since_a_time(store).await;
    a_stream_is_read_from_either_end(store).await;
    a_part_of_large_events_is_followed_by_the_rest(store).await;
    a_search_meets_every_event_of_its_type_and_times_once_and_in_order(store).await;
    a_search_tells_events_of_one_time_apart(store).await;
    a_search_sees_its_own_tenant_only(store).await;
    a_search_of_large_events_ends_early_and_goes_on(store).await;
    streams_that_have_begun_are_told_from_others(store).await;
    streams_are_seen_by_their_tenant_only(store).await;
    a_conflict_shows_the_event_that_is_there(store).await;
    a_stored_event_never_changes(store).await;
    the_same_commit_again_changes_nothing(store).await;
    of_many_at_one_version_one_is_stored(store).await;
    a_commit_made_wrong_is_refused(store).await;
    a_commit_beyond_a_limit_is_too_large(store).await;
    anothers_key_is_taken_and_nothing_is_stored(store).await;
    a_key_can_be_claimed_again_by_its_holder(store).await;
    a_released_key_can_be_taken(store).await;
    a_key_can_be_exchanged_for_another(store).await;
    anothers_key_cannot_be_released(store).await;
    two_tenants_can_hold_the_same_key(store).await;
    a_conflict_goes_before_a_taken_key(store).await;
    of_many_that_claim_one_key_one_gets_it(store).await;
    the_newest_snapshot_is_kept(store).await;
    snapshots_of_two_schemas_stand_side_by_side(store).await;
    a_snapshot_of_no_use_is_replaced_by_an_older_one(store).await;
    a_snapshot_that_is_too_large_is_refused(store).await;
    blocks_of_commands_are_kept_by_their_numbers(store).await;
    a_block_takes_the_place_of_an_earlier_one(store).await;
    a_block_that_is_not_whole_is_refused(store).await;
}

/// A stream without events is empty and no error, wherever one starts to read.
pub async fn an_unknown_stream_is_empty<S: Store>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    for after in [0, 7, u64::MAX] {
        let page = store.page(&stream, after, 10).await.expect("an empty page is read");
        assert!(page.events.is_empty() && !page.more, "an unknown stream shows {page:?}");
    }
    assert_eq!(store.snapshot(&stream, 1).await.expect("no snapshot is no error"), None);
}

/// Events appended singly or many at a time come back unchanged, from the beginning or from within, by small pages and
/// by large ones.
pub async fn a_stream_is_loaded_whole_and_in_order<S: Store>(store: &S) {
    for (length, at_once, limit) in [(1, 1, 1), (100, 1, 7), (100, 3, 100), (1000, ACTIONS, 256)] {
        let stream = stream_of(&fresh_tenant());
        let events: Vec<_> = (1..=length).map(|version| event(&stream, version)).collect();
        for part in events.chunks(usize::try_from(at_once).expect("at most 100")) {
            stored(store, &commit(part)).await;
        }
        assert_same(&load(store, &stream, limit).await, &events);
        assert_same(&load(store, &stream, 1000).await, &events);
        let last = store.page(&stream, length - 1, limit).await.expect("a page is read");
        assert_same(&last.events, &events[events.len() - 1..]);
    }
}

/// DynamoDB ends a page after 1 MB, whatever the limit.
pub async fn a_stream_larger_than_a_page_is_loaded_whole<S: Store>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    let events: Vec<_> = (1..=8).map(|version| large_event(&stream, version, 300_000)).collect();
    for one in &events {
        stored(store, &commit([one.clone()])).await;
    }
    assert_holds(store, &stream, &events).await;
}

/// A stream that lacks a version cannot be read past it.
pub async fn a_gap_in_a_stream_is_loud<S: Store>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    for version in [1, 3] {
        stored(store, &commit([event(&stream, version)])).await;
    }
    assert!(store.page(&stream, 0, 1).await.is_ok(), "what lies before the gap can be read");
    assert!(store.newest(&stream, 0, 1).await.is_ok(), "what lies behind it can be read");
    let nonsense = |load: Result<Vec<Entry>, AwsError>, what| {
        assert!(matches!(load, Err(AwsError::InvalidResponse(_))), "{what} a gap was read over: {load:?}");
    };
    nonsense(store.newest(&stream, 0, 10).await, "from the end");
    nonsense(store.between(&stream, 0, 10).await, "from the beginning");
    nonsense(store.between(&stream, 1, 10).await, "from the gap");
    for after in [0, 1] {
        let page = store.page(&stream, after, 10).await;
        assert!(
            matches!(page, Err(AwsError::InvalidResponse(_))),
            "a gap was read over from version {after}: {page:?}"
        );
    }
}

/// A load returns the end of the stream first, and the events before it in order.
pub async fn a_load_brings_the_newest_events_or_those_between_two_versions<S: Store>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    let events: Vec<_> = (1..=9).map(|version| event(&stream, version)).collect();
    stored(store, &commit(events.clone())).await;
    let entries: Vec<Entry> = events.into_iter().map(Entry::from).collect();
    for (after, limit, shown) in [(0, 3, 6..9), (0, 9, 0..9), (0, 100, 0..9), (7, 3, 7..9), (9, 3, 9..9)] {
        let newest = store.newest(&stream, after, limit).await.expect("the newest are read");
        assert_eq!(newest, entries[shown], "the newest {limit} after version {after}");
    }
    for (after, before, shown) in [(0, 2, 0..1), (0, 100, 0..9), (3, 6, 3..5), (8, 10, 8..9)] {
        let between = store.between(&stream, after, before).await.expect("those between are read");
        assert_eq!(between, entries[shown], "between {after} and {before}");
    }
    for (after, before) in [(9, 100), (3, 4), (4, 4), (5, 2), (u64::MAX, 0), (0, 0), (u64::MAX, u64::MAX)] {
        let between = store.between(&stream, after, before).await.expect("nothing is no error");
        assert_eq!(between, [], "between {after} and {before}");
    }
    for other in [stream_of(&stream.tenant), StreamId { tenant: fresh_tenant(), ..stream.clone() }] {
        assert_eq!(store.newest(&other, 0, 10).await.expect("nothing is no error"), []);
        assert_eq!(store.between(&other, 0, 10).await.expect("nothing is no error"), []);
    }
}

/// The next request returns the events that a request left out.
pub async fn a_load_follows_a_stream_larger_than_a_page<S: Store>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    for version in 1..=8 {
        stored(store, &commit([large_event(&stream, version, 300_000)])).await;
    }
    let newest = store.newest(&stream, 0, 100).await.expect("the newest are read");
    assert_eq!(newest.last().map(|entry| entry.version), Some(8));
    let first = newest.first().expect("at least one").version;
    let mut before = Vec::new();
    while let Some(next) = u64::try_from(before.len()).ok().filter(|next| next + 1 < first) {
        let between = store.between(&stream, next, first).await.expect("those between are read");
        assert!(!between.is_empty(), "at least one");
        before.extend(between.iter().map(|entry| entry.version));
    }
    before.extend(newest.iter().map(|entry| entry.version));
    assert_eq!(before, (1..=8).collect::<Vec<_>>());
}

/// The same id under another tenant is another stream.
pub async fn streams_are_seen_by_their_tenant_only<S: Store>(store: &S) {
    let mine = stream_of(&fresh_tenant());
    let events = [event(&mine, 1)];
    stored(store, &commit(events.clone())).await;
    let kept = Snapshot { stream: mine.clone(), version: 1, schema: 1, state: json!({}) };
    assert!(store.put_snapshot(&kept, Replaces::Older).await.expect("a snapshot is put"));
    let others = [
        StreamId { tenant: fresh_tenant(), ..mine.clone() },
        StreamId { aggregate_type: AggregateType::new("order"), ..mine.clone() },
    ];
    for other in &others {
        assert_holds(store, other, &[]).await;
        assert_eq!(store.snapshot(other, 1).await.expect("no snapshot is no error"), None);
        stored(store, &commit([event(other, 1)])).await;
    }
    assert_holds(store, &mine, &events).await;
}

/// A version that is taken is a conflict, and shows the event that has it; nothing of the commit is stored.
pub async fn a_conflict_shows_the_event_that_is_there<S: Store>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    let events = [event(&stream, 1), event(&stream, 2)];
    stored(store, &commit(events.clone())).await;
    assert_conflict(append(store, &commit([event(&stream, 1)])).await, &events[0]);
    assert_conflict(append(store, &commit([event(&stream, 2)])).await, &events[1]);
    assert_conflict(append(store, &commit([event(&stream, 2), event(&stream, 3)])).await, &events[1]);
    assert_conflict(append(store, &moving(&stream, 2, &["a@b"], &[])).await, &events[1]);
    assert_holds(store, &stream, &events).await;
}

/// Later appends change no stored event.
pub async fn a_stored_event_never_changes<S: Store>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    let mut events = vec![event(&stream, 1)];
    stored(store, &commit(events.clone())).await;
    // The same event id, with other data.
    let mut forged = event_with(&stream, 1, json!({"text": "other"}));
    forged.envelope.event_id = events[0].envelope.event_id;
    assert_conflict(append(store, &commit([forged])).await, &events[0]);
    events.push(event(&stream, 2));
    stored(store, &commit([events[1].clone()])).await;
    assert_holds(store, &stream, &events).await;
}

/// A commit that comes again, as after a lost reply, is known again or conflicts with itself.
pub async fn the_same_commit_again_changes_nothing<S: Store>(store: &S) {
    let tenant = fresh_tenant();
    let streams = [stream_of(&tenant), stream_of(&tenant), stream_of(&tenant)];
    let single = commit([event(&streams[0], 1)]);
    let several = commit([event(&streams[1], 1), event(&streams[1], 2)]);
    let keyed = moving(&streams[2], 1, &["a@b"], &[]);
    for (stream, commit) in streams.iter().zip([single, several, keyed]) {
        stored(store, &commit).await;
        match append(store, &commit).await {
            Ok(()) => {}
            again @ Err(_) => assert_conflict(again, &commit.events[0]),
        }
        assert_holds(store, stream, &commit.events).await;
    }
}

/// Of many that append at one version at the same time, one succeeds, and the others conflict with its event.
pub async fn of_many_at_one_version_one_is_stored<S: Store>(store: &S) {
    for events_each in [1, 2] {
        let stream = stream_of(&fresh_tenant());
        let outcomes = race(|_| {
            let (store, events) =
                (store.clone(), (1..=events_each).map(|v| event(&stream, v)).collect::<Vec<_>>());
            async move { (append(&store, &commit(events.clone())).await, events) }
        })
        .await;
        let winners: Vec<_> = outcomes.iter().filter(|(outcome, _)| outcome.is_ok()).collect();
        let [(_, events)] = winners[..] else { panic!("{} of {WRITERS} writers succeeded", winners.len()) };
        for (outcome, _) in outcomes.iter().filter(|(outcome, _)| outcome.is_err()) {
            assert_conflict(outcome.clone(), &events[0]);
        }
        assert_holds(store, &stream, events).await;
    }
}

/// A commit that breaks the rules is refused, and nothing is stored.
pub async fn a_commit_made_wrong_is_refused<S: Store>(store: &S) {
    let tenant = fresh_tenant();
    let (stream, other) = (stream_of(&tenant), stream_of(&tenant));
    let mut without_data = event(&stream, 1);
    without_data.envelope.event_data = None;
    let wrong = [
        ("no events", commit([])),
        ("version 0", commit([event(&stream, 0)])),
        ("a gap", commit([event(&stream, 1), event(&stream, 3)])),
        ("two of a version", commit([event(&stream, 1), event(&stream, 1)])),
        ("two streams", commit([event(&stream, 1), event(&other, 2)])),
        ("no data", commit([without_data])),
        ("a key twice", moving(&stream, 1, &["a@b", "a@b"], &[])),
        ("a key both ways", moving(&stream, 1, &["a@b"], &["a@b"])),
    ];
    for (what, commit) in wrong {
        let outcome = append(store, &commit).await;
        assert!(matches!(outcome, Err(AppendError::Failed(AwsError::Refused(_)))), "{what}: {outcome:?}");
    }
    assert_holds(store, &stream, &[]).await;
    stored(store, &moving(&other, 1, &["a@b"], &[])).await;
}

/// DynamoDB's limits on an item, a key and a transaction are known before anything is sent.
pub async fn a_commit_beyond_a_limit_is_too_large<S: Store>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    let many = |count| (1..=count).map(|version| event(&stream, version)).collect::<Vec<_>>();
    let too_large = [
        ("an event of 400 KB", commit([large_event(&stream, 1, 400 * 1024)])),
        ("101 events", commit(many(ACTIONS + 1))),
        ("100 events and a key", Commit { claims: vec![email("a@b")], ..commit(many(ACTIONS)) }),
        ("a key of 2,049 bytes", moving(&stream, 1, &[&"x".repeat(2049)], &[])),
        ("4.2 MB", commit((1..=11).map(|v| large_event(&stream, v, 400_000)).collect::<Vec<_>>())),
    ];
    for (what, commit) in too_large {
        let outcome = append(store, &commit).await;
        assert!(matches!(outcome, Err(AppendError::TooLarge { .. })), "{what}: {outcome:?}");
    }
    assert_holds(store, &stream, &[]).await;
    let nearly = [large_event(&stream, 1, 400 * 1024 - 2000)];
    stored(store, &commit(nearly.clone())).await;
    assert_holds(store, &stream, &nearly).await;
    let other = stream_of(&stream.tenant);
    let most: Vec<_> = (1..ACTIONS).map(|version| event(&other, version)).collect();
    stored(store, &Commit { claims: vec![email("a@b")], ..commit(most.clone()) }).await;
    assert_holds(store, &other, &most).await;
}

/// A snapshot replaces an older one and no other.
pub async fn the_newest_snapshot_is_kept<S: Snapshots>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    let at = |version: u64, state: Value| Snapshot { stream: stream.clone(), version, schema: 3, state };
    let state =
        json!({"text": "Grüße", "whole": u64::MAX, "part": 0.1, "none": null, "list": [[], {}, true]});
    let cases = [
        (10, json!({}), true),
        (9, json!({}), false),
        (10, json!([]), false),
        (11, state, true),
        (2, json!({}), false),
    ];
    let mut newest = None;
    for (version, state, kept) in cases {
        let snapshot = at(version, state);
        assert_eq!(
            store.put_snapshot(&snapshot, Replaces::Older).await.expect("a snapshot is put"),
            kept,
            "version {version}"
        );
        newest = if kept { Some(snapshot) } else { newest };
        assert_eq!(store.snapshot(&stream, 3).await.expect("a snapshot is read"), newest);
    }
}

/// Releases whose states have different schemas do not disturb each other.
pub async fn snapshots_of_two_schemas_stand_side_by_side<S: Snapshots>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    let of = |schema, version| Snapshot { stream: stream.clone(), version, schema, state: json!({}) };
    for snapshot in [of(1, 9), of(2, 5), of(1, 10), of(2, 6)] {
        assert!(store.put_snapshot(&snapshot, Replaces::Older).await.expect("a snapshot is put"));
    }
    for (schema, kept) in [(1, Some(of(1, 10))), (2, Some(of(2, 6))), (3, None)] {
        let found = store.snapshot(&stream, schema).await.expect("a snapshot is read");
        assert_eq!(found, kept, "schema {schema}");
    }
}

/// `Replaces::Any` replaces a snapshot of any version.
pub async fn a_snapshot_of_no_use_is_replaced_by_an_older_one<S: Store>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    let at = |version| Snapshot { stream: stream.clone(), version, schema: 1, state: json!({}) };
    for version in [9, 5, 7] {
        let put = store.put_snapshot(&at(version), Replaces::Any).await;
        assert!(put.expect("a snapshot is put"), "version {version}");
        assert_eq!(store.snapshot(&stream, 1).await.expect("a snapshot is read"), Some(at(version)));
    }
}

/// A snapshot larger than an item is refused.
pub async fn a_snapshot_that_is_too_large_is_refused<S: Snapshots>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    // Chance cannot be compressed.
    let state = (0..400 * 1024 / 16).map(|_| json!(uuid::Uuid::new_v4())).collect();
    let outcome = store
        .put_snapshot(&Snapshot { stream: stream.clone(), version: 1, schema: 1, state }, Replaces::Any)
        .await;
    assert!(matches!(outcome, Err(AwsError::Refused(_))), "{outcome:?}");
    assert_eq!(store.snapshot(&stream, 1).await.expect("no snapshot is no error"), None);
}

/// A block of commands; blocks differ by their seeds.
fn block(stream: &StreamId, number: u64, seed: u32) -> CommandBlock {
    let id = |n: u64| EventId(uuid::Uuid::from_u64_pair(n, seed.into()));
    CommandBlock {
        stream: stream.clone(),
        number,
        before: (number > 0).then(|| id(number)),
        last: id(number + 1),
        newest: 1_800_000_000,
        fingerprints: (seed..).take(usize::try_from(BLOCK_VERSIONS).expect("512")).collect(),
    }
}

async fn blocks<S: Snapshots>(store: &S, stream: &StreamId, numbers: &[u64]) -> Vec<CommandBlock> {
    let mut found = store.command_blocks(stream, numbers).await.expect("blocks are read");
    found.sort_by_key(|block| block.number);
    found
}

/// Blocks come back unchanged, as many as are there, and are no snapshots.
pub async fn blocks_of_commands_are_kept_by_their_numbers<S: Store>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    assert_eq!(blocks(store, &stream, &[]).await, []);
    assert_eq!(blocks(store, &stream, &[0, 1, 7]).await, []);
    let kept = [block(&stream, 0, 1), block(&stream, 7, u32::MAX - 600), block(&stream, 98, 3)];
    for block in &kept {
        assert!(store.put_command_block(block, Replaces::Older).await.expect("a block is put"));
    }
    let hundred: Vec<u64> = (0..).take(MAX_BLOCKS).collect();
    assert_eq!(blocks(store, &stream, &hundred).await, kept);
    assert_eq!(blocks(store, &stream, &[7, 8]).await, kept[1..2]);
    assert_eq!(store.snapshot(&stream, 1).await.expect("no snapshot is no error"), None);
    for other in [stream_of(&stream.tenant), StreamId { tenant: fresh_tenant(), ..stream.clone() }] {
        assert_eq!(blocks(store, &other, &[0, 7, 98]).await, []);
    }
}

/// Each place has the latest of its blocks, unless the caller knows better.
pub async fn a_block_takes_the_place_of_an_earlier_one<S: Store>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    let (first, next) = (3, 3 + KEPT_BLOCKS);
    let cases = [
        (block(&stream, first, 1), Replaces::Older, true),
        (block(&stream, first, 2), Replaces::Older, false),
        (block(&stream, first, 3), Replaces::Any, true),
        (block(&stream, next, 4), Replaces::Older, true),
        (block(&stream, first, 5), Replaces::Older, false),
        (block(&stream, first, 6), Replaces::Any, true),
    ];
    let mut kept = None;
    for (block, replaces, put) in cases {
        assert_eq!(store.put_command_block(&block, replaces).await.expect("a block is put"), put);
        kept = if put { Some(block) } else { kept };
        let found = [blocks(store, &stream, &[first]).await, blocks(store, &stream, &[next]).await].concat();
        assert_eq!(found.first(), kept.as_ref());
        assert_eq!(found.len(), 1, "a place has one block");
    }
}

/// A block has a fingerprint for each of its events, and follows one unless it is the first.
pub async fn a_block_that_is_not_whole_is_refused<S: Store>(store: &S) {
    let stream = stream_of(&fresh_tenant());
    let (mut short, mut loose) = (block(&stream, 1, 1), block(&stream, 1, 1));
    short.fingerprints.pop();
    loose.before = None;
    for broken in [short, loose] {
        let outcome = store.put_command_block(&broken, Replaces::Any).await;
        assert!(matches!(outcome, Err(AwsError::Refused(_))), "{outcome:?}");
    }
    assert_eq!(blocks(store, &stream, &[1]).await, []);
}
