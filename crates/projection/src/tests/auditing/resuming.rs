//! Runs that are killed and go on, audits of recent changes, and what a run holds in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use millrace_aws::{AwsError, Place as _, Segment};
use millrace_core::{StreamId, TenantId, Timestamp};
use millrace_event_store::{
    Begun, IndexRange, MemoryPlace, MemoryStore, Page, ReadEvents, ScanEvents, Scanned, StoredEvent, Touched,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    super::{
        app::cards,
        world::{counter_of, counter_with, history, noon, open},
    },
    Bench, How, LOOK, Outcome, REPAIR, Text, asked, at_first, audit,
    findings::spoil,
    later, put, run,
};
use crate::{
    audit::{Planned, Since, plan},
    jobs::LEASE,
    pace::{Halt, Pace},
};

/// Recent changes: those since an hour before the last complete audit.
const RECENT: How = How { recent: Some(Since::Before(Duration::from_secs(3_600))), ..LOOK };

/// A store that is watched, and whose process is killed after some calls.
#[derive(Clone)]
struct Mortal {
    inner: MemoryStore,
    /// How many calls are left.
    left: Arc<AtomicI64>,
    killed: CancellationToken,
    /// How often each page was read.
    pages: Arc<Mutex<BTreeMap<String, u32>>>,
    /// How many pages of the store are one.
    wide: usize,
}

impl Mortal {
    fn new(inner: MemoryStore) -> Self {
        let left = Arc::new(AtomicI64::new(i64::MAX));
        Self { inner, left, killed: CancellationToken::new(), pages: Arc::default(), wide: 1 }
    }

    /// The same store, for a process that is killed in the call after so many.
    fn for_calls(&self, calls: i64) -> Self {
        let left = Arc::new(AtomicI64::new(calls));
        Self { left, killed: CancellationToken::new(), ..self.clone() }
    }

    async fn call(&self) {
        tokio::task::yield_now().await;
        if self.left.fetch_sub(1, Relaxed) <= 0 {
            self.killed.cancel();
            pending::<()>().await;
        }
    }

    async fn page(&self, of: String, from: Option<&MemoryPlace>) {
        self.call().await;
        let page = format!("{of} {}", from.map(MemoryPlace::to_text).unwrap_or_default());
        *self.pages.lock().unwrap().entry(page).or_default() += 1;
    }
}

impl ReadEvents for Mortal {
    async fn page(&self, stream: &StreamId, after: u64, limit: u16) -> Result<Page, AwsError> {
        self.inner.page(stream, after, limit).await
    }
}

impl ScanEvents for Mortal {
    type Place = MemoryPlace;

    async fn scan(
        &self,
        segment: Segment,
        from: Option<&MemoryPlace>,
    ) -> Result<Scanned<MemoryPlace>, AwsError> {
        self.page(format!("scan {}", segment.number), from).await;
        let mut page = self.inner.scan(segment, from).await?;
        for _ in 1..self.wide {
            if page.next.is_none() {
                break;
            }
            let more = self.inner.scan(segment, page.next.as_ref()).await?;
            page.items.extend(more.items);
            page.next = more.next;
        }
        Ok(page)
    }

    async fn look(
        &self,
        stream: &StreamId,
        from: Option<&MemoryPlace>,
    ) -> Result<Scanned<MemoryPlace>, AwsError> {
        self.call().await;
        self.inner.look(stream, from).await
    }

    async fn touched(
        &self,
        range: &IndexRange,
        from: Option<&MemoryPlace>,
    ) -> Result<Touched<MemoryPlace>, AwsError> {
        let IndexRange { tenant, event_type, shard, .. } = range;
        self.page(format!("index {tenant} {event_type} {}", shard.number), from).await;
        self.inner.touched(range, from).await
    }

    async fn begun(&self, streams: &[StreamId]) -> Result<Begun, AwsError> {
        self.call().await;
        self.inner.begun(streams).await
    }

    async fn count(&self) -> Result<u64, AwsError> {
        self.inner.count().await
    }
}

/// The facts of a summary that do not depend on how often a run was killed.
fn facts(summary: &str) -> String {
    summary.split(" most_held=").next().unwrap().to_owned()
}

