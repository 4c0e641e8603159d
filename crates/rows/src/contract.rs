//! The contract of a store of rows on any backend: one suite for each kind of projection, over a small application of
//! their own. Each fact is shown on a new tenant, so a table may be used more than once. A broken fact panics.
//!
//! A store passes when it passes [`blind`], [`fold`] and [`aggregating`], each with the rows of the projection that
//! [`spec`] has for it. On DynamoDB the tables are those of [`application`].
#![allow(clippy::panic, reason = "a panic is how a test fails")]

pub mod app;
mod audit;
mod lists;
mod many;
mod sums;

use std::{fmt::Debug, future::Future, time::Duration};

use futures::future::join_all;
use millrace_aws::AwsError;
use millrace_core::{
    AggregateType, Invalid, Row, StreamId, TenantId, Timestamp, Versioned,
    projection::{ProjectionError, ProjectionSpec, RowUpdate},
    row::{ListSchema, LookupSchema, RowKey, StoredRow},
};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use self::app::{Owner, Ticket, TicketEvent, TicketLog, Title, lines, update};
pub use self::app::{application, spec};
pub use self::sums::totals_are_the_sum_of_all_parts;
use crate::{AuditRows, ListPage, ListQuery, ReadRows, TimeRange, WriteError, WriteOutcome, WriteRows};

/// How long an index may lag before the suite gives it up.
const PATIENCE: Duration = Duration::from_secs(20);

/// The contract of rows whose projection only writes: those of `spec("tickets")`.
pub async fn blind<S: AuditRows>(store: &S) {
    let desk = &Desk { store, spec: spec("tickets") };
    a_row_is_read_as_it_was_written(desk).await;
    a_row_changes_only_at_its_version(desk).await;
    an_update_changes_only_what_it_sets(desk).await;
    an_attribute_goes_and_comes_back(desk).await;
    a_row_shows_its_newest_event(desk).await;
    merged_updates_leave_the_row_that_single_ones_leave(desk).await;
    no_update_makes_half_a_row(desk).await;
    a_row_that_goes_keeps_its_version(desk).await;
    updates_that_fit_no_row_are_refused(desk).await;
    of_writers_at_once_one_applies(desk).await;
    a_lookup_finds_a_value_in_any_case(desk).await;
    a_lookup_follows_its_value(desk).await;
    of_two_holders_the_one_that_changed_last_is_found_first(desk).await;
    rows_of_another_tenant_are_not_seen(desk).await;
    lists::all(desk).await;
    many::all(desk).await;
    audit::rows(desk).await;
}

/// The contract of rows whose projection folds: those of `spec("ticket-logs")`.
pub async fn fold<S: AuditRows>(store: &S) {
    let desk = &Desk { store, spec: spec("ticket-logs") };
    a_fold_has_the_row_before(desk).await;
    a_fold_is_written_only_at_its_version(desk).await;
    of_folds_at_once_one_applies(desk).await;
    a_row_of_optional_attributes_is_a_row(desk).await;
    audit::folded_rows(desk).await;
}

/// The contract of rows whose projection sums aggregates up: those of `spec("workloads")`.
pub async fn aggregating<S: AuditRows>(store: &S) {
    let desk = &Desk { store, spec: spec("workloads") };
    sums::all(desk).await;
    audit::sums(desk).await;
}

/// The contract of parts that cannot be read, over the rows of `spec("workloads")`. `spoil` makes the attribute `Part` of a
/// stream's part a number; its item has the key `<tenant>@<aggregate id>`.
pub async fn unreadable_parts<S: AuditRows>(store: &S, spoil: impl AsyncFn(&StreamId)) {
    audit::unreadable_parts(&Desk { store, spec: spec("workloads") }, spoil).await;
}

