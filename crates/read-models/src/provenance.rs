//! What made a row what it is.

use millrace_domain::{CommandId, EventId};

/// The newest event in a row, and what that event came of: with it, a row leads back to the call that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// The event.
    pub event_id: EventId,
    /// The wider piece of work that it belongs to.
    pub correlation_id: CommandId,
    /// What caused it, as an id: a command's, or, where an event caused the command, that event's.
    pub causation_id: CommandId,
    /// The W3C trace context of the call that caused it, where it has one. Whoever makes a change sees to it that this
    /// is no text of any length.
    pub trace_parent: Option<String>,
}
