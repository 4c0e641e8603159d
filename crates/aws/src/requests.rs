//! How many requests were sent.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{Intercept, context::BeforeTransmitInterceptorContextRef, dyn_dispatch_hint},
        orchestrator::Metadata,
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::config_bag::ConfigBag;
use metrics::Counter;

/// Counts the requests that clients send, by operation, every attempt for itself: what AWS counts and charges.
///
/// Clones count together. Each request also goes to the metric `aws_requests_total`, labelled `operation`; to the recorder
/// that there was at the first request of its operation, so that no request has to look for its counter.
#[derive(Clone, Default)]
pub struct Requests(Arc<Mutex<BTreeMap<String, Sent>>>);

/// The requests of an operation.
struct Sent {
    /// How many there were since they were last taken.
    count: u64,
    counter: Counter,
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

    fn count(&self, operation: &str) {
        let mut all = self.look();
        if !all.contains_key(operation) {
            let counter = metrics::counter!("aws_requests_total", "operation" => operation.to_owned());
            all.insert(operation.to_owned(), Sent { count: 0, counter });
        }
        if let Some(sent) = all.get_mut(operation) {
            sent.count += 1;
            sent.counter.increment(1);
        }
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
        self.count(cfg.load::<Metadata>().map_or("unknown", Metadata::name));
        Ok(())
    }
}
