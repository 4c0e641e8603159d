//! Why an event did not reach its row.

use millrace_aws::AwsError;
use millrace_domain::{CommandId, EventId, StreamId};
use millrace_proto::{Envelope, codec::DecodeError};
use millrace_runtime::TraceParent;

use crate::projection::trace;

/// Why a message could not be applied. Its text goes to logs and dead letters and never holds what the message said.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The body is not JSON, or is nested beyond all reason.
    #[error("the body is not JSON")]
    NotJson,
    /// The body is JSON of another shape than the bus's.
    #[error("the body is not an event of the bus")]
    NotABusEvent,
    /// A field of the envelope is missing or breaks its rule.
    #[error("the envelope's {0} is missing or breaks its rule")]
    BadEnvelope(&'static str),
    /// The event is of a kind of aggregate that this projection does not show.
    #[error("the event belongs to another kind of aggregate than the projection shows")]
    OtherKind,
    /// The event names another aggregate than its envelope does.
    #[error("the event names another aggregate than its envelope")]
    OtherAggregate,
    /// An aggregate is created by its first event and by no other.
    #[error("the event cannot stand at its version")]
    Misplaced,
    /// The event cannot be decoded.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// The event store, read with strong consistency, does not have the event.
    #[error("the event store does not have the event")]
    NotStored,
    /// An older event of the same aggregate, which the row lacks, cannot be applied.
    #[error("the event of version {version}, which comes first, fails: {reason}")]
    Behind {
        /// The older event's version.
        version: u64,
        /// Why it fails.
        reason: Box<Failure>,
    },
    /// The program broke off over it, which is a fault of the program.
    #[error("the program panicked over it")]
    Panicked,
    /// Others wrote the row each time that this process tried to.
    #[error("others kept writing the row")]
    Contended,
    /// A call to AWS failed.
    #[error(transparent)]
    Aws(#[from] AwsError),
}

impl Failure {
    /// All reasons, in a word each.
    pub const REASONS: [&str; 18] = [
        "not_json",
        "not_a_bus_event",
        "bad_envelope",
        "other_kind",
        "other_aggregate",
        "misplaced",
        "unknown_type",
        "newer_schema",
        "malformed",
        "bad_field",
        "not_stored",
        "behind",
        "panicked",
        "contended",
        "throttled",
        "unreachable",
        "refused",
        "nonsense",
    ];

    /// The reason in a word: the label `reason` of the metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::NotABusEvent => "not_a_bus_event",
            Self::BadEnvelope(_) => "bad_envelope",
            Self::OtherKind => "other_kind",
            Self::OtherAggregate => "other_aggregate",
            Self::Misplaced => "misplaced",
            Self::Undecodable(DecodeError::UnknownType) => "unknown_type",
            Self::Undecodable(DecodeError::NewerSchema { .. }) => "newer_schema",
            Self::Undecodable(DecodeError::Malformed(_)) => "malformed",
            Self::Undecodable(DecodeError::BadField { .. }) => "bad_field",
            Self::NotStored => "not_stored",
            Self::Behind { .. } => "behind",
            Self::Panicked => "panicked",
            Self::Contended => "contended",
            Self::Aws(AwsError::Throttled(_)) => "throttled",
            Self::Aws(AwsError::Unreachable(_)) => "unreachable",
            Self::Aws(AwsError::Refused(_)) => "refused",
            Self::Aws(AwsError::Nonsense(_)) => "nonsense",
        }
    }

    /// The failure as the event of `version` meets it, where it was found at the event of version `at`.
    pub(crate) fn met_by(self, version: u64, at: u64) -> Self {
        let lies_in_an_event =
            matches!(self, Self::OtherKind | Self::OtherAggregate | Self::Misplaced | Self::Undecodable(_));
        if lies_in_an_event && at < version {
            Self::Behind { version: at, reason: Box::new(self) }
        } else {
            self
        }
    }

    /// Whether the cause lies outside the message, so that it must not count against it.
    ///
    /// A refusal by AWS is such a cause: it means a missing permission or table. No event that the domain lets through
    /// makes a row that DynamoDB would refuse.
    pub fn is_of_the_surroundings(&self) -> bool {
        match self {
            Self::Contended
            | Self::Aws(AwsError::Throttled(_) | AwsError::Unreachable(_) | AwsError::Refused(_)) => true,
            Self::Behind { reason, .. } => reason.is_of_the_surroundings(),
            Self::NotJson
            | Self::NotABusEvent
            | Self::BadEnvelope(_)
            | Self::OtherKind
            | Self::OtherAggregate
            | Self::Misplaced
            | Self::Undecodable(_)
            | Self::NotStored
            | Self::Panicked
            | Self::Aws(AwsError::Nonsense(_)) => false,
        }
    }

    /// Whether AWS could not be used, which makes the whole process less than ready. Throttling and a contended row pass,
    /// and another replica would meet them as well.
    pub fn is_an_outage(&self) -> bool {
        match self {
            Self::Aws(AwsError::Unreachable(_) | AwsError::Refused(_)) => true,
            Self::Behind { reason, .. } => reason.is_an_outage(),
            Self::Contended
            | Self::NotJson
            | Self::NotABusEvent
            | Self::BadEnvelope(_)
            | Self::OtherKind
            | Self::OtherAggregate
            | Self::Misplaced
            | Self::Undecodable(_)
            | Self::NotStored
            | Self::Panicked
            | Self::Aws(AwsError::Throttled(_) | AwsError::Nonsense(_)) => false,
        }
    }
}

