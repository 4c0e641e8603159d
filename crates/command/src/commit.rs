//! From a decision to a commit.

use std::sync::Arc;

use millrace_core::{
    Aggregate, AggregateState, CommitReceipt, CommittedEvent, EventCodec, EventId, Timestamp, UniqueKey,
};
use millrace_event_store::Commit;
use millrace_server::{Failure, TraceParent};
use uuid::Uuid;

use crate::{append_span::AppendSpan, envelope::CommandEnvelope, handler::outcome_unknown};

/// Recognises the commit of one execution of a command, however often it is attempted.
pub(crate) struct CommitAttempt {
    /// The id of the commit's first event: the same at every attempt, so that one that took effect unnoticed is recognised.
    pub(crate) event_id: EventId,
    /// The receipt of the commit that was sent last.
    pub(crate) receipt: Option<CommitReceipt>,
    /// The span of the append.
    pub(crate) span: AppendSpan,
}

impl CommitAttempt {
    /// No attempt yet.
    pub(crate) fn new(caller: TraceParent) -> Self {
        Self { event_id: EventId(Uuid::now_v7()), receipt: None, span: AppendSpan::new(caller) }
    }

    /// A failure to look for the command. A commit that was sent may be stored.
    pub(crate) fn failure(&self, failure: Failure) -> Failure {
        if self.receipt.is_some() { outcome_unknown(failure) } else { failure }
    }

    /// Whether a receipt is that of another execution of the command. If it is our own, an attempt has taken effect that
    /// seemed to fail.
    pub(crate) fn is_replay(&mut self, receipt: CommitReceipt) -> bool {
        let is_replay = self.receipt.is_none_or(|own| own.event_id != receipt.event_id);
        if !is_replay {
            self.span.succeeded();
        }
        is_replay
    }
}

/// A decision, ready to be stored.
pub(crate) struct Prepared<A> {
    pub(crate) commit: Commit,
    /// The state after the commit.
    pub(crate) after: Arc<AggregateState<A>>,
    pub(crate) receipt: CommitReceipt,
}

/// The commit of a decision's events on a state.
pub(crate) fn prepare<A: Aggregate<Event: EventCodec>>(
    envelope: &CommandEnvelope<A>,
    state: &AggregateState<A>,
    events: Vec<A::Event>,
    own: &CommitAttempt,
    at: Timestamp,
) -> Result<Prepared<A>, Failure> {
    if state.version() == 0 && events.len() > 1 {
        return Err(Failure::Internal(
            "a decision that creates its aggregate with several events".to_owned(),
        ));
    }
    let mut after = state.clone();
    let mut stored = Vec::with_capacity(events.len());
    let mut receipt = None;
    for (n, event) in events.into_iter().enumerate() {
        let event_id = nth_event_id(own.event_id, n);
        let version = after.version().saturating_add(1);
        stored.push(envelope.stored(version, event_id, &event, own.span.trace(), at));
        receipt = Some(CommitReceipt { version, event_id });
        let committed =
            CommittedEvent { version, event_id, command_id: envelope.command_id.clone(), at, event };
        after = after.apply(&committed).map_err(|error| Failure::Internal(format!("a decision: {error}")))?;
    }
    let receipt = receipt.ok_or_else(|| Failure::Internal("a decision without events".to_owned()))?;
    let (held, holds) = (state.unique_keys(), after.unique_keys());
    let without = |keys: &[UniqueKey], others: &[UniqueKey]| -> Vec<UniqueKey> {
        keys.iter().filter(|key| !others.contains(key)).cloned().collect()
    };
    let commit = Commit { events: stored, claims: without(&holds, &held), releases: without(&held, &holds) };
    Ok(Prepared { commit, after: Arc::new(after), receipt })
}

/// The id of a commit's n-th event: the others follow from the first one's.
fn nth_event_id(first: EventId, n: usize) -> EventId {
    if n == 0 { first } else { EventId(Uuid::new_v5(&first.0, &n.to_be_bytes())) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_event_of_a_command_has_an_id_of_its_own() {
        let first = EventId(Uuid::now_v7());
        let ids: HashSet<_> = (0..100).map(|n| nth_event_id(first, n)).collect();
        assert!(ids.len() == 100 && ids.contains(&first));
    }
}
