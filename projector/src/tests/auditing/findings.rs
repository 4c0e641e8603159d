//! What is found, and what is not.

use millrace_domain::{AggregateType, order::OrderStatus};
use millrace_read_models::{OrderChange, Provenance, UserChange};
use serde_json::{Value, json};

use super::{
    super::world::{email, name, stream_of, user_with},
    Bench, How, LOOK, whole,
};
use crate::{Orders, Users, audit::Format};

#[tokio::test]
async fn nothing_is_amiss_where_all_rows_are_right() {
    let bench = Bench::full().await;
    let mut stranger = bench.events::<Users>(1)[0].clone();
    stranger.envelope.aggregate_type = AggregateType::of("invoice");
    bench.append(&stranger).await;
    for segments in [1, 3, 64] {
        let outcome = bench.audit(How { segments, ..LOOK }).await;
        outcome.assert_finds(&[]);
        assert!(outcome.clean);
        let events = bench.store.all().len();
        let told =
            format!("SUMMARY complete=yes events={events} aggregates=80 other_events=1 rows=80 missing=0");
        assert!(outcome.summary.starts_with(&told), "{}", outcome.summary);
    }
}

/// Makes something wrong of every kind, and says what is to be reported of it.
pub(super) async fn spoil(bench: &Bench) -> Vec<String> {
    let mut expected = Vec::new();
    let mut expect = |line: &str| expected.push(line.to_owned());

    bench.delete::<Users>(5).await;
    expect("MISSING user-profiles 000000000005 store=6");
    bench.delete::<Orders>(105).await;
    expect("MISSING order-summaries 000000000069 store=4");

    bench.set::<Users>(&bench.events::<Users>(6)[..3], |_| ()).await;
    expect("BEHIND user-profiles 000000000006 row=3 store=7");
    bench.set::<Orders>(&bench.events::<Orders>(106)[..1], |_| ()).await;
    expect("BEHIND order-summaries 00000000006a row=1 store=4");
    // Behind, and wrong besides.
    let renamed = |change: &mut UserChange| change.email = Some(email("jim@example.com"));
    bench.set::<Users>(&bench.events::<Users>(7)[..3], renamed).await;
    expect("BEHIND user-profiles 000000000007 row=3 store=8 attributes=Email,EmailKey");

    bench.set::<Users>(&bench.events::<Users>(8), |change| change.name = Some(name("Joe"))).await;
    expect("DIFFERENT user-profiles 000000000008 row=9 store=9 attributes=Name");
    let returned = |change: &mut OrderChange| change.status = OrderStatus::Returned;
    bench.set::<Orders>(&bench.events::<Orders>(108), returned).await;
    expect("DIFFERENT order-summaries 00000000006c row=4 store=4 attributes=Status,StatusKey");
    let others = whole::<Users>(&bench.events::<Users>(10)).provenance;
    bench.set::<Users>(&bench.events::<Users>(9), |change| change.provenance = others).await;
    expect(
        "DIFFERENT user-profiles 000000000009 row=10 store=10 attributes=CausationId,CorrelationId,EventId,TraceParent",
    );

    bench.set::<Users>(&bench.events::<Users>(11), |change| change.to = 99).await;
    expect("AHEAD user-profiles 00000000000b row=99 store=12");
    bench.set::<Orders>(&bench.events::<Orders>(111), |change| change.to = 5).await;
    expect("AHEAD order-summaries 00000000006f row=5 store=4");

    let nobody = user_with(&Default::default(), 999, 2).await;
    bench.project::<Users>(&nobody).await;
    expect("ORPHANED user-profiles 0000000003e7 row=2");
    expected
}

#[tokio::test]
async fn each_kind_of_finding_is_one_line_and_nothing_else_is_reported() {
    for segments in [1, 4] {
        let bench = Bench::full().await;
        let expected = spoil(&bench).await;
        let outcome = bench.audit(How { segments, ..LOOK }).await;
        outcome.assert_finds(&expected);
        assert!(!outcome.clean);
        for count in [
            "missing=2",
            "behind=3",
            "different=3",
            "ahead=2",
            "orphaned=1",
            "unreadable=0",
            "healed=0",
            "left=11",
        ] {
            assert!(outcome.summary.contains(&format!(" {count} ")), "{}", outcome.summary);
        }
        // A look changes nothing.
        bench.audit(LOOK).await.assert_finds(&expected);
    }
}

