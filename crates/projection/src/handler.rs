//! Reads events from messages, groups them by row, and applies them.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use millrace_aws::AwsError;
use millrace_core::{
    Envelope, StreamId, Timestamp,
    projection::{ProjectionSpec, RowUpdate},
};
use millrace_event_store::ReadEvents;
use millrace_rows::WriteRows;
use millrace_server::{KeyedMutex, TraceParent};
use millrace_telemetry::{enter, within};

use tokio::time::Instant;

use crate::{
    ApplyError, MessageError,
    apply::{Outcome, PendingUpdates, RowUpdater, update_of},
    bus,
    error::trace,
    metrics,
    queue::Message,
    traced::{self, Processing, Writing},
};

/// A handler of messages. Receiving them, deleting them and trying again is the business of
/// [`Consumer`](crate::Consumer).
pub trait Handle: Clone + Send + Sync + 'static {
    /// The handler's name in metrics, logs and traces.
    fn label(&self) -> &'static str;

    /// The handler's name in dead letters; it does not depend on other registrations.
    fn name(&self) -> &'static str {
        self.label()
    }

    /// Handles messages. Returns an outcome for each, in their order.
    fn handle(&self, messages: &[Message]) -> impl Future<Output = Vec<Result<(), MessageError>>> + Send;
}

/// The source of the time.
pub type Clock = fn() -> Timestamp;

/// Writes a projection's updates of events into its rows.
#[derive(Clone)]
pub struct Projector<W, R> {
    spec: Arc<ProjectionSpec>,
    label: &'static str,
    rows: W,
    events: R,
    clock: Clock,
    /// Concurrent batches often hold events of one row, mostly in order. One after another, each finds the row as the
    /// one before left it. In parallel, all but one would fail their condition, and read from the event store the
    /// events that the others bring.
    turns: KeyedMutex<StreamId>,
    throttled: Throttled,
}

impl<W: WriteRows, R: ReadEvents> Projector<W, R> {
    /// How many rows of a batch are written at a time.
    const ROWS_AT_ONCE: usize = 10;

    /// A projector that keeps the projection's rows in `rows` and finds the history in `events`.
    pub fn new(spec: ProjectionSpec, rows: W, events: R, clock: Clock) -> Self {
        let label = spec.name.name;
        Self {
            spec: Arc::new(spec),
            label,
            rows,
            events,
            clock,
            turns: KeyedMutex::default(),
            throttled: Throttled::default(),
        }
    }

    /// Sets a label other than the projection's name, for a process with several versions of it.
    #[must_use]
    pub fn labelled(mut self, label: &'static str) -> Self {
        self.label = label;
        self
    }

    /// Brings a row up to date and settles its messages.
    async fn apply(&self, stream: &StreamId, mut batch: RowBatch) -> Vec<(usize, Result<(), MessageError>)> {
        let row = RowUpdater {
            spec: &self.spec,
            stream,
            pending: &batch.pending,
            rows: &self.rows,
            events: &self.events,
        };
        let turn = self.turns.lock(stream).await;
        let (carrier, writes) = batch.writes(self.label);
        let outcome = if self.throttled.contains(stream) {
            Outcome::throttled(&batch.pending)
        } else {
            within(carrier, row.bring_up_to_date()).await
        };
        if matches!(outcome.failure, Some((_, ApplyError::Aws(AwsError::Throttled(_))))) {
            self.throttled.note(stream);
        }
        drop(turn);
        let error = outcome.failure.as_ref().map(|(_, error)| error);
        writes.into_iter().for_each(|write| write.ended(outcome.reached, outcome.gaps, error));
        enter(carrier, || self.report(&outcome, &batch));
        batch.messages.iter_mut().map(|message| (message.place, message.settle(&outcome))).collect()
    }

    /// Records the outcome of a row in metrics and logs. The consumer reports failures.
    fn report(&self, outcome: &Outcome, batch: &RowBatch) {
        let now = (self.clock)();
        let mut known = 0;
        let mut seen = 0;
        for message in batch.messages.iter().filter(|message| message.envelope.version <= outcome.reached) {
            let version = message.envelope.version;
            message.log_done(self.label, outcome.has_written(version));
            known += 1;
            // Messages are sorted by version, so copies of one event follow each other.
            if outcome.has_written(version) && seen != version {
                seen = version;
                known -= 1;
                metrics::lag(self.label, seconds(message.envelope.timestamp, now));
            }
        }
        let applied = outcome.written.iter().map(|written| written.end() - written.start() + 1).sum();
        metrics::count(metrics::EVENTS_APPLIED, self.label, applied);
        metrics::count(metrics::DUPLICATES, self.label, known);
        metrics::count(metrics::GAPS_HEALED, self.label, outcome.gaps);
    }