/// The contract of indexes that can be held, over the rows of `spec("tickets")`: while held, they show the rows of that
/// moment.
pub async fn held_indexes<S: AuditRows>(store: &S, hold: impl Fn(), release: impl Fn()) {
    let desk = &Desk { store, spec: spec("tickets") };
    let mut course = Course::new();
    let (tenant, id) = (course.stream.tenant.clone(), course.key().id);
    let list = |status| desk.query("by-status", &tenant, status);
    hold();
    desk.add(&mut course, &opened("A")).await;
    desk.shows(&list("OPEN"), vec![]).await;
    assert_eq!(desk.found(&tenant, "A").await.expect("the store can be reached"), []);
    release();
    desk.shows(&list("OPEN"), vec![id.clone()]).await;
    hold();
    desk.add(&mut course, &moved_to("DONE", 1)).await;
    desk.shows(&list("OPEN"), vec![id.clone()]).await;
    desk.shows(&list("DONE"), vec![]).await;
    assert_eq!(desk.found(&tenant, "A").await.map(|rows| rows[0].version).ok(), Some(1));
    release();
    desk.shows(&list("OPEN"), vec![]).await;
    desk.shows(&list("DONE"), vec![id]).await;
}

// ---------------------------------------------------------------- values

/// A store with the projection whose rows it keeps.
struct Desk<'a, S> {
    store: &'a S,
    spec: ProjectionSpec,
}

/// A stream and its version so far.
#[derive(Debug, Clone)]
struct Course {
    stream: StreamId,
    version: u64,
}

impl Course {
    fn of(tenant: &TenantId, id: Uuid) -> Self {
        let stream = StreamId { tenant: tenant.clone(), aggregate_type: AggregateType::new("ticket"), id };
        Self { stream, version: 0 }
    }

    fn new() -> Self {
        Self::of(&tenant(), Uuid::new_v4())
    }

    fn key(&self) -> RowKey {
        RowKey { tenant: self.stream.tenant.clone(), id: self.stream.id.to_string() }
    }

    /// The update that the next event makes.
    fn next(&mut self, spec: &ProjectionSpec, event: &TicketEvent) -> RowUpdate {
        self.version += 1;
        update(spec, &self.stream, self.version, event)
    }
}

fn tenant() -> TenantId {
    valid(Uuid::new_v4().to_string().parse())
}

fn valid<T>(value: Result<T, Invalid>) -> T {
    value.expect("the suite's own values are valid")
}

/// The time that lies some microseconds after the start of 2026.
fn at(microseconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(1_767_225_600_000_000 + microseconds)
}

fn opened_by(owner: &str, title: &str, time: i64) -> TicketEvent {
    TicketEvent::Opened {
        owner: Owner(owner.to_owned()),
        title: Title(title.to_owned()),
        label: None,
        lines: lines(),
        at: at(time),
    }
}

fn opened(title: &str) -> TicketEvent {
    opened_by("ann", title, 0)
}

/// A change of nothing but the time, to be given more.
fn changed(time: i64) -> TicketEvent {
    TicketEvent::Changed { owner: None, status: None, title: None, label: None, at: at(time) }
}

fn moved_to(status: &str, time: i64) -> TicketEvent {
    let status = Some(status.to_owned());
    TicketEvent::Changed { owner: None, status, title: None, label: None, at: at(time) }
}

fn retitled(title: &str, time: i64) -> TicketEvent {
    let title = Some(Title(title.to_owned()));
    TicketEvent::Changed { owner: None, status: None, title, label: None, at: at(time) }
}

fn labelled(label: &str, time: i64) -> TicketEvent {
    let label = Some(label.to_owned());
    TicketEvent::Changed { owner: None, status: None, title: None, label, at: at(time) }
}

// ---------------------------------------------------------------- helpers

