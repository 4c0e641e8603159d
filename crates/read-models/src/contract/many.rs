//! Rows that are read by their keys, many at once.

use std::fmt::Debug;

use millrace_domain::OrderId;
use uuid::Uuid;

use super::{apply, at, created, placed, tenant};
use crate::{Consistency, Key, MOST_ROWS, Many, OrderChange, ReadOrders, ReadUsers, UserChange, WriteRows};

pub(super) async fn users<S: ReadUsers + WriteRows<UserChange>>(store: &S) {
    let changes: Vec<_> = (0..3).map(|n| created(&tenant(), &format!("user{n}@example.com"))).collect();
    let mut keys = Vec::new();
    for change in &changes {
        apply(store, change).await;
        keys.push((change.tenant.clone(), change.user_id));
    }
    // The user of one tenant and another tenant have no row.
    let strangers = (changes[0].tenant.clone(), changes[1].user_id);
    let mut expected = Vec::new();
    for (tenant, user_id) in &keys {
        let row = store.get(tenant, *user_id).await.expect("the store can be reached");
        expected.push(((tenant.clone(), *user_id), row.expect("it was written")));
    }
    keys.push(strangers);
    for consistency in [Consistency::Strong, Consistency::Eventual] {
        let many = store.get_many(&keys, consistency).await.expect("the store can be reached");
        assert_eq!(found(many), sorted(expected.clone()));
    }
    let none = store.get_many(&[], Consistency::Strong).await.expect("nothing is asked");
    assert!(none.found.is_empty() && none.left.is_empty());
}

pub(super) async fn orders<S: ReadOrders + WriteRows<OrderChange>>(store: &S) {
    let tenant = tenant();
    let mut keys = Vec::new();
    for n in 0..4 {
        let change = placed(&tenant, millrace_domain::UserId(Uuid::new_v4()), at(n));
        apply(store, &change).await;
        keys.push((tenant.clone(), change.order_id));
    }
    let there = sorted(keys.clone().into_iter().map(|key| (key, ())).collect());
    keys.extend((keys.len()..MOST_ROWS).map(|_| (tenant.clone(), OrderId(Uuid::new_v4()))));
    let many = store.get_many(&keys, Consistency::Strong).await.expect("the store can be reached");
    let many = found(many).into_iter().map(|(key, row)| {
        assert_eq!((&row.tenant, row.order_id), (&key.0, key.1));
        (key, ())
    });
    assert_eq!(many.collect::<Vec<_>>(), there);
}

fn found<I: Ord, R: Debug>(many: Many<I, R>) -> Vec<(Key<I>, R)> {
    assert!(many.left.is_empty(), "so few rows are answered at once");
    let rows = many.found.into_iter();
    sorted(rows.map(|(key, row)| (key, row.expect("what was written can be read"))).collect())
}

fn sorted<I: Ord, R>(mut rows: Vec<(Key<I>, R)>) -> Vec<(Key<I>, R)> {
    rows.sort_by(|(one, _), (other, _)| one.cmp(other));
    rows
}
