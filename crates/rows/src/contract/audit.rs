//! The operations of an audit on rows.

use std::collections::BTreeMap;

use millrace_aws::{AwsError, Place as _, Segment};
use millrace_core::{
    EventId, StreamId, TenantId,
    projection::{RowChange, RowUpdate},
    row::{Attributes, Provenance, RowKey},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Course, Desk, app, at, changed, eventually, labelled, moved_to, opened, retitled,
    sums::{self, given_to},
    tenant,
};
use crate::{AuditRows, FoundRows, ListedRow, Sum, WriteError, WriteOutcome};

pub(super) async fn rows<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    let history =
        [opened("A"), labelled("red", 1), retitled("B", 2)].map(|event| course.next(&desk.spec, &event));
    let whole = every_fact(desk, &history, |tenant| {
        Course::of(tenant, Uuid::new_v4()).next(&desk.spec, &opened("C"))
    })
    .await;
    for (names, altered) in [
        (&["Title"][..], with(&whole, "Title", json!("b"))),
        (&["ByTitleKey", "Title"], with(&whole, "Title", json!("C"))),
        (&["ByStatusKey", "Status"], with(&whole, "Status", json!("DONE"))),
        (&["ByLabelKey", "Label"], with(&whole, "Label", Value::Null)),
        (&["ByOwnerKey", "Owner"], with(&whole, "Owner", json!("bob"))),
        (&["OpenedAt", "OpenedAtPosition"], with(&whole, "OpenedAt", json!(at(7)))),
        (&["ChangedAt"], with(&whole, "ChangedAt", json!(at(7)))),
        (&["Lines"], with(&whole, "Lines", app::nonsense())),
        (&["Version"], RowUpdate { to_version: 9, ..whole.clone() }),
    ] {
        assert_eq!(differences(desk, &whole, &altered).await, names, "{altered:?}");
    }
    for (names, provenance) in altered_provenances(&whole.provenance) {
        let altered = RowUpdate { provenance, ..whole.clone() };
        assert_eq!(differences(desk, &whole, &altered).await, names, "{altered:?}");
    }
    let none = RowUpdate { change: RowChange::Put(Attributes::new()), ..whole.clone() };
    assert!(differences(desk, &whole, &none).await.contains(&"Absent".to_owned()));
    a_row_takes_nothing_of_another(desk, &whole, &history[1]).await;
    rows_that_are_no_streams_have_no_sum(desk).await;
}

pub(super) async fn folded_rows<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    let history =
        [opened("A"), moved_to("BUSY", 1), moved_to("DONE", 2)].map(|event| course.next(&desk.spec, &event));
    let whole = every_fact(desk, &history, |tenant| {
        Course::of(tenant, Uuid::new_v4()).next(&desk.spec, &opened("C"))
    })
    .await;
    let altered = with(&whole, "Last", json!("BUSY"));
    assert_eq!(differences(desk, &whole, &altered).await, ["ByLastKey", "Last"]);
}

pub(super) async fn sums<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    let history =
        [sums::opened("ann", 3), given_to("bob"), changed(1)].map(|event| course.next(&desk.spec, &event));
    let tenant = course.stream.tenant.clone();
    let whole = every_fact(desk, &history, |tenant| {
        Course::of(tenant, Uuid::new_v4()).next(&desk.spec, &sums::opened("eve", 1))
    })
    .await;
    // However often the part was replaced, and taken away, it counts once.
    for (owner, tickets) in [("ann", 0), ("bob", 1)] {
        let sum = desk.sum(&sums::key(&tenant, owner)).await;
        assert_eq!((sum.parts, sum.differences), (tickets, vec![]), "{owner}");
    }
    for (names, altered) in [
        (&["Part"][..], RowUpdate { change: sums_part("bob", 4), ..whole.clone() }),
        (&["Part", "Target"], RowUpdate { change: sums_part("ann", 3), ..whole.clone() }),
        (&["Version"], RowUpdate { to_version: 9, ..whole.clone() }),
    ] {
        assert_eq!(differences(desk, &whole, &altered).await, names, "{altered:?}");
        let row = desk.row::<app::Workload>(&sums::key(&tenant, "bob")).await.expect("it has a part");
        assert_eq!((row.row.tickets, row.row.weight), (1, 3));
    }
    a_row_takes_nothing_of_another(desk, &whole, &history[1]).await;
    a_sum_that_is_wrong_is_found_and_put_right(desk).await;
    a_sum_is_replaced_only_at_the_version_it_was_found_at(desk).await;
    a_part_that_goes_takes_its_contribution_with_it(desk).await;
    parts_and_sums_are_listed(desk).await;
}

