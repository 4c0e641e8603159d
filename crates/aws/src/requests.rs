//! How many requests were sent, how they ended, and how long they took.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{
            Intercept,
            context::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef},
            dyn_dispatch_hint,
        },
        orchestrator::Metadata,
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};
use metrics::{Counter, Histogram, Unit, describe_counter, describe_histogram};

use crate::{answered, outcome::Outcome};

/// Requests to AWS that have ended, labelled `operation` and `outcome`.
const REQUESTS: &str = "aws_requests_total";
/// From the sending of a request to its end, labelled `operation`.
const SECONDS: &str = "aws_request_seconds";

/// Counts the requests that clients send, by operation. Every attempt counts, because AWS counts and charges each.
///
/// Clones count together. Each request also goes to the metrics `aws_requests_total` and `aws_request_seconds` when it
/// has ended. They use the recorder of the first request of an operation, so that no request has to look for its
/// counter.
#[derive(Clone, Default)]
pub struct Requests(Arc<Mutex<BTreeMap<String, Sent>>>);

/// The requests of an operation.
struct Sent {
    /// How many there were since they were last taken.
    count: u64,
    meters: Arc<Meters>,
}

/// Where the requests of an operation are counted.
struct Meters {
    seconds: Histogram,
    /// In the order of [`Outcome::ALL`]. All exist from the first request on, since Prometheus sees no increase of a
    /// counter that begins with it.
    ended: [Counter; Outcome::ALL.len()],
}

/// An attempt that is under way. One that is dropped before it has ended was given up.
struct Flight {
    meters: Arc<Meters>,
    started: Instant,
    has_ended: AtomicBool,
}

impl Requests {
    /// The counts so far, by operation, such as `PutItem`.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let sent = self.look();
        let some = sent.iter().filter(|(_, sent)| sent.count > 0);
        some.map(|(operation, sent)| (operation.clone(), sent.count)).collect()
    }

    /// How many requests there were in all.
    pub fn total(&self) -> u64 {
        self.counts().values().sum()
    }

    /// The counts since the last call, which start again from nothing.
    pub fn take(&self) -> BTreeMap<String, u64> {
        let mut sent = self.look();
        let some = sent.iter_mut().filter(|(_, sent)| sent.count > 0);
        some.map(|(operation, sent)| (operation.clone(), std::mem::take(&mut sent.count))).collect()
    }

    /// Counts a request that is about to be sent, and returns where its end is counted.
    fn count(&self, operation: &str) -> Arc<Meters> {
        let mut all = self.look();
        if let Some(sent) = all.get_mut(operation) {
            sent.count += 1;
            return sent.meters.clone();
        }
        let meters = Arc::new(Meters::of(operation));
        all.insert(operation.to_owned(), Sent { count: 1, meters: meters.clone() });
        meters
    }

    fn look(&self) -> MutexGuard<'_, BTreeMap<String, Sent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Requests").field(&self.counts()).finish()
    }
}

impl Meters {
    fn of(operation: &str) -> Self {
        describe_counter!(REQUESTS, "Requests to AWS that have ended, every attempt for itself.");
        describe_histogram!(SECONDS, Unit::Seconds, "From the sending of a request to AWS to its end.");
        Self {
            seconds: metrics::histogram!(SECONDS, "operation" => operation.to_owned()),
            ended: Outcome::ALL.map(|outcome| {
                metrics::counter!(
                    REQUESTS, "operation" => operation.to_owned(), "outcome" => outcome.label()
                )
            }),
        }
    }

    fn count(&self, outcome: Outcome) {
        if let Some(at) = Outcome::ALL.iter().position(|each| *each == outcome) {
            self.ended[at].increment(1);
        }
    }
}

impl Flight {
    /// Counts the end of the attempt, once.
    fn end(&self, outcome: Outcome) {
        if !self.has_ended.swap(true, Ordering::Relaxed) {
            self.meters.count(outcome);
            self.meters.seconds.record(self.started.elapsed());
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.end(Outcome::GivenUp);
    }
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight").field("started", &self.started).finish_non_exhaustive()
    }
}

impl Storable for Flight {
    type Storer = StoreReplace<Self>;
}

#[dyn_dispatch_hint]
impl Intercept for Requests {
    fn name(&self) -> &'static str {
        "Requests"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let meters = self.count(cfg.load::<Metadata>().map_or("unknown", Metadata::name));
        let flight = Flight { meters, started: Instant::now(), has_ended: AtomicBool::new(false) };
        cfg.interceptor_state().store_put(flight);
        Ok(())
    }

    fn read_after_attempt(
        &self,
        attempt: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // None where the attempt failed before anything was sent.
        if let Some(flight) = cfg.load::<Flight>() {
            let outcome = Outcome::of(attempt);
            answered::note(outcome.is_answer());
            flight.end(outcome);
        }
        Ok(())
    }
}
