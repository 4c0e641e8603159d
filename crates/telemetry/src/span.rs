//! Recording spans for a collector.

use std::{borrow::Cow, fmt, sync::OnceLock, time::SystemTime};

use opentelemetry::{
    InstrumentationScope, Key, KeyValue, Value,
    trace::{Event, Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::TraceParent;

/// The most events and the most links of a span; further ones are counted (OpenTelemetry has 128).
const MAX_NOTES: usize = 32;

static LISTENER: OnceLock<Box<dyn Listener>> = OnceLock::new();

/// The receiver of spans.
pub trait Listener: Send + Sync + 'static {
    /// Takes a span that has ended. It must neither wait nor fail.
    fn ended(&self, span: SpanData);

    /// Whether a trace that begins here is to be recorded.
    fn samples(&self, trace_id: u128) -> bool;
}

/// Passes every sampled span of this process to a listener. Once a process; a later call changes nothing.
pub fn listen(listener: impl Listener) {
    // The listener of an earlier call stays: only tests set a second one.
    let _ = LISTENER.set(Box::new(listener));
}

/// Whether anything listens.
pub fn is_on() -> bool {
    LISTENER.get().is_some()
}

impl TraceParent {
    /// The start of a new trace, sampled as the listener decides for traces that begin here.
    pub fn new_root() -> Self {
        let root = Self::unrecorded();
        let (trace_id, _) = root.ids();
        let is_sampled = LISTENER.get().is_some_and(|listener| listener.samples(trace_id));
        if is_sampled { root.sampled() } else { root }
    }
}

/// The relation of a piece of work to other processes (OpenTelemetry, "SpanKind").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It answers a call.
    Server,
    /// It calls another process and waits for the answer.
    Client,
    /// It sends a message for later work.
    Producer,
    /// It works on a message.
    Consumer,
    /// It is invisible to other processes.
    Internal,
}

/// A piece of work, exported when it ends, which is when this is dropped. Empty where nothing records it.
///
/// Code that sets attributes keeps personal data and secrets out of them, and names few.
#[derive(Default)]
pub struct Span(Option<Box<Recording>>);

/// A span that is recorded.
pub struct Recording {
    listener: &'static dyn Listener,
    data: SpanData,
}

impl Span {
    /// A span that begins now: `own` are its ids, `parent` its parent or its cause. `name` is only called where the
    /// span is recorded.
    pub fn start<N: Into<Cow<'static, str>>>(
        own: TraceParent,
        parent: Option<TraceParent>,
        kind: Kind,
        name: impl FnOnce() -> N,
    ) -> Self {
        if !own.is_sampled() {
            return Self(None);
        }
        let Some(listener) = LISTENER.get() else { return Self(None) };
        let now = SystemTime::now();
        let data = SpanData {
            span_context: context(own, false),
            parent_span_id: parent
                .map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.ids().1.to_be_bytes())),
            // Only the edge has a parent from outside, and a message's is another process's.
            parent_span_is_remote: matches!(kind, Kind::Server | Kind::Consumer) && parent.is_some(),
            span_kind: kind.into(),
            name: name().into(),
            start_time: now,
            end_time: now,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder("millrace").build(),
        };
        Self(Some(Box::new(Recording { listener: &**listener, data })))
    }

    /// Describes the span, where it is recorded.
    pub fn describe(&mut self, describe: impl FnOnce(&mut Recording)) {
        if let Some(recording) = &mut self.0 {
            describe(recording);
        }
    }

    /// Whether the span is recorded.
    pub fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// Drops the span without exporting it.
    pub fn discard(mut self) {
        self.0 = None;
    }
}

