//! Listening, for tests: all of a process hear together, and each asks for its own trace.

use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use opentelemetry_sdk::trace::SpanData;

use crate::{Listener, TraceParent, listen};

static TOLD: Mutex<Vec<SpanData>> = Mutex::new(Vec::new());

/// A trace that a test looks at.
#[derive(Debug, Clone, Copy)]
pub struct Heard(TraceParent);

struct Ear;

impl Listener for Ear {
    fn ended(&self, span: SpanData) {
        told().push(span);
    }

    fn samples(&self, _: u128) -> bool {
        true
    }
}

impl Heard {
    /// A new trace, of which everything is heard.
    pub fn begin() -> Self {
        static LISTEN: Once = Once::new();
        LISTEN.call_once(|| listen(Ear));
        Self(TraceParent::new_root())
    }

    /// The span that begins it.
    pub fn root(self) -> TraceParent {
        self.0
    }

    /// What was told of it so far, in the order in which it ended.
    pub fn spans(self) -> Vec<SpanData> {
        let is_ours = |span: &&SpanData| span.span_context.trace_id().to_string() == self.0.trace_id();
        told().iter().filter(is_ours).cloned().collect()
    }
}

fn told() -> MutexGuard<'static, Vec<SpanData>> {
    TOLD.lock().unwrap_or_else(PoisonError::into_inner)
}