fn sums_part(owner: &str, weight: u64) -> RowChange {
    RowChange::Put(Attributes::from_iter([("Part".to_owned(), json!({"owner": owner, "weight": weight}))]))
}

/// An update that makes the same row but for an attribute.
fn with(whole: &RowUpdate, name: &str, value: Value) -> RowUpdate {
    let mut attributes = whole.change.resolve(&Attributes::new()).expect("it makes its row");
    attributes.insert(name.to_owned(), value);
    attributes.retain(|_, value| !value.is_null());
    RowUpdate { change: RowChange::Put(attributes), ..whole.clone() }
}

/// The updates of a stream in one.
fn whole(history: &[RowUpdate; 3]) -> RowUpdate {
    let merged = history.iter().cloned().reduce(|one, next| one.merge(next).expect("they follow each other"));
    merged.expect("there are three")
}

/// The facts for rows of every kind. `history` is three updates of a row that does not exist yet, and `stranger` makes
/// the first update of another.
async fn every_fact<S: AuditRows>(
    desk: &Desk<'_, S>,
    history: &[RowUpdate; 3],
    stranger: impl Fn(&TenantId) -> RowUpdate,
) -> RowUpdate {
    let tenant = &history[0].stream.tenant;
    a_row_is_told_from_one_that_is_not_there(desk, &stranger(tenant), &stranger(tenant)).await;
    a_row_that_is_as_its_history_does_not_differ(desk, history).await;
    a_row_is_replaced_and_deleted_only_at_the_version_it_was_found_at(desk, history).await;
    a_list_names_every_row_once(desk, || stranger(tenant)).await;
    whole(history)
}

impl<S: AuditRows> Desk<'_, S> {
    async fn rows_of(&self, streams: &[StreamId]) -> FoundRows<S::Row> {
        self.store.rows(streams).await.expect("the store can be reached")
    }

    async fn find(&self, stream: &StreamId) -> Option<S::Row> {
        let FoundRows { found, left, .. } = self.rows_of(std::slice::from_ref(stream)).await;
        assert!(left.is_empty() && found.len() <= 1 && found.iter().all(|(of, _)| of == stream));
        found.into_iter().next().map(|(_, row)| row)
    }

    async fn replace(&self, row: &S::Row, with: &RowUpdate) -> bool {
        self.store.replace(row, with).await.expect("the store can be reached")
    }

    async fn delete(&self, row: &S::Row) -> bool {
        self.store.delete(row).await.expect("the store can be reached")
    }

    fn differences(&self, row: &S::Row, expected: &RowUpdate) -> Vec<String> {
        self.store.differences(row, expected).expect("it makes its row")
    }

    async fn sum(&self, key: &RowKey) -> Sum<S::Row> {
        self.store.sum(key).await.expect("the store can be reached")
    }

    async fn replace_sum(&self, sum: &Sum<S::Row>) -> bool {
        self.store.replace_sum(sum).await.expect("the store can be reached")
    }

    /// Waits until an index shows all parts of a row.
    async fn settled(&self, key: &RowKey, parts: u64) -> Sum<S::Row> {
        eventually(parts, || async { Ok(self.store.sum(key).await?.parts) }).await;
        self.sum(key).await
    }

    /// Every key of a table that is chosen, with how often it was listed.
    async fn listed(&self, segments: u32, chosen: impl Fn(&ListedRow) -> bool) -> BTreeMap<ListedRow, u32> {
        let mut seen = BTreeMap::new();
        for segment in Segment::all(segments.try_into().expect("more than 0")) {
            let mut from = None;
            loop {
                let page = self.store.list(segment, from.as_ref()).await.expect("the store can be reached");
                for row in page.listed.into_iter().filter(&chosen) {
                    *seen.entry(row).or_insert(0) += 1;
                }
                // As another process would go on.
                from = page
                    .next
                    .map(|place| S::Cursor::from_text(&place.to_text()).expect("a place survives its text"));
                if from.is_none() {
                    break;
                }
            }
        }
        seen
    }
}

