//! Audits of rows and a store in memory.

mod findings;
mod hardship;
mod live;
mod repairs;
mod unruly;

use std::{
    io,
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};

use millrace_domain::{
    StreamId, Timestamp,
    order::{Order, OrderCommand, OrderStatus},
};
use millrace_event_store::{AppendEvents as _, Commit, MemoryStore, ScanEvents, StoredEvent};
use millrace_read_models::{
    AuditRows, Change, MemoryOrders, MemoryUsers, OrderChange, UserChange, WriteRows as _, Written,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::world::{Known, create_order, history, noon, stream_of, user_with};
use crate::{
    Orders, Users,
    apply::stored,
    audit::{Audit, Format, Report, Screen, Settings},
    pace::{Halt, Pace},
    projection::Projection,
};

/// Users and orders, and rows of them.
#[derive(Clone, Default)]
struct Bench {
    store: MemoryStore,
    users: MemoryUsers,
    orders: MemoryOrders,
}

/// What an audit came to.
struct Outcome {
    result: Result<(), Halt>,
    /// The findings, a line each, in no order.
    lines: Vec<String>,
    clean: bool,
    summary: String,
}

/// How an audit is to be made.
#[derive(Clone, Copy)]
struct How {
    segments: u32,
    repair: bool,
    grace: Duration,
    rate: Option<u32>,
    format: Format,
    clock: fn() -> Timestamp,
}

/// Long after everything that happened.
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
};

const REPAIR: How = How { repair: true, ..LOOK };

/// Text that is written by one and read by another.
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
    /// Fails unless exactly these findings were reported: lines without what every line says, which is the projection
    /// and the tenant.
    #[track_caller]
    fn assert_finds(&self, expected: &[String]) {
        assert!(self.result.is_ok(), "{:?}", self.result);
        let mut expected = expected.to_vec();
        expected.sort();
        assert_eq!(self.lines, expected);
    }
}

/// An audit, not yet run, with the time at which it was made for noon where its clock says so.
fn audit<E, U, O>(
    events: E,
    users: U,
    orders: O,
    how: How,
    stop: &CancellationToken,
    out: impl io::Write + Send + 'static,
) -> Audit<E>
where
    E: ScanEvents,
    U: AuditRows<UserChange>,
    O: AuditRows<OrderChange>,
{
    let (began, clock) = (Instant::now(), how.clock);
    let clock = move || {
        let passed = i64::try_from(began.elapsed().as_micros()).unwrap();
        Timestamp::from_unix_micros(clock().unix_micros() + passed)
    };
    let settings = Settings {
        segments: NonZeroU32::new(how.segments).unwrap(),
        grace: how.grace,
        repair: how.repair,
        clock: Box::new(clock),
    };
    let pace = Pace::new(stop.child_token(), how.rate, || 0.5);
    Audit::new(events, settings, pace, Report::new(how.format, Screen::Lines, Box::new(out)))
        .of::<Users, _>(users)
        .of::<Orders, _>(orders)
}

