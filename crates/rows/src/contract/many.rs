//! Rows that are read by their keys, many at once.

use millrace_core::row::{RowKey, StoredRow};
use uuid::Uuid;

use super::{Course, Desk, opened, tenant};
use crate::{AuditRows, Consistency, MAX_ROWS, RowBatch};

pub(super) async fn all<S: AuditRows>(desk: &Desk<'_, S>) {
    rows_of_several_tenants_are_read_at_once(desk).await;
    as_many_as_are_allowed_are_read_at_once(desk).await;
}

async fn rows_of_several_tenants_are_read_at_once<S: AuditRows>(desk: &Desk<'_, S>) {
    let (mut keys, mut expected) = (Vec::new(), Vec::new());
    for n in 0..3 {
        let mut course = Course::new();
        desk.add(&mut course, &opened(&format!("title {n}"))).await;
        let row = desk.get(&course.key()).await.expect("a row after its write");
        keys.push(course.key());
        expected.push((course.key(), row));
    }
    // The id of one tenant's and another tenant have no row.
    keys.push(RowKey { tenant: keys[0].tenant.clone(), id: keys[1].id.clone() });
    for consistency in [Consistency::Strong, Consistency::Eventual] {
        let batch = desk.store.get_many(&keys, consistency).await.expect("the store can be reached");
        assert_eq!(found(batch), sorted(expected.clone()));
    }
    let none = desk.store.get_many(&[], Consistency::Strong).await.expect("nothing is asked");
    assert!(none.found.is_empty() && none.left.is_empty());
}

async fn as_many_as_are_allowed_are_read_at_once<S: AuditRows>(desk: &Desk<'_, S>) {
    let tenant = tenant();
    let mut keys = Vec::new();
    for _ in 0..4 {
        let mut course = Course::of(&tenant, Uuid::new_v4());
        desk.add(&mut course, &opened("A")).await;
        keys.push(course.key());
    }
    let mut there = keys.clone();
    there.sort();
    keys.extend((keys.len()..MAX_ROWS).map(|_| Course::of(&tenant, Uuid::new_v4()).key()));
    let batch = desk.store.get_many(&keys, Consistency::Strong).await.expect("the store can be reached");
    let found = found(batch).into_iter().map(|(key, row)| {
        assert_eq!(row.key, key);
        key
    });
    assert_eq!(found.collect::<Vec<_>>(), there);
}

fn found(batch: RowBatch) -> Vec<(RowKey, StoredRow)> {
    assert!(batch.left.is_empty(), "so few rows are answered at once");
    let rows = batch.found.into_iter();
    sorted(rows.map(|(key, row)| (key, row.expect("what was written can be read"))).collect())
}

fn sorted(mut rows: Vec<(RowKey, StoredRow)>) -> Vec<(RowKey, StoredRow)> {
    rows.sort_by(|(one, _), (other, _)| one.cmp(other));
    rows
}
