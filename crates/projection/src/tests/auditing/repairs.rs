//! The effects and the limits of a repair.

use std::sync::{Arc, Mutex};

use millrace_aws::{AwsError, Segment};
use millrace_core::{
    StreamId, TenantId,
    projection::RowUpdate,
    row::{LookupSchema, Position, RowKey, StoredRow},
};
use millrace_event_store::StoredEvent;
use millrace_rows::{
    AuditRows, Consistency, FoundRows, ListPage, ListQuery, ListedRows, MemoryCursor, MemoryRows, ReadRows,
    RowBatch, Sum, WriteError, WriteOutcome, WriteRows,
};

use super::{
    super::{app::cards, world::counter_with},
    Bench, LOOK, REPAIR,
    findings::{spoil, spoil_groups, unreadable},
    put, run, whole,
};
use crate::apply::update_of_stored;

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
    let counts = format!(" healed={} left=0 ", spoilt.len());
    assert!(outcome.clean && outcome.summary.contains(&counts), "{}", outcome.summary);
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
    // Of each projection.
    assert_eq!(outcome.lines.iter().filter(|line| line.ends_with("repair=written")).count(), 6);
    let outcome = bench.audit(REPAIR).await;
    assert_eq!(outcome.lines.len(), 9);
    assert!(outcome.lines.iter().all(|line| line.starts_with("UNREADABLE")), "{:?}", outcome.lines);
    for lines in outcome.lines.chunks(3) {
        assert!(lines[0].contains("201 row=2 ") && lines[2].contains("203 row=5 "), "{lines:?}");
    }
}

