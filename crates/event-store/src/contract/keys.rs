//! Facts about unique keys.

use millrace_aws::AwsError;

use super::Store;
use super::given::{
    append, assert_conflict, assert_holds, fresh_tenant, load, moving, race, stored, stream_of,
};
use crate::AppendError;

#[track_caller]
fn assert_taken(outcome: &Result<(), AppendError>) {
    assert!(
        matches!(outcome, Err(AppendError::KeyTaken { scope: "user.email" })),
        "not a taken key: {outcome:?}"
    );
}

/// A key that another aggregate of the tenant holds is refused with the whole commit.
pub async fn anothers_key_is_taken_and_nothing_is_stored<S: Store>(store: &S) {
    let tenant = fresh_tenant();
    let (holder, other) = (stream_of(&tenant), stream_of(&tenant));
    stored(store, &moving(&holder, 1, &["a@b"], &[])).await;
    assert_taken(&append(store, &moving(&other, 1, &["free@b", "a@b"], &[])).await);
    assert_holds(store, &other, &[]).await;
    // The free key of the refused commit is still free.
    stored(store, &moving(&holder, 2, &["free@b"], &[])).await;
}

/// Claiming a key that the aggregate already holds is no error.
pub async fn a_key_can_be_claimed_again_by_its_holder<S: Store>(store: &S) {
    let tenant = fresh_tenant();
    let (holder, other) = (stream_of(&tenant), stream_of(&tenant));
    stored(store, &moving(&holder, 1, &["a@b"], &[])).await;
    stored(store, &moving(&holder, 2, &["a@b"], &[])).await;
    assert_taken(&append(store, &moving(&other, 1, &["a@b"], &[])).await);
}

/// A released key is free, also where it is released twice.
pub async fn a_released_key_can_be_taken<S: Store>(store: &S) {
    let tenant = fresh_tenant();
    let (holder, other) = (stream_of(&tenant), stream_of(&tenant));
    stored(store, &moving(&holder, 1, &["a@b"], &[])).await;
    stored(store, &moving(&holder, 2, &[], &["a@b"])).await;
    stored(store, &moving(&holder, 3, &[], &["a@b"])).await;
    stored(store, &moving(&other, 1, &["a@b"], &[])).await;
    assert_taken(&append(store, &moving(&holder, 4, &["a@b"], &[])).await);
}

/// A change of address lets the old one go and takes the new one, both or neither.
pub async fn a_key_can_be_exchanged_for_another<S: Store>(store: &S) {
    let tenant = fresh_tenant();
    let (first, second) = (stream_of(&tenant), stream_of(&tenant));
    stored(store, &moving(&first, 1, &["old@b"], &[])).await;
    stored(store, &moving(&first, 2, &["new@b"], &["old@b"])).await;
    assert_taken(&append(store, &moving(&second, 1, &["new@b"], &[])).await);
    stored(store, &moving(&second, 1, &["old@b"], &[])).await;
    // An exchange that is refused lets nothing go.
    assert_taken(&append(store, &moving(&second, 2, &["new@b"], &["old@b"])).await);
    assert_taken(&append(store, &moving(&first, 3, &["old@b"], &["new@b"])).await);
}

/// To let another's key go would be to take it away: keys and streams do not agree.
pub async fn anothers_key_cannot_be_released<S: Store>(store: &S) {
    let tenant = fresh_tenant();
    let (holder, other) = (stream_of(&tenant), stream_of(&tenant));
    stored(store, &moving(&holder, 1, &["a@b"], &[])).await;
    let outcome = append(store, &moving(&other, 1, &[], &["a@b"])).await;
    assert!(matches!(outcome, Err(AppendError::Failed(AwsError::InvalidResponse(_)))), "{outcome:?}");
    assert_taken(&append(store, &moving(&other, 1, &["a@b"], &[])).await);
    assert_holds(store, &other, &[]).await;
}

/// Keys are a tenant's own.
pub async fn two_tenants_can_hold_the_same_key<S: Store>(store: &S) {
    for _ in 0..2 {
        stored(store, &moving(&stream_of(&fresh_tenant()), 1, &["a@b"], &[])).await;
    }
}

/// A retry after another aggregate took its released key gets its own event, not the taken key.
pub async fn a_conflict_goes_before_a_taken_key<S: Store>(store: &S) {
    let tenant = fresh_tenant();
    let (first, second) = (stream_of(&tenant), stream_of(&tenant));
    let create = moving(&first, 1, &["a@b"], &[]);
    stored(store, &create).await;
    stored(store, &moving(&first, 2, &[], &["a@b"])).await;
    stored(store, &moving(&second, 1, &["a@b"], &[])).await;
    // A retry decides anew, so its event has another id.
    assert_conflict(append(store, &moving(&first, 1, &["a@b"], &[])).await, &create.events[0]);
}

/// Of many aggregates that claim one key at the same time, one gets it.
pub async fn of_many_that_claim_one_key_one_gets_it<S: Store>(store: &S) {
    let tenant = fresh_tenant();
    let outcomes = race(|_| {
        let (store, stream) = (store.clone(), stream_of(&tenant));
        async move { (append(&store, &moving(&stream, 1, &["a@b"], &[])).await, stream) }
    })
    .await;
    let mut winners = 0;
    for (outcome, stream) in outcomes {
        let events = load(store, &stream, 10).await.len();
        if outcome.is_ok() {
            winners += 1;
            assert_eq!(events, 1, "the winner's events");
        } else {
            assert_taken(&outcome);
            assert_eq!(events, 0, "a loser's events");
        }
    }
    assert_eq!(winners, 1, "winners");
}
