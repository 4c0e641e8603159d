//! Audits during AWS failures, and audits that are told to end.

use std::{io, time::Duration};

use millrace_aws::AwsError;
use millrace_event_store::MemoryStore;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    super::world::{counter_with, noon},
    Bench, How, LOOK, Outcome, REPAIR, Text, at_first, audit,
    findings::spoil,
    run,
    unruly::{Unruly, Whims},
};
use crate::pace::Halt;

/// An audit of a bench with whims.
async fn whimsical(bench: &Bench, whims: Whims, seed: u64, how: How) -> Outcome {
    let events = Unruly::new(bench.store.clone(), whims.clone(), seed);
    run(&bench.jobs, events, Unruly::all(bench, &whims, seed), how).await
}

#[tokio::test]
async fn a_scan_in_any_order_and_in_any_pages_leads_to_the_same_findings() {
    for seed in 0..15 {
        let bench = Bench::full().await;
        let whims = Whims { disorder: true, ..Whims::default() };
        whimsical(&bench, whims.clone(), seed, LOOK).await.assert_finds(&[]);
        let expected = spoil(&bench).await;
        whimsical(&bench, whims.clone(), seed, LOOK).await.assert_finds(&expected);
        whimsical(&bench, whims, seed, REPAIR).await;
        bench.assert_right().await;
    }
}

#[tokio::test(start_paused = true)]
async fn throttling_and_answers_in_part_lead_to_the_same_findings() {
    let throttled = AwsError::Throttled("slow down".to_owned());
    for seed in 0..15 {
        let bench = Bench::full().await;
        let whims = Whims { fails: Some((40, throttled.clone())), leaves: true, ..Whims::default() };
        let expected = spoil(&bench).await;
        whimsical(&bench, whims.clone(), seed, LOOK).await.assert_finds(&expected);
        let outcome = whimsical(&bench, whims, seed, REPAIR).await;
        assert!(outcome.result.is_ok() && outcome.clean, "seed {seed}: {:?}", outcome.lines);
        bench.assert_right().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_ends_the_audit_within_bounds() {
    let bench = Bench::full().await;
    spoil(&bench).await;
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    for (error, most) in [
        (AwsError::Throttled("x".to_owned()), minutes(40)),
        (AwsError::Unreachable("x".to_owned()), minutes(5)),
        (AwsError::Refused("x".to_owned()), Duration::ZERO),
        (AwsError::InvalidResponse("x".to_owned()), Duration::ZERO),
    ] {
        let began = Instant::now();
        let whims = Whims { fails: Some((100, error.clone())), ..Whims::default() };
        let outcome = whimsical(&bench, whims, 1, REPAIR).await;
        assert!(matches!(outcome.result, Err(Halt::Aws(..))), "{:?}", outcome.result);
        assert!(outcome.summary.contains("complete=no"), "{}", outcome.summary);
        assert!(began.elapsed() <= most, "{error}: {:?}", began.elapsed());
    }
    let began = Instant::now();
    let outcome = whimsical(&bench, Whims { leaves_all: true, ..Whims::default() }, 1, LOOK).await;
    assert!(matches!(outcome.result, Err(Halt::Aws(_, AwsError::Throttled(_)))), "{:?}", outcome.result);
    assert!(began.elapsed() <= minutes(20));
}

#[tokio::test(start_paused = true)]
async fn of_rows_in_question_there_are_only_so_many_and_the_readers_wait() {
    const COUNTERS: u128 = 1_000;
    let bench = Bench::default();
    let template = counter_with(&Default::default(), 1, 1).await.remove(0);
    for id in 1..=COUNTERS {
        let mut event = template.clone();
        event.envelope.aggregate_id = uuid::Uuid::from_u128(id);
        bench.append(&event).await;
    }
    let how = How { clock: at_first, ..LOOK };
    let stop = CancellationToken::new();
    let audit = audit(&bench.jobs, bench.store.clone(), bench.all_rows(), how, &stop, Text::default()).await;
    let watch = async {
        sleep(how.grace / 2).await;
        audit.report().tally.status()
    };
    let (result, status) = tokio::join!(audit.run(), watch);
    result.unwrap();
    let waiting: u64 = status.split(", ").last().unwrap().trim_end_matches(" in question").parse().unwrap();
    // Each reader holds one more that it could not hand on, and one is in between.
    assert!((1_000..=1_005).contains(&waiting), "{status}");
    assert!(
        audit.report().tally.status().contains("3000 findings, 0 in question"),
        "{}",
        audit.report().tally.status()
    );
}

#[tokio::test(start_paused = true)]
async fn an_audit_takes_no_more_read_units_a_second_than_it_was_told() {
    let bench = Bench::full().await;
    let began = Instant::now();
    bench.audit(LOOK).await.assert_finds(&[]);
    assert_eq!(began.elapsed(), Duration::ZERO);
    let began = Instant::now();
    let outcome = bench.audit(How { rate: Some(2), ..LOOK }).await;
    outcome.assert_finds(&[]);
    let (_, units) = outcome.summary.split_once("read_units=").unwrap();
    let units: f64 = units.split(' ').next().unwrap().parse().unwrap();
    assert!(units > 50.0, "{}", outcome.summary);
    // Nobody waits for the units of the last call; each reader may have taken one at the same moment.
    let least = Duration::from_secs_f64((units - 4.0) / 2.0);
    assert!(began.elapsed() >= least && began.elapsed() <= least * 2, "{units} in {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_audit_that_is_told_to_end_does_so_and_says_that_it_is_not_complete() {
    let bench = Bench::default();
    counter_with(&bench.store, 1, 51).await;
    let stop = CancellationToken::new();
    let how = How { clock: noon, ..LOOK };
    let audit = audit(&bench.jobs, bench.store.clone(), bench.all_rows(), how, &stop, Text::default()).await;
    let told = async {
        sleep(Duration::from_secs(20)).await;
        stop.cancel();
    };
    let began = Instant::now();
    let (result, ()) = tokio::join!(audit.run(), told);
    assert!(matches!(result, Err(Halt::Told)), "{result:?}");
    assert_eq!(began.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn where_one_part_fails_the_others_do_not_wait() {
    let bench = Bench::default();
    // A row that is given time, and another that cannot be read.
    counter_with(&bench.store, 1, 1).await;
    let refused = Whims { fails: Some((100, AwsError::Refused("no".to_owned()))), ..Whims::default() };
    let cards = Unruly::new(bench.cards.clone(), refused, 1);
    let how = How { clock: at_first, segments: 1, ..LOOK };
    let began = Instant::now();
    let rows = (cards, bench.totals.clone(), bench.groups.clone());
    let outcome = run(&bench.jobs, bench.store.clone(), rows, how).await;
    assert!(matches!(outcome.result, Err(Halt::Aws(_, AwsError::Refused(_)))), "{:?}", outcome.result);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

/// A writer without a reader.
struct Closed;

impl io::Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_audit_whose_report_nobody_takes_ends() {
    let bench = Bench::full().await;
    spoil(&bench).await;
    let stop = CancellationToken::new();
    let audit: super::Audit<MemoryStore> =
        audit(&bench.jobs, bench.store.clone(), Bench::default().all_rows(), LOOK, &stop, Closed).await;
    assert!(matches!(audit.run().await, Err(Halt::Report(_))));
    assert!(!stop.is_cancelled(), "only its own parts are told to end");
}
