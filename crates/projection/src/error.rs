//! Why an event did not reach its row.

use millrace_aws::AwsError;
use millrace_core::{
    CommandId, DecodeError, Envelope, EventId, StreamId, projection::ProjectionError, row::UnusableAttribute,
};
use millrace_rows::WriteError;
use millrace_server::TraceParent;

/// Why an event was not applied. The text goes to logs and dead letters, and holds no value of the message.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApplyError {
    /// The body is not JSON, or is nested too deeply.
    #[error("the body is not JSON")]
    NotJson,
    /// The body is JSON, but not an event of the bus.
    #[error("the body is not an event of the bus")]
    NotABusEvent,
    /// A field of the envelope is missing or breaks its rule.
    #[error("the envelope's {0} is missing or breaks its rule")]
    BadEnvelope(&'static str),
    /// The projection cannot take the event.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    /// The event store, read with strong consistency, does not have the event.
    #[error("the event store does not have the event")]
    NotStored,
    /// An older event of the same aggregate, which the row lacks, cannot be applied.
    #[error("the event of version {version}, which comes first, fails: {reason}")]
    Behind {
        /// The older event's version.
        version: u64,
        /// The reason that it fails.
        reason: Box<ApplyError>,
    },
    /// The application's code panicked, which is a fault of the program.
    #[error("the program panicked over it")]
    Panicked,
    /// Other writers changed the row at each attempt of this process.
    #[error("others kept writing the row")]
    Contended,
    /// A call to AWS failed.
    #[error(transparent)]
    Aws(#[from] AwsError),
}

/// The origin of an error, which decides how the consumer treats the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In the message, or in the program that reads it.
    Message,
    /// In the release: a newer one wrote the event, and a replica of that one can read it.
    Release,
    /// In a busy row or table. The cause passes, but another replica would have the same error.
    Load,
    /// AWS cannot be used.
    Outage,
}

impl ApplyError {
    /// All reasons, in a word each.
    pub const REASONS: [&str; 21] = [
        "not_json",
        "not_a_bus_event",
        "bad_envelope",
        "other_kind",
        "other_aggregate",
        "misplaced",
        "no_row",
        "unusable",
        "unknown_type",
        "newer_schema",
        "unknown_field",
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
            Self::Projection(ProjectionError::OtherAggregateType) => "other_kind",
            Self::Projection(ProjectionError::OtherAggregate) => "other_aggregate",
            Self::Projection(ProjectionError::Misplaced) => "misplaced",
            Self::Projection(ProjectionError::NoRow) => "no_row",
            Self::Projection(ProjectionError::Unusable(UnusableAttribute(_))) => "unusable",
            Self::Projection(ProjectionError::Undecodable(error)) => match error {
                DecodeError::UnknownType => "unknown_type",
                DecodeError::NewerSchema { .. } => "newer_schema",
                DecodeError::UnknownField => "unknown_field",
                DecodeError::Malformed(_) => "malformed",
                DecodeError::BadField { .. } => "bad_field",
            },
            Self::NotStored => "not_stored",
            Self::Behind { .. } => "behind",
            Self::Panicked => "panicked",
            Self::Contended => "contended",
            Self::Aws(AwsError::Throttled(_)) => "throttled",
            Self::Aws(AwsError::Unreachable(_)) => "unreachable",
            Self::Aws(AwsError::Refused(_)) => "refused",
            Self::Aws(AwsError::InvalidResponse(_)) => "nonsense",
        }
    }

    /// The error of the event of `version`, given this error of the event of version `at`.
    pub(crate) fn of_version(self, version: u64, at: u64) -> Self {
        if matches!(self, Self::Projection(_)) && at < version {
            Self::Behind { version: at, reason: Box::new(self) }
        } else {
            self
        }
    }

    /// Whether the error lies in the event itself, so that a part of a merged update may still be written.
    pub(crate) fn is_of_an_event(&self) -> bool {
        matches!(self, Self::Projection(_) | Self::Panicked)
    }

    /// A refusal by AWS is an outage: it means a missing permission or table. No event that the domain lets through
    /// makes a row that DynamoDB would refuse.
    pub(crate) fn origin(&self) -> Origin {
        match self {
            Self::Aws(AwsError::Unreachable(_) | AwsError::Refused(_)) => Origin::Outage,
            Self::Contended | Self::Aws(AwsError::Throttled(_)) => Origin::Load,
            Self::Behind { reason, .. } => reason.origin(),
            Self::Projection(ProjectionError::Undecodable(error)) if error.is_of_newer_release() => {
                Origin::Release
            }
            Self::NotJson
            | Self::NotABusEvent
            | Self::BadEnvelope(_)
            | Self::Projection(_)
            | Self::NotStored
            | Self::Panicked
            | Self::Aws(AwsError::InvalidResponse(_)) => Origin::Message,
        }
    }
}

