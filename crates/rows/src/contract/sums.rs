//! Rows that sum up aggregates.

use std::collections::BTreeMap;

use futures::future::join_all;
use millrace_aws::AwsError;
use millrace_core::{TenantId, Versioned, projection::RowUpdate, row::RowKey};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use uuid::Uuid;

use super::{
    Course, Desk, TicketEvent,
    app::{Line, Owner, Title, Workload, spec},
    at, changed, moved_to, tenant,
};
use crate::{AuditRows, Filter, ListQuery, ReadRows, WriteError, WriteOutcome, WriteRows};

pub(super) async fn all<S: AuditRows>(desk: &Desk<'_, S>) {
    a_row_is_the_sum_of_its_parts(desk).await;
    a_part_changes_only_at_its_version(desk).await;
    a_part_moves_from_row_to_row(desk).await;
    a_row_without_parts_is_none(desk).await;
    an_event_that_changes_no_part_leaves_the_row_alone(desk).await;
    a_part_is_never_mistaken_for_a_row(desk).await;
    sums_are_listed_by_their_values(desk).await;
    sums_of_another_tenant_are_not_seen(desk).await;
    writers_at_once_of_one_row_lose_nothing(desk).await;
    of_writers_at_once_of_one_part_one_applies(desk).await;
    totals_are_the_sum_of_all_parts(desk.store, desk.store, 1).await;
}

pub(super) fn opened(owner: &str, weight: u64) -> TicketEvent {
    TicketEvent::Opened {
        owner: Owner(owner.to_owned()),
        title: Title(String::new()),
        label: None,
        lines: vec![Line { text: String::new(), count: weight, weight: 0.0, hint: None }],
        at: at(0),
    }
}

pub(super) fn given_to(owner: &str) -> TicketEvent {
    let owner = Some(Owner(owner.to_owned()));
    TicketEvent::Changed { owner, status: None, title: None, label: None, at: at(0) }
}

pub(super) fn key(tenant: &TenantId, owner: &str) -> RowKey {
    RowKey { tenant: tenant.clone(), id: owner.to_owned() }
}

/// The number of tickets, and their weight.
async fn totals<S: AuditRows>(desk: &Desk<'_, S>, tenant: &TenantId, owner: &str) -> Option<(u64, u64)> {
    let row = desk.row::<Workload>(&key(tenant, owner)).await?;
    assert_eq!(row.row, Workload::of(Owner(owner.to_owned()), row.row.tickets, row.row.weight));
    Some((row.row.tickets, row.row.weight))
}

async fn a_row_is_the_sum_of_its_parts<S: AuditRows>(desk: &Desk<'_, S>) {
    let tenant = tenant();
    let mut last = None;
    for (n, weight) in (1..).zip([3, 5, 7]) {
        let mut course = Course::of(&tenant, Uuid::new_v4());
        last = Some(desk.add(&mut course, &opened("ann", weight)).await);
        assert_eq!(desk.applied(&course).await, 1);
        let row = desk.get(&key(&tenant, "ann")).await.expect("a row after its write");
        assert_eq!(row.version, n, "how often it was changed");
    }
    assert_eq!(totals(desk, &tenant, "ann").await, Some((3, 15)));
    let row = desk.get(&key(&tenant, "ann")).await.expect("a row after its write");
    assert_eq!(row.provenance, last.map(|update| update.provenance));
    assert_eq!(totals(desk, &tenant, "bob").await, None);
}

async fn a_part_changes_only_at_its_version<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    let tenant = course.stream.tenant.clone();
    let [first, second, third] =
        [opened("ann", 3), given_to("bob"), given_to("ann")].map(|event| course.next(&desk.spec, &event));
    assert_eq!(desk.write(&second).await, WriteOutcome::VersionMismatch(0));
    desk.apply(&first).await;
    assert_eq!(desk.write(&first).await, WriteOutcome::VersionMismatch(1));
    assert_eq!(desk.write(&third).await, WriteOutcome::VersionMismatch(1));
    assert_eq!(totals(desk, &tenant, "ann").await, Some((1, 3)));
    desk.apply(&second.clone().merge(third).expect("they follow each other")).await;
    for late in [&first, &second] {
        assert_eq!(desk.write(late).await, WriteOutcome::VersionMismatch(3));
    }
    assert_eq!(desk.applied(&course).await, 3);
    assert_eq!(
        (totals(desk, &tenant, "ann").await, totals(desk, &tenant, "bob").await),
        (Some((1, 3)), None)
    );
}

