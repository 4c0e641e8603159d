//! What becomes of messages: events read from them, sorted by row, and applied.

use std::{
    collections::BTreeMap,
    future::Future,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
};

use futures::{FutureExt as _, StreamExt as _, stream};
use millrace_domain::{StreamId, Timestamp};
use millrace_event_store::ReadEvents;
use millrace_proto::Envelope;
use millrace_read_models::WriteRows;
use millrace_runtime::{TraceParent, Turns};
use millrace_traces::{enter, within};

use crate::{
    Failed, Failure,
    apply::{Brought, Outcome, Row},
    bus, metrics,
    projection::{Projection, read, trace},
    queue::Message,
    traced::{self, Processing, Writing},
};

/// Does the work that messages ask for. Receiving them, deleting them and trying again is the business of
/// [`Consumer`](crate::Consumer).
pub trait Handle: Clone + Send + Sync + 'static {
    /// The handler's name, for metrics, logs and dead letters.
    const NAME: &'static str;

    /// Handles messages and says of each, in their order, whether its work is done.
    fn handle(&self, messages: &[Message]) -> impl Future<Output = Vec<Result<(), Failed>>> + Send;
}

/// Where the time comes from.
pub type Clock = fn() -> Timestamp;

/// Writes what a projection makes of events into its rows.
pub struct Projector<P, W, R> {
    rows: W,
    events: R,
    clock: Clock,
    /// Batches that are worked on at the same time often hold events of one row, and mostly came in their order. One
    /// after another they meet the row as the one before left it; side by side all but one would find their condition
    /// failed, and read from the event store what the others bring.
    turns: Turns<StreamId>,
    projection: PhantomData<fn() -> P>,
}

impl<P: Projection, W: WriteRows<P::Change>, R: ReadEvents> Projector<P, W, R> {
    /// How many rows of a batch are written at a time.
    const ROWS_AT_ONCE: usize = 10;

    /// A projector that keeps its rows in `rows` and finds the history in `events`.
    pub fn new(rows: W, events: R, clock: Clock) -> Self {
        Self { rows, events, clock, turns: Turns::default(), projection: PhantomData }
    }

    /// Brings a row up to date and settles the messages that were about it.
    async fn apply(&self, stream: &StreamId, mut asked: Asked<P>) -> Vec<(usize, Result<(), Failed>)> {
        let row = Row::<P, W, R> { stream, brought: &asked.brought, rows: &self.rows, events: &self.events };
        let turn = self.turns.wait(stream).await;
        let (carrier, writes) = asked.writes();
        // A panic is the row's own: the batch's others are not to suffer from it.
        let work = AssertUnwindSafe(row.bring_up_to_date()).catch_unwind();
        let outcome = within(carrier, work).await;
        drop(turn);
        let outcome = outcome.unwrap_or_else(|_| Outcome::panicked());
        let failure = outcome.failure.as_ref().map(|(_, failure)| failure);
        writes.into_iter().for_each(|write| write.ended(outcome.reached, outcome.gaps, failure));
        enter(carrier, || self.report(&outcome, &asked));
        asked.letters.iter_mut().map(|letter| (letter.message, letter.settled(&outcome))).collect()
    }

    /// Notes in metrics and logs what became of a row. Failures are for the consumer to tell of.
    fn report(&self, outcome: &Outcome, asked: &Asked<P>) {
        let written = |version| outcome.has_written(version);
        let now = (self.clock)();
        let mut known = 0;
        let mut seen = 0;
        for letter in asked.letters.iter().filter(|letter| letter.envelope.version <= outcome.reached) {
            letter.log_done::<P>(written(letter.envelope.version));
            known += 1;
            // Messages are in the order of versions, so copies of one event follow each other.
            if written(letter.envelope.version) && seen != letter.envelope.version {
                seen = letter.envelope.version;
                known -= 1;
                metrics::lag(P::NAME, seconds(letter.envelope.timestamp, now));
            }
        }
        let applied = outcome.written.as_ref().map_or(0, |written| written.end() - written.start() + 1);
        metrics::count(metrics::EVENTS_APPLIED, P::NAME, applied);
        metrics::count(metrics::DUPLICATES, P::NAME, known);
        metrics::count(metrics::GAPS_HEALED, P::NAME, outcome.gaps);
    }
}

impl<P: Projection, W: WriteRows<P::Change>, R: ReadEvents> Handle for Projector<P, W, R> {
    const NAME: &'static str = P::NAME;