impl From<WriteError> for ApplyError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Aws(error) => Self::Aws(error),
            WriteError::Projection(error) => Self::Projection(error),
            WriteError::Contended => Self::Contended,
        }
    }
}

/// A message that was not applied.
#[derive(Debug, Clone)]
pub struct MessageError {
    /// The reason.
    pub cause: ApplyError,
    /// The event in the message, if the envelope could be read.
    pub event: Option<Box<EventRef>>,
}

/// An event in logs and dead letters: ids, of which callers choose some within the bounds of their types.
#[derive(Debug, Clone)]
pub struct EventRef {
    /// The stream that it belongs to.
    pub stream: StreamId,
    /// Its version.
    pub version: u64,
    /// Its id.
    pub event_id: EventId,
    /// The wider piece of work that it belongs to.
    pub correlation_id: CommandId,
    /// Its cause.
    pub causation_id: CommandId,
    /// The trace that it belongs to.
    pub trace_parent: Option<TraceParent>,
}

impl From<&Envelope> for EventRef {
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

/// The trace that an event belongs to. A text that is no traceparent counts as none.
pub(crate) fn trace(envelope: &Envelope) -> Option<TraceParent> {
    envelope.trace_parent.as_deref().and_then(|text| text.parse().ok())
}

impl MessageError {
    /// The error of a message with a readable envelope.
    pub(crate) fn about(envelope: &Envelope, cause: ApplyError) -> Self {
        Self { cause, event: Some(Box::new(envelope.into())) }
    }
}

impl From<ApplyError> for MessageError {
    /// The error of a message without a readable envelope.
    fn from(cause: ApplyError) -> Self {
        Self { cause, event: None }
    }
}

#[cfg(test)]
mod tests {
    use millrace_core::Invalid;

    use super::*;

    #[test]
    fn every_reason_is_listed() {
        let projection = [
            ProjectionError::OtherAggregateType,
            ProjectionError::OtherAggregate,
            ProjectionError::Misplaced,
            ProjectionError::NoRow,
            ProjectionError::Unusable(UnusableAttribute("X")),
            ProjectionError::Undecodable(DecodeError::UnknownType),
            ProjectionError::Undecodable(DecodeError::NewerSchema { found: 2, newest: 1 }),
            ProjectionError::Undecodable(DecodeError::UnknownField),
            ProjectionError::Undecodable(DecodeError::Malformed("x".to_owned())),
            ProjectionError::Undecodable(DecodeError::BadField { field: "x", reason: Invalid("y") }),
        ];
        let aws = [AwsError::Throttled, AwsError::Unreachable, AwsError::Refused, AwsError::InvalidResponse];
        let others = [
            ApplyError::NotJson,
            ApplyError::NotABusEvent,
            ApplyError::BadEnvelope("x"),
            ApplyError::NotStored,
            ApplyError::Behind { version: 1, reason: Box::new(ApplyError::NotJson) },
            ApplyError::Panicked,
            ApplyError::Contended,
        ];
        let projection = projection.into_iter().map(ApplyError::Projection);
        let aws = aws.into_iter().map(|kind| ApplyError::Aws(kind("x".to_owned())));
        let mut found: Vec<_> = projection.chain(aws).chain(others).map(|error| error.reason()).collect();
        let mut listed = ApplyError::REASONS.to_vec();
        found.sort_unstable();
        listed.sort_unstable();
        assert_eq!(found, listed);
    }

    #[test]
    fn only_the_messages_own_fault_counts_against_it() {
        let aws = |kind: fn(String) -> AwsError| WriteError::Aws(kind("x".to_owned())).into();
        let undecodable = |error| ApplyError::Projection(ProjectionError::Undecodable(error));
        for (error, origin) in [
            (aws(AwsError::Throttled), Origin::Load),
            (aws(AwsError::Unreachable), Origin::Outage),
            (aws(AwsError::Refused), Origin::Outage),
            (aws(AwsError::InvalidResponse), Origin::Message),
            (WriteError::Contended.into(), Origin::Load),
            (WriteError::Projection(ProjectionError::NoRow).into(), Origin::Message),
            (undecodable(DecodeError::UnknownType), Origin::Release),
            (undecodable(DecodeError::NewerSchema { found: 2, newest: 1 }), Origin::Release),
            (undecodable(DecodeError::UnknownField), Origin::Release),
            (undecodable(DecodeError::Malformed("x".to_owned())), Origin::Message),
        ] {
            let behind = ApplyError::Behind { version: 1, reason: Box::new(error.clone()) };
            assert_eq!((error.origin(), behind.origin()), (origin, origin), "{error}");
        }
    }
}
