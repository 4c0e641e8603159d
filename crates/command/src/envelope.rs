//! A command under way, and its outcome.

use millrace_core::{
    Aggregate, AggregateState, CommandDigest, CommandId, CommitReceipt, DecideError, Envelope, EventCodec,
    EventId, Rejection, StreamId, Timestamp,
};
use millrace_event_store::{Entry, StoredEvent};
use millrace_server::{Failure, TraceParent};
use uuid::Uuid;

/// A command, parsed and ready to be decided.
#[derive(Debug)]
pub struct CommandEnvelope<A: Aggregate> {
    /// The stream of the aggregate.
    pub stream: StreamId,
    /// The command.
    pub command: A::Command,
    /// Whether it creates the aggregate. Then there is nothing to load.
    pub creates: bool,
    /// The version that the caller has seen, where it named one.
    pub expected_version: Option<u64>,
    /// The caller's idempotency key.
    pub command_id: CommandId,
    /// Distinguishes the command's body from another one under the same id.
    pub digest: CommandDigest,
    /// The wider piece of work that the command belongs to.
    pub correlation_id: CommandId,
    /// The trace of the call.
    pub trace: TraceParent,
}

/// The outcome of an accepted command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutcome {
    /// The aggregate.
    pub aggregate_id: Uuid,
    /// The aggregate's version after the command, and the command's last event.
    pub receipt: CommitReceipt,
    /// The command's id.
    pub command_id: CommandId,
    /// Whether an earlier attempt had already succeeded.
    pub replayed: bool,
}

impl<A: Aggregate<Event: EventCodec>> CommandEnvelope<A> {
    /// Decides the command on a state.
    pub(crate) fn decide(
        &self,
        state: &AggregateState<A>,
        at: Timestamp,
    ) -> Result<Vec<A::Event>, DecideError<A::Error>> {
        state.decide(self.expected_version, &self.command, at)
    }

    /// The receipt of the command, if the event is its last one.
    pub(crate) fn answered_by(&self, event: &Entry) -> Result<Option<CommitReceipt>, Failure> {
        if event.command_id != self.command_id {
            return Ok(None);
        }
        if event.command_digest != self.digest {
            return Err(Failure::CommandIdReused);
        }
        Ok(Some(CommitReceipt { version: event.version, event_id: event.event_id }))
    }

    /// The outcome with this receipt.
    pub(crate) fn outcome(&self, receipt: CommitReceipt, replayed: bool) -> CommandOutcome {
        CommandOutcome {
            aggregate_id: self.stream.id,
            receipt,
            command_id: self.command_id.clone(),
            replayed,
        }
    }

    /// A refusal, by the table of errors.
    pub(crate) fn refusal(&self, refused: DecideError<A::Error>) -> Failure {
        match refused {
            DecideError::VersionConflict { current } => Failure::VersionConflict { current },
            DecideError::Rule(error) => rejected(error.into(), &self.stream),
        }
    }

    /// One of the command's events, ready to be stored.
    pub(crate) fn stored(
        &self,
        version: u64,
        event_id: EventId,
        event: &A::Event,
        trace: TraceParent,
        at: Timestamp,
    ) -> StoredEvent {
        let encoded = event.encode();
        StoredEvent {
            envelope: Envelope {
                event_id,
                tenant_id: self.stream.tenant.clone(),
                aggregate_type: self.stream.aggregate_type.clone(),
                aggregate_id: self.stream.id,
                version,
                event_type: encoded.event_type.to_owned(),
                schema_version: encoded.schema_version,
                timestamp: at,
                event_data: Some(encoded.data),
                command_id: self.command_id.clone(),
                correlation_id: self.correlation_id.clone(),
                causation_id: self.command_id.clone(),
                trace_parent: Some(trace.to_string()),
            },
            command_digest: self.digest,
        }
    }
}

/// A rule's refusal, in the terms of the table of errors.
fn rejected(rejection: Rejection, stream: &StreamId) -> Failure {
    match rejection {
        Rejection::NotFound => Failure::NotFound {
            resource_type: stream.aggregate_type.to_string().into(),
            name: stream.id.to_string(),
        },
        Rejection::AlreadyExists => Failure::CommandIdReused,
        Rejection::Rule { kind, description } => {
            Failure::Precondition { kind, subject: stream.id.to_string(), description }
        }
    }
}
