//! The part of W3C Trace Context that goes from a call into its events.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// A text is no `traceparent` by W3C Trace Context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a traceparent by W3C Trace Context")]
pub struct NotATraceParent;

/// A span within a trace, as a `traceparent` of version 00 names it (W3C Trace Context, section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

/// A step of an event's way outside of the call that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// From the event store's stream to the bus's acceptance.
    Relay,
    /// The sending to the bus.
    Publish,
}

impl TraceParent {
    /// The flag by which a caller says that it records the trace (W3C Trace Context, section 3.2.2.5.1).
    const SAMPLED: u8 = 1;

    /// The start of a new trace that is recorded nowhere: an id to find lines of a log by.
    pub fn unrecorded() -> Self {
        Self { trace_id: rand::random::<u128>().max(1), span_id: random_id(), flags: 0 }
    }

    /// The same, recorded.
    pub(crate) fn sampled(self) -> Self {
        Self { flags: Self::SAMPLED, ..self }
    }

    /// A new span within the same trace.
    pub fn child(self) -> Self {
        Self { span_id: random_id(), ..self }
    }

    /// The span of a step of the event's way, within the same trace. Every call returns the same id, so that one
    /// process can export the span and another one name it as a parent.
    pub fn hop(self, event_id: Uuid, hop: Hop) -> Self {
        let name: &[u8] = match hop {
            Hop::Relay => b"relay",
            Hop::Publish => b"publish",
        };
        // Not 0: the half has the UUID's version in it.
        let (span_id, _) = Uuid::new_v5(&event_id, name).as_u64_pair();
        Self { span_id, ..self }
    }

    /// Whether the trace is recorded.
    pub fn is_sampled(self) -> bool {
        self.flags & Self::SAMPLED != 0
    }

    /// The trace's id: 32 hexadecimal digits.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The span's id: 16 hexadecimal digits.
    pub fn span_id(self) -> String {
        format!("{:016x}", self.span_id)
    }

    pub(crate) fn ids(self) -> (u128, u64) {
        (self.trace_id, self.span_id)
    }
}

fn random_id() -> u64 {
    rand::random::<u64>().max(1)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

impl FromStr for TraceParent {
    type Err = NotATraceParent;

    fn from_str(text: &str) -> Result<Self, NotATraceParent> {
        let bytes = text.as_bytes();
        let hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let dashes = bytes.len() == 55 && [2, 35, 52].iter().all(|i| bytes[*i] == b'-');
        if !dashes || !bytes.split(|b| *b == b'-').all(hex) || !text.starts_with("00-") {
            return Err(NotATraceParent);
        }
        let parsed = Self {
            trace_id: u128::from_str_radix(&text[3..35], 16).map_err(|_| NotATraceParent)?,
            span_id: u64::from_str_radix(&text[36..52], 16).map_err(|_| NotATraceParent)?,
            flags: u8::from_str_radix(&text[53..55], 16).map_err(|_| NotATraceParent)?,
        };
        if parsed.trace_id == 0 || parsed.span_id == 0 { Err(NotATraceParent) } else { Ok(parsed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_survives_its_text_and_a_child_keeps_the_trace() {
        let trace: TraceParent = SENT.parse().unwrap();
        assert_eq!(trace.to_string(), SENT);
        assert_eq!(trace.child().trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_ne!(trace.child(), trace);
    }

    #[test]
    fn whether_a_trace_is_sampled_is_its_callers_choice_and_goes_on() {
        let sampled: TraceParent = SENT.parse().unwrap();
        let unsampled: TraceParent = format!("{}00", &SENT[..53]).parse().unwrap();
        let event = Uuid::nil();
        for next in [sampled, sampled.child(), sampled.hop(event, Hop::Relay)] {
            assert!(next.is_sampled() && next.to_string().ends_with("-01"));
        }
        for next in [unsampled, unsampled.child(), unsampled.hop(event, Hop::Relay)] {
            assert!(!next.is_sampled() && next.to_string().ends_with("-00"));
        }
    }

    #[test]
    fn what_an_event_goes_through_has_the_same_ids_whoever_asks() {
        let trace: TraceParent = SENT.parse().unwrap();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(trace.hop(one, Hop::Publish), trace.child().hop(one, Hop::Publish));
        assert_ne!(trace.hop(one, Hop::Publish), trace.hop(other, Hop::Publish));
        assert_ne!(trace.hop(one, Hop::Publish), trace.hop(one, Hop::Relay));
        // Processes of different releases share a bus: the ids must not change.
        assert_eq!(trace.hop(one, Hop::Relay).span_id(), "17c1189ab7ca57a0");
        assert_eq!(trace.hop(one, Hop::Publish).span_id(), "2177e29289e85776");
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        for text in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c8031-c-b7ad6b7169203331-01",
            "00-äaf7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ] {
            assert!(text.parse::<TraceParent>().is_err(), "{text}");
        }
    }
}
