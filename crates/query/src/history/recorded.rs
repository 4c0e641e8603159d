//! Events in the contract's types.

use millrace_core::{Application, DecodeError, Envelope, EventMessage, StreamId};
use millrace_event_store::{Hit, ScannedItem, StoredEvent, UnreadableItem};
use millrace_proto::{
    query::{RecordedEvent, UnreadablePayload, recorded_event::Payload, unreadable_payload::Reason},
    time_to_proto,
};
use prost_types::Any;

/// The event at a place of a stream.
pub(crate) fn recorded(application: &Application, stream: &StreamId, item: &ScannedItem) -> RecordedEvent {
    match item {
        ScannedItem::Event(event) => whole(application, event),
        ScannedItem::Unreadable(UnreadableItem { version, error, .. }) => RecordedEvent {
            aggregate_type: stream.aggregate_type.to_string(),
            aggregate_id: stream.id.to_string(),
            version: *version,
            payload: Some(unreadable(Reason::Damaged, error.to_string())),
            ..RecordedEvent::default()
        },
    }
}

/// The result of a search.
pub(crate) fn found(application: &Application, event_type: &str, hit: &Hit) -> RecordedEvent {
    let event = recorded(application, &hit.moment.stream, &hit.item);
    match hit.item {
        ScannedItem::Event(_) => event,
        ScannedItem::Unreadable(_) => RecordedEvent {
            event_type: event_type.to_owned(),
            time: Some(time_to_proto(hit.moment.at)),
            ..event
        },
    }
}

fn whole(application: &Application, event: &StoredEvent) -> RecordedEvent {
    let envelope = &event.envelope;
    let payload = match message(application, envelope) {
        Ok(EventMessage { name, bytes }) => {
            Payload::Event(Any { type_url: format!("type.googleapis.com/{name}"), value: bytes })
        }
        Err(error) => unreadable(reason(&error), error.to_string()),
    };
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
        payload: Some(payload),
    }
}

/// The message of an event as it was stored.
fn message(application: &Application, envelope: &Envelope) -> Result<EventMessage, DecodeError> {
    let aggregate = application.aggregate(&envelope.aggregate_type).ok_or(DecodeError::UnknownType)?;
    let no_data = || DecodeError::Malformed("no data".to_owned());
    let data = envelope.event_data.as_ref().ok_or_else(no_data)?;
    (aggregate.message)(&envelope.event_type, envelope.schema_version, data)
}

fn reason(error: &DecodeError) -> Reason {
    match error {
        DecodeError::UnknownType => Reason::UnknownType,
        DecodeError::NewerSchema { .. } | DecodeError::UnknownField => Reason::NewerSchema,
        DecodeError::Malformed(_) | DecodeError::BadField { .. } => Reason::Damaged,
    }
}

fn unreadable(reason: Reason, description: String) -> Payload {
    Payload::Unreadable(UnreadablePayload { reason: reason.into(), description })
}
