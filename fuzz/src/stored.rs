//! Items of the event store's table and its stream, and the snapshots.

use arbitrary::{Arbitrary as _, Result, Unstructured};
use aws_sdk_dynamodb::Client;
use millrace_aws::AwsError;
use millrace_core::{AggregateType, EventCodec, StreamId, Timestamp};
use millrace_event_store::{
    AppendError, AppendEvents as _, Commit, Direction, DynamoStore, LoadEvents as _, ReadEvents as _,
    ReadHistory as _, Replaces, Search, Snapshot, Snapshots as _, StoredEvent, Tables,
};
use serde_json::{Map, Value, json};
use shop::{order::OrderEvent, user::UserEvent};
use uuid::Uuid;

use crate::{
    damage::{SECRET, damaged, n, s},
    wire::{Played, played, run},
};

/// The stream that is asked for.
fn stream() -> StreamId {
    let aggregate_type = AggregateType::new("user");
    StreamId { tenant: "acme".parse().expect("a tenant"), aggregate_type, id: Uuid::from_u128(1) }
}

fn store(client: Client) -> DynamoStore {
    let tables = Tables { events: "e".into(), unique_keys: "k".into(), snapshots: "s".into() };
    DynamoStore::new(client, tables, 1.try_into().ok())
}

/// An event of the stream, as it is stored.
pub(crate) fn event(version: u64) -> Value {
    event_of(&stream(), version)
}

/// An event of that stream, or now and then a whole one of another: another tenant's, kind's, aggregate's.
fn event_of_some(u: &mut Unstructured<'_>, version: u64) -> Result<Value> {
    let ours = stream();
    let other = match u.int_in_range(0..=15)? {
        0 => StreamId { tenant: "other".parse().expect("a tenant"), ..ours },
        1 => StreamId { aggregate_type: AggregateType::new("order"), ..ours },
        2 => StreamId { id: Uuid::from_u128(2), ..ours },
        _ => ours,
    };
    Ok(event_of(&other, version))
}

