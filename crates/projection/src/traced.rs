//! The projector's spans in the traces of the events.
//!
//! The parent of a message's span is the event's sending to the bus. Its id follows from the event's id, so the message
//! need not carry it. Each delivery has a span of its own, so a repeated delivery is visible.
//!
//! Messages of one row are handled together, usually by one request. Each has a span for the write in its own trace;
//! the request belongs to the newest message's span, and the others link to it.

use std::borrow::Cow;

use millrace_core::Envelope;
use millrace_telemetry::{Hop, Kind, Recording, Span, TraceParent, is_on};

use crate::{ApplyError, EventRef, MessageError, error::trace, queue::Message};

/// The work on a message.
#[derive(Default)]
pub(crate) struct Processing {
    /// Its own span; `None` where the event has no trace.
    own: Option<TraceParent>,
    span: Span,
}

/// The writing of a message's event.
pub(crate) struct Writing {
    own: TraceParent,
    span: Span,
}

impl Processing {
    /// Begins the work on a message of a projection.
    pub(crate) fn begin(projection: &'static str, message: &Message, envelope: &Envelope) -> Self {
        let Some(origin) = trace(envelope) else { return Self::default() };
        let own = origin.child();
        let parent = origin.hop(envelope.event_id.0, Hop::Publish);
        let mut span = Span::start(own, Some(parent), Kind::Consumer, || format!("process {projection}"));
        span.describe(|span| {
            describe(span, projection, message);
            span.set("messaging.operation.type", "process");
            span.set("millrace.tenant", envelope.tenant_id.as_str().to_owned());
            span.set("millrace.aggregate.type", envelope.aggregate_type.as_str().to_owned());
            span.set("millrace.aggregate.id", envelope.aggregate_id.to_string());
            span.set("millrace.version", whole(envelope.version));
            span.set("millrace.event.id", envelope.event_id.to_string());
        });
        Self { own: Some(own), span }
    }

    /// Begins the write of the row; the requests are `carried` by another message's span, or else by this one's.
    pub(crate) fn write(&self, projection: &'static str, carried: Option<&Writing>) -> Option<Writing> {
        let parent = self.own?;
        let own = parent.child();
        let mut span = Span::start(own, Some(parent), Kind::Internal, || format!("write {projection}"));
        span.describe(|span| {
            if let Some(carrier) = carried {
                span.link(carrier.own);
            }
        });
        Some(Writing { own, span })
    }

    /// Ends the span: `written` by this delivery, or known before.
    pub(crate) fn done(&mut self, written: bool) {
        self.span.describe(|span| span.set("millrace.outcome", if written { "written" } else { "known" }));
    }

    /// Records the error.
    pub(crate) fn failed(&mut self, error: &ApplyError) {
        self.span.describe(|span| span.fail(error.reason()));
    }
}

impl Writing {
    /// The span that the requests belong to.
    pub(crate) fn trace(&self) -> TraceParent {
        self.own
    }

    /// Ends the span with the row's new version, the number of gaps filled from the event store, and the error that
    /// stopped it there.
    pub(crate) fn ended(mut self, reached: u64, gaps: u64, error: Option<&ApplyError>) {
        self.span.describe(|span| {
            span.set("millrace.version", whole(reached));
            if gaps > 0 {
                span.set("millrace.gaps_healed", whole(gaps));
            }
            if let Some(error) = error {
                span.fail(error.reason());
            }
        });
    }
}

/// Records a message that could not be read, with the readable parts of its envelope.
pub(crate) fn unread(projection: &'static str, message: &Message, error: &MessageError) {
    let name = || format!("process {projection}");
    about(error.event.as_deref(), Kind::Consumer, name, |span| {
        describe(span, projection, message);
        span.set("messaging.operation.type", "process");
        span.fail(error.cause.reason());
    });
}

/// Records that a message became a dead letter.
pub(crate) fn given_up(projection: &'static str, message: &Message, error: &MessageError) {
    let name = || format!("dead letter {projection}");
    about(error.event.as_deref(), Kind::Producer, name, |span| {
        describe(span, projection, message);
        span.set("messaging.operation.type", "send");
        span.fail(error.cause.reason());
    });
}

/// A span of no duration, about an event after its publication.
fn about<N: Into<Cow<'static, str>>>(
    event: Option<&EventRef>,
    kind: Kind,
    name: impl FnOnce() -> N,
    describe: impl FnOnce(&mut Recording),
) {
    if !is_on() {
        return;
    }
    let Some((origin, event_id)) = event.and_then(|event| Some((event.trace_parent?, event.event_id))) else {
        return;
    };
    let mut span = Span::start(origin.child(), Some(origin.hop(event_id.0, Hop::Publish)), kind, name);
    span.describe(|span| {
        span.set("millrace.event.id", event_id.to_string());
        describe(span);
    });
}

fn describe(span: &mut Recording, projection: &'static str, message: &Message) {
    span.set("messaging.system", "aws_sqs");
    span.set("messaging.message.id", message.id.clone());
    span.set("millrace.projection", projection);
    span.set("millrace.delivery", i64::from(message.attempts));
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