/// A message that was not applied.
#[derive(Debug, Clone)]
pub struct Failed {
    /// Why.
    pub failure: Failure,
    /// The event that it brought, where the envelope could be read.
    pub event: Option<Box<About>>,
}

/// What logs and dead letters say of an event: ids, of which callers choose some within the bounds of their types.
#[derive(Debug, Clone)]
pub struct About {
    /// The stream that it belongs to.
    pub stream: StreamId,
    /// Its version.
    pub version: u64,
    /// Its id.
    pub event_id: EventId,
    /// The wider piece of work that it belongs to.
    pub correlation_id: CommandId,
    /// What caused it.
    pub causation_id: CommandId,
    /// The trace that it belongs to.
    pub trace_parent: Option<TraceParent>,
}

impl From<&Envelope> for About {
    fn from(envelope: &Envelope) -> Self {
        Self {
            stream: envelope.stream(),
            version: envelope.version,
            event_id: envelope.event_id,
            correlation_id: envelope.correlation_id.clone(),
            causation_id: envelope.causation_id.clone(),
            trace_parent: trace(envelope),
        }
    }
}

impl From<Failure> for Failed {
    /// A failure of a message of which nothing is known.
    fn from(failure: Failure) -> Self {
        Self { failure, event: None }
    }
}

#[cfg(test)]
mod tests {
    use millrace_domain::Invalid;

    use super::*;

    #[test]
    fn every_reason_is_listed() {
        let undecodable = [
            DecodeError::UnknownType,
            DecodeError::NewerSchema { found: 2, newest: 1 },
            DecodeError::Malformed("x".to_owned()),
            DecodeError::BadField { field: "x", reason: Invalid("y") },
        ];
        let aws = [AwsError::Throttled, AwsError::Unreachable, AwsError::Refused, AwsError::Nonsense];
        let failures = [
            Failure::NotJson,
            Failure::NotABusEvent,
            Failure::BadEnvelope("x"),
            Failure::OtherKind,
            Failure::OtherAggregate,
            Failure::Misplaced,
            Failure::NotStored,
            Failure::Behind { version: 1, reason: Box::new(Failure::NotJson) },
            Failure::Panicked,
            Failure::Contended,
        ];
        let undecodable = undecodable.into_iter().map(Failure::Undecodable);
        let aws = aws.into_iter().map(|kind| Failure::Aws(kind("x".to_owned())));
        let found: Vec<_> =
            failures.into_iter().chain(undecodable).chain(aws).map(|failure| failure.reason()).collect();
        assert_eq!(found.len(), Failure::REASONS.len());
        for reason in found {
            assert!(Failure::REASONS.contains(&reason), "{reason}");
        }
    }
}
