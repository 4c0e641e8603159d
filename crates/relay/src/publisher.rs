//! Publishing the records that were read: several calls at a time, retries, entries that are too large.

use std::collections::{HashMap, VecDeque};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use millrace_aws::AwsError;
use millrace_core::{Envelope, Timestamp};
use millrace_server::FailureLogThrottle;
use tokio::time::sleep;
use tracing::{debug, error, warn};

use super::{
    bus::{Entry, EventBus, MAX_ENTRIES, Rejection},
    config::RelayConfig,
    meters,
    stream::{Content, FULL_PAGE, Sequence, Undecoded},
    time::{Clock, Pauses, hash_of, since},
    traced::OnItsWay,
};

const UNDECODED: &str = "an item is not an event and is handed on as it is";

/// The bus, with the settings and the clock for publishing.
#[derive(Clone)]
pub(super) struct Publisher<B> {
    pub(super) bus: B,
    pub(super) config: RelayConfig,
    pub(super) clock: Clock,
}

/// An entry on its way to the bus.
struct Outgoing {
    payload: Payload,
    entry: Entry,
    spans: OnItsWay,
    /// The number of its record.
    record: u64,
    aggregate: Aggregate,
    /// Whether it goes in a call of its own, because the bus refused the content of a call with others.
    alone: bool,
}

enum Payload {
    Event(Box<Envelope>),
    Undecoded(Box<Undecoded>),
}

/// An aggregate, by its hash: two of the same hash only wait for each other.
type Aggregate = u64;

/// A record behind which the checkpoint has not moved.
struct Pending {
    /// The checkpoint once this record and all before it are accepted.
    place: Option<Sequence>,
    /// The time of its event.
    time: Option<Timestamp>,
    accepted: bool,
}

/// The place up to which everything is accepted.
pub(super) struct Passed {
    pub(super) place: Sequence,
    /// The time of the last event up to that place, if any.
    pub(super) time: Option<Timestamp>,
}

/// The records of one shard or segment on their way to the bus.
///
/// Up to [`RelayConfig::lanes`] calls are under way at a time, for a refill [`RelayConfig::refill_lanes`]. The events
/// of one aggregate are in one call at a time, in their order, so they keep their order as far as the bus's failures
/// allow. The checkpoint moves past a record only when all records before it are accepted too.
pub(super) struct Flight<'a, B> {
    publisher: &'a Publisher<B>,
    /// The name of the shard or segment, for the log.
    source: &'a str,
    /// How many calls are under way at a time.
    lanes: usize,
    /// In the order in which they were read.
    records: VecDeque<Pending>,
    /// The number of the first record.
    first: u64,
    passed: Option<Passed>,
    /// Entries that are not under way, by aggregate. An aggregate with a call under way has a queue here, maybe empty.
    waiting: HashMap<Aggregate, VecDeque<Outgoing>>,
    /// Aggregates with waiting entries and no call under way, first come first.
    ready: VecDeque<Aggregate>,
    /// Failed calls, to be tried again.
    again: VecDeque<Batch>,
    under_way: FuturesUnordered<BoxFuture<'static, Landed>>,
    /// The number of calls in `under_way`.
    calls: usize,
    /// The number of pauses in `under_way`, each before a retry.
    pauses: usize,
    /// A call with several aggregates failed whole. Until the bus accepts an entry again, only failed calls are tried,
    /// one after the other.
    is_troubled: bool,
    throttle: FailureLogThrottle,
    is_landing: bool,
}

/// The entries of a call.
struct Batch {
    entries: Vec<Outgoing>,
    backoff: Pauses,
}

enum Landed {
    Called(Batch, Result<Vec<Result<(), Rejection>>, Rejection>),
    Rested(Batch),
}

impl<'a, B: EventBus> Flight<'a, B> {
    pub(super) fn new(publisher: &'a Publisher<B>, source: &'a str, lanes: usize) -> Self {
        Self {
            publisher,
            source,
            lanes: lanes.max(1),
            records: VecDeque::new(),
            first: 0,
            passed: None,
            waiting: HashMap::new(),
            ready: VecDeque::new(),
            again: VecDeque::new(),
            under_way: FuturesUnordered::new(),
            calls: 0,
            pauses: 0,
            is_troubled: false,
            throttle: FailureLogThrottle::default(),
            is_landing: false,
        }
    }