#[tokio::test]
async fn what_a_row_does_not_say_of_its_origin_is_no_difference() {
    let bench = Bench::full().await;
    // Its newest event has a trace, and the row an older release wrote has none.
    let silent = |change: &mut UserChange| {
        change.provenance = Provenance { trace_parent: None, ..change.provenance.clone() }
    };
    let events = bench.events::<Users>(6);
    assert!(events.last().unwrap().envelope.trace_parent.is_some());
    bench.set::<Users>(&events, silent).await;
    bench.audit(LOOK).await.assert_finds(&[]);
}

/// Stores a user of five events, of which the third is of a newer schema, and brings its row to `version`.
pub(super) async fn unreadable(bench: &Bench, id: u128, version: usize) {
    let mut events = user_with(&Default::default(), id, 5).await;
    bench.project::<Users>(&events[..version]).await;
    events[2].envelope.schema_version = 2;
    for event in &events {
        bench.append(event).await;
    }
}

const NEWER: &str =
    "reason=newer_schema detail=\"the event has schema version 2, and this release reads up to 1\"";

#[tokio::test]
async fn an_event_that_cannot_be_read_is_named_and_its_row_expected_before_it() {
    let bench = Bench::full().await;
    for (id, version) in [(0x201, 2), (0x202, 1), (0x203, 0), (0x204, 5)] {
        unreadable(&bench, id, version).await;
    }
    let of = |id, row: &str| format!("UNREADABLE user-profiles 000000000{id}{row} store=5 version=3 {NEWER}");
    bench.audit(LOOK).await.assert_finds(&[
        // As far as it can be.
        of("201", " row=2"),
        of("202", " row=1"),
        "BEHIND user-profiles 000000000202 row=1 store=5".to_owned(),
        of("203", ""),
        "MISSING user-profiles 000000000203 store=5".to_owned(),
        // Another release, which can read it, has written the row.
        of("204", " row=5"),
    ]);
}

#[tokio::test]
async fn a_stream_with_a_gap_or_without_a_beginning_is_told_and_the_others_are_checked() {
    let bench = Bench::full().await;
    let events = user_with(&Default::default(), 0x201, 4).await;
    bench.append(&events[0]).await;
    bench.append(&events[3]).await;
    let headless = user_with(&Default::default(), 0x202, 3).await;
    bench.append(&headless[1]).await;
    bench.append(&headless[2]).await;
    bench.project::<Users>(&headless).await;
    bench.delete::<Users>(7).await;
    let missing = "reason=not_stored detail=\"the event store does not have the event\"";
    bench.audit(LOOK).await.assert_finds(&[
        "MISSING user-profiles 000000000007 store=8".to_owned(),
        format!("UNREADABLE user-profiles 000000000201 store=4 version=2 {missing}"),
        "MISSING user-profiles 000000000201 store=4".to_owned(),
        format!("UNREADABLE user-profiles 000000000202 row=3 store=3 version=1 {missing}"),
    ]);
}

#[tokio::test]
async fn a_report_can_be_json() {
    let bench = Bench::full().await;
    bench.delete::<Users>(5).await;
    let outcome = bench.audit(How { format: Format::Json, ..LOOK }).await;
    let finding: Value = serde_json::from_str(&outcome.lines[0]).unwrap();
    let aggregate = stream_of::<Users>(5).id;
    assert_eq!(
        finding,
        json!({
            "finding": "MISSING", "projection": "user-profiles", "tenant": "acme", "aggregate": aggregate,
            "store": 6,
        })
    );
    let summary: Value = serde_json::from_str(&outcome.summary).unwrap();
    assert_eq!((&summary["summary"]["missing"], &summary["summary"]["left"]), (&json!(1), &json!(1)));
}