async fn a_row_is_told_from_one_that_is_not_there<S: AuditRows>(
    desk: &Desk<'_, S>,
    one: &RowUpdate,
    other: &RowUpdate,
) {
    desk.apply(one).await;
    let FoundRows { found, left, .. } = desk.rows_of(&[other.stream.clone(), one.stream.clone()]).await;
    assert!(left.is_empty());
    let found: Vec<_> = found.iter().map(|(stream, row)| (stream, S::version(row))).collect();
    assert_eq!(found, [(&one.stream, Some(1))]);
    assert!(desk.rows_of(&[]).await.found.is_empty());
}

async fn a_row_that_is_as_its_history_does_not_differ<S: AuditRows>(
    desk: &Desk<'_, S>,
    history: &[RowUpdate; 3],
) {
    for update in history {
        desk.apply(update).await;
    }
    let row = desk.find(&history[0].stream).await.expect("a row after its write");
    assert_eq!(S::version(&row), Some(3));
    assert_eq!(desk.differences(&row, &whole(history)), [""; 0]);
    let later = desk.store.differences(&row, &history[1]);
    assert!(matches!(later, Err(AwsError::Refused(_))), "an update that makes no row says nothing of one");
}

/// The differences of a row from its history after its replacement by another; the row is restored afterwards.
async fn differences<S: AuditRows>(desk: &Desk<'_, S>, whole: &RowUpdate, by: &RowUpdate) -> Vec<String> {
    let row = desk.find(&whole.stream).await.expect("a row that was written before");
    assert!(desk.replace(&row, by).await);
    let altered = desk.find(&whole.stream).await.expect("a row after its replacement");
    let names = desk.differences(&altered, whole);
    assert!(desk.replace(&altered, whole).await);
    names
}

