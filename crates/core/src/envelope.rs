//! The envelope in which an event is stored and published.

use crate::{AggregateType, CommandId, EventId, StreamId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

/// An event with all its metadata: the `Detail` of a bus entry, and, with the stream's key for `AggregateId`, the
/// attributes of an item in the event store.
///
/// Readers ignore unknown names, so a newer release may add some.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Envelope {
    /// The event's id.
    pub event_id: EventId,
    /// The tenant of the event.
    pub tenant_id: TenantId,
    /// The type of its aggregate.
    pub aggregate_type: AggregateType,
    /// Which aggregate it happened to.
    pub aggregate_id: Uuid,
    /// The version in the aggregate's stream: 1, 2, 3 …
    pub version: u64,
    /// The event type: the name of a message of the application's contracts.
    pub event_type: String,
    /// By which schema of that message `event_data` was written.
    pub schema_version: u32,
    /// When the command was accepted.
    pub timestamp: Timestamp,
    /// The message as canonical proto3 JSON. Absent from the bus where the event is too large for it, which then says
    /// `EventDataOmitted`; the event store has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_data: Option<Map<String, Value>>,
    /// The command that caused the event.
    pub command_id: CommandId,
    /// The wider piece of work that it belongs to.
    pub correlation_id: CommandId,
    /// The id of its cause: the command's, or, for a command that an event caused, that event's.
    pub causation_id: CommandId,
    /// The W3C trace context of the call that caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_parent: Option<String>,
}

impl Envelope {
    /// The stream that the event belongs to.
    pub fn stream(&self) -> StreamId {
        StreamId {
            tenant: self.tenant_id.clone(),
            aggregate_type: self.aggregate_type.clone(),
            id: self.aggregate_id,
        }
    }
}
