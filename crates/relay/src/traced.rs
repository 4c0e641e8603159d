//! The relay's spans in the trace of an event.
//!
//! A call to the bus holds events of many traces, so each event has two spans of its own, with the call's times. The
//! span ids follow from the event's id: a receiver can name the second span as its parent, and an event sent again by
//! any relay has the same span ids.

use millrace_core::Envelope;
use millrace_telemetry::{Hop, Kind, Recording, Span, TraceParent, is_on};

/// An event between the stream and the bus. Its spans are exported only if the bus accepts it: otherwise it is sent
/// again, maybe by another relay, which exports them.
#[derive(Default)]
pub(super) struct OnItsWay(Option<Box<Spans>>);

struct Spans {
    event_id: String,
    relay: Span,
    relay_id: TraceParent,
    publish: Option<Span>,
    publish_id: TraceParent,
}

impl OnItsWay {
    /// Begins the event's spans.
    pub(super) fn begin(envelope: &Envelope) -> Self {
        if !is_on() {
            return Self(None);
        }
        let Some(origin) = envelope.trace_parent.as_deref().and_then(|text| text.parse::<TraceParent>().ok())
        else {
            return Self(None);
        };
        let relay_id = origin.hop(envelope.event_id.0, Hop::Relay);
        let mut relay = Span::start(relay_id, Some(origin), Kind::Internal, || "relay");
        if !relay.is_recorded() {
            return Self(None);
        }
        let event_id = envelope.event_id.to_string();
        relay.describe(|span| {
            span.set("millrace.tenant", envelope.tenant_id.as_str().to_owned());
            span.set("millrace.aggregate.type", envelope.aggregate_type.as_str().to_owned());
            span.set("millrace.aggregate.id", envelope.aggregate_id.to_string());
            span.set("millrace.version", i64::try_from(envelope.version).unwrap_or(i64::MAX));
            span.set("millrace.event.id", event_id.clone());
            span.set("millrace.event.type", envelope.event_type.clone());
        });
        let publish_id = origin.hop(envelope.event_id.0, Hop::Publish);
        Self(Some(Box::new(Spans { event_id, relay, relay_id, publish: None, publish_id })))
    }

    /// The event is sent to the bus, in a call with `together` entries in all.
    pub(super) fn sent(&mut self, together: usize) {
        let Some(spans) = self.0.as_deref_mut() else { return };
        let Spans { event_id, relay_id, publish_id, publish, .. } = spans;
        let publish = publish.get_or_insert_with(|| {
            let mut publish = Span::start(*publish_id, Some(*relay_id), Kind::Producer, || "publish");
            publish.describe(|span| {
                span.set("messaging.system", "aws_eventbridge");
                span.set("messaging.operation.type", "send");
                span.set("messaging.operation.name", "PutEvents");
                span.set("messaging.message.id", event_id.clone());
            });
            publish
        });
        publish.describe(|span| {
            span.set("messaging.batch.message_count", i64::try_from(together).unwrap_or(i64::MAX));
        });
    }

    /// The bus has not accepted it; it is sent again.
    pub(super) fn refused(&mut self) {
        if let Some(publish) = self.0.as_mut().and_then(|spans| spans.publish.as_mut()) {
            publish.describe(|span: &mut Recording| span.note("not accepted", Vec::new()));
        }
    }

    /// The bus has accepted it.
    pub(super) fn accepted(mut self) {
        if let Some(spans) = self.0.take() {
            // The inner span ends first.
            drop(spans.publish);
            drop(spans.relay);
        }
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        if let Some(spans) = self.0.take() {
            spans.publish.unwrap_or_default().discard();
            spans.relay.discard();
        }
    }
}
