//! Spans and log lines for tests. All tests of a process share one listener, and each reads its own trace.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError},
};

use opentelemetry_sdk::trace::SpanData;
use tracing::{Dispatch, subscriber::NoSubscriber};

use crate::{Listener, TraceParent, listen};

static TOLD: Mutex<Vec<SpanData>> = Mutex::new(Vec::new());

/// The trace of a test.
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
    /// A new trace, of which every span is recorded.
    pub fn begin() -> Self {
        static LISTEN: Once = Once::new();
        LISTEN.call_once(|| listen(Ear));
        Self(TraceParent::new_root())
    }

    /// The trace's root span.
    pub fn root(self) -> TraceParent {
        self.0
    }

    /// The trace's spans that have ended so far, in the order of their ends.
    pub fn spans(self) -> Vec<SpanData> {
        let is_ours = |span: &&SpanData| span.span_context.trace_id().to_string() == self.0.trace_id();
        told().iter().filter(is_ours).cloned().collect()
    }
}

fn told() -> MutexGuard<'static, Vec<SpanData>> {
    TOLD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The log lines of one test. Its clones are the writers of the test's subscriber.
#[derive(Debug, Clone)]
pub struct LogLines(Arc<Mutex<Vec<u8>>>);

impl LogLines {
    /// An empty log.
    ///
    /// With a single dispatcher in the process, `tracing` enables a callsite by the subscriber of the first thread that
    /// reaches it. A parallel test without a subscriber would then silence the callsite for all threads. A second
    /// dispatcher, kept alive, makes `tracing` ask all subscribers.
    pub fn begin() -> Self {
        static SECOND: OnceLock<Dispatch> = OnceLock::new();
        SECOND.get_or_init(|| Dispatch::new(NoSubscriber::new()));
        Self(Arc::default())
    }

    /// The lines written so far; invalid UTF-8 is replaced.
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
