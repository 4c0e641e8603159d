//! Events in the contract's types.

use millrace_domain::StreamId;
use millrace_event_store::{Hit, Met, NoEvent, StoredEvent};
use millrace_proto::{
    codec::{DecodeError, payload, time_to_proto},
    query::{RecordedEvent, UnreadablePayload, recorded_event::Payload, unreadable_payload::Reason},
};

/// What stands at a place of a stream.
pub(crate) fn recorded(stream: &StreamId, met: &Met) -> RecordedEvent {
    match met {
        Met::Event(event) => whole(event),
        Met::NoEvent(NoEvent { version, error, .. }) => RecordedEvent {
            aggregate_type: stream.aggregate_type.to_string(),
            aggregate_id: stream.id.to_string(),
            version: *version,
            payload: Some(unreadable(Reason::Damaged, error.to_string())),
            ..RecordedEvent::default()
        },
    }
}

/// What was found for a search.
pub(crate) fn found(event_type: &str, hit: &Hit) -> RecordedEvent {
    let event = recorded(&hit.moment.stream, &hit.met);
    match hit.met {
        Met::Event(_) => event,
        Met::NoEvent(_) => RecordedEvent {
            event_type: event_type.to_owned(),
            time: Some(time_to_proto(hit.moment.at)),
            ..event
        },
    }
}

fn whole(event: &StoredEvent) -> RecordedEvent {
    let envelope = &event.envelope;
    let data = envelope.event_data.as_ref().ok_or(DecodeError::Malformed("no data".to_owned()));
    let payload = data.and_then(|data| {
        payload(&envelope.aggregate_type, &envelope.event_type, envelope.schema_version, data)
    });
    RecordedEvent {
        event_id: envelope.event_id.to_string(),
        aggregate_type: envelope.aggregate_type.to_string(),
        aggregate_id: envelope.aggregate_id.to_string(),
        version: envelope.version,
        event_type: envelope.event_type.clone(),
        schema_version: envelope.schema_version,
        time: Some(time_to_proto(envelope.timestamp)),
        command_id: envelope.command_id.to_string(),
        correlation_id: envelope.correlation_id.to_string(),
        causation_id: envelope.causation_id.to_string(),
        trace_parent: envelope.trace_parent.clone().unwrap_or_default(),
        payload: Some(payload.unwrap_or_else(|error| unreadable(reason(&error), error.to_string()))),
    }
}

fn reason(error: &DecodeError) -> Reason {
    match error {
        DecodeError::UnknownType => Reason::UnknownType,
        DecodeError::NewerSchema { .. } => Reason::NewerSchema,
        DecodeError::Malformed(_) | DecodeError::BadField { .. } => Reason::Damaged,
    }
}

fn unreadable(reason: Reason, description: String) -> Payload {
    Payload::Unreadable(UnreadablePayload { reason: reason.into(), description })
}
