//! What a repair does, and what it leaves alone.

use std::sync::{Arc, Mutex};

use millrace_aws::{AwsError, Segment};
use millrace_domain::StreamId;
use millrace_event_store::StoredEvent;
use millrace_read_models::{
    AuditRows, FoundRows, ListedRows, MemoryUsers, UserChange, UserRow, WriteRows, Written,
};

use super::{
    super::world::{name, user_with},
    Bench, LOOK, REPAIR,
    findings::{spoil, unreadable},
    run, whole,
};
use crate::{Users, apply::stored};

#[tokio::test]
async fn every_kind_of_finding_is_healed_and_a_second_audit_finds_nothing() {
    let bench = Bench::full().await;
    let spoilt = spoil(&bench).await;
    let repair = |line: &String| {
        let how = match line.split(' ').next().unwrap() {
            "BEHIND" if line.contains("attributes") => "written,replaced",
            "MISSING" | "BEHIND" => "written",
            "DIFFERENT" | "AHEAD" => "replaced",
            "ORPHANED" => "deleted",
            other => panic!("{other}"),
        };
        format!("{line} repair={how}")
    };
    let outcome = bench.audit(REPAIR).await;
    outcome.assert_finds(&spoilt.iter().map(repair).collect::<Vec<_>>());
    assert!(outcome.clean && outcome.summary.contains(" healed=11 left=0 "), "{}", outcome.summary);
    bench.assert_right().await;
    bench.audit(LOOK).await.assert_finds(&[]);
}

#[tokio::test]
async fn a_repair_goes_as_far_as_the_events_can_be_read() {
    let bench = Bench::full().await;
    for (id, version) in [(0x201, 0), (0x202, 1), (0x203, 5)] {
        unreadable(&bench, id, version).await;
    }
    let outcome = bench.audit(REPAIR).await;
    assert!(outcome.result.is_ok() && !outcome.clean, "what cannot be read is left");
    assert_eq!(outcome.lines.iter().filter(|line| line.ends_with("repair=written")).count(), 2);
    let outcome = bench.audit(REPAIR).await;
    assert_eq!(outcome.lines.len(), 3);
    assert!(outcome.lines.iter().all(|line| line.starts_with("UNREADABLE")), "{:?}", outcome.lines);
    assert!(outcome.lines[0].contains("201 row=2 ") && outcome.lines[2].contains("203 row=5 "));
}

#[tokio::test]
async fn what_nothing_can_be_put_in_the_place_of_is_left() {
    let bench = Bench::default();
    let mut events = user_with(&Default::default(), 1, 1).await;
    bench.project::<Users>(&events).await;
    bench.set::<Users>(&events, |change| change.to = 7).await;
    events[0].envelope.schema_version = 2;
    bench.append(&events[0]).await;
    let outcome = bench.audit(REPAIR).await;
    assert!(outcome.lines[0].starts_with("AHEAD") && outcome.lines[0].ends_with("repair=failed"));
    assert_eq!(bench.users.count().await.unwrap(), 1);
}

/// What others do just before a row is put right.
enum Interference {
    /// They put something else in its place.
    Replace(UserChange),
    /// They append an event, and the projector takes it for one that the row has.
    Append(StoredEvent),
}

/// Rows with others about.
#[derive(Clone)]
struct Busy {
    bench: Bench,
    rows: MemoryUsers,
    /// What they do, one thing each time, last to first.
    others: Arc<Mutex<Vec<Interference>>>,
}

impl Busy {
    fn new(bench: &Bench, others: impl IntoIterator<Item = Interference>) -> Self {
        let others = Arc::new(Mutex::new(others.into_iter().collect()));
        Self { bench: bench.clone(), rows: bench.users.clone(), others }
    }

    async fn interfere(&self, row: &UserRow) {
        let other = self.others.lock().unwrap().pop();
        match other {
            Some(Interference::Replace(other)) => assert!(self.rows.replace(row, &other).await.unwrap()),
            Some(Interference::Append(event)) => {
                self.bench.append(&event).await;
                let known = self.rows.write(&stored::<Users>(&event).unwrap()).await.unwrap();
                assert!(matches!(known, Written::Found(found) if found >= event.envelope.version));
            }
            None => {}
        }
    }
}

impl WriteRows<UserChange> for Busy {
    async fn write(&self, change: &UserChange) -> Result<Written, AwsError> {
        self.rows.write(change).await
    }
}

impl AuditRows<UserChange> for Busy {
    type Row = UserRow;
    type Place = usize;

