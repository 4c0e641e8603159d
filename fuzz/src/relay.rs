//! The relay's leases, and the records of the stream.

use arbitrary::{Arbitrary as _, Result, Unstructured};
use millrace_core::StreamId;
use millrace_relay::{
    Leases as _, ShardStream as _,
    aws::{DynamoLeases, DynamoStream},
    stream::{Content, StreamError},
};
use serde_json::{Value, json};

use crate::{
    damage::{SECRET, damaged, n, s, text},
    stored::{assert_silent, event},
    wire::{Played, played, run},
};

fn lease() -> Value {
    json!({
        "ShardId": s("label/shard"),
        "Owner": s("replica"),
        "Fence": n(3),
        "ExpiresAt": n(1_800_000_000_000_u64),
        "Checkpoint": s("TRIM_HORIZON"),
        "CheckpointTime": s("2026-11-23T12:00:00.000000Z"),
        "Parent": s("label/parent"),
        "CompleteAt": n(1_800_000_000_000_u64),
    })
}

/// The lease table. An item that is no lease keeps no other from being read, and a lease survives its item.
pub(crate) fn leases(data: &[u8]) -> Result<()> {
    let u = &mut Unstructured::new(data);
    let Played { wire, dynamodb, .. } = played();
    let leases = DynamoLeases::new(dynamodb.clone(), "leases");
    let mut item = lease();
    if bool::arbitrary(u)? {
        item["ShardId"] = s(u.choose(&["replica#a", "complete#", "replica#", "/"])?);
    }
    let item = damaged(u, item)?;
    wire.answer(&json!({ "Items": [item, lease()] }));
    let table = run(leases.list()).expect("an item that cannot be read is passed over");
    assert!(table.leases.iter().any(|lease| lease.shard.as_str() == "label/shard" && lease.fence == 3));
    let read = table.leases.len() + table.replicas.len() + usize::from(table.complete_at.is_some());
    assert!((1..=2).contains(&read), "an item is one thing");
    for lease in table.leases {
        wire.answer(&json!({}));
        assert_eq!(run(leases.create(&lease)).ok(), Some(true));
        let written = wire.asked()["Item"].clone();
        wire.answer(&json!({ "Items": [written] }));
        let again = run(leases.list()).expect("a lease").leases;
        assert_eq!(again.as_slice(), std::slice::from_ref(&lease), "a lease survives its item");
        wire.answer(&json!({ "Attributes": item }));
        if let Err(error) = run(leases.take(&lease, "b", lease.expires_at)) {
            assert_silent(&error);
        }
    }
    Ok(())
}

/// The stream's records. One that is no event is handed on with a reason that quotes nothing of it, and one that is an
/// event is the event that its key names.
pub(crate) fn records(data: &[u8]) -> Result<()> {
    let u = &mut Unstructured::new(data);
    let Played { wire, dynamodb, streams, .. } = played();
    let stream = DynamoStream::new(dynamodb.clone(), streams.clone(), "events");
    let name = *u.choose(&["INSERT", "MODIFY", "REMOVE", "OTHER"])?;
    let image = damaged(u, event(1))?;
    let mut change = json!({ "SequenceNumber": "1", "NewImage": image });
    match u.int_in_range(0..=5)? {
        0 => change["SequenceNumber"] = json!(text(u)?),
        1 => drop(change.as_object_mut().and_then(|change| change.remove("NewImage"))),
        2 => drop(change.as_object_mut().and_then(|change| change.remove("SequenceNumber"))),
        _ => {}
    }
    wire.answer(&json!({ "Records": [{ "eventName": name, "dynamodb": change }], "NextShardIterator": "i" }));
    let records = match run(stream.read(&"i".to_owned())) {
        Ok(records) => records.records,
        Err(StreamError::Failed(error)) => {
            assert_silent(&error);
            return Ok(());
        }
        Err(error) => panic!("a reply is no refusal: {error}"),
    };
    for record in records {
        match record.content {
            Content::Event(envelope) => {
                assert_eq!(name, "INSERT", "only what is new is an event");
                let key: Option<StreamId> =
                    image["AggregateId"]["S"].as_str().and_then(|key| key.parse().ok());
                assert_eq!(Some(envelope.stream()), key, "the key says whose event it is");
                let entry = serde_json::to_value(&envelope).expect("an envelope is JSON");
                assert_eq!(serde_json::from_value(entry).ok(), Some(*envelope), "an event survives the bus");
            }
            Content::Undecodable(undecoded) => {
                let reason = undecoded.reason;
                assert!(!reason.contains(SECRET), "a reason quotes: {reason}");
            }
            Content::Skip => assert_ne!(name, "INSERT", "what is new is not skipped"),
        }
    }
    Ok(())
}
