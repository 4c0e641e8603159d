//! Events as items of the table.

use std::{collections::HashMap, num::NonZeroU32, str::FromStr};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodbstreams::types::AttributeValue as StreamValue;
use millrace_domain::{AggregateType, CommandDigest, Invalid, StreamId, TenantId};
use millrace_proto::Envelope;
use serde_json::{Map, Number, Value};
use uuid::Uuid;

use crate::{Entry, StoredEvent};

/// An item of a table.
pub(crate) type Item = HashMap<String, AttributeValue>;

pub(crate) const AGGREGATE_ID: &str = "AggregateId";
pub(crate) const VERSION: &str = "Version";
const EVENT_ID: &str = "EventId";
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

/// How deep values may stand within each other: deeper than the 32 levels that DynamoDB lets them (Developer Guide,
/// "Quotas"), and not so deep that reading them could exhaust the stack.
const DEEPEST: usize = 64;

/// Why an item is not an event. Names attributes, never their values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// An attribute is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An attribute is of a type that no event has there.
    #[error("{0} is of another type")]
    WrongType(&'static str),
    /// An attribute's value breaks a rule.
    #[error("{attribute} {reason}")]
    Bad {
        /// The attribute.
        attribute: &'static str,
        /// The rule.
        reason: Invalid,
    },
    /// An attribute says something else than the item's key.
    #[error("{0} contradicts the key")]
    ContradictsKey(&'static str),
}

/// The hash of the index `EventType-Timestamp-index`: `<tenant>#<event type>#<shard>`.
///
/// A key of the event type alone would be one hot partition that throttles every write, so events are spread over
/// shards, numbered from 0; a reader asks all of them.
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

pub(crate) fn text(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

pub(crate) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn map(values: &Map<String, Value>) -> AttributeValue {
    AttributeValue::M(values.iter().map(|(name, value)| (name.clone(), attribute(value))).collect())
}

fn attribute(value: &Value) -> AttributeValue {
    match value {
        Value::Null => AttributeValue::Null(true),
        Value::Bool(truth) => AttributeValue::Bool(*truth),
        Value::Number(n) => number(n),
        Value::String(t) => text(t),
        Value::Array(values) => AttributeValue::L(values.iter().map(attribute).collect()),
        Value::Object(values) => map(values),
    }
}

/// The event that an item of the event store's table holds. Attributes beyond an event's own are passed over.
pub fn stored_from_item(item: &HashMap<String, AttributeValue>) -> Result<StoredEvent, ItemError> {
    decode(item)
}

/// The event that the new image of a record of the table's stream holds.
pub fn stored_from_stream_image(image: &HashMap<String, StreamValue>) -> Result<StoredEvent, ItemError> {
    decode(image)
}

/// The attributes of which an [`Entry`] is read.
pub(crate) const ENTRY: [&str; 7] =
    [VERSION, EVENT_ID, EVENT_TYPE, SCHEMA_VERSION, EVENT_DATA, COMMAND_ID, COMMAND_DIGEST];

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
    })
}

fn decode<A: Attribute>(item: &HashMap<String, A>) -> Result<StoredEvent, ItemError> {
    let stream: StreamId = parsed(item, AGGREGATE_ID)?;
    // The key alone says whose event it is; what repeats it for other readers must not say otherwise.
    if parsed::<_, TenantId>(item, TENANT_ID)? != stream.tenant {
        return Err(ItemError::ContradictsKey(TENANT_ID));
    }
    if parsed::<_, AggregateType>(item, AGGREGATE_TYPE)? != stream.aggregate_type {
        return Err(ItemError::ContradictsKey(AGGREGATE_TYPE));
    }
    let Entry { version, event_id, event_type, schema_version, data, command_id, command_digest } =
        entry(item)?;
    let envelope = Envelope {
        event_id,
        tenant_id: stream.tenant,
        aggregate_type: stream.aggregate_type,
        aggregate_id: stream.id,
        version,
        event_type,
        schema_version,
        timestamp: parsed(item, TIMESTAMP)?,
        event_data: Some(data),
        command_id,
        correlation_id: parsed(item, CORRELATION_ID)?,
        causation_id: parsed(item, CAUSATION_ID)?,
        trace_parent: item.contains_key(TRACE_PARENT).then(|| string(item, TRACE_PARENT)).transpose()?,
    };
    Ok(StoredEvent { envelope, command_digest })
}

fn value<A: Attribute>(item: &HashMap<String, A>, name: &'static str) -> Result<Value, ItemError> {
    item.get(name).ok_or(ItemError::Missing(name))?.to_json(DEEPEST).ok_or(ItemError::WrongType(name))
}

fn string<A: Attribute>(item: &HashMap<String, A>, name: &'static str) -> Result<String, ItemError> {
    if let Value::String(text) = value(item, name)? { Ok(text) } else { Err(ItemError::WrongType(name)) }
}

fn object<A: Attribute>(
    item: &HashMap<String, A>,
    name: &'static str,
) -> Result<Map<String, Value>, ItemError> {
    if let Value::Object(fields) = value(item, name)? { Ok(fields) } else { Err(ItemError::WrongType(name)) }
}

fn whole<A: Attribute, T: TryFrom<u64>>(
    item: &HashMap<String, A>,
    name: &'static str,
) -> Result<T, ItemError> {
    let whole = value(item, name)?.as_u64().ok_or(ItemError::WrongType(name))?;
    T::try_from(whole).map_err(|_| ItemError::Bad { attribute: name, reason: Invalid("is too large") })
}

fn parsed<A: Attribute, T: FromStr<Err = Invalid>>(
    item: &HashMap<String, A>,
    name: &'static str,
) -> Result<T, ItemError> {
    string(item, name)?.parse().map_err(|reason| ItemError::Bad { attribute: name, reason })
}

/// An attribute's value, of which the two SDKs have a type each.
trait Attribute {
    /// The value as JSON; `None` where JSON has no such value, or it stands deeper than `levels`.
    fn to_json(&self, levels: usize) -> Option<Value>;
}

macro_rules! attribute {
    ($type:ident) => {
        impl Attribute for $type {
            fn to_json(&self, levels: usize) -> Option<Value> {
                let deeper = levels.checked_sub(1)?;
                match self {
                    Self::S(text) => Some(Value::String(text.clone())),
                    Self::N(number) => json_number(number).map(Value::Number),
                    Self::Bool(truth) => Some(Value::Bool(*truth)),
                    Self::Null(true) => Some(Value::Null),
                    Self::L(values) => {
                        values.iter().map(|v| v.to_json(deeper)).collect::<Option<_>>().map(Value::Array)
                    }
                    Self::M(values) => {
                        let fields = values.iter().map(|(name, v)| Some((name.clone(), v.to_json(deeper)?)));
                        fields.collect::<Option<_>>().map(Value::Object)
                    }
                    Self::Null(false) | Self::B(_) | Self::Bs(_) | Self::Ns(_) | Self::Ss(_) | _ => None,
                }
            }
        }
    };
}

attribute!(AttributeValue);
attribute!(StreamValue);

/// A number as JSON: whole where it is whole, so that an `int32` of the contract is one again.
fn json_number(text: &str) -> Option<Number> {
    (text.parse::<u64>().map(Number::from))
        .or_else(|_| text.parse::<i64>().map(Number::from))
        .ok()
        .or_else(|| text.parse().ok().and_then(Number::from_f64))
}

#[cfg(test)]
mod tests;
