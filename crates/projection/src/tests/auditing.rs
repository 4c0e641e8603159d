//! Audits of rows and a store in memory.

mod findings;
mod hardship;
mod live;
mod repairs;
mod resuming;
mod unruly;

use std::{
    io,
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};

use millrace_core::{
    EventCodec as _, Timestamp,
    projection::{ProjectionKind, ProjectionSpec, RowChange, RowUpdate},
    row::{Attributes, RowKey},
};
use millrace_event_store::{MemoryStore, ScanEvents, StoredEvent};
use millrace_rows::{AuditRows, MemoryRows, WriteOutcome, WriteRows as _};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    app::{Event, app, cards, groups, totals},
    world::{assert_rows, counter, counter_with, noon},
};
use crate::{
    apply::{merge, update_of_stored},
    audit::{Asked, Audit, Format, Index, Planned, Report, Screen, Settings, Since, plan},
    jobs::MemoryJobs,
    pace::{Halt, Pace},
};

/// Counters, and rows of them under each projection.
#[derive(Clone)]
struct Bench {
    store: MemoryStore,
    cards: MemoryRows,
    totals: MemoryRows,
    groups: MemoryRows,
    jobs: MemoryJobs,
}

impl Default for Bench {
    fn default() -> Self {
        Self {
            store: MemoryStore::default(),
            cards: MemoryRows::new(&cards()),
            totals: MemoryRows::new(&totals()),
            groups: MemoryRows::new(&groups()),
            jobs: MemoryJobs::default(),
        }
    }
}

/// The outcome of an audit.
struct Outcome {
    result: Result<(), Halt>,
    /// The findings, a line each, in no order.
    lines: Vec<String>,
    clean: bool,
    summary: String,
}

/// The settings of an audit.
#[derive(Clone, Copy)]
struct How {
    segments: u32,
    repair: bool,
    grace: Duration,
    rate: Option<u32>,
    format: Format,
    clock: fn() -> Timestamp,
    recent: Option<Since>,
}

/// A time long after all events.
fn later() -> Timestamp {
    Timestamp::from_unix_micros(noon().unix_micros() + 3_600_000_000)
}

/// When the first event of each history happens.
fn at_first() -> Timestamp {
    Timestamp::from_unix_micros(noon().unix_micros() - 60_000_000)
}

const LOOK: How = How {
    segments: 4,
    repair: false,
    grace: Duration::from_secs(60),
    rate: None,
    format: Format::Plain,
    clock: later,
    recent: None,
};

const REPAIR: How = How { repair: true, ..LOOK };

/// Text with a writer and a reader.
#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Outcome {
    /// Fails unless exactly these findings were reported. The lines lack the part common to all: the projection and the
    /// tenant.
    #[track_caller]
    fn assert_finds(&self, expected: &[String]) {
        assert!(self.result.is_ok(), "{:?}", self.result);
        let mut expected = expected.to_vec();
        expected.sort();
        assert_eq!(self.lines, expected);
    }
}

/// What an audit is asked for.
fn asked(how: How) -> Asked {
    Asked {
        projections: app().projections().iter().map(|spec| spec.name.to_string()).collect(),
        choice: None,
        segments: NonZeroU32::new(how.segments).unwrap(),
        repair: how.repair,
        recent: how.recent,
        anew: false,
        every: None,
        tenants: Vec::new(),
    }
}

/// An audit of no projection yet. Where its clock shows noon, that is the time of this call.
async fn bare<E: ScanEvents>(
    jobs: &MemoryJobs,
    events: E,
    how: How,
    stop: &CancellationToken,
    out: impl io::Write + Send + 'static,
) -> Audit<E> {
    let (began, clock) = (Instant::now(), how.clock);
    let clock = move || {
        let passed = i64::try_from(began.elapsed().as_micros()).unwrap();
        Timestamp::from_unix_micros(clock().unix_micros() + passed)
    };
    let pace = Pace::new(stop.child_token(), how.rate, || 0.5);
    let planned =
        plan(Arc::new(jobs.clone()), &asked(how), &Uuid::new_v4().to_string(), clock(), &pace).await;
    let Planned::Run(progress) = planned.unwrap() else { panic!("a run that is not due") };
    let index = Index { shards: NonZeroU32::new(3).unwrap(), event_types: Event::EVENT_TYPES.to_vec() };
    let settings = Settings {
        grace: how.grace,
        repair: how.repair,
        index: how.recent.map(|_| index),
        clock: Box::new(clock),
    };
    Audit::new(events, settings, pace, Report::new(how.format, Screen::Lines, Box::new(out)), *progress)
}

/// An audit of all projections, not yet run.
async fn audit<E, C, T, G>(
    jobs: &MemoryJobs,
    events: E,
    rows: (C, T, G),
    how: How,
    stop: &CancellationToken,
    out: impl io::Write + Send + 'static,
) -> Audit<E>
where
    E: ScanEvents,
    C: AuditRows,
    T: AuditRows,
    G: AuditRows,
{
    let (cards_rows, totals_rows, groups_rows) = rows;
    bare(jobs, events, how, stop, out)
        .await
        .of(cards(), "counter-cards", cards_rows)
        .of(totals(), "counter-totals", totals_rows)
        .of(groups(), "group-totals", groups_rows)
}

/// An audit of cards alone, whose report nobody reads.
async fn audit_of_cards<E: ScanEvents>(
    jobs: &MemoryJobs,
    events: E,
    rows: MemoryRows,
    how: How,
    stop: &CancellationToken,
) -> Audit<E> {
    bare(jobs, events, how, stop, io::sink()).await.of(cards(), "counter-cards", rows)
}