impl<S: WriteRows + ReadRows> Desk<'_, S> {
    async fn write(&self, update: &RowUpdate) -> WriteOutcome {
        self.store.write(update).await.expect("the store can be reached")
    }

    async fn apply(&self, update: &RowUpdate) {
        assert_eq!(self.write(update).await, WriteOutcome::Applied);
    }

    /// Applies the next event of a stream.
    async fn add(&self, course: &mut Course, event: &TicketEvent) -> RowUpdate {
        let update = course.next(&self.spec, event);
        self.apply(&update).await;
        update
    }

    async fn get(&self, key: &RowKey) -> Option<StoredRow> {
        self.store.get(key).await.expect("the store can be reached")
    }

    async fn row<R: Row>(&self, key: &RowKey) -> Option<Versioned<R>> {
        self.get(key).await?.typed().expect("what was written can be read")
    }

    async fn applied(&self, course: &Course) -> u64 {
        self.store.applied_version(&course.stream).await.expect("the store can be reached")
    }

    fn list(&self, name: &str) -> &'static ListSchema {
        self.spec.schema.list(name).expect("a list of the suite")
    }

    fn lookup(&self, name: &str) -> &'static LookupSchema {
        self.spec.schema.lookup(name).expect("a look-up of the suite")
    }

    fn query(&self, list: &str, tenant: &TenantId, value: &str) -> ListQuery {
        ListQuery {
            list: self.list(list),
            tenant: tenant.clone(),
            value: value.to_owned(),
            filter: None,
            times: TimeRange::default(),
        }
    }

    /// Waits until the first page of a list shows these rows.
    async fn shows(&self, query: &ListQuery, expected: Vec<String>) {
        eventually(expected, || async { Ok(ids(&self.store.page(query, None, 100).await?.rows)) }).await;
    }

    async fn found(&self, tenant: &TenantId, title: &str) -> Result<Vec<StoredRow>, AwsError> {
        self.store.lookup(self.lookup("by-title"), tenant, &title.to_lowercase()).await
    }

    /// Waits until the look-up by the last status shows these rows.
    async fn finds(&self, course: &Course, status: &str, expected: Vec<String>) {
        let lookup = self.lookup("by-last");
        eventually(expected, || async {
            Ok(ids(&self.store.lookup(lookup, &course.stream.tenant, status).await?))
        })
        .await;
    }
}

fn ids(rows: &[StoredRow]) -> Vec<String> {
    rows.iter().map(|row| row.key.id.clone()).collect()
}

/// Waits until an index shows the expected rows.
async fn eventually<T, F>(expected: T, mut shown: impl FnMut() -> F)
where
    T: PartialEq + Debug,
    F: Future<Output = Result<T, AwsError>>,
{
    let start = Instant::now();
    loop {
        let found = shown().await.expect("the store can be reached");
        if found == expected {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "the index shows {found:?} and never {expected:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn is_no_row(outcome: &Result<WriteOutcome, WriteError>) -> bool {
    matches!(outcome, Err(WriteError::Projection(ProjectionError::NoRow)))
}

// ---------------------------------------------------------------- blind rows

async fn a_row_is_read_as_it_was_written<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    assert_eq!((desk.get(&course.key()).await, desk.applied(&course).await), (None, 0));
    let update = desk.add(&mut course, &opened("A title")).await;
    let stored = desk.get(&course.key()).await.expect("a row after its write");
    assert_eq!((&stored.key, stored.version), (&course.key(), 1));
    assert_eq!(stored.provenance.as_ref(), Some(&update.provenance));
    let Versioned { tenant, version, row } =
        stored.typed::<Ticket>().expect("it can be read").expect("there is a row");
    assert_eq!((tenant, version), (course.stream.tenant.clone(), 1));
    let expected = Ticket {
        ticket_id: app::TicketId(course.stream.id),
        owner: Owner("ann".to_owned()),
        status: "OPEN".to_owned(),
        title: Title("A title".to_owned()),
        label: None,
        lines: lines(),
        opened_at: at(0),
        changed_at: at(0),
    };
    assert_eq!(row, expected);
    let update = desk.add(&mut course, &moved_to("DONE", 7)).await;
    let stored = desk.get(&course.key()).await.expect("a row after its write");
    assert_eq!(stored.provenance.as_ref(), Some(&update.provenance));
    let row = stored.typed::<Ticket>().expect("it can be read").expect("there is a row");
    assert_eq!(row.row, Ticket { status: "DONE".to_owned(), changed_at: at(7), ..expected });
    assert_eq!((row.version, desk.applied(&course).await), (2, 2));
}

async fn a_row_changes_only_at_its_version<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    let [first, second, third] =
        [opened("A"), retitled("B", 1), retitled("C", 2)].map(|event| course.next(&desk.spec, &event));
    assert_eq!(desk.write(&second).await, WriteOutcome::VersionMismatch(0));
    desk.apply(&first).await;
    assert_eq!(desk.write(&first).await, WriteOutcome::VersionMismatch(1));
    assert_eq!(desk.write(&third).await, WriteOutcome::VersionMismatch(1));
    desk.apply(&second).await;
    desk.apply(&third).await;
    for late in [&first, &second, &third] {
        assert_eq!(desk.write(late).await, WriteOutcome::VersionMismatch(3));
    }
    let row = desk.row::<Ticket>(&course.key()).await.map(|row| (row.version, row.row.title.0));
    assert_eq!(row, Some((3, "C".to_owned())));
}

