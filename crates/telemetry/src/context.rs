//! Where in which trace the work of this task is.

use std::future::Future;

use tokio::task::futures::TaskLocalFuture;

use crate::TraceParent;

tokio::task_local! {
    static CURRENT: TraceParent;
}

/// The span of this task's work, if any.
pub fn current() -> Option<TraceParent> {
    CURRENT.try_with(|trace| *trace).ok()
}

impl TraceParent {
    /// The span that is worked on in this task; that of a new trace, which is not recorded, outside of any.
    pub fn current() -> Self {
        current().unwrap_or_else(Self::unrecorded)
    }
}

/// Does work within a span. Spawned tasks are outside.
pub fn within<F: Future>(span: TraceParent, work: F) -> TaskLocalFuture<TraceParent, F> {
    CURRENT.scope(span, work)
}

/// Does work within a span that does not wait.
pub fn enter<T>(span: TraceParent, work: impl FnOnce() -> T) -> T {
    CURRENT.sync_scope(span, work)
}