impl Recording {
    /// Sets an attribute, replacing an earlier value.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        let (key, value) = (Key::from_static_str(key), value.into());
        match self.data.attributes.iter_mut().find(|known| known.key == key) {
            Some(known) => known.value = value,
            None => self.data.attributes.push(KeyValue::new(key, value)),
        }
    }

    /// Marks the work as failed. `by` is the error type, one of few words.
    pub fn fail(&mut self, by: impl Into<Cow<'static, str>>) {
        let by = by.into();
        self.set("error.type", Value::String(by.clone().into()));
        self.data.status = Status::error(by);
    }

    /// Marks the work as successful, whatever its earlier mark.
    pub fn succeed(&mut self) {
        self.data.attributes.retain(|known| known.key.as_str() != "error.type");
        self.data.status = Status::Unset;
    }

    /// Notes that something happened meanwhile.
    pub fn note(&mut self, name: &'static str, attributes: Vec<KeyValue>) {
        let events = &mut self.data.events;
        if events.events.len() < MAX_NOTES {
            events.events.push(Event::new(name, SystemTime::now(), attributes, 0));
        } else {
            events.dropped_count += 1;
        }
    }

    /// Links another span that this one relates to.
    pub fn link(&mut self, other: TraceParent) {
        let links = &mut self.data.links;
        if links.links.len() < MAX_NOTES {
            links.links.push(Link::with_context(context(other, true)));
        } else {
            links.dropped_count += 1;
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(recording) = self.0.take() {
            let Recording { listener, mut data } = *recording;
            data.end_time = SystemTime::now();
            listener.ended(data);
        }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span").field(&self.0.as_ref().map(|recording| &recording.data.name)).finish()
    }
}

impl From<Kind> for SpanKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Server => Self::Server,
            Kind::Client => Self::Client,
            Kind::Producer => Self::Producer,
            Kind::Consumer => Self::Consumer,
            Kind::Internal => Self::Internal,
        }
    }
}

fn context(span: TraceParent, is_remote: bool) -> SpanContext {
    let (trace_id, span_id) = span.ids();
    let flags = if span.is_sampled() { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    SpanContext::new(
        TraceId::from_bytes(trace_id.to_be_bytes()),
        SpanId::from_bytes(span_id.to_be_bytes()),
        flags,
        is_remote,
        TraceState::NONE,
    )
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Default, Clone)]
    struct Heard(Arc<Mutex<Vec<SpanData>>>);

    impl Listener for Heard {
        fn ended(&self, span: SpanData) {
            self.0.lock().unwrap().push(span);
        }

        fn samples(&self, _: u128) -> bool {
            true
        }
    }

    #[test]
    fn only_what_is_sampled_is_told_once_it_has_ended_and_whole() {
        let heard = Heard::default();
        listen(heard.clone());
        let parent = TraceParent::new_root();
        assert!(parent.is_sampled() && is_on());
        let own = parent.child();
        let mut span = Span::start(own, Some(parent), Kind::Client, || "work");
        assert!(heard.0.lock().unwrap().is_empty(), "it has not ended");
        span.describe(|span| {
            span.set("one", 1_i64);
            span.set("one", 2_i64);
            span.fail("tired");
            (0..MAX_NOTES + 2).for_each(|_| span.note("again", Vec::new()));
            span.link(parent);
        });
        drop(span);
        Span::start(own.child(), Some(own), Kind::Internal, || "left out").discard();
        let unsampled: TraceParent = format!("{}00", &own.to_string()[..53]).parse().unwrap();
        let asked = || -> &'static str { panic!("nobody wants to hear of it") };
        assert!(!Span::start(unsampled, None, Kind::Server, asked).is_recorded());

        let told = heard.0.lock().unwrap().clone();
        assert_eq!(told.len(), 1);
        assert_eq!(format!("{}", told[0].span_context.span_id()), own.span_id());
        assert_eq!(format!("{}", told[0].parent_span_id), parent.span_id());
        assert_eq!(told[0].attributes, [KeyValue::new("one", 2_i64), KeyValue::new("error.type", "tired")]);
        assert_eq!((told[0].events.len(), told[0].events.dropped_count), (MAX_NOTES, 2));
        assert_eq!((told[0].status.clone(), told[0].links.len()), (Status::error("tired"), 1));
    }
}