    /// Reads a message: the event, and the update that it makes.
    fn open(&self, body: &str) -> Result<(Envelope, Option<RowUpdate>), MessageError> {
        let envelope = bus::envelope(body)?;
        match update_of(&self.spec, &envelope) {
            Ok(update) => Ok((envelope, update)),
            Err(error) => Err(MessageError::about(&envelope, error)),
        }
    }
}

impl<W: WriteRows, R: ReadEvents> Handle for Projector<W, R> {
    fn label(&self) -> &'static str {
        self.label
    }

    fn name(&self) -> &'static str {
        self.spec.name.name
    }

    async fn handle(&self, messages: &[Message]) -> Vec<Result<(), MessageError>> {
        // Each is overwritten when its row is done.
        let mut outcomes: Vec<Result<(), MessageError>> = vec![Ok(()); messages.len()];
        let mut rows: BTreeMap<StreamId, RowBatch> = BTreeMap::new();
        for (place, outcome) in outcomes.iter_mut().enumerate() {
            match self.open(&messages[place].body) {
                Ok((envelope, update)) => {
                    let processing = Processing::begin(self.label, &messages[place], &envelope);
                    let message = InFlightMessage { place, envelope, processing };
                    rows.entry(message.envelope.stream()).or_default().add(message, update);
                }
                Err(error) => {
                    traced::unread(self.label, &messages[place], &error);
                    *outcome = Err(error);
                }
            }
        }
        for batch in rows.values_mut() {
            batch.messages.sort_by_key(|message| message.envelope.version);
        }
        let work: Vec<_> =
            rows.into_iter().map(|(stream, batch)| async move { self.apply(&stream, batch).await }).collect();
        let settled: Vec<_> = stream::iter(work).buffer_unordered(Self::ROWS_AT_ONCE).collect().await;
        for (place, outcome) in settled.into_iter().flatten() {
            outcomes[place] = outcome;
        }
        outcomes
    }
}

/// Rows that were throttled a moment ago. Batches that wait for such a row's lock must not be throttled one after
/// another: their other rows' messages would wait too, and the queue's other messages would not be received.
#[derive(Clone, Default)]
struct Throttled(Arc<Mutex<HashMap<StreamId, Instant>>>);

impl Throttled {
    /// How long such a row is left alone: less than its messages stay hidden.
    const REST: Duration = Duration::from_millis(400);

    fn contains(&self, stream: &StreamId) -> bool {
        self.rows().get(stream).is_some_and(|since| since.elapsed() < Self::REST)
    }

    fn note(&self, stream: &StreamId) {
        let mut rows = self.rows();
        rows.retain(|_, since| since.elapsed() < Self::REST);
        rows.entry(stream.clone()).or_insert_with(Instant::now);
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<StreamId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message with a readable event.
struct InFlightMessage {
    /// Its place in the batch.
    place: usize,
    /// Its event, without the data.
    envelope: Envelope,
    /// The work on it, in its trace.
    processing: Processing,
}

impl InFlightMessage {
    /// Logs that the row has the event, `written` there by this batch or earlier. Every event passes here, so no text
    /// is made unless it is logged.
    fn log_done(&self, label: &'static str, written: bool) {
        let envelope = &self.envelope;
        tracing::debug!(
            projection = label,
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

    /// The outcome of the message, given the outcome of its row.
    fn settle(&mut self, outcome: &Outcome) -> Result<(), MessageError> {
        let version = self.envelope.version;
        match &outcome.failure {
            // The row has the event, or all that the batch could write.
            Some((at, error)) if version > outcome.reached => {
                let error = error.clone().of_version(version, *at);
                self.processing.failed(&error);
                Err(MessageError::about(&self.envelope, error))
            }
            Some(_) | None => {
                self.processing.done(outcome.has_written(version));
                Ok(())
            }
        }
    }
}

/// The messages of a batch for one row.
#[derive(Default)]
struct RowBatch {
    pending: PendingUpdates,
    messages: Vec<InFlightMessage>,
}

impl RowBatch {
    fn add(&mut self, mut message: InFlightMessage, update: Option<RowUpdate>) {
        message.envelope.event_data = None;
        let pending = self.pending.entry(message.envelope.version).or_default();
        *pending = pending.take().or(update);
        self.messages.push(message);
    }

    /// The span of the row's requests, and a span of the write in each message's trace. The requests belong to the
    /// newest event's trace, or to a trace of their own where that event has none.
    fn writes(&self, label: &'static str) -> (TraceParent, Vec<Writing>) {
        let mut writes: Vec<Writing> = Vec::new();
        for message in self.messages.iter().rev() {
            writes.extend(message.processing.write(label, writes.first()));
        }
        (writes.first().map_or_else(TraceParent::unrecorded, Writing::trace), writes)
    }
}

/// The seconds between two times; zero where clocks disagree about their order.
fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    let micros = u64::try_from(to.unix_micros() - from.unix_micros()).unwrap_or(0);
    Duration::from_micros(micros).as_secs_f64()
}
