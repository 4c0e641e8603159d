//! Audits beside live traffic, and rows that are only late.

use std::time::Duration;

use futures::future::join_all;
use millrace_core::Timestamp;
use millrace_event_store::StoredEvent;

use tokio::time::{Instant, sleep};

use super::{
    super::{
        app::cards,
        world::{counter_with, noon},
    },
    Bench, How, LOOK, REPAIR, at_first, run,
    unruly::{Unruly, Whims},
};
/// An audit at noon, when the newest of the events are some seconds old.
const AT_NOON: How = How { clock: noon, ..LOOK };

#[tokio::test(start_paused = true)]
async fn a_row_that_is_only_late_is_no_finding() {
    let bench = Bench::default();
    // Its newest event is ten seconds old.
    let events = counter_with(&bench.store, 1, 51).await;
    let late = async {
        sleep(Duration::from_secs(45)).await;
        bench.project_all(&events).await;
    };
    let began = Instant::now();
    let (outcome, ()) = tokio::join!(bench.audit(AT_NOON), late);
    outcome.assert_finds(&[]);
    assert!(
        began.elapsed() < Duration::from_secs(51),
        "it is given its grace and no more: {:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_row_that_stays_away_is_reported_when_its_grace_is_over() {
    let bench = Bench::default();
    let events = counter_with(&bench.store, 1, 51).await;
    bench.project_all(&events[..50]).await;
    let began = Instant::now();
    let outcome = bench.audit(AT_NOON).await;
    let behind = |projection| format!("BEHIND {projection} 000000000001 row=50 store=51");
    outcome.assert_finds(&["counter-cards", "counter-totals", "group-totals"].map(behind));
    assert_eq!(began.elapsed().as_secs(), 50);
    // The row is not late for newer events, so they do not delay the finding.
    let began = Instant::now();
    bench.audit(How { grace: Duration::ZERO, ..AT_NOON }).await;
    assert_eq!(began.elapsed().as_secs(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_always_has_an_event_on_its_way_is_no_finding() {
    let bench = Bench::default();
    let events = counter_with(&Default::default(), 1, 60).await;
    bench.append(&events[0]).await;
    // An event every five seconds, each in its row after eight.
    let appending = async {
        for event in &events[1..] {
            sleep(Duration::from_secs(5)).await;
            bench.append(event).await;
        }
    };
    let projecting = async {
        sleep(Duration::from_secs(3)).await;
        for event in &events {
            sleep(Duration::from_secs(5)).await;
            bench.project_all(std::slice::from_ref(event)).await;
        }
    };
    let how = How { clock: at_first, ..LOOK };
    let (outcome, ..) = tokio::join!(bench.audit(how), appending, projecting);
    outcome.assert_finds(&[]);
}

#[tokio::test(start_paused = true)]
async fn an_event_from_the_future_does_not_hold_an_audit_up() {
    let bench = Bench::default();
    counter_with(&bench.store, 1, 1).await;
    let long_ago = || Timestamp::from_unix_micros(0);
    let began = Instant::now();
    let outcome = bench.audit(How { clock: long_ago, ..LOOK }).await;
    let missing = |projection| format!("MISSING {projection} 000000000001 store=1");
    outcome.assert_finds(&["counter-cards", "counter-totals", "group-totals"].map(missing));
    assert_eq!(began.elapsed(), LOOK.grace);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_wrong_is_reported_at_once() {
    let bench = Bench::default();
    let events = counter_with(&bench.store, 1, 51).await;
    bench.project_all(&events).await;
    bench.set(&cards(), &events, |update| update.to_version = 52).await;
    let began = Instant::now();
    let outcome = bench.audit(AT_NOON).await;
    outcome.assert_finds(&["AHEAD counter-cards 000000000001 row=52 store=51".to_owned()]);
    assert_eq!(began.elapsed().as_secs(), 0, "an event comes before its row, never after it");
}

#[tokio::test(start_paused = true)]
async fn a_sum_that_differs_for_a_while_is_no_finding() {
    let bench = Bench::full().await;
    let mut right = Default::default();
    bench.set_group("red", |row| right = row.clone()).await;
    bench.set_group("red", |row| drop(row.insert("Total".to_owned(), 7.into()))).await;
    let late = async {
        sleep(Duration::from_secs(45)).await;
        bench.set_group("red", |row| *row = right).await;
    };
    let (outcome, ()) = tokio::join!(bench.audit(LOOK), late);
    outcome.assert_finds(&[]);
}

#[tokio::test(start_paused = true)]
async fn a_sum_that_changes_at_each_look_is_reported_as_busy_and_left_alone() {
    let bench = Bench::full().await;
    let wrong =
        |total: i64| bench.set_group("red", move |row| drop(row.insert("Total".to_owned(), total.into())));
    wrong(0).await;
    let traffic = async {
        for total in 1..100 {
            sleep(Duration::from_secs(10)).await;
            wrong(total).await;
        }
    };
    let audit = async {
        let began = Instant::now();
        (bench.audit(REPAIR).await, began.elapsed())
    };
    let ((outcome, time), ()) = tokio::join!(audit, traffic);
    assert!(
        outcome.lines[0].starts_with(r#"BUSY group-totals tenant=acme id="red" row="#),
        "{:?}",
        outcome.lines
    );
    assert!(!outcome.lines[0].contains("repair") && outcome.lines.len() == 1 && !outcome.clean);
    assert!(time < LOOK.grace * 5, "{time:?}");
}

/// Appends events one by one, and writes each into its row a while later, yielding all the time.
async fn traffic(bench: &Bench, events: &[StoredEvent], seed: u64) {
    let mut number = seed;
    for event in events {
        bench.append(event).await;
        for turns in [number % 5, number % 7] {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            number =
                number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 3;
        }
        bench.project_all(std::slice::from_ref(event)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn live_traffic_beside_an_audit_yields_no_finding_and_nothing_to_repair() {
    for seed in 0..60 {
        let bench = Bench::default();
        let mut histories = Vec::new();
        for id in 1..=12 {
            histories.push(counter_with(&Default::default(), id, 9).await);
        }
        let live = join_all(
            histories.iter().enumerate().map(|(n, events)| traffic(&bench, events, seed + n as u64)),
        );
        let whims = Whims { gives_way: true, leaves: true, ..Whims::default() };
        let how = if seed % 2 == 0 { LOOK } else { REPAIR };
        let audit = run(
            &bench.jobs,
            Unruly::new(bench.store.clone(), whims.clone(), seed),
            Unruly::all(&bench, &whims, seed),
            How { clock: at_first, segments: 2, ..how },
        );
        let (outcome, _) = tokio::join!(audit, live);
        assert!(outcome.lines.is_empty() && outcome.clean, "seed {seed}: {:?}", outcome.lines);
        bench.assert_right().await;
    }
}
