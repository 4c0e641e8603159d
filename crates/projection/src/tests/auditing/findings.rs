//! The findings of an audit.

use millrace_core::{
    AggregateType, Versioned,
    projection::{RowChange, RowUpdate},
    row::{Attributes, Provenance, RowKey},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    super::{
        app::{Command, Group, GroupTotals, PANIC, UNUSABLE, cards, groups, totals},
        world::{counter, counter_with, history, open},
    },
    Bench, How, LOOK, REPAIR, put, run,
    unruly::{Unruly, Whims},
    whole,
};
use crate::audit::Format;

#[tokio::test]
async fn nothing_is_amiss_where_all_rows_are_right() {
    let bench = Bench::full().await;
    let mut stranger = bench.events(1)[0].clone();
    stranger.envelope.aggregate_type = AggregateType::new("invoice");
    bench.append(&stranger).await;
    for segments in [1, 3, 64] {
        let outcome = bench.audit(How { segments, ..LOOK }).await;
        outcome.assert_finds(&[]);
        assert!(outcome.clean);
        let events = bench.store.all().len();
        // Forty counters under three projections; a card, a total and a part of each, and three groups.
        let told =
            format!("SUMMARY complete=yes events={events} aggregates=120 other_events=1 rows=123 missing=0");
        assert!(outcome.summary.starts_with(&told), "{}", outcome.summary);
    }
}

/// Makes a fault of every kind, and returns the expected findings.
pub(super) async fn spoil(bench: &Bench) -> Vec<String> {
    let mut expected = Vec::new();
    let mut expect = |line: &str| expected.push(line.to_owned());

    for (spec, id) in [(cards(), 5), (totals(), 5), (groups(), 17)] {
        bench.delete(&spec, id).await;
        let hex = format!("{id:012x}");
        expect(&format!("MISSING {} {hex} store=6", spec.name.name));
    }

    bench.set(&cards(), &bench.events(6)[..3], |_| ()).await;
    expect("BEHIND counter-cards 000000000006 row=3 store=7");
    bench.set(&totals(), &bench.events(6)[..1], |_| ()).await;
    expect("BEHIND counter-totals 000000000006 row=1 store=7");
    bench.set(&groups(), &bench.events(6)[..5], |_| ()).await;
    expect("BEHIND group-totals 000000000006 row=5 store=7");
    // Behind, and wrong besides.
    bench.set(&cards(), &bench.events(7)[..3], put("Owner", "jim@example.com")).await;
    expect("BEHIND counter-cards 000000000007 row=3 store=8 attributes=ByOwnerKey,Owner");

    bench.set(&cards(), &bench.events(8), put("Name", "Joe")).await;
    expect("DIFFERENT counter-cards 000000000008 row=9 store=9 attributes=Name");
    bench.set(&cards(), &bench.events(32), put("Group", "grey")).await;
    expect("DIFFERENT counter-cards 000000000020 row=9 store=9 attributes=ByGroupKey,Group");
    bench.set(&totals(), &bench.events(8), put("Total", 1)).await;
    expect("DIFFERENT counter-totals 000000000008 row=9 store=9 attributes=Total");
    bench.set(&groups(), &bench.events(8), put("Part", json!({"group": "blue", "total": 1}))).await;
    expect("DIFFERENT group-totals 000000000008 row=9 store=9 attributes=Part");
    // A part in another group than the counter's.
    bench.set(&groups(), &bench.events(9), put("Part", json!({"group": "green", "total": 30}))).await;
    expect("DIFFERENT group-totals 000000000009 row=10 store=10 attributes=Part,Target");
    let others = whole(&cards(), &bench.events(10)).provenance;
    bench.set(&cards(), &bench.events(9), |update| update.provenance = others).await;
    expect(
        "DIFFERENT counter-cards 000000000009 row=10 store=10 attributes=CausationId,CorrelationId,EventId,TraceParent",
    );

    bench.set(&cards(), &bench.events(11), |update| update.to_version = 99).await;
    expect("AHEAD counter-cards 00000000000b row=99 store=12");
    bench.set(&groups(), &bench.events(11), |update| update.to_version = 13).await;
    expect("AHEAD group-totals 00000000000b row=13 store=12");

    let nobody = counter_with(&Default::default(), 999, 2).await;
    bench.project_all(&nobody).await;
    for projection in ["counter-cards", "counter-totals", "group-totals"] {
        expect(&format!("ORPHANED {projection} 0000000003e7 row=2"));
    }
    expected
}