async fn an_update_changes_only_what_it_sets<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    for event in [opened("A"), retitled("B", 1), changed(2), TicketEvent::Seen {}] {
        desk.add(&mut course, &event).await;
    }
    let row = desk.row::<Ticket>(&course.key()).await.expect("a row after its write");
    assert_eq!((row.row.title.0.as_str(), row.row.status.as_str()), ("B", "OPEN"));
    assert_eq!((row.row.opened_at, row.row.changed_at, row.version), (at(0), at(2), 4));
}

async fn an_attribute_goes_and_comes_back<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    desk.add(&mut course, &opened("A")).await;
    for label in ["red", "", "blue", "green"] {
        desk.add(&mut course, &labelled(label, 1)).await;
        let row = desk.row::<Ticket>(&course.key()).await.expect("a row after its write");
        assert_eq!(row.row.label.unwrap_or_default(), label);
        let query = |label| desk.query("by-label", &course.stream.tenant, label);
        for other in ["red", "blue", "green"] {
            let expected = if other == label { vec![course.key().id] } else { vec![] };
            desk.shows(&query(other), expected).await;
        }
    }
    // A row that is put again has the new attributes only.
    desk.add(&mut course, &opened("B")).await;
    let row = desk.row::<Ticket>(&course.key()).await.expect("a row after its write");
    assert_eq!((row.row.title.0.as_str(), row.row.label), ("B", None));
    let green = desk.query("by-label", &course.stream.tenant, "green");
    desk.shows(&green, vec![]).await;
}

async fn a_row_shows_its_newest_event<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    let [first, second, third] =
        [opened("A"), changed(1), TicketEvent::Seen {}].map(|event| course.next(&desk.spec, &event));
    assert_eq!(second.provenance.trace_parent, None, "the trace of the first must not remain");
    for update in [&first, &second, &third] {
        desk.apply(update).await;
        desk.write(&first).await;
        let row = desk.get(&course.key()).await;
        assert_eq!(row.and_then(|row| row.provenance).as_ref(), Some(&update.provenance));
    }
    let tenant = &course.stream.tenant;
    let newest = Some(third.provenance);
    eventually(newest.clone(), || async {
        Ok(desk.found(tenant, "A").await?.pop().and_then(|row| row.provenance))
    })
    .await;
    for list in [desk.query("by-status", tenant, "OPEN"), desk.query("by-owner", tenant, "ann")] {
        eventually(newest.clone(), || async {
            let page = desk.store.page(&list, None, 9).await?;
            Ok(page.rows.into_iter().find_map(|row| row.provenance))
        })
        .await;
    }
}