async fn a_part_moves_from_row_to_row<S: AuditRows>(desk: &Desk<'_, S>) {
    let tenant = tenant();
    let (mut one, mut other) = (Course::of(&tenant, Uuid::new_v4()), Course::of(&tenant, Uuid::new_v4()));
    desk.add(&mut one, &opened("ann", 3)).await;
    desk.add(&mut other, &opened("ann", 5)).await;
    desk.add(&mut one, &given_to("bob")).await;
    assert_eq!(totals(desk, &tenant, "ann").await, Some((1, 5)));
    assert_eq!(totals(desk, &tenant, "bob").await, Some((1, 3)));
    desk.add(&mut other, &given_to("bob")).await;
    desk.add(&mut one, &given_to("ann")).await;
    assert_eq!(totals(desk, &tenant, "ann").await, Some((1, 3)));
    assert_eq!(totals(desk, &tenant, "bob").await, Some((1, 5)));
    assert_eq!((desk.applied(&one).await, desk.applied(&other).await), (3, 2));
}

async fn a_row_without_parts_is_none<S: AuditRows>(desk: &Desk<'_, S>) {
    let tenant = tenant();
    let mut course = Course::of(&tenant, Uuid::new_v4());
    desk.add(&mut course, &opened("ann", 3)).await;
    let list = desk.query("by-load", &tenant, "LIGHT");
    desk.shows(&list, vec!["ann".to_owned()]).await;
    desk.add(&mut course, &TicketEvent::Withdrawn {}).await;
    assert_eq!(totals(desk, &tenant, "ann").await, None);
    assert_eq!(desk.get(&key(&tenant, "ann")).await.map(|row| row.version), Some(2), "its version is kept");
    desk.shows(&list, vec![]).await;
    desk.add(&mut course, &opened("ann", 4)).await;
    assert_eq!(totals(desk, &tenant, "ann").await, Some((1, 4)));
    assert_eq!(desk.applied(&course).await, 3);
}

async fn an_event_that_changes_no_part_leaves_the_row_alone<S: AuditRows>(desk: &Desk<'_, S>) {
    let tenant = tenant();
    let mut course = Course::of(&tenant, Uuid::new_v4());
    // Nor does one that begins a stream without a part.
    desk.add(&mut course, &TicketEvent::Seen {}).await;
    assert_eq!(desk.applied(&course).await, 1);
    desk.add(&mut course, &opened("ann", 3)).await;
    let before = desk.get(&key(&tenant, "ann")).await;
    let seen = desk.add(&mut course, &TicketEvent::Seen {}).await;
    desk.add(&mut course, &moved_to("DONE", 1)).await;
    assert_eq!(desk.write(&seen).await, WriteOutcome::VersionMismatch(4));
    assert_eq!((desk.applied(&course).await, desk.get(&key(&tenant, "ann")).await), (4, before));
}

async fn a_part_is_never_mistaken_for_a_row<S: AuditRows>(desk: &Desk<'_, S>) {
    let tenant = tenant();
    let mut course = Course::of(&tenant, Uuid::new_v4());
    // Owners whose rows look like the part, or like a row of another tenant.
    let id = course.stream.id;
    for owner in
        [format!("@{id}"), format!("#{id}"), id.to_string(), format!("x#{tenant}@{id}"), "#".to_owned()]
    {
        let event = if course.version == 0 { opened(&owner, 3) } else { given_to(&owner) };
        desk.add(&mut course, &event).await;
        assert_eq!(totals(desk, &tenant, &owner).await, Some((1, 3)), "{owner}");
        assert_eq!(desk.applied(&course).await, course.version);
    }
    assert_eq!(desk.get(&key(&tenant, "no owner")).await, None);
}

async fn sums_are_listed_by_their_values<S: AuditRows>(desk: &Desk<'_, S>) {
    let tenant = tenant();
    let mut courses: Vec<_> = (0..3).map(|_| Course::of(&tenant, Uuid::new_v4())).collect();
    for (course, (owner, weight)) in courses.iter_mut().zip([("ann", 40), ("ann", 50), ("bob", 20)]) {
        desk.add(course, &opened(owner, weight)).await;
    }
    let list = |load| desk.query("by-load", &tenant, load);
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    desk.shows(&list("LIGHT"), names(&["ann", "bob"])).await;
    desk.add(&mut courses[2], &given_to("ann")).await;
    desk.shows(&list("HEAVY"), names(&["ann"])).await;
    desk.shows(&list("LIGHT"), names(&[])).await;
    for (tickets, shown) in [(3, names(&["ann"])), (2, names(&[]))] {
        let filter = Filter::by(Workload::TICKETS, &tickets);
        desk.shows(&ListQuery { filter, ..list("HEAVY") }, shown).await;
    }
}

async fn sums_of_another_tenant_are_not_seen<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut ours = Course::new();
    desk.add(&mut ours, &opened("ann", 3)).await;
    let other = tenant();
    let mut theirs = Course::of(&other, ours.stream.id);
    assert_eq!((totals(desk, &other, "ann").await, desk.applied(&theirs).await), (None, 0));
    desk.add(&mut theirs, &opened("ann", 5)).await;
    assert_eq!(totals(desk, &other, "ann").await, Some((1, 5)));
    assert_eq!(totals(desk, &ours.stream.tenant, "ann").await, Some((1, 3)));
}