    async fn rows(&self, streams: &[StreamId]) -> Result<FoundRows<UserRow>, AwsError> {
        self.rows.rows(streams).await
    }

    fn version(row: &UserRow) -> Option<u64> {
        Some(row.version)
    }

    fn differences(&self, row: &UserRow, expected: &UserChange) -> Result<Vec<&'static str>, AwsError> {
        self.rows.differences(row, expected)
    }

    async fn list(&self, segment: Segment, from: Option<&usize>) -> Result<ListedRows<usize>, AwsError> {
        self.rows.list(segment, from).await
    }

    async fn replace(&self, row: &UserRow, with: &UserChange) -> Result<bool, AwsError> {
        self.interfere(row).await;
        self.rows.replace(row, with).await
    }

    async fn delete(&self, row: &UserRow) -> Result<bool, AwsError> {
        self.interfere(row).await;
        self.rows.delete(row).await
    }

    async fn count(&self) -> Result<u64, AwsError> {
        self.rows.count().await
    }
}

/// Audits a user of nine events whose row is wrong, and that others change each time that it is to be put right.
async fn repaired_amid(versions: &[usize]) -> (Bench, Vec<String>) {
    let bench = Bench::default();
    let events = user_with(&bench.store, 1, 9).await;
    bench.project::<Users>(&events).await;
    bench.set::<Users>(&events, |change| change.name = Some(name("Joe"))).await;
    let wrong = |version: &usize| {
        let mut change = whole::<Users>(&events[..1]);
        change.to = u64::try_from(*version).unwrap();
        change
    };
    let rows = Busy::new(&bench, versions.iter().map(wrong).map(Interference::Replace));
    let outcome = run(bench.store.clone(), rows, bench.orders.clone(), REPAIR).await;
    (bench, outcome.lines)
}

#[tokio::test]
async fn a_row_that_changes_meanwhile_is_looked_at_again() {
    // Before the first attempt somebody sets it forward, before the second somebody sets it back.
    let (bench, lines) = repaired_amid(&[4, 12]).await;
    let wrong = "DIFFERENT user-profiles 000000000001 row=9 store=9 attributes=Name";
    assert_eq!(lines, [format!("{wrong} repair=written")]);
    bench.assert_right().await;
}

#[tokio::test]
async fn a_row_that_never_rests_is_reported_as_not_repaired() {
    let versions: Vec<usize> = (10..100).collect();
    let (_, lines) = repaired_amid(&versions).await;
    assert_eq!(lines, ["DIFFERENT user-profiles 000000000001 row=9 store=9 attributes=Name repair=failed"]);
}

#[tokio::test]
async fn an_event_that_was_taken_for_a_known_one_while_its_row_was_too_new_is_not_forgotten() {
    let histories = [user_with(&Default::default(), 1, 5).await, user_with(&Default::default(), 2, 3).await];
    // The first one's row is ahead of its events, the second one's has none.
    let bench = Bench::default();
    for event in &histories[0][..3] {
        bench.append(event).await;
    }
    bench.project::<Users>(&histories[0][..3]).await;
    bench.set::<Users>(&histories[0][..3], |change| change.to = 9).await;
    let late = [Interference::Append(histories[0][3].clone())];
    let outcome = run(bench.store.clone(), Busy::new(&bench, late), bench.orders.clone(), REPAIR).await;
    outcome
        .assert_finds(&["AHEAD user-profiles 000000000001 row=9 store=3 repair=replaced,written".to_owned()]);
    bench.assert_right().await;

    bench.project::<Users>(&histories[1]).await;
    let late = [Interference::Append(histories[1][0].clone())];
    let outcome = run(bench.store.clone(), Busy::new(&bench, late), bench.orders.clone(), REPAIR).await;
    outcome.assert_finds(&["ORPHANED user-profiles 000000000002 row=3 repair=deleted,written".to_owned()]);
    bench.assert_right().await;
}

#[tokio::test(start_paused = true)]
async fn no_row_is_deleted_because_the_event_store_is_empty() {
    let bench = Bench::full().await;
    let nothing = millrace_event_store::MemoryStore::default();
    let outcome = run(nothing, bench.users.clone(), bench.orders.clone(), REPAIR).await;
    assert!(outcome.summary.contains(" healed=0"), "{}", outcome.summary);
    assert!(!outcome.summary.contains(" left=0"), "{}", outcome.summary);
    bench.assert_right().await;
}