#[tokio::test]
async fn what_nothing_can_be_put_in_the_place_of_is_left() {
    let bench = Bench::default();
    let mut events = counter_with(&Default::default(), 1, 1).await;
    bench.project(&cards(), &events).await;
    bench.set(&cards(), &events, |update| update.to_version = 7).await;
    events[0].envelope.schema_version = 2;
    bench.append(&events[0]).await;
    let outcome = bench.audit(REPAIR).await;
    assert!(outcome.lines[0].starts_with("AHEAD") && outcome.lines[0].ends_with("repair=failed"));
    assert_eq!(bench.cards.count().await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_not_the_sum_of_its_parts_is_replaced_by_it() {
    let bench = Bench::full().await;
    let spoilt = spoil_groups(&bench).await;
    let outcome = bench.audit(REPAIR).await;
    outcome.assert_finds(&spoilt.iter().map(|line| format!("{line} repair=replaced")).collect::<Vec<_>>());
    assert!(outcome.clean);
    bench.assert_right().await;
    bench.audit(LOOK).await.assert_finds(&[]);
}

#[tokio::test(start_paused = true)]
async fn rows_and_their_parts_are_healed_in_turn() {
    let bench = Bench::full().await;
    // A group is wrong by itself, and by its wrong parts. The application panics where it takes a part out of a row
    // that lacks it; once the row is the sum of its parts, that part can be repaired, too.
    spoil(&bench).await;
    spoil_groups(&bench).await;
    let first = bench.audit(REPAIR).await;
    assert!(first.result.is_ok() && first.lines.iter().any(|line| line.ends_with("repair=failed")));
    assert!(bench.audit(REPAIR).await.clean);
    bench.assert_right().await;
}

/// An action of another process just before a row is repaired.
enum Interference {
    /// It replaces the row.
    Replace(RowUpdate),
    /// It appends an event, and the projector takes the event for one that the row has.
    Append(StoredEvent),
}

/// Cards that other processes change.
#[derive(Clone)]
struct Busy {
    bench: Bench,
    rows: MemoryRows,
    /// The other processes' actions, one for each repair, last to first.
    others: Arc<Mutex<Vec<Interference>>>,
}

type Row = <MemoryRows as AuditRows>::Row;

impl Busy {
    fn new(bench: &Bench, others: impl IntoIterator<Item = Interference>) -> Self {
        let others = Arc::new(Mutex::new(others.into_iter().collect()));
        Self { bench: bench.clone(), rows: bench.cards.clone(), others }
    }

    async fn interfere(&self, row: &Row) {
        let other = self.others.lock().unwrap().pop();
        match other {
            Some(Interference::Replace(other)) => assert!(self.rows.replace(row, &other).await.unwrap()),
            Some(Interference::Append(event)) => {
                self.bench.append(&event).await;
                let known = self.rows.write(&update_of_stored(&cards(), &event).unwrap()).await.unwrap();
                assert!(
                    matches!(known, WriteOutcome::VersionMismatch(found) if found >= event.envelope.version)
                );
            }
            None => {}
        }
    }
}

impl WriteRows for Busy {
    async fn write(&self, update: &RowUpdate) -> Result<WriteOutcome, WriteError> {
        self.rows.write(update).await
    }
}

impl ReadRows for Busy {
    async fn get(&self, key: &RowKey) -> Result<Option<StoredRow>, AwsError> {
        self.rows.get(key).await
    }

    async fn get_many(&self, keys: &[RowKey], consistency: Consistency) -> Result<RowBatch, AwsError> {
        self.rows.get_many(keys, consistency).await
    }

    async fn applied_version(&self, stream: &StreamId) -> Result<u64, AwsError> {
        self.rows.applied_version(stream).await
    }

    async fn lookup(
        &self,
        lookup: &'static LookupSchema,
        tenant: &TenantId,
        value: &str,
    ) -> Result<Vec<StoredRow>, AwsError> {
        self.rows.lookup(lookup, tenant, value).await
    }

    async fn page(
        &self,
        query: &ListQuery,
        before: Option<&Position>,
        limit: u16,
    ) -> Result<ListPage, AwsError> {
        self.rows.page(query, before, limit).await
    }
}

impl AuditRows for Busy {
    type Row = Row;
    type Cursor = MemoryCursor;

    async fn rows(&self, streams: &[StreamId]) -> Result<FoundRows<Row>, AwsError> {
        self.rows.rows(streams).await
    }

    fn version(row: &Row) -> Option<u64> {
        MemoryRows::version(row)
    }

    fn differences(&self, row: &Row, expected: &RowUpdate) -> Result<Vec<String>, AwsError> {
        self.rows.differences(row, expected)
    }

    async fn list(
        &self,
        segment: Segment,
        from: Option<&MemoryCursor>,
    ) -> Result<ListedRows<MemoryCursor>, AwsError> {
        self.rows.list(segment, from).await
    }

    async fn replace(&self, row: &Row, with: &RowUpdate) -> Result<bool, AwsError> {
        self.interfere(row).await;
        self.rows.replace(row, with).await
    }

    async fn delete(&self, row: &Row) -> Result<bool, AwsError> {
        self.interfere(row).await;
        self.rows.delete(row).await
    }

    async fn count(&self) -> Result<u64, AwsError> {
        self.rows.count().await
    }

    async fn sum(&self, key: &RowKey) -> Result<Sum<Row>, AwsError> {
        self.rows.sum(key).await
    }

    async fn replace_sum(&self, sum: &Sum<Row>) -> Result<bool, AwsError> {
        self.rows.replace_sum(sum).await
    }
}

/// Audits a counter of nine events whose card is wrong and changes before each attempt at its repair.
async fn repaired_amid(versions: &[u64]) -> (Bench, Vec<String>) {
    let bench = Bench::default();
    let events = counter_with(&bench.store, 1, 9).await;
    bench.project_all(&events).await;
    bench.set(&cards(), &events, put("Name", "Joe")).await;
    let wrong = |version: &u64| RowUpdate { to_version: *version, ..whole(&cards(), &events[..1]) };
    let others = versions.iter().map(wrong).map(Interference::Replace);
    (bench.clone(), audited(&bench, others).await)
}

/// Repairs a bench that other processes change, and returns the findings.
async fn audited(bench: &Bench, others: impl IntoIterator<Item = Interference>) -> Vec<String> {
    let rows = (Busy::new(bench, others), bench.totals.clone(), bench.groups.clone());
    let outcome = run(&bench.jobs, bench.store.clone(), rows, REPAIR).await;
    assert!(outcome.result.is_ok(), "{:?}", outcome.result);
    outcome.lines
}

#[tokio::test]
async fn a_row_that_changes_meanwhile_is_looked_at_again() {
    // Before the first attempt another process sets it forward, before the second back.
    let (bench, lines) = repaired_amid(&[4, 12]).await;
    let wrong = "DIFFERENT counter-cards 000000000001 row=9 store=9 attributes=Name";
    assert_eq!(lines, [format!("{wrong} repair=written")]);
    bench.assert_right().await;
}

#[tokio::test]
async fn a_row_that_never_rests_is_reported_as_not_repaired() {
    let versions: Vec<u64> = (10..100).collect();
    let (_, lines) = repaired_amid(&versions).await;
    assert_eq!(lines, ["DIFFERENT counter-cards 000000000001 row=9 store=9 attributes=Name repair=failed"]);
}

#[tokio::test]
async fn an_event_that_was_taken_for_a_known_one_while_its_row_was_too_new_is_not_forgotten() {
    let histories =
        [counter_with(&Default::default(), 1, 5).await, counter_with(&Default::default(), 2, 3).await];
    // The first card is ahead of its events, the second has none.
    let bench = Bench::default();
    for event in &histories[0][..3] {
        bench.append(event).await;
    }
    bench.project_all(&histories[0][..3]).await;
    bench.set(&cards(), &histories[0][..3], |update| update.to_version = 9).await;
    let lines = audited(&bench, [Interference::Append(histories[0][3].clone())]).await;
    assert_eq!(lines[0], "AHEAD counter-cards 000000000001 row=9 store=3 repair=replaced,written");

    bench.project(&cards(), &histories[1]).await;
    let lines = audited(&bench, [Interference::Append(histories[1][0].clone())]).await;
    assert!(lines.contains(&"ORPHANED counter-cards 000000000002 row=3 repair=deleted,written".to_owned()));
    assert!(bench.audit(REPAIR).await.clean);
    bench.assert_right().await;
}

#[tokio::test(start_paused = true)]
async fn no_row_is_deleted_because_the_event_store_is_empty() {
    let bench = Bench::full().await;
    let nothing = millrace_event_store::MemoryStore::default();
    let outcome = run(&bench.jobs, nothing, bench.all_rows(), REPAIR).await;
    assert!(outcome.summary.contains(" healed=0"), "{}", outcome.summary);
    assert!(!outcome.summary.contains(" left=0"), "{}", outcome.summary);
    bench.assert_right().await;
}