    /// Adds a record. The checkpoint can move to `place` once this record and all before it are accepted.
    ///
    /// An item that cannot be decoded is handed on as it is: it must not hold up later events, and a consumer of a
    /// newer release may understand it. In other consumers it becomes a dead letter.
    pub(super) fn add(&mut self, content: Content, place: Option<Sequence>) {
        let (aggregate, payload) = match content {
            Content::Event(envelope) => (hash_of(envelope.stream()), Some(Payload::Event(envelope))),
            Content::Undecodable(undecoded) => {
                meters::undecodable();
                let Undecoded { reason, stream, version, .. } = &*undecoded;
                let aggregate = stream.as_ref().map(ToString::to_string);
                error!(source = self.source, aggregate, version, reason, "{UNDECODED}");
                (stream.as_ref().map_or(0, hash_of), Some(Payload::Undecoded(undecoded)))
            }
            Content::Skip => {
                meters::skipped();
                (0, None)
            }
        };
        let time = match &payload {
            Some(Payload::Event(envelope)) => Some(envelope.timestamp),
            Some(Payload::Undecoded(_)) | None => None,
        };
        let record = self.first + self.records.len() as u64;
        let outgoing = payload.and_then(|payload| self.outgoing(payload, record, aggregate));
        self.records.push_back(Pending { place, time, accepted: outgoing.is_none() });
        match outgoing {
            Some(outgoing) => {
                let waiting = self.waiting.entry(aggregate).or_insert_with(|| {
                    self.ready.push_back(aggregate);
                    VecDeque::new()
                });
                waiting.push_back(outgoing);
            }
            None => self.pass(),
        }
    }

    fn outgoing(&self, payload: Payload, record: u64, aggregate: Aggregate) -> Option<Outgoing> {
        let spans = match &payload {
            Payload::Event(envelope) => OnItsWay::begin(envelope),
            Payload::Undecoded(_) => OnItsWay::default(),
        };
        let entry = self.entry(&payload)?;
        let is_too_large = entry.size() >= self.publisher.config.max_bytes;
        let mut outgoing = Outgoing { payload, entry, spans, record, aggregate, alone: false };
        if is_too_large && outgoing.payload.strip() {
            meters::oversized();
            outgoing.entry = self.entry(&outgoing.payload)?;
        }
        Some(outgoing)
    }

    fn entry(&self, payload: &Payload) -> Option<Entry> {
        let source = &self.publisher.config.source;
        let entry = match payload {
            Payload::Event(envelope) => Entry::of(envelope, source),
            Payload::Undecoded(undecoded) => Entry::undecoded(undecoded, source, (self.publisher.clock)()),
        };
        entry
            .inspect_err(|_| {
                // Text and JSON values can always be serialised; if this changes, one event must not block a shard.
                meters::undecodable();
                error!(source = self.source, "an item cannot be written as JSON and is passed over");
            })
            .ok()
    }