fn event_of(stream: &StreamId, version: u64) -> Value {
    let data = json!({ "email": s(format!("{SECRET}@example.com")), "name": s(SECRET) });
    json!({
        "AggregateId": s(stream),
        "Version": n(version),
        "EventId": s(Uuid::from_u128(version.into())),
        "TenantId": s(&stream.tenant),
        "AggregateType": s(&stream.aggregate_type),
        "EventType": s(if version == 1 { "UserCreated" } else { "UserProfileUpdated" }),
        "SchemaVersion": n(1),
        "Timestamp": s("2026-11-23T12:00:00.000000Z"),
        "EventData": { "M": data },
        "CommandId": s(SECRET),
        "CommandDigest": s("0000000000000000000000000000002a"),
        "CorrelationId": s(SECRET),
        "CausationId": s(SECRET),
        "TraceParent": s("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        "EventTypeKey": s("acme#UserCreated#0"),
    })
}

/// Any items of the event store. A page of a stream is that stream's next events or it is an error that quotes none of
/// them, and a read event can be written and read again.
pub(crate) fn items(data: &[u8]) -> Result<()> {
    let u = &mut Unstructured::new(data);
    let Played { wire, dynamodb, .. } = played();
    let store = store(dynamodb.clone());
    let after = u.int_in_range(0..=2)?;
    let versions = after + 1..=after + u.int_in_range(0..=3)?;
    let mut item = |version| event_of_some(u, version).and_then(|event| damaged(u, event));
    let items: Vec<Value> = versions.map(&mut item).collect::<Result<_>>()?;
    let mut reply = json!({ "Items": items });
    if bool::arbitrary(u)? {
        reply["LastEvaluatedKey"] = damaged(u, event(after + 3))?;
    }
    wire.answer(&reply);

    match run(store.page(&stream(), after, 100)) {
        Ok(page) => {
            let found: Vec<_> = page.events.iter().map(|event| event.envelope.version).collect();
            let expected: Vec<_> = (after + 1..).take(found.len()).collect();
            assert_eq!(found, expected, "a page without a gap");
            assert!(!page.more || !page.events.is_empty(), "a page that leads on");
            for event in page.events {
                assert_eq!(event.envelope.stream(), stream(), "a page of the stream that was asked for");
                assert_survives(&store, event);
            }
        }
        Err(error) => assert_silent(&error),
    }
    wire.answer(&reply);
    for entries in [run(store.newest(&stream(), after, 100)), run(store.between(&stream(), after, after + 9))]
    {
        let entries = entries.inspect_err(assert_silent).unwrap_or_default();
        assert!(entries.windows(2).all(|pair| pair[0].version + 1 == pair[1].version), "no gap");
        for entry in entries {
            assert_decodes::<UserEvent>(&entry.event_type, entry.schema_version, &entry.data);
            assert_decodes::<OrderEvent>(&entry.event_type, entry.schema_version, &entry.data);
        }
    }
    look_back(u, &store)
}

/// A history and a search over the same items.
fn look_back(u: &mut Unstructured<'_>, store: &DynamoStore) -> Result<()> {
    let direction = *u.choose(&[Direction::OldestFirst, Direction::NewestFirst])?;
    match run(store.history(&stream(), 1..=9, direction, 100)) {
        Ok(part) => {
            let versions: Vec<_> =
                part.items.iter().map(millrace_event_store::ScannedItem::version).collect();
            assert!(versions.windows(2).all(|pair| direction.order(&pair[0], &pair[1]).is_lt()), "in order");
        }
        Err(error) => assert_silent(&error),
    }
    let Played { wire, .. } = played();
    let count = u.int_in_range(0..=2)?;
    let mut item = |version| event_of_some(u, version).and_then(|event| damaged(u, event));
    let items: Vec<Value> = (1..=count).map(&mut item).collect::<Result<_>>()?;
    wire.answer(&json!({ "Items": items }));
    let search = Search {
        tenant: stream().tenant,
        event_type: "UserCreated".into(),
        times: Timestamp::from_unix_micros(0)..=Timestamp::from_unix_micros(i64::MAX),
        direction,
        beyond: None,
    };
    match run(store.search(&search, 100)) {
        Ok(found) => {
            for hit in found.into_iter().flat_map(|found| found.hits) {
                assert_eq!(hit.moment.stream.tenant, search.tenant, "a tenant finds its own events");
            }
        }
        Err(error) => assert_silent(&error),
    }
    Ok(())
}

/// Writes an event that was read, and reads it again.
fn assert_survives(store: &DynamoStore, event: StoredEvent) {
    let Played { wire, .. } = played();
    wire.answer(&json!({}));
    let commit = Commit { events: vec![event.clone()], claims: Vec::new(), releases: Vec::new() };
    match run(store.append(&commit)) {
        Ok(()) => {}
        Err(AppendError::TooLarge { .. }) => return,
        Err(error) => panic!("what is read can be written: {error}"),
    }
    let written = wire.asked()["Item"].clone();
    wire.answer(&json!({ "Items": [written] }));
    let again = run(store.page(&event.envelope.stream(), event.envelope.version - 1, 1));
    assert_eq!(again.map(|page| page.events).expect("what is written can be read"), [event]);
}

/// Holds decodable data against its encoding.
pub(crate) fn assert_decodes<E>(event_type: &str, schema: u32, data: &Map<String, Value>)
where
    E: EventCodec + PartialEq + std::fmt::Debug,
{
    match E::decode(event_type, schema, data) {
        Ok(event) => {
            let encoded = event.encode();
            let again = E::decode(encoded.event_type, encoded.schema_version, &encoded.data);
            assert_eq!(again, Ok(event), "an event survives its storage");
        }
        Err(error) => {
            assert!(!error.to_string().contains(SECRET), "an error quotes what was stored: {error}")
        }
    }
}

/// An unreadable item is an invalid response of AWS's, and the reason quotes none of it.
pub(crate) fn assert_silent(error: &AwsError) {
    assert!(matches!(error, AwsError::InvalidResponse(_)), "what cannot be read is nonsense: {error}");
    assert!(!error.to_string().contains(SECRET), "an error quotes what was stored: {error}");
}

/// Snapshots. An item of ours is read as it was written; a damaged one counts as none.
pub(crate) fn snapshots(data: &[u8]) -> Result<()> {
    let u = &mut Unstructured::new(data);
    let Played { wire, dynamodb, .. } = played();
    let store = store(dynamodb.clone());
    let len = u.int_in_range(0..=60)?;
    let bytes = u.bytes(len.min(u.len()))?;
    let state = serde_json::from_slice(bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(bytes)));
    let written =
        Snapshot { stream: stream(), version: u64::arbitrary(u)?, schema: u32::arbitrary(u)?, state };
    wire.answer(&json!({}));
    run(store.put_snapshot(&written, Replaces::Any)).expect("a small snapshot fits");
    let item = wire.asked()["Item"].clone();
    let found = damaged(u, item.clone())?;
    wire.answer(&json!({ "Item": found }));
    let read = run(store.snapshot(&stream(), written.schema))
        .expect("a snapshot that cannot be read counts as none");
    let same = |name| found.get(name) == item.get(name);
    let is_whole = ["Version", "StateSchema", "State", "Checksum"].into_iter().all(same);
    if is_whole {
        assert_eq!(read, Some(written), "a snapshot survives its item");
    } else if let Some(read) = read {
        // `+7` and `7` are one number.
        assert_eq!(read, written, "a damaged snapshot counts as none");
    }
    Ok(())
}
