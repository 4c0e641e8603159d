//! What an audit may do to rows, which is what nobody else may do.

use std::collections::BTreeMap;

use millrace_aws::{AwsError, Segment};
use millrace_domain::{OrderId, StreamId, UserId, order::OrderStatus};
use uuid::Uuid;

use super::{apply, at, created, email, label, made_by, moved, next, placed, tenant, written};
use crate::{AuditRows, Change, FoundRows, OrderChange, Provenance, UserChange, Written};

pub(super) async fn users<S: AuditRows<UserChange>>(store: &S) {
    let first = created(&tenant(), "John@example.com");
    let second = UserChange { email: Some(email("jack@example.com")), ..next(&first) };
    let third = UserChange { name: Some(label("Jim")), ..next(&second) };
    let history = [first, second, third];
    let strangers = |n: usize| created(&history[0].tenant, &format!("u{n}@example.com"));
    every_fact(store, &history, strangers).await;

    let whole = whole(&history);
    let altered: [(&[&str], UserChange); 6] = [
        (&["Name"], UserChange { name: Some(label("Joe")), ..whole.clone() }),
        (&["Email"], UserChange { email: Some(email("JACK@example.com")), ..whole.clone() }),
        (&["Email", "EmailKey"], UserChange { email: Some(email("joe@example.com")), ..whole.clone() }),
        (&["CreatedAt"], UserChange { created_at: Some(at(77)), ..whole.clone() }),
        (&["UpdatedAt"], UserChange { updated_at: at(77), ..whole.clone() }),
        (&["Version"], UserChange { to: 9, ..whole.clone() }),
    ];
    for (names, altered) in altered {
        assert_eq!(differences(store, &whole, &altered).await, names, "{altered:?}");
    }
    for (names, provenance) in altered_provenances(&whole.provenance) {
        let altered = UserChange { provenance, ..whole.clone() };
        assert_eq!(differences(store, &whole, &altered).await, names, "{altered:?}");
    }
    let other = UserChange { user_id: UserId(Uuid::new_v4()), ..whole.clone() };
    of_another_row_nothing_is_taken(store, &whole, &other, &history[1]).await;
}

pub(super) async fn orders<S: AuditRows<OrderChange>>(store: &S) {
    let first = placed(&tenant(), UserId(Uuid::new_v4()), at(0));
    let second = moved(&first, OrderStatus::Processing);
    let third = OrderChange { updated_at: at(3), ..moved(&second, OrderStatus::Shipped) };
    let history = [first, second, third];
    let strangers =
        |n: usize| placed(&history[0].tenant, UserId(Uuid::new_v4()), at(n.try_into().unwrap_or(0)));
    every_fact(store, &history, strangers).await;

    let whole = whole(&history);
    let with = |change: &dyn Fn(&mut crate::Placed)| {
        let mut altered = whole.clone();
        altered.placed.as_mut().map(change);
        altered
    };
    let cheaper = millrace_domain::order::Basket::new(super::basket().items()[..1].to_vec());
    let altered: [(&[&str], OrderChange); 6] = [
        (&["Status", "StatusKey"], OrderChange { status: OrderStatus::Returned, ..whole.clone() }),
        (&["UpdatedAt"], OrderChange { updated_at: at(77), ..whole.clone() }),
        (&["Version"], OrderChange { to: 9, ..whole.clone() }),
        (&["UserId"], with(&|placed| placed.user_id = UserId(Uuid::new_v4()))),
        (&["CreatedAt", "CreatedKey"], with(&|placed| placed.created_at = at(77))),
        (&["Items", "TotalAmount"], with(&|placed| placed.basket = super::valid(cheaper.clone()))),
    ];
    for (names, altered) in altered {
        assert_eq!(differences(store, &whole, &altered).await, names, "{altered:?}");
    }
    let other = OrderChange { order_id: OrderId(Uuid::new_v4()), ..whole.clone() };
    of_another_row_nothing_is_taken(store, &whole, &other, &history[1]).await;
}

/// A history's changes in one.
fn whole<C: Change>(history: &[C; 3]) -> C {
    let [first, second, third] = history.clone();
    let whole = first.then(second).and_then(|two| two.then(third));
    whole.expect("changes that follow each other merge")
}

/// What holds of rows of every kind. `history` is three changes of a row that there is not yet, and `strangers` makes
/// the first changes of others.
async fn every_fact<C: Change, S: AuditRows<C>>(store: &S, history: &[C; 3], strangers: impl Fn(usize) -> C) {
    a_row_is_told_from_one_that_is_not_there(store, &strangers(0), &strangers(1)).await;
    a_row_that_is_as_its_history_does_not_differ(store, history).await;
    a_row_is_replaced_and_deleted_only_at_the_version_it_was_found_at(store, history).await;
    a_list_names_every_row_once(store, strangers).await;
}

async fn find<C: Change, S: AuditRows<C>>(store: &S, stream: &StreamId) -> Option<S::Row> {
    let FoundRows { found, left, .. } = rows(store, std::slice::from_ref(stream)).await;
    assert!(left.is_empty() && found.len() <= 1 && found.iter().all(|(of, _)| of == stream));
    found.into_iter().next().map(|(_, row)| row)
}

async fn rows<C: Change, S: AuditRows<C>>(store: &S, streams: &[StreamId]) -> FoundRows<S::Row> {
    store.rows(streams).await.expect("the store can be reached")
}

