//! W3C Trace Context, as far as it is carried from a call into its events.

use std::{fmt, str::FromStr};

use millrace_domain::Invalid;

/// A `traceparent` of version 00 (W3C Trace Context, section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl TraceParent {
    /// The start of a new trace, not sampled.
    pub fn new_root() -> Self {
        Self { trace_id: rand::random::<u128>().max(1), span_id: rand::random::<u64>().max(1), flags: 0 }
    }

    /// A new span within the same trace.
    pub fn child(self) -> Self {
        Self { span_id: rand::random::<u64>().max(1), ..self }
    }

    /// The trace's id: 32 hexadecimal digits.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The trace of the call that is being served on this task; a new one outside a call.
    pub fn current() -> Self {
        CURRENT.try_with(|trace| *trace).unwrap_or_else(|_| Self::new_root())
    }
}

tokio::task_local! {
    /// The trace of the call that is being served.
    pub(crate) static CURRENT: TraceParent;
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

impl FromStr for TraceParent {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        const BAD: Invalid = Invalid("must be a traceparent by W3C Trace Context");
        let bytes = text.as_bytes();
        let hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let dashes = bytes.len() == 55 && [2, 35, 52].iter().all(|i| bytes[*i] == b'-');
        if !dashes || !bytes.split(|b| *b == b'-').all(hex) || !text.starts_with("00-") {
            return Err(BAD);
        }
        let parsed = Self {
            trace_id: u128::from_str_radix(&text[3..35], 16).map_err(|_| BAD)?,
            span_id: u64::from_str_radix(&text[36..52], 16).map_err(|_| BAD)?,
            flags: u8::from_str_radix(&text[53..55], 16).map_err(|_| BAD)?,
        };
        if parsed.trace_id == 0 || parsed.span_id == 0 { Err(BAD) } else { Ok(parsed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_survives_its_text_and_a_child_keeps_the_trace() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace: TraceParent = text.parse().unwrap();
        assert_eq!(trace.to_string(), text);
        assert_eq!(trace.child().trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_ne!(trace.child(), trace);
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
