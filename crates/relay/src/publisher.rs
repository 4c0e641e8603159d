//! From events to the bus: batches, repeats, what is too large.

use std::collections::VecDeque;

use futures::future::join_all;
use millrace_aws::AwsError;
use millrace_core::Envelope;
use millrace_server::FailureLogThrottle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{
    bus::{Entry, EventBus, MAX_ENTRIES, Rejection},
    config::RelayConfig,
    meters,
    time::{Clock, Pauses, Stopped, hash_of, since},
    traced::OnItsWay,
};

/// Publishes events until the bus has accepted every one.
#[derive(Clone)]
pub(super) struct Publisher<B> {
    pub(super) bus: B,
    pub(super) config: RelayConfig,
    pub(super) clock: Clock,
}

/// An event on its way.
struct Outgoing {
    envelope: Envelope,
    entry: Entry,
    spans: OnItsWay,
}

impl Outgoing {
    /// Notes that the bus has not accepted it.
    fn failed(&mut self) {
        meters::entry_failed();
        self.spans.refused();
    }
}

impl<B: EventBus> Publisher<B> {
    /// How many events are best handed over at a time: a full call for each lane.
    pub(super) fn window(&self) -> usize {
        self.config.lanes.max(1) * MAX_ENTRIES
    }

    /// Publishes events. Those of one aggregate keep their order as far as the bus's failures allow; a few more than one
    /// call takes go over several lanes at a time.
    ///
    /// Returns once the bus has accepted all; when told to stop, what is under way ends, but nothing is tried again.
    pub(super) async fn publish(
        &self,
        events: Vec<Envelope>,
        stop: &CancellationToken,
    ) -> Result<(), Stopped> {
        let lanes = events.len().div_ceil(MAX_ENTRIES).min(self.config.lanes).max(1);
        let mut queues: Vec<VecDeque<Outgoing>> = (0..lanes).map(|_| VecDeque::new()).collect();
        for envelope in events {
            let lane = usize::try_from(hash_of(envelope.stream()) % lanes as u64).unwrap_or(0);
            queues[lane].extend(self.outgoing(envelope));
        }
        join_all(queues.into_iter().map(|queue| self.drain(queue, stop))).await.into_iter().collect()
    }

    fn outgoing(&self, mut envelope: Envelope) -> Option<Outgoing> {
        let spans = OnItsWay::begin(&envelope);
        let mut entry = self.entry(&envelope)?;
        if entry.size() >= self.config.max_bytes && envelope.event_data.take().is_some() {
            meters::oversized();
            entry = self.entry(&envelope)?;
        }
        Some(Outgoing { envelope, entry, spans })
    }

    fn entry(&self, envelope: &Envelope) -> Option<Entry> {
        Entry::of(envelope, &self.config.source)
            .inspect_err(|_| {
                // Text and JSON values can always be written; should this change, one event must not block a shard.
                meters::undecodable();
                error!(event_id = %envelope.event_id, "an event cannot be written as JSON and is passed over");
            })
            .ok()
    }

    /// Publishes a queue, one call after the other.
    async fn drain(&self, mut queue: VecDeque<Outgoing>, stop: &CancellationToken) -> Result<(), Stopped> {
        let seed = queue.front().map(|o| (&self.config.owner, o.envelope.event_id));
        let mut backoff = Pauses::new(self.config.first_backoff, self.config.max_backoff, seed);
        let mut throttle = FailureLogThrottle::default();
        // A call that is refused for its content does not say for which entry's: they are then sent one by one.
        let mut width = MAX_ENTRIES;
        while !queue.is_empty() {
            let batch = self.next_batch(&mut queue, width);
            let size = batch.len();
            let outcome = self.put(batch).await;
            if outcome.whole_call_refused {
                width = 1;
            }
            let failed = outcome.remaining.len();
            match outcome.rejection {
                Some(error) if failed == size => {
                    if let Some(lasted) = throttle.failed() {
                        warn!(entries = failed, %error, ?lasted, "the bus does not accept events");
                    }
                }
                Some(_) | None => throttle.succeeded(),
            }
            // In front of what comes after them, to keep the order, unless one of them would then block the rest.
            if width == 1 {
                queue.extend(outcome.remaining);
            } else {
                outcome.remaining.into_iter().rev().for_each(|o| queue.push_front(o));
            }
            if failed < size {
                backoff.reset();
            }
            if failed > 0 {
                backoff.pause(stop).await?;
            }
        }
        Ok(())
    }

    /// Takes as many entries off the queue as a call may hold, at least one.
    fn next_batch(&self, queue: &mut VecDeque<Outgoing>, width: usize) -> Vec<Outgoing> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = queue.front() {
            bytes += next.entry.size();
            if !batch.is_empty() && (batch.len() == width || bytes >= self.config.max_bytes) {
                break;
            }
            batch.extend(queue.pop_front());
        }
        batch
    }

    async fn put(&self, mut batch: Vec<Outgoing>) -> Outcome {
        let together = batch.len();
        batch.iter_mut().for_each(|o| o.spans.sent(together));
        let entries: Vec<Entry> = batch.iter().map(|o| o.entry.clone()).collect();
        match self.bus.put(&entries).await {
            Ok(verdicts) if verdicts.len() == batch.len() => {
                let rejection = verdicts.iter().find_map(|verdict| verdict.clone().err());
                let judged = batch.into_iter().zip(verdicts);
                let remaining =
                    judged.filter_map(|(outgoing, verdict)| self.judge(outgoing, verdict)).collect();
                Outcome { remaining, whole_call_refused: false, rejection }
            }
            Ok(_) => {
                let nonsense = AwsError::InvalidResponse("the bus did not answer for every entry".to_owned());
                batch.iter_mut().for_each(Outgoing::failed);
                Outcome { remaining: batch, whole_call_refused: false, rejection: Some(nonsense.into()) }
            }
            Err(rejection) => {
                let whole_call_refused = matches!(rejection, Rejection::Content(_));
                let remaining = if whole_call_refused && batch.len() == 1 {
                    batch.into_iter().filter_map(|o| self.judge(o, Err(rejection.clone()))).collect()
                } else {
                    batch.iter_mut().for_each(Outgoing::failed);
                    batch
                };
                Outcome { remaining, whole_call_refused, rejection: Some(rejection) }
            }
        }
    }

    /// What remains to be sent of an event after the bus has judged its entry.
    fn judge(&self, mut outgoing: Outgoing, verdict: Result<(), Rejection>) -> Option<Outgoing> {
        match verdict {
            Ok(()) => {
                meters::published(since(outgoing.envelope.timestamp, (self.clock)()));
                outgoing.spans.accepted();
                None
            }
            Err(rejection) => {
                outgoing.failed();
                debug!(event_id = %outgoing.envelope.event_id, error = %rejection, "the bus did not accept an event");
                if matches!(rejection, Rejection::Content(_)) && outgoing.envelope.event_data.take().is_some()
                {
                    // All the rest of an envelope is of types that the bus accepts.
                    meters::oversized();
                    outgoing.entry = self.entry(&outgoing.envelope)?;
                }
                Some(outgoing)
            }
        }
    }
}

/// What a call to the bus left.
struct Outcome {
    /// To be sent again.
    remaining: Vec<Outgoing>,
    /// Whether the call as a whole was refused for what it held.
    whole_call_refused: bool,
    /// Why the call, or the first of those entries that failed, was not accepted.
    rejection: Option<Rejection>,
}
