//! The meaning of the reasons of a cancelled transaction.

use aws_sdk_dynamodb::types::CancellationReason;
use millrace_aws::AwsError;

use crate::{
    AppendError,
    item::{Item, stored_from_item},
    plan::{Direction, Plan},
};

/// The kind of item at a place of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    FirstEvent,
    LaterEvent,
    Claim(&'static str),
    Release(&'static str),
}

/// The kind of item at each place, in the order in which the transaction is sent.
pub(super) fn places(plan: &Plan) -> impl Iterator<Item = Place> {
    let events = (0..plan.events.len()).map(|n| if n == 0 { Place::FirstEvent } else { Place::LaterEvent });
    events.chain(plan.keys.iter().map(|key| match key.direction {
        Direction::Claim => Place::Claim(key.scope),
        Direction::Release => Place::Release(key.scope),
    }))
}

/// The meaning of one reason (DynamoDB API Reference, TransactionCanceledException). Ordered: the least counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Condition,
    Contention,
    Throttling,
    Other,
}

impl Cause {
    /// The cause behind a code; `None` for an action that had no part in the failure.
    fn of(code: &str) -> Option<Self> {
        match code {
            "" | "None" => None,
            "ConditionalCheckFailed" => Some(Self::Condition),
            "TransactionConflict" => Some(Self::Contention),
            "ProvisionedThroughputExceeded" => Some(Self::Throttling),
            code if AwsError::is_throttling(code) => Some(Self::Throttling),
            // AccessDenied, DuplicateItem, ItemCollectionSizeLimitExceeded, ValidationError.
            _ => Some(Self::Other),
        }
    }
}

/// The one error for all reasons.
///
/// Events precede keys, since a commit repeated after a lost reply conflicts with itself, whatever has become of its
/// keys since. So an event that is contended or throttled leaves open whether the key is really taken, and the commit
/// is tried again.
pub(super) fn verdict(places: &[Place], reasons: &[CancellationReason]) -> AppendError {
    if places.len() != reasons.len() {
        return nonsense("a transaction was cancelled without its reasons");
    }
    let causes = || places.iter().zip(reasons).filter_map(|(p, r)| Some((*p, Cause::of(r.code()?)?, r)));
    let is_event = |place| matches!(place, Place::FirstEvent | Place::LaterEvent);
    let of_events = causes().filter(|(place, ..)| is_event(*place)).min_by_key(|(_, cause, _)| *cause);
    let of_keys = || causes().filter(|(place, ..)| !is_event(*place)).min_by_key(|(_, cause, _)| *cause);
    let Some((place, cause, reason)) = of_events.or_else(of_keys) else {
        return nonsense("a transaction was cancelled for no reason");
    };
    // Codes only: AWS's messages about values may quote them.
    let code = reason.code().unwrap_or_default();
    match (cause, place) {
        (Cause::Condition, Place::FirstEvent) => conflict(reason.item()),
        (Cause::Condition, Place::LaterEvent) => AppendError::Conflict { existing: None },
        (Cause::Condition, Place::Claim(scope)) => AppendError::KeyTaken { scope },
        (Cause::Condition, Place::Release(scope)) => {
            nonsense(&format!("a key of {scope} that the aggregate lets go is another's"))
        }
        (Cause::Contention, _) => AppendError::Contended,
        (Cause::Throttling, _) => {
            AppendError::Failed(AwsError::Throttled(format!("transaction cancelled: {code}")))
        }
        (Cause::Other, _) => AppendError::Failed(AwsError::Refused(format!("transaction cancelled: {code}"))),
    }
}

fn nonsense(what: &str) -> AppendError {
    AppendError::Failed(AwsError::InvalidResponse(what.to_owned()))
}