    /// Forgets all records. A call under way may still take effect.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.publisher, self.source, self.lanes);
    }

    /// Lets the checkpoint move to `place` once all records added so far are accepted.
    pub(super) fn mark(&mut self, place: Sequence) {
        self.records.push_back(Pending { place: Some(place), time: None, accepted: true });
        self.pass();
    }

    /// Whether all records are accepted.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether another page may be read: one is read while the one before it is published.
    pub(super) fn has_room(&self) -> bool {
        self.records.len() < FULL_PAGE
    }

    /// The time of the oldest event that the checkpoint has not passed.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.records.iter().filter_map(|record| record.time).min()
    }

    /// The place up to which everything is accepted, if it has moved since the last call.
    pub(super) fn take_passed(&mut self) -> Option<Passed> {
        self.passed.take()
    }

    /// Begins calls, and waits until a call or a pause has ended. Cancel-safe.
    pub(super) async fn next(&mut self) {
        self.begin_calls();
        match self.under_way.next().await {
            Some(Landed::Called(batch, outcome)) => {
                self.calls -= 1;
                self.judge(batch, outcome);
                self.pass();
            }
            Some(Landed::Rested(batch)) => {
                self.pauses -= 1;
                self.again.push_back(batch);
            }
            None => {}
        }
    }

    /// Waits for the calls under way, and begins no other.
    pub(super) async fn land(&mut self) {
        self.is_landing = true;
        while self.calls > 0 {
            self.next().await;
        }
    }

    fn begin_calls(&mut self) {
        while !self.is_landing && self.calls < self.lanes {
            if self.is_troubled && self.calls + self.pauses > 0 {
                return;
            }
            let batch = match self.again.pop_front() {
                None => self.next_batch(),
                again @ Some(_) => again,
            };
            let Some(mut batch) = batch else { return };
            let together = batch.entries.len();
            batch.entries.iter_mut().for_each(|outgoing| outgoing.spans.sent(together));
            let entries: Vec<Entry> = batch.entries.iter().map(|outgoing| outgoing.entry.clone()).collect();
            let bus = self.publisher.bus.clone();
            self.calls += 1;
            self.under_way.push(Box::pin(async move {
                let outcome = bus.put(&entries).await;
                Landed::Called(batch, outcome)
            }));
        }
    }

    /// The entries of the next call: as many as fit, of the aggregates that came first.
    fn next_batch(&mut self) -> Option<Batch> {
        let mut entries: Vec<Outgoing> = Vec::new();
        let mut bytes = 0;
        while let Some(aggregate) = self.ready.front() {
            let waiting = self.waiting.get_mut(aggregate)?;
            let before = entries.len();
            while let Some(next) = waiting.front() {
                bytes += next.entry.size();
                let fits = entries.len() < MAX_ENTRIES
                    && bytes < self.publisher.config.max_bytes
                    && !next.alone
                    && !entries.first().is_some_and(|first| first.alone);
                if !entries.is_empty() && !fits {
                    break;
                }
                entries.extend(waiting.pop_front());
            }
            let is_full = !waiting.is_empty();
            if entries.len() > before {
                self.ready.pop_front();
            }
            if is_full || entries.len() == before {
                break;
            }
        }
        let first = entries.first()?;
        let RelayConfig { owner, first_backoff, max_backoff, .. } = &self.publisher.config;
        let backoff = Pauses::new(*first_backoff, *max_backoff, (owner, first.aggregate, first.record));
        Some(Batch { entries, backoff })
    }

    /// Notes the accepted entries of a call, and has the rest tried again.
    fn judge(&mut self, batch: Batch, outcome: Result<Vec<Result<(), Rejection>>, Rejection>) {
        let Batch { entries, mut backoff } = batch;
        let size = entries.len();
        let verdicts = match outcome {
            Ok(verdicts) if verdicts.len() == size => verdicts,
            Ok(_) => {
                let nonsense = AwsError::InvalidResponse("the bus did not answer for every entry".to_owned());
                vec![Err(nonsense.into()); size]
            }
            // The bus does not name the entry at fault.
            Err(Rejection::Content(_)) if size > 1 => return self.part(entries),
            Err(rejection) => vec![Err(rejection); size],
        };
        let rejection = verdicts.iter().find_map(|verdict| verdict.clone().err());
        let went: Vec<Aggregate> = entries.iter().map(|outgoing| outgoing.aggregate).collect();
        let judged: Vec<_> = entries.into_iter().zip(verdicts).collect();
        let mut remaining = Vec::new();
        let mut changed = false;
        for (outgoing, verdict) in judged {
            remaining.extend(self.judge_one(outgoing, verdict, &mut changed));
        }
        match rejection {
            Some(error) if remaining.len() == size && !changed => {
                // If all entries are of one aggregate, the cause may lie in that aggregate alone.
                self.is_troubled |= went.iter().any(|aggregate| went.first() != Some(aggregate));
                if let Some(lasted) = self.throttle.failed() {
                    warn!(source = self.source, entries = size, %error, ?lasted, "the bus does not accept events");
                }
            }
            Some(_) | None => {
                self.is_troubled = false;
                self.throttle.succeeded();
                backoff.reset();
            }
        }
        self.release(went.iter().filter(|went| remaining.iter().all(|left| left.aggregate != **went)));
        if remaining.is_empty() {
            return;
        }
        if self.is_troubled && self.pauses > 0 {
            self.again.push_back(Batch { entries: remaining, backoff });
        } else {
            self.pauses += 1;
            let pause = backoff.next();
            let rested = Batch { entries: remaining, backoff };
            self.under_way.push(Box::pin(async move {
                sleep(pause).await;
                Landed::Rested(rested)
            }));
        }
    }

    /// Has each entry sent in a call of its own.
    fn part(&mut self, entries: Vec<Outgoing>) {
        self.is_troubled = false;
        let went: Vec<Aggregate> = entries.iter().map(|outgoing| outgoing.aggregate).collect();
        for mut outgoing in entries.into_iter().rev() {
            outgoing.failed();
            outgoing.alone = true;
            self.waiting.entry(outgoing.aggregate).or_default().push_front(outgoing);
        }
        self.release(went.iter());
    }

    /// The entry if it has to be sent again after the bus's verdict, without its data if these were refused.
    fn judge_one(
        &mut self,
        mut outgoing: Outgoing,
        verdict: Result<(), Rejection>,
        changed: &mut bool,
    ) -> Option<Outgoing> {
        let Err(rejection) = verdict else {
            if let Payload::Event(envelope) = &outgoing.payload {
                meters::published(since(envelope.timestamp, (self.publisher.clock)()));
            }
            outgoing.spans.accepted();
            self.accepted(outgoing.record);
            return None;
        };
        outgoing.failed();
        debug!(source = self.source, error = %rejection, "the bus did not accept an entry");
        if matches!(rejection, Rejection::Content(_)) && outgoing.payload.strip() {
            // The bus accepts all other fields.
            meters::oversized();
            *changed = true;
            let Some(entry) = self.entry(&outgoing.payload) else {
                self.accepted(outgoing.record);
                return None;
            };
            outgoing.entry = entry;
        }
        Some(outgoing)
    }

    fn accepted(&mut self, record: u64) {
        let place = record.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        if let Some(pending) = place.and_then(|place| self.records.get_mut(place)) {
            pending.accepted = true;
        }
    }

    /// Frees these aggregates, whose calls have ended, for further ones.
    fn release<'b>(&mut self, aggregates: impl Iterator<Item = &'b Aggregate>) {
        let mut last = None;
        for aggregate in aggregates {
            // Entries of one aggregate are adjacent in a batch.
            if last.replace(*aggregate) == Some(*aggregate) {
                continue;
            }
            if self.waiting.get(aggregate).is_some_and(VecDeque::is_empty) {
                self.waiting.remove(aggregate);
            } else {
                self.ready.push_back(*aggregate);
            }
        }
    }

    /// Removes the leading accepted records and moves the place.
    fn pass(&mut self) {
        while self.records.front().is_some_and(|record| record.accepted) {
            let Some(record) = self.records.pop_front() else { return };
            self.first += 1;
            let before = self.passed.take();
            let time = record.time.or_else(|| before.as_ref().and_then(|passed| passed.time));
            self.passed = match record.place {
                Some(place) => Some(Passed { place, time }),
                None => before.map(|passed| Passed { time, ..passed }),
            };
        }
    }
}

impl Payload {
    /// Removes the data; returns whether there were any.
    fn strip(&mut self) -> bool {
        match self {
            Self::Event(envelope) => envelope.event_data.take().is_some(),
            Self::Undecoded(undecoded) => undecoded.item.take().is_some(),
        }
    }
}

impl Outgoing {
    fn failed(&mut self) {
        meters::entry_failed();
        self.spans.refused();
    }
}