/// Runs an audit to its end.
async fn run<E, C, T, G>(jobs: &MemoryJobs, events: E, rows: (C, T, G), how: How) -> Outcome
where
    E: ScanEvents,
    C: AuditRows,
    T: AuditRows,
    G: AuditRows,
{
    let written = Text::default();
    let audit = audit(jobs, events, rows, how, &CancellationToken::new(), written.clone()).await;
    let result = audit.run().await;
    audit.report().summary(result.is_ok(), &[].into(), Duration::ZERO).unwrap();
    let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    let (summaries, mut lines): (Vec<_>, Vec<_>) = text
        .lines()
        .map(|line| {
            line.replace("projection=", "").replace(" tenant=acme aggregate=00000000-0000-0000-0000-", " ")
        })
        .partition(|line| {
            line.starts_with("SUMMARY") || line.starts_with("REQUESTS") || line.contains("summary")
        });
    lines.sort();
    Outcome { result, lines, clean: audit.report().tally.is_clean(), summary: summaries[0].clone() }
}

impl Bench {
    /// Forty counters of 1 to 12 events, ids 1 to 40, in three groups; all of them in their rows.
    async fn full() -> Self {
        let bench = Self::default();
        for n in 1..=40 {
            let events = 1 + usize::try_from(n).unwrap() % 12;
            let events = counter_with(&bench.store, n, events).await;
            bench.project_all(&events).await;
        }
        bench
    }

    fn all_rows(&self) -> (MemoryRows, MemoryRows, MemoryRows) {
        (self.cards.clone(), self.totals.clone(), self.groups.clone())
    }

    fn rows(&self, spec: &ProjectionSpec) -> &MemoryRows {
        match spec.kind {
            ProjectionKind::Blind => &self.cards,
            ProjectionKind::Fold => &self.totals,
            ProjectionKind::Aggregating(_) => &self.groups,
        }
    }

    /// Stores an event as it is.
    async fn append(&self, event: &StoredEvent) {
        super::world::append(&self.store, event).await;
    }

    /// Writes events that follow each other into their row.
    async fn project(&self, spec: &ProjectionSpec, events: &[StoredEvent]) {
        for event in events {
            let update = update_of_stored(spec, event).unwrap();
            assert_eq!(self.rows(spec).write(&update).await.unwrap(), WriteOutcome::Applied);
        }
    }

    /// Writes events that follow each other into their rows under each projection.
    async fn project_all(&self, events: &[StoredEvent]) {
        for spec in app().projections() {
            self.project(spec, events).await;
        }
    }

    /// Replaces a row by the fold of some events, after a change by hand.
    async fn set(&self, spec: &ProjectionSpec, events: &[StoredEvent], alter: impl FnOnce(&mut RowUpdate)) {
        let mut whole = whole(spec, events);
        let rows = self.rows(spec);
        let row = rows.rows(&[whole.stream.clone()]).await.unwrap().found.remove(0).1;
        alter(&mut whole);
        assert!(rows.replace(&row, &whole).await.unwrap());
    }

    /// Deletes a row.
    async fn delete(&self, spec: &ProjectionSpec, id: u128) {
        let rows = self.rows(spec);
        let row = rows.rows(&[counter(id)]).await.unwrap().found.remove(0).1;
        assert!(rows.delete(&row).await.unwrap());
    }

    /// Changes a group's row.
    async fn set_group(&self, group: &str, alter: impl FnOnce(&mut Attributes)) {
        let key = RowKey { tenant: "acme".parse().unwrap(), id: group.to_owned() };
        let mut sum = self.groups.sum(&key).await.unwrap();
        alter(&mut sum.expected);
        assert!(self.groups.replace_sum(&sum).await.unwrap());
    }

    /// The events of a counter.
    fn events(&self, id: u128) -> Vec<StoredEvent> {
        let stream = counter(id);
        let mut events = self.store.all();
        events.retain(|event| event.envelope.stream() == stream);
        events
    }

    async fn audit(&self, how: How) -> Outcome {
        run(&self.jobs, self.store.clone(), self.all_rows(), how).await
    }

    /// Fails unless every row is the fold of its events, and there is no other.
    async fn assert_right(&self) {
        let mut streams: Vec<_> = self.store.all().iter().map(|event| event.envelope.stream()).collect();
        streams.sort();
        streams.dedup();
        let histories: Vec<_> = streams.iter().map(|stream| self.events(stream.id.as_u128())).collect();
        for spec in app().projections() {
            assert_rows(spec, self.rows(spec), histories.iter().map(Vec::as_slice)).await;
        }
    }
}

/// The fold of events that follow each other, from the first one on.
fn whole(spec: &ProjectionSpec, events: &[StoredEvent]) -> RowUpdate {
    let mut updates = events.iter().map(|event| update_of_stored(spec, event).unwrap());
    let first = updates.next().unwrap();
    updates.fold(first, |whole, update| merge(whole, update).unwrap())
}

/// Another value for an attribute of the row that an update leaves.
fn put(attribute: &str, value: impl Into<Value>) -> impl FnOnce(&mut RowUpdate) {
    let value = value.into();
    move |update| match &mut update.change {
        RowChange::Put(attributes) => drop(attributes.insert(attribute.to_owned(), value)),
        RowChange::Set(_) | RowChange::Fold(_) => panic!("no whole row"),
    }
}
