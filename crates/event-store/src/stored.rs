//! Events as the store keeps them.

use millrace_domain::{CommandDigest, Recorded};
use millrace_proto::{
    Envelope,
    codec::{DecodeError, EventCodec},
};

/// An event in the store: the envelope, and what tells two bodies under one command id apart.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// The event. Its data is never absent in the store.
    pub envelope: Envelope,
    /// The digest of the command's body.
    pub command_digest: CommandDigest,
}

impl StoredEvent {
    /// The event in the domain's terms.
    pub fn recorded<E: EventCodec>(&self) -> Result<Recorded<E>, DecodeError> {
        let envelope = &self.envelope;
        let data =
            envelope.event_data.as_ref().ok_or_else(|| DecodeError::Malformed("no data".to_owned()))?;
        Ok(Recorded {
            version: envelope.version,
            event_id: envelope.event_id,
            command_id: envelope.command_id.clone(),
            command_digest: self.command_digest,
            event: E::decode(&envelope.event_type, envelope.schema_version, data)?,
        })
    }
}