/// Runs an audit whose process is killed after so many calls, and again, until it is complete. Returns how often it was
/// killed, the lines of all processes, and the last summary.
async fn killed(bench: &Bench, store: &Mortal, calls: i64, how: How) -> (u32, Vec<String>, String) {
    let mut lines = Vec::new();
    for kills in 0..1_000 {
        let (store, written) = (store.for_calls(calls), Text::default());
        let stop = CancellationToken::new();
        let audit = audit(&bench.jobs, store.clone(), bench.all_rows(), how, &stop, written.clone()).await;
        let ended = tokio::select! {
            biased;
            () = store.killed.cancelled() => None,
            ended = audit.run() => Some(ended),
        };
        if ended.is_some() {
            audit.report().summary(true, &[].into(), Duration::ZERO).unwrap();
        }
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        lines.extend(text.lines().map(str::to_owned));
        if let Some(ended) = ended {
            ended.unwrap();
            lines.pop();
            let summary = lines.pop().unwrap();
            return (kills, lines, summary);
        }
    }
    panic!("an audit that never ends");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_killed_anywhere_goes_on_and_repeats_no_page_but_those_in_flight() {
    let (mut most_kills, segments) = (0, LOOK.segments);
    // Fewer would not be enough to look at the suspects of a page.
    for calls in (24..64).step_by(4) {
        let bench = Bench::full().await;
        let expected = spoil(&bench).await;
        let store = Mortal::new(bench.store.clone());
        let whole = run(&Default::default(), store.clone(), bench.all_rows(), LOOK).await;
        whole.assert_finds(&expected);
        let pages = std::mem::take(&mut *store.pages.lock().unwrap());

        let (kills, lines, summary) = killed(&bench, &store, calls, LOOK).await;
        let again: u32 = store.pages.lock().unwrap().values().map(|times| times - 1).sum();
        assert!(again <= kills * segments, "{again} pages again after {kills} kills");
        assert!(store.pages.lock().unwrap().keys().eq(pages.keys()), "each page, and no other");
        // A finding is told before it is counted, so it may be told twice, but it is counted once.
        for line in &expected {
            let tail = line.split(' ').skip(2).collect::<Vec<_>>().join(" ");
            assert!(lines.iter().any(|told| told.ends_with(&tail)), "{line} is not told: {lines:#?}");
        }
        assert_eq!(facts(&summary), facts(&whole.summary), "after {kills} kills");
        most_kills = most_kills.max(kills);
    }
    assert!(most_kills >= 5, "{most_kills}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_goes_on_over_an_empty_store_deletes_no_row() {
    for calls in (4..200).step_by(8) {
        let bench = Bench::full().await;
        let killed = Mortal::new(bench.store.clone()).for_calls(calls);
        let stop = CancellationToken::new();
        let first =
            audit(&bench.jobs, killed.clone(), bench.all_rows(), REPAIR, &stop, Text::default()).await;
        tokio::select! {
            biased;
            () = killed.killed.cancelled() => {}
            ended = first.run() => ended.unwrap(),
        }
        run(&bench.jobs, MemoryStore::default(), bench.all_rows(), REPAIR).await;
        bench.assert_right().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_told_to_end_goes_on_at_once() {
    let bench = Bench::full().await;
    let expected = spoil(&bench).await;
    let store = Mortal::new(bench.store.clone());
    for _ in 0..3 {
        const MANY: i64 = 1_000_000;
        let stop = CancellationToken::new();
        let store = store.for_calls(MANY);
        let audit = audit(&bench.jobs, store.clone(), bench.all_rows(), LOOK, &stop, Text::default()).await;
        let told = async {
            while store.left.load(Relaxed) > MANY - 12 {
                tokio::task::yield_now().await;
            }
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(audit.run(), told);
        assert!(matches!(ended, Err(Halt::Told)), "{ended:?}");
    }
    let began = Instant::now();
    let outcome = run(&bench.jobs, store.clone(), bench.all_rows(), LOOK).await;
    assert!(outcome.result.is_ok() && began.elapsed() < LEASE, "nobody holds it");
    assert!(outcome.summary.contains(&format!(" left={} ", expected.len())), "{}", outcome.summary);
    let again: u32 = store.pages.lock().unwrap().values().map(|times| times - 1).sum();
    assert!(again <= 3 * LOOK.segments, "{again}");
}

#[tokio::test(start_paused = true)]
async fn a_second_auditor_is_refused_while_the_first_lives_and_goes_on_when_it_is_dead() {
    let bench = Bench::default();
    // A row that is given time.
    counter_with(&bench.store, 1, 1).await;
    let how = How { clock: at_first, ..LOOK };
    let stop = CancellationToken::new();
    let first = audit(&bench.jobs, bench.store.clone(), bench.all_rows(), how, &stop, Text::default()).await;
    let second = async || {
        let pace = Pace::new(CancellationToken::new(), None, || 0.5);
        plan(Arc::new(bench.jobs.clone()), &asked(how), "second", later(), &pace).await
    };
    let refused = tokio::select! {
        ended = first.run() => panic!("it is given time: {ended:?}"),
        refused = second() => refused,
    };
    assert!(matches!(refused, Err(Halt::Held(_))), "a living one holds it");
    // The first one is dropped by now, as by SIGKILL.
    let began = Instant::now();
    assert!(matches!(second().await, Ok(Planned::Run(_))));
    assert!((LEASE..LEASE * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    // It comes back to life, and finds that it was given up.
    assert!(matches!(first.run().await, Err(Halt::TakenOver)));
}

/// A complete audit, and then an event and a wrong row for each of two counters: one with the event since, one without.
async fn changed_since(bench: &Bench) -> [String; 2] {
    assert!(bench.audit(LOOK).await.clean);
    let mut since = bench.events(3);
    let mut event = since.last().unwrap().clone();
    event.envelope.version += 1;
    event.envelope.timestamp = Timestamp::from_unix_micros(noon().unix_micros() + 60_000_000);
    event.envelope.event_id = millrace_core::EventId(Uuid::from_u128(77));
    bench.append(&event).await;
    bench.project_all(std::slice::from_ref(&event)).await;
    since.push(event);
    bench.set(&cards(), &since, put("Name", "Joe")).await;
    bench.set(&cards(), &bench.events(8), put("Name", "Joe")).await;
    [
        "DIFFERENT counter-cards 000000000003 row=5 store=5 attributes=Name".to_owned(),
        "DIFFERENT counter-cards 000000000008 row=9 store=9 attributes=Name".to_owned(),
    ]
}

#[tokio::test(start_paused = true)]
async fn recent_changes_are_compared_and_older_ones_by_a_whole_audit() {
    let bench = Bench::full().await;
    let [new, old] = changed_since(&bench).await;
    let requests = bench.store.requests();
    bench.audit(RECENT).await.assert_finds(std::slice::from_ref(&new));
    let recent = bench.store.requests() - requests;
    bench.audit(LOOK).await.assert_finds(&[new.clone(), old.clone()]);
    let whole = bench.store.requests() - requests - recent;
    // One of forty counters has changed. Each type and shard is asked for, whatever has changed.
    assert!(recent < 25 && whole > 40, "{recent} requests, and {whole}");
    // A complete audit found them, so they are no longer recent.
    let much_later = || Timestamp::from_unix_micros(later().unix_micros() + 7_200_000_000);
    bench.audit(How { clock: much_later, ..LOOK }).await.assert_finds(&[new.clone(), old]);
    bench.audit(How { clock: much_later, ..RECENT }).await.assert_finds(&[]);
    let since = How { recent: Some(Since::Time(noon())), ..LOOK };
    bench.audit(since).await.assert_finds(std::slice::from_ref(&new));
    bench.audit(How { repair: true, ..since }).await.assert_finds(&[format!("{new} repair=replaced")]);
    bench.audit(since).await.assert_finds(&[]);
}

#[tokio::test(start_paused = true)]
async fn a_sum_is_compared_where_one_of_its_aggregates_has_changed() {
    let bench = Bench::full().await;
    let [new, _] = changed_since(&bench).await;
    // Counter 3 is in the red group.
    for group in ["red", "blue"] {
        bench.set_group(group, |row| drop(row.insert("Total".to_owned(), 7.into()))).await;
    }
    let outcome = bench.audit(RECENT).await;
    assert_eq!(outcome.lines.len(), 2, "{:?}", outcome.lines);
    assert!(outcome.lines.contains(&new));
    assert!(outcome.lines.iter().any(|line| line.contains(r#"id="red""#)), "{:?}", outcome.lines);
}

#[tokio::test(start_paused = true)]
async fn an_audit_of_recent_changes_that_is_killed_anywhere_goes_on() {
    // Fewer would not be enough to read the aggregates of a page.
    for calls in [45, 60, 75] {
        let bench = Bench::full().await;
        let [new, _] = changed_since(&bench).await;
        let store = Mortal::new(bench.store.clone());
        let since = How { recent: Some(Since::Time(at_first())), ..LOOK };
        let whole = run(&bench.jobs, store.clone(), bench.all_rows(), since).await;
        assert!(whole.lines.contains(&new) && whole.lines.len() == 2, "{:?}", whole.lines);
        store.pages.lock().unwrap().clear();
        let (kills, lines, summary) = killed(&bench, &store, calls, since).await;
        assert!(kills > 0 && lines.iter().any(|line| line.contains("DIFFERENT")), "{kills} {lines:?}");
        // An aggregate that is met again under another type of event is compared again.
        assert!(!summary.contains(" different=0 ") && !summary.contains(" left=0 "), "{summary}");
        let told: BTreeSet<_> = lines.iter().collect();
        assert_eq!(told.len(), 2, "{told:?}");
        // Pages that show nothing are not written down one by one.
        let pages = store.pages.lock().unwrap();
        let again: u32 = pages.values().map(|times| times - 1).sum();
        assert!(again <= kills * since.segments * 6, "{again} after {kills} kills");
    }
}

#[tokio::test(start_paused = true)]
async fn recent_changes_need_a_complete_audit_and_its_tenants() {
    let bench = Bench::full().await;
    let pace = Pace::new(CancellationToken::new(), None, || 0.5);
    let planned = plan(Arc::new(bench.jobs.clone()), &asked(RECENT), "me", later(), &pace).await.err();
    assert!(matches!(planned, Some(Halt::Lacking(_))), "{planned:?}");
    let since = How { recent: Some(Since::Time(at_first())), ..LOOK };
    let planned = plan(Arc::new(bench.jobs.clone()), &asked(since), "me", later(), &pace).await.err();
    assert!(matches!(planned, Some(Halt::Lacking(_))), "no tenant is known: {planned:?}");
    let began = Instant::now();
    assert!(bench.audit(LOOK).await.clean);
    // A tenant that began since, and whose rows were lost.
    let stream = counter_of("newcomer", 1);
    history(&bench.store, &stream, &[open("red")]).await;
    bench.audit(since).await.assert_finds(&[]);
    let newcomer: TenantId = "newcomer".parse().unwrap();
    let named = super::Asked { tenants: vec![newcomer], ..asked(RECENT) };
    plan(Arc::new(bench.jobs.clone()), &named, "me", later(), &pace).await.ok().unwrap();
    let outcome = bench.audit(since).await;
    assert_eq!(outcome.lines.len(), 3, "{:?}", outcome.lines);
    assert!(outcome.lines.iter().all(|line| line.starts_with("MISSING")), "{:?}", outcome.lines);
    assert!(began.elapsed() < LEASE);
}

#[tokio::test(start_paused = true)]
async fn a_run_is_due_again_after_its_days_and_one_asked_for_anew_begins_at_once() {
    let bench = Bench::full().await;
    let pace = Pace::new(CancellationToken::new(), None, || 0.5);
    let day = Duration::from_secs(24 * 60 * 60);
    let planned_of = async |projections: &[&str], days: u64, every: u32, anew: bool| {
        let now = Timestamp::from_unix_micros(
            later().unix_micros() + i64::try_from(days).unwrap() * 86_400_000_000,
        );
        let mut asked = super::Asked { every: Some(day * every), anew, ..asked(LOOK) };
        asked.projections.extend(projections.iter().map(|name| (*name).to_owned()));
        match plan(Arc::new(bench.jobs.clone()), &asked, "me", now, &pace).await.unwrap() {
            Planned::Run(progress) => Some(progress.run().began),
            Planned::NotDue(_) => None,
        }
    };
    let planned = async |days, every, anew| planned_of(&[], days, every, anew).await;
    assert!(bench.audit(LOOK).await.clean);
    assert_eq!(planned(6, 7, false).await, None);
    assert!(planned_of(&["new@1"], 6, 7, false).await.is_some(), "of other projections nothing is known");
    let begun = planned(8, 7, false).await;
    assert!(begun.is_some());
    assert_eq!(planned(9, 30, false).await, begun, "one that has not ended goes on");
    assert!(planned(10, 30, true).await > begun);
}

/// An audit of many cards, of which so many in a hundred are missing.
async fn most_held(aggregates: u128, missing: u128) -> (u64, Outcome) {
    let bench = Bench::default();
    let template = counter_with(&Default::default(), 1, 1).await.remove(0);
    let event = |id| {
        let mut event: StoredEvent = template.clone();
        event.envelope.aggregate_id = Uuid::from_u128(id);
        event
    };
    for id in 1..=aggregates {
        let event = event(id);
        bench.append(&event).await;
        if id % 100 >= missing {
            bench.project(&cards(), std::slice::from_ref(&event)).await;
        }
    }
    // Pages of about 1,400 events, as on DynamoDB.
    let store = Mortal { wide: 200, ..Mortal::new(bench.store.clone()) };
    let stop = CancellationToken::new();
    let how = How { clock: at_first, ..LOOK };
    let audit = super::audit_of_cards(&bench.jobs, store, bench.cards.clone(), how, &stop).await;
    let result = audit.run().await;
    let summary = audit.report().tally.status();
    (audit.report().tally.most_held(), Outcome { result, lines: vec![], clean: false, summary })
}

#[tokio::test(start_paused = true)]
async fn memory_does_not_grow_with_the_number_of_aggregates() {
    // Folds: a hundred a segment and projection, and the current one. Suspects: a thousand, one a reader, and one between.
    let bound = u64::from(LOOK.segments) * 101 + 1_000 + u64::from(LOOK.segments) + 1;
    for (aggregates, missing) in [(2_000, 50), (20_000, 1)] {
        let (held, outcome) = most_held(aggregates, missing).await;
        outcome.result.unwrap();
        let findings = aggregates * missing / 100;
        assert!(
            outcome.summary.contains(&format!("{findings} findings, 0 in question")),
            "{}",
            outcome.summary
        );
        assert!(held >= 100 && held <= bound, "{held} folds and suspects of {aggregates} aggregates");
    }
}
