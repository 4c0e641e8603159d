//! What a projection is: a pure function from an event to what it changes in a row.

pub mod orders;
pub mod users;

use millrace_domain::AggregateType;
use millrace_proto::{
    Envelope,
    codec::{DecodeError, EventCodec},
};
use millrace_read_models::{Change, Provenance};
use millrace_runtime::TraceParent;
use uuid::Uuid;

use crate::Failure;

/// A projection of one kind of aggregate into rows of one read model.
pub trait Projection: Send + Sync + 'static {
    /// What happens to the aggregate.
    type Event: EventCodec + Send;
    /// What that changes in its row.
    type Change: Change;

    /// The projection's name: the label `projection` of the metrics, an attribute of dead letters.
    const NAME: &'static str;
    /// The kind of aggregate.
    const AGGREGATE: AggregateType;

    /// What an event changes: from the version before its own to its own.
    fn change(envelope: &Envelope, event: Self::Event) -> Result<Self::Change, Failure>;
}

/// What an envelope's event changes; `None` where the bus left out its data, which the event store then has.
pub(crate) fn read<P: Projection>(envelope: &Envelope) -> Result<Option<P::Change>, Failure> {
    if envelope.aggregate_type != P::AGGREGATE {
        return Err(Failure::OtherKind);
    }
    let Some(data) = &envelope.event_data else {
        let known = P::Event::EVENT_TYPES.contains(&envelope.event_type.as_str());
        return if known { Ok(None) } else { Err(DecodeError::UnknownType.into()) };
    };
    let event = P::Event::decode(&envelope.event_type, envelope.schema_version, data)?;
    P::change(envelope, event).map(Some)
}

/// What an event came of.
fn provenance(envelope: &Envelope) -> Provenance {
    Provenance {
        event_id: envelope.event_id,
        correlation_id: envelope.correlation_id.clone(),
        causation_id: envelope.causation_id.clone(),
        trace_parent: trace(envelope).map(|trace| trace.to_string()),
    }
}

/// The trace that an event belongs to. A text that is no traceparent is as none: an envelope sets it no bound, and a row
/// must have one.
pub(crate) fn trace(envelope: &Envelope) -> Option<TraceParent> {
    envelope.trace_parent.as_deref().and_then(|text| text.parse().ok())
}

/// Where in its stream an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It creates the aggregate.
    First,
    /// It changes what is there.
    Later,
}

/// The versions that an event leads from and to, if it names the aggregate that its envelope does and stands where
/// such an event can.
fn versions(envelope: &Envelope, aggregate: Uuid, place: Place) -> Result<(u64, u64), Failure> {
    if aggregate != envelope.aggregate_id {
        return Err(Failure::OtherAggregate);
    }
    match (envelope.version, place) {
        (1, Place::First) => Ok((0, 1)),
        (version @ 2.., Place::Later) => Ok((version - 1, version)),
        (0, _) | (1, Place::Later) | (2.., Place::First) => Err(Failure::Misplaced),
    }
}