/// How many findings of each kind these lines hold, in the form of a summary.
fn counts(expected: &[String]) -> Vec<String> {
    let kinds = ["missing", "behind", "different", "ahead", "orphaned", "unreadable", "busy"];
    let count = |kind: &str| expected.iter().filter(|l| l.starts_with(&kind.to_uppercase())).count();
    let counts = kinds.map(|kind| format!(" {kind}={} ", count(kind)));
    counts.into_iter().chain([format!(" left={} ", expected.len())]).collect()
}

#[tokio::test]
async fn each_kind_of_finding_is_one_line_and_nothing_else_is_reported() {
    for segments in [1, 4] {
        let bench = Bench::full().await;
        let expected = spoil(&bench).await;
        let outcome = bench.audit(How { segments, ..LOOK }).await;
        outcome.assert_finds(&expected);
        assert!(!outcome.clean);
        for count in counts(&expected) {
            assert!(outcome.summary.contains(&count), "{count} in {}", outcome.summary);
        }
        assert!(outcome.summary.contains(" healed=0 "));
        // A look changes nothing.
        bench.audit(LOOK).await.assert_finds(&expected);
    }
}

#[tokio::test]
async fn what_a_row_does_not_say_of_its_origin_is_no_difference() {
    let bench = Bench::full().await;
    // Its newest event has a trace, and the row an older release wrote has none.
    let silent = |update: &mut RowUpdate| {
        update.provenance = Provenance { trace_parent: None, ..update.provenance.clone() }
    };
    let events = bench.events(6);
    assert!(events.last().unwrap().envelope.trace_parent.is_some());
    for spec in [cards(), totals(), groups()] {
        bench.set(&spec, &events, silent).await;
    }
    bench.audit(LOOK).await.assert_finds(&[]);
}