/// The conflict with the event that DynamoDB returned. An unreadable one is left out: the caller then loads the stream,
/// where it is an error that names its version.
pub(super) fn conflict(existing: Option<&Item>) -> AppendError {
    let existing = existing.and_then(|item| {
        stored_from_item(item).inspect_err(|error| tracing::warn!(%error, "a stored item is no event")).ok()
    });
    AppendError::Conflict { existing: existing.map(Box::new) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StoredEvent, item::item_of, testing::any_event};

    const EVENT: Place = Place::FirstEvent;
    const CLAIM: Place = Place::Claim("user.email");
    const RELEASE: Place = Place::Release("user.email");

    fn reason(code: &str) -> CancellationReason {
        CancellationReason::builder().code(code).build()
    }

    fn failed_on(event: &StoredEvent) -> CancellationReason {
        let item = item_of(event, event.envelope.event_data.as_ref().unwrap(), None);
        CancellationReason::builder().code("ConditionalCheckFailed").set_item(Some(item)).build()
    }

    fn of(places: &[Place], codes: &[&str]) -> AppendError {
        verdict(places, &codes.iter().map(|code| reason(code)).collect::<Vec<_>>())
    }

    #[test]
    fn a_taken_version_is_a_conflict_with_the_event_that_has_it() {
        let event = any_event(1);
        let got = verdict(&[EVENT, Place::LaterEvent], &[failed_on(&event), failed_on(&any_event(2))]);
        assert!(matches!(got, AppendError::Conflict { existing: Some(e) } if *e == event));
    }

    #[test]
    fn a_conflict_goes_before_a_taken_key_since_it_may_be_with_oneself() {
        let got = verdict(&[EVENT, CLAIM], &[failed_on(&any_event(1)), reason("ConditionalCheckFailed")]);
        assert!(matches!(got, AppendError::Conflict { existing: Some(_) }), "{got:?}");
        let got = of(&[EVENT, CLAIM], &["TransactionConflict", "ConditionalCheckFailed"]);
        assert!(matches!(got, AppendError::Contended), "{got:?}");
    }

    #[test]
    fn a_conflict_whose_event_is_absent_or_unreadable_is_a_conflict_all_the_same() {
        let mut unreadable = failed_on(&any_event(1));
        unreadable.item.as_mut().unwrap().remove("EventId");
        for reason in [reason("ConditionalCheckFailed"), unreadable] {
            let got = verdict(&[EVENT], &[reason]);
            assert!(matches!(got, AppendError::Conflict { existing: None }), "{got:?}");
        }
        // The event returned is not the one at the commit's first version.
        let got = verdict(&[EVENT, Place::LaterEvent], &[reason("None"), failed_on(&any_event(2))]);
        assert!(matches!(got, AppendError::Conflict { existing: None }), "{got:?}");
    }

    #[test]
    fn a_failed_claim_is_a_taken_key() {
        let got = of(&[EVENT, CLAIM, RELEASE], &["None", "ConditionalCheckFailed", "TransactionConflict"]);
        assert!(matches!(got, AppendError::KeyTaken { scope: "user.email" }), "{got:?}");
    }

    #[test]
    fn a_release_of_anothers_key_is_loud() {
        let got = of(&[EVENT, CLAIM, RELEASE], &["None", "None", "ConditionalCheckFailed"]);
        assert!(matches!(got, AppendError::Failed(AwsError::InvalidResponse(_))), "{got:?}");
    }

    #[test]
    fn what_may_pass_is_told_apart_from_what_will_not() {
        let contended = of(&[EVENT, CLAIM], &["None", "TransactionConflict"]);
        assert!(matches!(contended, AppendError::Contended), "{contended:?}");
        for code in ["ProvisionedThroughputExceeded", "ThrottlingError", "RequestLimitExceeded"] {
            let got = of(&[EVENT, CLAIM], &[code, "None"]);
            assert!(matches!(got, AppendError::Failed(AwsError::Throttled(_))), "{code}: {got:?}");
        }
        for code in ["ValidationError", "AccessDenied", "ItemCollectionSizeLimitExceeded", "SomethingNew"] {
            let got = of(&[EVENT, CLAIM], &["None", code]);
            assert!(matches!(got, AppendError::Failed(AwsError::Refused(_))), "{code}: {got:?}");
        }
    }

    #[test]
    fn a_cancellation_without_reasons_is_no_conflict() {
        for codes in [&[][..], &["ConditionalCheckFailed"], &["None", "None"]] {
            let got = of(&[EVENT, CLAIM], codes);
            assert!(matches!(got, AppendError::Failed(AwsError::InvalidResponse(_))), "{codes:?}: {got:?}");
        }
    }
}
