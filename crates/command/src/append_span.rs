//! The span and the metrics of an append.

use millrace_event_store::{AppendError, AppendEvents, Commit};
use millrace_server::TraceParent;
use millrace_telemetry::{Kind, Span, within};

use crate::meters;

/// The span of a command's append. It is the cause of everything that follows from the events, so they carry it: one span
/// for all attempts, since any of them may be the one that took effect.
pub(crate) struct AppendSpan {
    caller: TraceParent,
    own: TraceParent,
    /// From the first attempt on.
    span: Option<Span>,
}

impl AppendSpan {
    /// A span of the caller's trace. It starts with the first attempt.
    pub(crate) fn new(caller: TraceParent) -> Self {
        Self { caller, own: caller.child(), span: None }
    }

    /// The span's trace context, which the events carry.
    pub(crate) fn trace(&self) -> TraceParent {
        self.own
    }

    /// Appends within the span; notes the attempt's outcome, and counts conflicts.
    pub(crate) async fn append(
        &mut self,
        store: &impl AppendEvents,
        commit: &Commit,
    ) -> Result<(), AppendError> {
        self.begin(commit);
        let appended = within(self.own, store.append(commit)).await;
        match &appended {
            Ok(()) => self.succeeded(),
            Err(error) => self.failed(error),
        }
        appended
    }

    /// An attempt has taken effect.
    pub(crate) fn succeeded(&mut self) {
        if let Some(span) = &mut self.span {
            span.describe(|span| span.succeed());
        }
    }

    fn begin(&mut self, commit: &Commit) {
        let (Some(first), Some(last)) = (commit.events.first(), commit.events.last()) else { return };
        let event = &first.envelope;
        let span = self.span.get_or_insert_with(|| {
            Span::start(self.own, Some(self.caller), Kind::Internal, || {
                format!("append {}", event.aggregate_type)
            })
        });
        span.describe(|span| {
            span.set("millrace.tenant", event.tenant_id.as_str().to_owned());
            span.set("millrace.aggregate.type", event.aggregate_type.as_str().to_owned());
            span.set("millrace.aggregate.id", event.aggregate_id.to_string());
            span.set("millrace.version", i64::try_from(last.envelope.version).unwrap_or(i64::MAX));
            // Until the attempt has ended: a caller's cancellation ends the span as well.
            span.fail("cancelled");
        });
    }

    fn failed(&mut self, error: &AppendError) {
        let reason = match error {
            AppendError::Conflict { .. } => {
                meters::conflict();
                "conflict"
            }
            AppendError::Contended => "contended",
            AppendError::KeyTaken { .. } => "key_taken",
            AppendError::TooLarge { .. } => "too_large",
            AppendError::Failed(_) => "aws",
        };
        if let Some(span) = &mut self.span {
            span.describe(|span| {
                span.note(reason, Vec::new());
                span.fail(reason);
            });
        }
    }
}