/// Makes each group wrong, and returns the expected findings.
pub(super) async fn spoil_groups(bench: &Bench) -> Vec<String> {
    bench.set_group("red", |row| drop(row.insert("Total".to_owned(), json!(7)))).await;
    bench.set_group("blue", |row| *row = Default::default()).await;
    let group = Group("a b\" row=7".to_owned());
    let nobodys = GroupTotals { group, counters: 2, total: 3 };
    bench.groups.extend([Versioned { tenant: "acme".parse().unwrap(), version: 4, row: nobodys }]);
    [
        r#"DIFFERENT group-totals tenant=acme id="red" row=39 attributes=Total"#,
        r#"DIFFERENT group-totals tenant=acme id="blue" row=51 attributes=Absent,Counters,Total"#,
        r#"ORPHANED group-totals tenant=acme id="a b\" row=7" row=4 attributes=Absent,Counters,Total"#,
    ]
    .map(str::to_owned)
    .into()
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_not_the_sum_of_its_parts_is_reported() {
    let bench = Bench::full().await;
    let expected = spoil_groups(&bench).await;
    let began = Instant::now();
    bench.audit(LOOK).await.assert_finds(&expected);
    assert_eq!(began.elapsed(), LOOK.grace, "only a difference that lasts is one");
    bench.audit(LOOK).await.assert_finds(&expected);
}

#[tokio::test(start_paused = true)]
async fn a_sum_that_is_not_there_is_missed_from_the_side_of_its_parts() {
    let bench = Bench::full().await;
    let lost = RowKey { tenant: "acme".parse().unwrap(), id: "red".to_owned() };
    let whims = Whims { lost: Some(lost), ..Whims::default() };
    let outcome = run(&bench.jobs, bench.store.clone(), Unruly::all(&bench, &whims, 1), LOOK).await;
    outcome.assert_finds(&[r#"MISSING group-totals tenant=acme id="red""#.to_owned()]);
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_wrong_and_of_no_use_to_its_row_ends_no_audit() {
    let bench = Bench::full().await;
    // The group's row is the fold of the readable parts, so it is right; this part says that it is of no group.
    let events = bench.events(8);
    bench.set(&groups(), &events, |update| update.change = RowChange::Put(Attributes::new())).await;
    let expected = "DIFFERENT group-totals 000000000008 row=9 store=9 attributes=Absent,Part,Target";
    bench.audit(LOOK).await.assert_finds(&[expected.to_owned()]);
    bench.audit(REPAIR).await.assert_finds(&[format!("{expected} repair=replaced")]);
    bench.assert_right().await;
}

/// Stores a counter of five events, of which the third is of a newer schema, and brings its rows to `version`.
pub(super) async fn unreadable(bench: &Bench, id: u128, version: usize) {
    let mut events = counter_with(&Default::default(), id, 5).await;
    bench.project_all(&events[..version]).await;
    events[2].envelope.schema_version = 2;
    for event in &events {
        bench.append(event).await;
    }
}

/// A finding of each projection.
fn of_each(line: &str) -> [String; 3] {
    ["counter-cards", "counter-totals", "group-totals"].map(|name| line.replace("{}", name))
}

const NEWER: &str =
    "reason=newer_schema detail=\"the event has schema version 2, and this release reads up to 1\"";

#[tokio::test]
async fn an_event_that_cannot_be_read_is_named_and_its_row_expected_before_it() {
    let bench = Bench::full().await;
    for (id, version) in [(0x201, 2), (0x202, 1), (0x203, 0), (0x204, 5)] {
        unreadable(&bench, id, version).await;
    }
    let of = |id, row: &str| format!("UNREADABLE {{}} 000000000{id}{row} store=5 version=3 {NEWER}");
    let expected = [
        // As far as the row can go.
        of("201", " row=2"),
        of("202", " row=1"),
        "BEHIND {} 000000000202 row=1 store=5".to_owned(),
        of("203", ""),
        "MISSING {} 000000000203 store=5".to_owned(),
        // Another release, which can read it, has written the row.
        of("204", " row=5"),
    ];
    bench.audit(LOOK).await.assert_finds(&expected.iter().flat_map(|line| of_each(line)).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_event_over_which_the_application_panics_or_fails_is_named() {
    let bench = Bench::default();
    for (id, by) in [(1, PANIC), (2, UNUSABLE)] {
        let commands = [open("red"), Command::Add(2), Command::Add(by), Command::Add(4)];
        history(&bench.store, &counter(id), &commands).await;
    }
    let outcome = bench.audit(REPAIR).await;
    let lines: Vec<_> = outcome.lines.iter().filter(|line| line.starts_with("UNREADABLE")).collect();
    let reasons = [
        "panicked detail=\"the program panicked over it\"",
        "other_aggregate detail=\"the change names another aggregate's row\"",
    ];
    let expected = [1, 2].map(|n| {
        format!("UNREADABLE counter-totals 00000000000{n} store=4 version=3 reason={}", reasons[n - 1])
    });
    assert_eq!(lines, expected.each_ref());
    let healed: Vec<_> = outcome.lines.iter().filter(|line| line.ends_with("repair=written")).collect();
    assert_eq!(healed.len(), 6, "{:?}", outcome.lines);
}

#[tokio::test]
async fn a_stream_with_a_gap_or_without_a_beginning_is_told_and_the_others_are_checked() {
    let bench = Bench::full().await;
    let events = counter_with(&Default::default(), 0x201, 4).await;
    bench.append(&events[0]).await;
    bench.append(&events[3]).await;
    let headless = counter_with(&Default::default(), 0x202, 3).await;
    bench.append(&headless[1]).await;
    bench.append(&headless[2]).await;
    bench.project_all(&headless).await;
    bench.delete(&cards(), 7).await;
    let missing = "reason=not_stored detail=\"the event store does not have the event\"";
    let of_all = [
        format!("UNREADABLE {{}} 000000000201 store=4 version=2 {missing}"),
        "MISSING {} 000000000201 store=4".to_owned(),
        format!("UNREADABLE {{}} 000000000202 row=3 store=3 version=1 {missing}"),
    ];
    let mut expected: Vec<_> = of_all.iter().flat_map(|line| of_each(line)).collect();
    expected.push("MISSING counter-cards 000000000007 store=8".to_owned());
    bench.audit(LOOK).await.assert_finds(&expected);
}

#[tokio::test]
async fn a_report_can_be_json() {
    let bench = Bench::full().await;
    bench.delete(&cards(), 5).await;
    let outcome = bench.audit(How { format: Format::Json, ..LOOK }).await;
    let finding: Value = serde_json::from_str(&outcome.lines[0]).unwrap();
    let aggregate = counter(5).id;
    assert_eq!(
        finding,
        json!({
            "finding": "MISSING", "projection": "counter-cards", "tenant": "acme", "aggregate": aggregate,
            "store": 6,
        })
    );
    let summary: Value = serde_json::from_str(&outcome.summary).unwrap();
    assert_eq!((&summary["summary"]["missing"], &summary["summary"]["left"]), (&json!(1), &json!(1)));
}