    async fn handle(&self, messages: &[Message]) -> Vec<Result<(), Failed>> {
        // Each is overwritten when its row is done.
        let mut outcomes: Vec<Result<(), Failed>> = vec![Ok(()); messages.len()];
        let mut rows: BTreeMap<StreamId, Asked<P>> = BTreeMap::new();
        for (message, outcome) in outcomes.iter_mut().enumerate() {
            match open::<P>(&messages[message].body) {
                Ok((envelope, change)) => {
                    let processing = Processing::begin(P::NAME, &messages[message], &envelope);
                    let letter = Letter { message, envelope, processing };
                    rows.entry(letter.envelope.stream()).or_default().add(letter, change);
                }
                Err(failed) => {
                    traced::unread(P::NAME, &messages[message], &failed);
                    *outcome = Err(failed);
                }
            }
        }
        for asked in rows.values_mut() {
            asked.letters.sort_by_key(|letter| letter.envelope.version);
        }
        let work: Vec<_> =
            rows.into_iter().map(|(stream, asked)| async move { self.apply(&stream, asked).await }).collect();
        let settled: Vec<_> = stream::iter(work).buffer_unordered(Self::ROWS_AT_ONCE).collect().await;
        for (message, outcome) in settled.into_iter().flatten() {
            outcomes[message] = outcome;
        }
        outcomes
    }
}

impl<P, W: Clone, R: Clone> Clone for Projector<P, W, R> {
    fn clone(&self) -> Self {
        Self {
            rows: self.rows.clone(),
            events: self.events.clone(),
            clock: self.clock,
            turns: self.turns.clone(),
            projection: PhantomData,
        }
    }
}

/// Reads a message: the event, and what it changes.
fn open<P: Projection>(body: &str) -> Result<(Envelope, Option<P::Change>), Failed> {
    let opened = catch_unwind(|| {
        let envelope = bus::envelope(body)?;
        match read::<P>(&envelope) {
            Ok(change) => Ok((envelope, change)),
            Err(failure) => Err(failed(&envelope, failure)),
        }
    });
    opened.unwrap_or_else(|_| Err(Failure::Panicked.into()))
}

/// A message that could be read.
struct Letter {
    /// Its place in the batch.
    message: usize,
    /// What it says, without the data.
    envelope: Envelope,
    /// The work on it, as it is told in its trace.
    processing: Processing,
}

impl Letter {
    /// Says that the row has the event, `written` there by this batch or earlier. On the way of every event, so nothing is
    /// made of it unless it is logged.
    fn log_done<P: Projection>(&self, written: bool) {
        let envelope = &self.envelope;
        tracing::debug!(
            projection = P::NAME,
            tenant = envelope.tenant_id.as_str(),
            aggregate = envelope.stream().to_string(),
            version = envelope.version,
            event_id = envelope.event_id.to_string(),
            correlation_id = envelope.correlation_id.as_str(),
            causation_id = envelope.causation_id.as_str(),
            trace_id = trace(envelope).map(TraceParent::trace_id),
            written,
            "the row has the event",
        );
    }

    /// What became of the message, given what became of its row.
    fn settled(&mut self, outcome: &Outcome) -> Result<(), Failed> {
        let version = self.envelope.version;
        match &outcome.failure {
            // The row was brought to it, or as far as the batch goes.
            Some((at, failure)) if version > outcome.reached => {
                let failure = failure.clone().met_by(version, *at);
                self.processing.failed(&failure);
                Err(failed(&self.envelope, failure))
            }
            Some(_) | None => {
                self.processing.done(outcome.has_written(version));
                Ok(())
            }
        }
    }
}

/// What a batch asks of one row.
struct Asked<P: Projection> {
    brought: Brought<P::Change>,
    letters: Vec<Letter>,
}

impl<P: Projection> Default for Asked<P> {
    fn default() -> Self {
        Self { brought: Brought::new(), letters: Vec::new() }
    }
}

impl<P: Projection> Asked<P> {
    fn add(&mut self, mut letter: Letter, change: Option<P::Change>) {
        letter.envelope.event_data = None;
        let brought = self.brought.entry(letter.envelope.version).or_default();
        *brought = brought.take().or(change);
        self.letters.push(letter);
    }

    /// The span that the requests of the row belong to, and what is told of the write in the trace of each message. The
    /// requests are the newest event's, or those of a trace of their own where that has none.
    fn writes(&self) -> (TraceParent, Vec<Writing>) {
        let mut writes: Vec<Writing> = Vec::new();
        for letter in self.letters.iter().rev() {
            writes.extend(letter.processing.write(P::NAME, writes.first()));
        }
        (writes.first().map_or_else(TraceParent::unrecorded, Writing::trace), writes)
    }
}

fn failed(envelope: &Envelope, failure: Failure) -> Failed {
    Failed { failure, event: Some(Box::new(envelope.into())) }
}

/// The seconds between two times; none where clocks disagree about their order.
fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    let micros = u64::try_from(to.unix_micros() - from.unix_micros()).unwrap_or(0);
    std::time::Duration::from_micros(micros).as_secs_f64()
}
