//! Generators and fixtures of this crate's tests.

use millrace_core::Envelope;
use millrace_core::{AggregateType, CommandDigest, CommandId, EventId, StreamId, TenantId, Timestamp};
use proptest::{collection, option, prelude::*};
use serde_json::Value;
use uuid::Uuid;

use crate::{StoredEvent, contract};

/// An unused stream.
pub(crate) fn any_stream() -> StreamId {
    contract::stream_of(&contract::fresh_tenant())
}

/// An event of such a stream.
pub(crate) fn any_event(version: u64) -> StoredEvent {
    contract::event(&any_stream(), version)
}

/// JSON as events and states hold it.
pub(crate) fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1_000_000_i32..1_000_000).prop_map(|n| Value::from(f64::from(n) + 0.5)),
        "\\PC{0,9}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            collection::btree_map("\\PC{1,9}", inner, 0..4).prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

/// Events with anything that their types allow.
pub(crate) fn stored_events() -> impl Strategy<Value = StoredEvent> {
    let uuid = any::<u128>().prop_map(Uuid::from_u128);
    let id = "[^\\p{Cc}]{1,20}".prop_map(|t| t.parse::<CommandId>().unwrap());
    let tenant = "[a-z0-9-]{1,64}".prop_map(|t| t.parse::<TenantId>().unwrap());
    let kind = "[a-z-]{1,32}".prop_map(|t| t.parse::<AggregateType>().unwrap());
    let time = (0..253_402_300_799_000_000_i64).prop_map(Timestamp::from_unix_micros);
    let data = collection::btree_map("\\PC{1,9}", any_value(), 0..5).prop_map(|d| d.into_iter().collect());
    let place = (tenant, kind, uuid.clone(), 1..=u64::MAX);
    let what = (uuid, "\\PC{0,20}", any::<u32>(), time, data);
    let why = (id.clone(), any::<u128>(), id.clone(), id, option::of("\\PC{0,55}"));
    (place, what, why).prop_map(|(place, what, why)| StoredEvent {
        envelope: Envelope {
            event_id: EventId(what.0),
            tenant_id: place.0,
            aggregate_type: place.1,
            aggregate_id: place.2,
            version: place.3,
            event_type: what.1,
            schema_version: what.2,
            timestamp: what.3,
            event_data: Some(what.4),
            command_id: why.0,
            correlation_id: why.2,
            causation_id: why.3,
            trace_parent: why.4,
        },
        command_digest: CommandDigest(why.1),
    })
}