async fn replace<C: Change, S: AuditRows<C>>(store: &S, row: &S::Row, with: &C) -> bool {
    store.replace(row, with).await.expect("the store can be reached")
}

async fn a_row_is_told_from_one_that_is_not_there<C: Change, S: AuditRows<C>>(store: &S, one: &C, other: &C) {
    apply(store, one).await;
    let FoundRows { found, left, .. } = rows(store, &[other.stream(), one.stream()]).await;
    assert!(left.is_empty());
    let found: Vec<_> = found.iter().map(|(stream, row)| (stream, S::version(row))).collect();
    assert_eq!(found, [(&one.stream(), Some(1))]);
    assert!(rows(store, &[]).await.found.is_empty());
}

async fn a_row_that_is_as_its_history_does_not_differ<C: Change, S: AuditRows<C>>(
    store: &S,
    history: &[C; 3],
) {
    for change in history {
        apply(store, change).await;
    }
    let row = find(store, &history[0].stream()).await.expect("a row after its write");
    assert_eq!(S::version(&row), Some(3));
    assert_eq!(store.differences(&row, &whole(history)).expect("it makes its row"), [""; 0]);
    let later = store.differences(&row, &history[1]);
    assert!(matches!(later, Err(AwsError::Refused(_))), "a change that makes no row says nothing of one");
}

/// In what a row differs from its history once it was replaced by another; the row is as it was afterwards.
async fn differences<C: Change, S: AuditRows<C>>(store: &S, whole: &C, by: &C) -> Vec<&'static str> {
    let stream = whole.stream();
    let row = find(store, &stream).await.expect("a row that was written before");
    assert!(replace(store, &row, by).await);
    let altered = find(store, &stream).await.expect("a row after its replacement");
    let names = store.differences(&altered, whole).expect("it makes its row");
    assert!(replace(store, &altered, whole).await);
    names
}

/// What others a row may say that it came of, and what is then wrong with it.
fn altered_provenances(right: &Provenance) -> [(Vec<&'static str>, Provenance); 4] {
    let other = made_by(2);
    [
        (vec!["EventId"], Provenance { event_id: other.event_id, ..right.clone() }),
        (vec!["CorrelationId"], Provenance { correlation_id: other.correlation_id, ..right.clone() }),
        (vec!["CausationId"], Provenance { causation_id: other.causation_id, ..right.clone() }),
        // That it is missing is no difference.
        (vec![], Provenance { trace_parent: None, ..right.clone() }),
    ]
}

async fn a_row_is_replaced_and_deleted_only_at_the_version_it_was_found_at<C: Change, S: AuditRows<C>>(
    store: &S,
    history: &[C; 3],
) {
    let [first, second, third] = history;
    let stream = first.stream();
    let newest = find(store, &stream).await.expect("a row that was written before");
    // Set back, which no other way of writing can do.
    assert!(replace(store, &newest, first).await);
    let oldest = find(store, &stream).await.expect("a row after its replacement");
    assert_eq!(S::version(&oldest), Some(1));
    assert_eq!(store.differences(&oldest, first).expect("it makes its row"), [""; 0]);
    // It is not as it was found any more.
    assert!(!replace(store, &newest, first).await);
    assert!(!store.delete(&newest).await.expect("the store can be reached"));
    // From there on it goes its way, and past what was found before.
    apply(store, second).await;
    assert!(!replace(store, &oldest, first).await);
    assert!(!store.delete(&oldest).await.expect("the store can be reached"));
    assert_eq!(written(store, third).await, Written::Applied);
    let row = find(store, &stream).await.expect("a row after its write");
    assert_eq!(store.differences(&row, &whole(history)).expect("it makes its row"), [""; 0]);

    assert!(store.delete(&row).await.expect("the store can be reached"));
    assert!(find(store, &stream).await.is_none());
    // What is not there is neither replaced nor deleted.
    assert!(!replace(store, &row, first).await);
    assert!(!store.delete(&row).await.expect("the store can be reached"));
    assert!(find(store, &stream).await.is_none());
    apply(store, &whole(history)).await;
}

async fn a_list_names_every_row_once<C: Change, S: AuditRows<C>>(store: &S, strangers: impl Fn(usize) -> C) {
    let mut expected = BTreeMap::new();
    for n in 0..40 {
        let change = strangers(n);
        apply(store, &change).await;
        expected.insert(change.stream(), 1);
    }
    for segments in [1, 3, 16] {
        let mut met = BTreeMap::new();
        for segment in Segment::all(segments.try_into().expect("more than 0")) {
            let mut from = None;
            loop {
                let page = store.list(segment, from.as_ref()).await.expect("the store can be reached");
                for stream in page.listed.into_iter().flatten().filter(|stream| expected.contains_key(stream))
                {
                    *met.entry(stream).or_insert(0) += 1;
                }
                from = page.next;
                if from.is_none() {
                    break;
                }
            }
        }
        assert_eq!(met, expected, "in {segments} segments");
    }
    store.count().await.expect("rows can be counted");
}

async fn of_another_row_nothing_is_taken<C: Change, S: AuditRows<C>>(
    store: &S,
    whole: &C,
    other: &C,
    later: &C,
) {
    let row = find(store, &whole.stream()).await.expect("a row that was written before");
    for refused in [other, later] {
        assert!(matches!(store.replace(&row, refused).await, Err(AwsError::Refused(_))));
    }
    assert!(find(store, &other.stream()).await.is_none());
}