/// Runs an audit to its end.
async fn run<E, U, O>(events: E, users: U, orders: O, how: How) -> Outcome
where
    E: ScanEvents,
    U: AuditRows<UserChange>,
    O: AuditRows<OrderChange>,
{
    let written = Text::default();
    let audit = audit(events, users, orders, how, &CancellationToken::new(), written.clone());
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
    /// Forty users of 1 to 12 events, ids 1 to 40, and as many orders, ids 101 to 140; all of them in their rows.
    async fn full() -> Self {
        let bench = Self::default();
        for n in 1..=40 {
            let events = 1 + usize::try_from(n).unwrap() % 12;
            bench.project::<Users>(&user_with(&bench.store, n, events).await).await;
            bench.project::<Orders>(&bench.order(100 + n, events).await).await;
        }
        bench
    }

    /// Stores an order of so many events; it has four at most.
    async fn order(&self, id: u128, events: usize) -> Vec<StoredEvent> {
        let stream = stream_of::<Orders>(id);
        let steps = [OrderStatus::Processing, OrderStatus::Shipped, OrderStatus::Delivered];
        let steps = steps.map(|status| OrderCommand::UpdateOrderStatus { status });
        let commands: Vec<_> = [create_order(&stream, 2)].into_iter().chain(steps).take(events).collect();
        history::<Order>(&self.store, &stream, &commands).await
    }

    /// Stores an event as it is.
    async fn append(&self, event: &StoredEvent) {
        let commit = Commit { events: vec![event.clone()], claims: vec![], releases: vec![] };
        self.store.append(&commit).await.unwrap();
    }

    /// Writes events that follow each other into their row.
    async fn project<P: OnBench>(&self, events: &[StoredEvent]) {
        for event in events {
            let change = stored::<P>(event).unwrap();
            assert_eq!(P::rows(self).write(&change).await.unwrap(), Written::Applied);
        }
    }

    /// Puts a row in the place of the one that is there, with what some events come to after a change by hand.
    async fn set<P: OnBench>(&self, events: &[StoredEvent], alter: impl FnOnce(&mut P::Change)) {
        let mut whole = whole::<P>(events);
        let rows = P::rows(self);
        let row = rows.rows(&[whole.stream()]).await.unwrap().found.remove(0).1;
        alter(&mut whole);
        assert!(rows.replace(&row, &whole).await.unwrap());
    }

    /// Takes a row away.
    async fn delete<P: OnBench>(&self, id: u128) {
        let rows = P::rows(self);
        let row = rows.rows(&[stream_of::<P>(id)]).await.unwrap().found.remove(0).1;
        assert!(rows.delete(&row).await.unwrap());
    }

    /// The events of a stream.
    fn events<P: Known>(&self, id: u128) -> Vec<StoredEvent> {
        let stream = stream_of::<P>(id);
        let mut events = self.store.all();
        events.retain(|event| event.envelope.stream() == stream);
        events
    }

    async fn audit(&self, how: How) -> Outcome {
        run(self.store.clone(), self.users.clone(), self.orders.clone(), how).await
    }

    /// Fails unless every row is what its events come to, and there is no other.
    async fn assert_right(&self) {
        self.assert_rows::<Users>().await;
        self.assert_rows::<Orders>().await;
    }

    async fn assert_rows<P: OnBench>(&self) {
        let mut streams: Vec<StreamId> =
            self.store.all().iter().map(|event| event.envelope.stream()).collect();
        streams.retain(|stream| stream.aggregate_type == P::AGGREGATE);
        streams.sort();
        streams.dedup();
        for stream in &streams {
            let events = self.events::<P>(stream.id.as_u128());
            let expected = events.iter().fold(None, |row, event| Some(P::fold(row, event)));
            assert_eq!(P::row(P::rows(self), stream).await, expected, "{stream}");
        }
        let rows = AuditRows::<P::Change>::count(P::rows(self)).await.unwrap();
        assert_eq!(rows, u64::try_from(streams.len()).unwrap());
    }
}

/// What events that follow each other, from the first one on, come to.
fn whole<P: Projection>(events: &[StoredEvent]) -> P::Change {
    let mut changes = events.iter().map(|event| stored::<P>(event).unwrap());
    let first = changes.next().unwrap();
    changes.fold(first, |whole, change| whole.then(change).unwrap())
}

/// A projection whose rows a bench has.
trait OnBench: Known<Rows: AuditRows<Self::Change>> {
    fn rows(bench: &Bench) -> &Self::Rows;
}

impl OnBench for Users {
    fn rows(bench: &Bench) -> &MemoryUsers {
        &bench.users
    }
}

impl OnBench for Orders {
    fn rows(bench: &Bench) -> &MemoryOrders {
        &bench.orders
    }
}