async fn merged_updates_leave_the_row_that_single_ones_leave<S: AuditRows>(desk: &Desk<'_, S>) {
    let events = [opened("A"), labelled("red", 1), retitled("B", 2), labelled("", 3), moved_to("DONE", 4)];
    let (mut course, mut singly) = (Course::new(), Course::new());
    let mut updates = events.iter().map(|event| course.next(&desk.spec, event));
    let first = updates.next().expect("there are events");
    let merged = updates.try_fold(first, RowUpdate::merge).expect("updates that follow each other merge");
    desk.apply(&merged).await;
    for event in &events {
        desk.add(&mut singly, event).await;
    }
    let at_once = desk.row::<Ticket>(&course.key()).await.expect("a row after its write");
    let singly = desk.row::<Ticket>(&singly.key()).await.expect("a row after its write");
    assert_eq!(at_once.version, singly.version);
    assert_eq!(Ticket { ticket_id: singly.row.ticket_id, ..at_once.row }, singly.row);

    // Updates of an existing row merge as well, but not if one between them is missing.
    let events = [retitled("C", 5), labelled("blue", 6)].map(|event| course.next(&desk.spec, &event));
    assert!(merged.merge(events[1].clone()).is_none());
    let merged = events.into_iter().reduce(|one, other| one.merge(other).expect("they follow each other"));
    desk.apply(&merged.expect("there are events")).await;
    let row = desk.row::<Ticket>(&course.key()).await.expect("a row after its write");
    assert_eq!((row.row.title.0.as_str(), row.row.label.as_deref(), row.version), ("C", Some("blue"), 7));
}

async fn no_update_makes_half_a_row<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    for event in [opened("A"), TicketEvent::Withdrawn {}] {
        desk.add(&mut course, &event).await;
    }
    let before = desk.get(&course.key()).await;
    let half = course.next(&desk.spec, &moved_to("DONE", 2));
    assert!(is_no_row(&desk.store.write(&half).await));
    assert_eq!(desk.get(&course.key()).await, before);
    course.version = 2;
    // Events that change nothing can follow, and events that put the row again.
    desk.add(&mut course, &TicketEvent::Seen {}).await;
    assert_eq!(desk.row::<Ticket>(&course.key()).await, None);
    desk.add(&mut course, &opened("B")).await;
    desk.add(&mut course, &moved_to("DONE", 3)).await;
    let row = desk.row::<Ticket>(&course.key()).await.expect("a row after its write");
    assert_eq!((row.row.title.0.as_str(), row.row.status.as_str(), row.version), ("B", "DONE", 5));

    // Where a stream begins without a row, there is one only once an event puts it.
    let mut course = Course::new();
    desk.add(&mut course, &TicketEvent::Seen {}).await;
    let half = course.next(&desk.spec, &moved_to("DONE", 2));
    assert!(is_no_row(&desk.store.write(&half).await));
    assert_eq!(desk.get(&course.key()).await.map(|row| (row.version, row.attributes.len())), Some((1, 0)));
}

async fn a_row_that_goes_keeps_its_version<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    let first = desk.add(&mut course, &opened("A")).await;
    let tenant = course.stream.tenant.clone();
    let lists = [desk.query("by-status", &tenant, "OPEN"), desk.query("by-owner", &tenant, "ann")];
    for list in &lists {
        desk.shows(list, vec![course.key().id]).await;
    }
    let second = desk.add(&mut course, &TicketEvent::Withdrawn {}).await;
    assert_eq!(desk.row::<Ticket>(&course.key()).await, None);
    let place = desk.get(&course.key()).await.expect("the version is kept");
    assert_eq!((place.version, place.attributes.len()), (2, 0));
    assert_eq!(place.provenance, Some(second.provenance.clone()));
    assert_eq!(desk.applied(&course).await, 2);
    for late in [&first, &second] {
        assert_eq!(desk.write(late).await, WriteOutcome::VersionMismatch(2));
    }
    for list in &lists {
        desk.shows(list, vec![]).await;
    }
    eventually(0, || async { Ok(desk.found(&tenant, "A").await?.len()) }).await;
}

