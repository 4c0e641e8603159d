//! Events as the store keeps them.

use millrace_core::{CommandDigest, CommandId, CommittedEvent, EventId, Timestamp};
use millrace_core::{Envelope, codec::DecodeError, codec::EventCodec};
use serde_json::{Map, Value};

/// An event in the store: the envelope, and the digest that distinguishes two bodies under one command id.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// The event. Its data is never absent in the store.
    pub envelope: Envelope,
    /// The digest of the command's body.
    pub command_digest: CommandDigest,
}

/// As much of an event as a state is folded from: half of it, so that a load moves half the bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its version in the stream.
    pub version: u64,
    /// Its id.
    pub event_id: EventId,
    /// The event type: the name of a message of the application's contracts.
    pub event_type: String,
    /// By which schema of that message `data` was written.
    pub schema_version: u32,
    /// The message as canonical proto3 JSON.
    pub data: Map<String, Value>,
    /// The command that caused it.
    pub command_id: CommandId,
    /// The digest of that command's body.
    pub command_digest: CommandDigest,
    /// When it happened.
    pub at: Timestamp,
}

impl Entry {
    /// The event in the domain's terms.
    pub fn recorded<E: EventCodec>(&self) -> Result<CommittedEvent<E>, DecodeError> {
        Ok(CommittedEvent {
            version: self.version,
            event_id: self.event_id,
            command_id: self.command_id.clone(),
            at: self.at,
            event: E::decode(&self.event_type, self.schema_version, &self.data)?,
        })
    }
}

impl From<StoredEvent> for Entry {
    fn from(event: StoredEvent) -> Self {
        let envelope = event.envelope;
        Self {
            version: envelope.version,
            event_id: envelope.event_id,
            event_type: envelope.event_type,
            schema_version: envelope.schema_version,
            data: envelope.event_data.unwrap_or_default(),
            command_id: envelope.command_id,
            command_digest: event.command_digest,
            at: envelope.timestamp,
        }
    }
}