/// Other provenances that a row may have, and the attributes that are then wrong.
fn altered_provenances(right: &Provenance) -> [(Vec<&'static str>, Provenance); 4] {
    let other = || Uuid::new_v4().to_string().parse().expect("a UUID is a command id");
    [
        (vec!["EventId"], Provenance { event_id: EventId(Uuid::new_v4()), ..right.clone() }),
        (vec!["CorrelationId"], Provenance { correlation_id: other(), ..right.clone() }),
        (vec!["CausationId"], Provenance { causation_id: other(), ..right.clone() }),
        // That it is missing is no difference.
        (vec![], Provenance { trace_parent: None, ..right.clone() }),
    ]
}

async fn a_row_is_replaced_and_deleted_only_at_the_version_it_was_found_at<S: AuditRows>(
    desk: &Desk<'_, S>,
    history: &[RowUpdate; 3],
) {
    let [first, second, third] = history;
    let stream = &first.stream;
    let newest = desk.find(stream).await.expect("a row that was written before");
    // Set back, which no other way of writing can do.
    assert!(desk.replace(&newest, first).await);
    let oldest = desk.find(stream).await.expect("a row after its replacement");
    assert_eq!((S::version(&oldest), desk.differences(&oldest, first)), (Some(1), vec![]));
    // Its version has changed since it was found.
    assert!(!desk.replace(&newest, first).await);
    assert!(!desk.delete(&newest).await);
    // From there on updates apply as before, and pass the version found earlier.
    desk.apply(second).await;
    assert!(!desk.replace(&oldest, first).await);
    assert!(!desk.delete(&oldest).await);
    assert_eq!(desk.write(third).await, WriteOutcome::Applied);
    let row = desk.find(stream).await.expect("a row after its write");
    assert_eq!(desk.differences(&row, &whole(history)), [""; 0]);

    assert!(desk.delete(&row).await);
    assert!(desk.find(stream).await.is_none());
    // A missing row is neither replaced nor deleted.
    assert!(!desk.replace(&row, first).await);
    assert!(!desk.delete(&row).await);
    assert!(desk.find(stream).await.is_none());
    desk.apply(&whole(history)).await;
}

async fn a_list_names_every_row_once<S: AuditRows>(desk: &Desk<'_, S>, stranger: impl Fn() -> RowUpdate) {
    let mut expected = BTreeMap::new();
    for _ in 0..40 {
        let update = stranger();
        desk.apply(&update).await;
        expected.insert(ListedRow::Stream(update.stream), 1);
    }
    for segments in [1, 3, 16] {
        let seen = desk.listed(segments, |row| expected.contains_key(row)).await;
        assert_eq!(seen, expected, "in {segments} segments");
    }
    desk.store.count().await.expect("rows can be counted");
}

async fn a_row_takes_nothing_of_another<S: AuditRows>(
    desk: &Desk<'_, S>,
    whole: &RowUpdate,
    later: &RowUpdate,
) {
    let row = desk.find(&whole.stream).await.expect("a row that was written before");
    let mut other = whole.clone();
    other.stream.id = Uuid::new_v4();
    other.key.id = other.stream.id.to_string();
    for refused in [&other, later] {
        assert!(matches!(desk.store.replace(&row, refused).await, Err(AwsError::Refused(_))));
    }
    assert!(desk.find(&other.stream).await.is_none());
}

async fn rows_that_are_no_streams_have_no_sum<S: AuditRows>(desk: &Desk<'_, S>) {
    assert!(matches!(desk.store.sum(&sums::key(&tenant(), "ann")).await, Err(AwsError::Refused(_))));
}

// ---------------------------------------------------------------- sums

/// An owner with two tickets of a weight of 3 and 5, and the update that made the part of the first.
async fn two_tickets<S: AuditRows>(desk: &Desk<'_, S>) -> (RowKey, [Course; 2], RowUpdate) {
    let tenant = tenant();
    let mut courses = [Uuid::new_v4(), Uuid::new_v4()].map(|id| Course::of(&tenant, id));
    let first = desk.add(&mut courses[0], &sums::opened("ann", 3)).await;
    desk.add(&mut courses[1], &sums::opened("ann", 5)).await;
    let key = sums::key(&tenant, "ann");
    let sum = desk.settled(&key, 2).await;
    assert_eq!((sum.differences, sum.expected.get("Weight")), (vec![], Some(&json!(8))));
    (key, courses, first)
}

async fn weight<S: AuditRows>(desk: &Desk<'_, S>, key: &RowKey) -> Option<u64> {
    desk.row::<app::Workload>(key).await.map(|row| row.row.weight)
}

async fn a_sum_that_is_wrong_is_found_and_put_right<S: AuditRows>(desk: &Desk<'_, S>) {
    let (key, [mut one, _], _) = two_tickets(desk).await;
    // A wrong sum: there is no other way to write one.
    let mut sum = desk.sum(&key).await;
    sum.expected.insert("Weight".to_owned(), json!(200));
    sum.expected.insert("Load".to_owned(), json!("HEAVY"));
    assert!(desk.replace_sum(&sum).await);
    assert_eq!(weight(desk, &key).await, Some(200));
    let sum = desk.sum(&key).await;
    assert_eq!(sum.differences, ["ByLoadKey", "Load", "Weight"]);
    assert!(desk.replace_sum(&sum).await);
    let row = desk.get(&key).await.expect("a row after its replacement");
    assert_eq!((row.version, weight(desk, &key).await), (4, Some(8)), "it never goes back");
    // Later updates start from there.
    desk.add(&mut one, &given_to("bob")).await;
    assert_eq!(weight(desk, &key).await, Some(5));

    // One that has no parts and shows some is put right, too.
    let nobody = sums::key(&key.tenant, "nobody");
    let mut sum = desk.sum(&nobody).await;
    assert_eq!((sum.parts, sum.row.is_none(), &sum.differences), (0, true, &vec![]));
    sum.parts = 1;
    sum.expected = desk.sum(&key).await.expected;
    assert!(desk.replace_sum(&sum).await);
    assert_eq!(weight(desk, &nobody).await, Some(5));
    let sum = desk.sum(&nobody).await;
    assert!(sum.differences.contains(&"Parts".to_owned()), "{:?}", sum.differences);
    assert!(desk.replace_sum(&sum).await);
    assert_eq!((weight(desk, &nobody).await, desk.sum(&nobody).await.differences), (None, vec![]));
}

async fn a_sum_is_replaced_only_at_the_version_it_was_found_at<S: AuditRows>(desk: &Desk<'_, S>) {
    let (key, [mut one, _], _) = two_tickets(desk).await;
    let sum = desk.sum(&key).await;
    desk.add(&mut one, &sums::opened("ann", 4)).await;
    assert!(!desk.replace_sum(&sum).await);
    assert_eq!(weight(desk, &key).await, Some(9));
    // Nor one that was not there.
    let mut nobody = desk.sum(&sums::key(&key.tenant, "nobody")).await;
    desk.add(&mut one, &given_to("nobody")).await;
    nobody.parts = 7;
    assert!(!desk.replace_sum(&nobody).await);
    assert_eq!(weight(desk, &nobody.key).await, Some(4));
}

async fn a_part_that_goes_takes_its_contribution_with_it<S: AuditRows>(desk: &Desk<'_, S>) {
    let (key, [one, _], first) = two_tickets(desk).await;
    let row = desk.find(&one.stream).await.expect("a part that was written before");
    assert!(desk.delete(&row).await);
    assert_eq!(weight(desk, &key).await, Some(5));
    desk.apply(&first).await;
    assert_eq!(weight(desk, &key).await, Some(8));
}

pub(super) async fn unreadable_parts<S: AuditRows>(desk: &Desk<'_, S>, spoil: impl AsyncFn(&StreamId)) {
    let (key, [mut one, other], right) = two_tickets(desk).await;
    for stream in [&one.stream, &other.stream] {
        spoil(stream).await;
    }
    // They cannot be folded, and nothing is written.
    let next = one.clone().next(&desk.spec, &given_to("bob"));
    let outcome = desk.store.write(&next).await;
    assert!(matches!(
        outcome,
        Err(WriteError::Projection(_) | WriteError::Aws(AwsError::InvalidResponse(_)))
    ));
    assert!(matches!(desk.store.sum(&key).await, Err(AwsError::InvalidResponse(_))));
    assert_eq!(weight(desk, &key).await, Some(8));

    let found = desk.find(&one.stream).await.expect("a part that was written before");
    assert_eq!(desk.differences(&found, &right), ["Part"]);
    assert!(desk.replace(&found, &right).await);
    let found = desk.find(&one.stream).await.expect("a part after its replacement");
    assert_eq!(desk.differences(&found, &right), [""; 0]);
    let found = desk.find(&other.stream).await.expect("a part that was written before");
    assert!(desk.delete(&found).await);

    let sum = desk.settled(&key, 1).await;
    assert!(desk.replace_sum(&sum).await);
    assert_eq!((weight(desk, &key).await, desk.sum(&key).await.differences), (Some(3), vec![]));
    desk.add(&mut one, &given_to("bob")).await;
    assert_eq!(weight(desk, &key).await, None);
}

async fn parts_and_sums_are_listed<S: AuditRows>(desk: &Desk<'_, S>) {
    let (key, courses, _) = two_tickets(desk).await;
    let listed = desk.listed(3, |row| match row {
        ListedRow::Stream(stream) => stream.tenant == key.tenant,
        ListedRow::Sum(sum) => sum.tenant == key.tenant,
        ListedRow::Unreadable(_) => true,
    });
    let streams = courses.map(|course| (ListedRow::Stream(course.stream), 1));
    let expected: BTreeMap<_, _> = streams.into_iter().chain([(ListedRow::Sum(key.clone()), 1)]).collect();
    assert_eq!(listed.await, expected);
}