async fn updates_that_fit_no_row_are_refused<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    let good = course.next(&desk.spec, &opened("A"));
    let set = course.next(&desk.spec, &retitled("B", 1));
    let other = StreamId { id: Uuid::new_v4(), ..good.stream.clone() };
    let foreign = StreamId { aggregate_type: AggregateType::new("other"), ..good.stream.clone() };
    for (flawed, expected) in [
        (RowUpdate { from_version: 0, ..set.clone() }, ProjectionError::NoRow),
        (RowUpdate { to_version: 0, ..good.clone() }, ProjectionError::Misplaced),
        (RowUpdate { stream: other, ..good.clone() }, ProjectionError::OtherAggregate),
        (RowUpdate { stream: foreign, ..good.clone() }, ProjectionError::OtherAggregateType),
    ] {
        let outcome = desk.store.write(&flawed).await;
        assert!(
            matches!(&outcome, Err(WriteError::Projection(error)) if *error == expected),
            "{outcome:?} and not {expected:?}"
        );
    }
    assert_eq!(desk.get(&course.key()).await, None);
}

async fn of_writers_at_once_one_applies<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    desk.add(&mut course, &opened("A")).await;
    let second = course.next(&desk.spec, &retitled("B", 1));
    let outcomes = join_all((0..8).map(|_| desk.write(&second))).await;
    let applied = outcomes.iter().filter(|outcome| **outcome == WriteOutcome::Applied).count();
    let found = outcomes.iter().filter(|outcome| **outcome == WriteOutcome::VersionMismatch(2)).count();
    assert_eq!((applied, found), (1, 7));
}

async fn a_lookup_finds_a_value_in_any_case<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    desk.add(&mut course, &opened("The Title")).await;
    for title in ["The Title", "the title", "THE TITLE"] {
        eventually(vec![course.key().id], || async {
            Ok(ids(&desk.found(&course.stream.tenant, title).await?))
        })
        .await;
    }
}

async fn a_lookup_follows_its_value<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    desk.add(&mut course, &opened("old")).await;
    desk.add(&mut course, &retitled("new", 1)).await;
    for (title, versions) in [("new", vec![2]), ("old", vec![])] {
        eventually(versions, || async {
            let rows = desk.found(&course.stream.tenant, title).await?;
            Ok(rows.iter().map(|row| row.version).collect())
        })
        .await;
    }
}

async fn of_two_holders_the_one_that_changed_last_is_found_first<S: AuditRows>(desk: &Desk<'_, S>) {
    let tenant = tenant();
    // The one that changed last has neither the greatest nor the last id.
    for (id, time) in [(2, 1), (1, 2), (3, 0)] {
        let mut course = Course::of(&tenant, Uuid::from_u128(id));
        desk.add(&mut course, &opened_by("ann", "contested", time)).await;
    }
    let newest_first: Vec<_> = [1, 2, 3].map(|id| Uuid::from_u128(id).to_string()).into();
    eventually(newest_first, || async { Ok(ids(&desk.found(&tenant, "contested").await?)) }).await;
}

async fn rows_of_another_tenant_are_not_seen<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut ours = Course::new();
    desk.add(&mut ours, &opened("A")).await;
    let lists =
        |tenant: &TenantId| [desk.query("by-status", tenant, "OPEN"), desk.query("by-owner", tenant, "ann")];
    for list in lists(&ours.stream.tenant) {
        desk.shows(&list, vec![ours.key().id]).await;
    }
    eventually(1, || async { Ok(desk.found(&ours.stream.tenant, "A").await?.len()) }).await;
    let other = tenant();
    let mut theirs = Course::of(&other, ours.stream.id);
    assert_eq!(desk.get(&theirs.key()).await, None);
    for list in lists(&other) {
        let page = desk.store.page(&list, None, 9).await.expect("the store can be reached");
        assert_eq!(page, ListPage::default());
    }
    assert_eq!(desk.found(&other, "A").await.expect("the store can be reached"), []);
    theirs.version = 1;
    let update = theirs.next(&desk.spec, &changed(1));
    assert_eq!(desk.write(&update).await, WriteOutcome::VersionMismatch(0));
}

// ---------------------------------------------------------------- rows that fold

