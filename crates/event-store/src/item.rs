//! Events as items of the table.

use std::{collections::HashMap, num::NonZeroU32};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodbstreams::types::AttributeValue as StreamValue;
pub use millrace_aws::item::ItemError;
use millrace_aws::item::{Attribute, map, object, parsed, string, whole};
pub(crate) use millrace_aws::item::{Item, number, text};
use millrace_core::{AggregateType, CommandDigest, Envelope, Invalid, StreamId, TenantId};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{Entry, StoredEvent};

pub(crate) const AGGREGATE_ID: &str = "AggregateId";
pub(crate) const VERSION: &str = "Version";
pub(crate) const EVENT_ID: &str = "EventId";
const TENANT_ID: &str = "TenantId";
const AGGREGATE_TYPE: &str = "AggregateType";
const EVENT_TYPE: &str = "EventType";
const SCHEMA_VERSION: &str = "SchemaVersion";
pub(crate) const TIMESTAMP: &str = "Timestamp";
const EVENT_DATA: &str = "EventData";
const COMMAND_ID: &str = "CommandId";
const COMMAND_DIGEST: &str = "CommandDigest";
const CORRELATION_ID: &str = "CorrelationId";
const CAUSATION_ID: &str = "CausationId";
const TRACE_PARENT: &str = "TraceParent";
pub(crate) const EVENT_TYPE_KEY: &str = "EventTypeKey";

/// The hash of the index `EventType-Timestamp-index`: `<tenant>#<event type>#<shard>`.
///
/// A key of the event type alone would be one hot partition that throttles every write, so events are spread over
/// shards, numbered from 0; a reader queries all of them.
pub fn event_type_key(tenant: &TenantId, event_type: &str, shard: u32) -> String {
    format!("{tenant}#{event_type}#{shard}")
}

/// The shard of an aggregate: the same in every release, since stored events have it.
fn shard_of(aggregate: Uuid, shards: NonZeroU32) -> u32 {
    // The remainder is smaller than a number of 32 bits.
    u32::try_from(aggregate.as_u128() % u128::from(shards.get())).unwrap_or(0)
}

/// An event, whose data are `data`, as an item; with the key of the index where there is one.
pub(crate) fn item_of(
    event: &StoredEvent,
    data: &Map<String, Value>,
    index_shards: Option<NonZeroU32>,
) -> Item {
    // Taken apart whole, so that a new field is not forgotten here.
    let Envelope {
        event_id,
        tenant_id,
        aggregate_type,
        aggregate_id,
        version,
        event_type,
        schema_version,
        timestamp,
        event_data: _,
        command_id,
        correlation_id,
        causation_id,
        trace_parent,
    } = &event.envelope;
    let index_key =
        index_shards.map(|shards| event_type_key(tenant_id, event_type, shard_of(*aggregate_id, shards)));
    let always = [
        (AGGREGATE_ID, text(event.envelope.stream())),
        (VERSION, number(version)),
        (EVENT_ID, text(event_id)),
        (TENANT_ID, text(tenant_id)),
        (AGGREGATE_TYPE, text(aggregate_type)),
        (EVENT_TYPE, text(event_type)),
        (SCHEMA_VERSION, number(schema_version)),
        (TIMESTAMP, text(timestamp)),
        (EVENT_DATA, map(data)),
        (COMMAND_ID, text(command_id)),
        (COMMAND_DIGEST, text(event.command_digest)),
        (CORRELATION_ID, text(correlation_id)),
        (CAUSATION_ID, text(causation_id)),
    ];
    let optional = [(TRACE_PARENT, trace_parent.clone()), (EVENT_TYPE_KEY, index_key)];
    let mut item = Item::with_capacity(always.len() + optional.len());
    item.extend(always.map(|(name, value)| (name.to_owned(), value)));
    let optional = optional.into_iter().filter_map(|(name, value)| Some((name, AttributeValue::S(value?))));
    item.extend(optional.map(|(name, value)| (name.to_owned(), value)));
    item
}

/// The event in an item of the event store's table. Unknown attributes are ignored.
pub fn stored_from_item(item: &HashMap<String, AttributeValue>) -> Result<StoredEvent, ItemError> {
    decode(item)
}

/// The event in the new image of a record of the table's stream.
pub fn stored_from_stream_image(image: &HashMap<String, StreamValue>) -> Result<StoredEvent, ItemError> {
    decode(image)
}

/// The attributes of which an [`Entry`] is read.
pub(crate) const ENTRY: [&str; 8] =
    [VERSION, EVENT_ID, EVENT_TYPE, SCHEMA_VERSION, EVENT_DATA, COMMAND_ID, COMMAND_DIGEST, TIMESTAMP];

/// As much of an event as a fold needs.
pub(crate) fn entry_from_item(item: &Item) -> Result<Entry, ItemError> {
    entry(item)
}

fn entry<A: Attribute>(item: &HashMap<String, A>) -> Result<Entry, ItemError> {
    let version = whole(item, VERSION)?;
    if version == 0 {
        return Err(ItemError::Bad { attribute: VERSION, reason: Invalid("must be at least 1") });
    }
    Ok(Entry {
        version,
        event_id: parsed(item, EVENT_ID)?,
        event_type: string(item, EVENT_TYPE)?,
        schema_version: whole(item, SCHEMA_VERSION)?,
        data: object(item, EVENT_DATA)?,
        command_id: parsed(item, COMMAND_ID)?,
        command_digest: CommandDigest::try_from(string(item, COMMAND_DIGEST)?)
            .map_err(|reason| ItemError::Bad { attribute: COMMAND_DIGEST, reason })?,
        at: parsed(item, TIMESTAMP)?,
    })
}

fn decode<A: Attribute>(item: &HashMap<String, A>) -> Result<StoredEvent, ItemError> {
    let stream: StreamId = parsed(item, AGGREGATE_ID)?;
    // The key alone says whose event it is; attributes that repeat it for other readers must not contradict it.
    if parsed::<_, TenantId>(item, TENANT_ID)? != stream.tenant {
        return Err(ItemError::ContradictsKey(TENANT_ID));
    }
    if parsed::<_, AggregateType>(item, AGGREGATE_TYPE)? != stream.aggregate_type {
        return Err(ItemError::ContradictsKey(AGGREGATE_TYPE));
    }
    let Entry { version, event_id, event_type, schema_version, data, command_id, command_digest, at } =
        entry(item)?;
    let envelope = Envelope {
        event_id,
        tenant_id: stream.tenant,
        aggregate_type: stream.aggregate_type,
        aggregate_id: stream.id,
        version,
        event_type,
        schema_version,
        timestamp: at,
        event_data: Some(data),
        command_id,
        correlation_id: parsed(item, CORRELATION_ID)?,
        causation_id: parsed(item, CAUSATION_ID)?,
        trace_parent: item.contains_key(TRACE_PARENT).then(|| string(item, TRACE_PARENT)).transpose()?,
    };
    Ok(StoredEvent { envelope, command_digest })
}

#[cfg(test)]
mod tests;
