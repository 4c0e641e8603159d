//! Spans and log lines, for tests: all tests of a process listen together, and each asks for its own.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError},
};

use opentelemetry_sdk::trace::SpanData;
use tracing::{Dispatch, subscriber::NoSubscriber};

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

/// The log lines of one test: clones of it are the writers of the test's subscriber.
#[derive(Debug, Clone)]
pub struct LogLines(Arc<Mutex<Vec<u8>>>);

impl LogLines {
    /// No lines yet.
    ///
    /// With a single dispatcher in the process, `tracing` asks the thread that meets a callsite first whether anybody
    /// wants it. A test beside this one, without a subscriber, would then silence the callsite for all threads. A second
    /// dispatcher that lives on makes it ask all of them.
    pub fn begin() -> Self {
        static SECOND: OnceLock<Dispatch> = OnceLock::new();
        SECOND.get_or_init(|| Dispatch::new(NoSubscriber::new()));
        Self(Arc::default())
    }

    /// All that was written so far; bytes that are no UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl io::Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