async fn a_fold_has_the_row_before<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    for event in [opened("A"), moved_to("BUSY", 1), TicketEvent::Seen {}, moved_to("DONE", 2)] {
        desk.add(&mut course, &event).await;
    }
    let row = desk.row::<TicketLog>(&course.key()).await.expect("a row after its write");
    let events = ["Opened", "Changed", "Changed"].map(str::to_owned).to_vec();
    let log = TicketLog {
        ticket_id: app::TicketId(course.stream.id),
        events: Some(events),
        last: Some("DONE".to_owned()),
        began_at: Some(at(0)),
    };
    assert_eq!((row.version, row.row), (4, log));
    desk.finds(&course, "DONE", vec![course.key().id]).await;
    desk.finds(&course, "BUSY", vec![]).await;

    // Several at once, of which the last takes an attribute away.
    let updates = [moved_to("BUSY", 3), changed(4)].map(|event| course.next(&desk.spec, &event));
    let merged = updates.into_iter().reduce(|one, other| one.merge(other).expect("folds merge"));
    desk.apply(&merged.expect("there are events")).await;
    let row = desk.row::<TicketLog>(&course.key()).await.expect("a row after its write");
    assert_eq!((row.row.events.map(|events| events.len()), row.row.last), (Some(5), None));
    desk.finds(&course, "DONE", vec![]).await;

    // A row that is removed, and starts again from nothing.
    desk.add(&mut course, &TicketEvent::Withdrawn {}).await;
    assert_eq!(desk.row::<TicketLog>(&course.key()).await, None);
    desk.add(&mut course, &moved_to("BUSY", 5)).await;
    let row = desk.row::<TicketLog>(&course.key()).await.expect("a row after its write");
    assert_eq!((row.row.events, row.row.began_at), (Some(vec!["Changed".to_owned()]), None));
    assert_eq!(desk.applied(&course).await, 8);
}

async fn a_fold_is_written_only_at_its_version<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    let [first, second, third] =
        [opened("A"), moved_to("BUSY", 1), moved_to("DONE", 2)].map(|event| course.next(&desk.spec, &event));
    assert_eq!(desk.write(&second).await, WriteOutcome::VersionMismatch(0));
    desk.apply(&first).await;
    assert_eq!(desk.write(&first).await, WriteOutcome::VersionMismatch(1));
    assert_eq!(desk.write(&third).await, WriteOutcome::VersionMismatch(1));
    desk.apply(&second).await;
    assert_eq!(desk.write(&second).await, WriteOutcome::VersionMismatch(2));
    desk.apply(&third).await;
    for late in [&first, &second, &third] {
        assert_eq!(desk.write(late).await, WriteOutcome::VersionMismatch(3));
    }
    let stored = desk.get(&course.key()).await.expect("a row after its write");
    assert_eq!(stored.provenance, Some(third.provenance));
    let row = stored.typed::<TicketLog>().expect("it can be read").expect("there is a row");
    assert_eq!(row.row.events.map(|events| events.len()), Some(3));
}

async fn of_folds_at_once_one_applies<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    desk.add(&mut course, &opened("A")).await;
    let second = course.next(&desk.spec, &moved_to("BUSY", 1));
    let outcomes = join_all((0..8).map(|_| desk.write(&second))).await;
    let applied = outcomes.iter().filter(|outcome| **outcome == WriteOutcome::Applied).count();
    let found = outcomes.iter().filter(|outcome| **outcome == WriteOutcome::VersionMismatch(2)).count();
    assert_eq!((applied, found), (1, 7));
    let row = desk.row::<TicketLog>(&course.key()).await.expect("a row after its write");
    assert_eq!(row.row.events.map(|events| events.len()), Some(2));
}

async fn a_row_of_optional_attributes_is_a_row<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    desk.add(&mut course, &TicketEvent::Seen {}).await;
    let row = desk.row::<TicketLog>(&course.key()).await.expect("a row, and not only a version");
    assert_eq!((row.version, row.row.events), (1, None));
    desk.add(&mut course, &TicketEvent::Withdrawn {}).await;
    assert_eq!(desk.row::<TicketLog>(&course.key()).await, None);
    desk.add(&mut course, &TicketEvent::Seen {}).await;
    assert_eq!(desk.row::<TicketLog>(&course.key()).await.map(|row| row.version), Some(3));
}