async fn writers_at_once_of_one_row_lose_nothing<S: AuditRows>(desk: &Desk<'_, S>) {
    let tenant = tenant();
    let updates =
        (1..=8).map(|weight| Course::of(&tenant, Uuid::new_v4()).next(&desk.spec, &opened("ann", weight)));
    let updates: Vec<_> = updates.collect();
    join_all(updates.iter().map(|update| delivered(desk.store, update))).await;
    assert_eq!(totals(desk, &tenant, "ann").await, Some((8, 36)));
}

async fn of_writers_at_once_of_one_part_one_applies<S: AuditRows>(desk: &Desk<'_, S>) {
    let mut course = Course::new();
    desk.add(&mut course, &opened("ann", 3)).await;
    let second = course.next(&desk.spec, &given_to("bob"));
    let outcomes = join_all((0..6).map(|_| delivered(desk.store, &second))).await;
    let applied = outcomes.iter().filter(|outcome| **outcome == WriteOutcome::Applied).count();
    assert!(applied <= 1, "{outcomes:?}");
    let tenant = &course.stream.tenant;
    assert_eq!((totals(desk, tenant, "ann").await, totals(desk, tenant, "bob").await), (None, Some((1, 3))));
}

/// Writes an update until its outcome is known, like a queue that delivers again.
#[expect(clippy::panic, reason = "a suite says by a panic what is broken")]
async fn delivered<S: WriteRows>(store: &S, update: &RowUpdate) -> WriteOutcome {
    loop {
        match store.write(update).await {
            Ok(outcome) => return outcome,
            Err(WriteError::Contended) => {}
            Err(WriteError::Aws(AwsError::Throttled(_) | AwsError::Unreachable(_))) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Shows, for the rows of `spec("workloads")`, that events delivered in any order, more than once, and by several
/// writers at once, leave rows that are the sums of the parts, which are the folds of their streams. The order follows
/// from `seed`, as far as the store does not decide it. `reader`, which meets no faults, reads the rows that `store`
/// writes.
pub async fn totals_are_the_sum_of_all_parts<S: WriteRows>(store: &S, reader: &impl ReadRows, seed: u64) {
    const OWNERS: [&str; 3] = ["ann", "bob", "eve"];
    let (spec, tenant) = (spec("workloads"), tenant());
    let mut random = StdRng::seed_from_u64(seed);
    let (mut expected, mut deliveries) = (BTreeMap::<&str, (u64, u64)>::new(), Vec::new());
    let mut courses = Vec::new();
    for _ in 0..6 {
        let mut course = Course::of(&tenant, Uuid::from_u128(random.random()));
        // The owner, and the weight.
        let mut part: Option<(&str, u64)> = None;
        for _ in 0..random.random_range(1..6) {
            let owner = OWNERS[random.random_range(0..OWNERS.len())];
            let event = match random.random_range(0..6) {
                0 => TicketEvent::Withdrawn {},
                1 => TicketEvent::Seen {},
                2 => changed(1),
                3 => given_to(owner),
                _ => opened(owner, random.random_range(0..60)),
            };
            part = match &event {
                TicketEvent::Opened { lines, .. } => Some((owner, lines[0].count)),
                TicketEvent::Changed { owner: Some(_), .. } => part.map(|(_, weight)| (owner, weight)),
                TicketEvent::Changed { owner: None, .. } | TicketEvent::Seen {} => part,
                TicketEvent::Withdrawn {} => None,
            };
            let update = course.next(&spec, &event);
            for _ in 0..random.random_range(1..4) {
                deliveries.push(update.clone());
            }
        }
        if let Some((owner, weight)) = part {
            let total = expected.entry(owner).or_default();
            *total = (total.0 + 1, total.1 + weight);
        }
        courses.push(course);
    }
    deliveries.shuffle(&mut random);
    // Each writer has a share of the deliveries, and puts off early ones.
    let shares = deliveries.chunks(deliveries.len().div_ceil(4));
    join_all(shares.map(async |share| {
        let mut waiting = share.to_vec();
        while !waiting.is_empty() {
            let mut early = Vec::new();
            for update in waiting {
                match delivered(store, &update).await {
                    WriteOutcome::VersionMismatch(found) if found < update.from_version => early.push(update),
                    WriteOutcome::VersionMismatch(_) | WriteOutcome::Applied => {}
                }
                tokio::task::yield_now().await;
            }
            waiting = early;
        }
    }))
    .await;
    for course in courses {
        assert_eq!(reader.applied_version(&course.stream).await.ok(), Some(course.version), "seed {seed}");
    }
    for owner in OWNERS {
        let row = reader.get(&key(&tenant, owner)).await.expect("the store can be reached");
        let row = row.and_then(|row| row.typed().expect("it can be read"));
        let row = row.map(|Versioned { row, .. }| row);
        let total = expected.get(owner);
        let total = total.map(|(tickets, weight)| Workload::of(Owner(owner.to_owned()), *tickets, *weight));
        assert_eq!(row, total, "seed {seed}");
    }
}
