//! Buses that refuse some entries.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use millrace_aws::AwsError;
use millrace_core::{Envelope, EventId};
use tokio::time::{Instant, sleep};

use crate::{
    bus::{Entry, EventBus, Rejection},
    memory::MemoryBus,
};

type Verdicts = Arc<dyn Fn(&[Entry]) -> Result<Vec<Result<(), Rejection>>, Rejection> + Send + Sync>;

/// A bus that accepts the calls that a function lets through, and records all calls.
#[derive(Clone)]
pub(super) struct ChoosyBus {
    accepted: MemoryBus,
    verdicts: Verdicts,
    calls: Arc<Mutex<Vec<Vec<Entry>>>>,
}

impl ChoosyBus {
    pub(super) fn new(
        accepted: &MemoryBus,
        verdicts: impl Fn(&[Entry]) -> Result<Vec<Result<(), Rejection>>, Rejection> + Send + Sync + 'static,
    ) -> Self {
        Self { accepted: accepted.clone(), verdicts: Arc::new(verdicts), calls: Arc::default() }
    }

    /// A bus that judges each entry alone.
    pub(super) fn by_entry(
        accepted: &MemoryBus,
        verdict: impl Fn(&Entry) -> Result<(), Rejection> + Send + Sync + 'static,
    ) -> Self {
        Self::new(accepted, move |entries| Ok(entries.iter().map(&verdict).collect()))
    }

    pub(super) fn calls(&self) -> Vec<Vec<Entry>> {
        self.calls.lock().unwrap().clone()
    }
}

impl EventBus for ChoosyBus {
    async fn put(&self, entries: &[Entry]) -> Result<Vec<Result<(), Rejection>>, Rejection> {
        self.calls.lock().unwrap().push(entries.to_vec());
        let verdicts = (self.verdicts)(entries)?;
        for (entry, verdict) in entries.iter().zip(&verdicts) {
            if verdict.is_ok() {
                self.accepted.put(std::slice::from_ref(entry)).await?.pop().unwrap()?;
            }
        }
        Ok(verdicts)
    }
}

/// A bus whose calls take their time; it remembers when it first accepted each event.
#[derive(Clone)]
pub(super) struct Distant {
    there: MemoryBus,
    latency: Duration,
    accepted: Arc<Mutex<HashMap<EventId, Instant>>>,
}

impl Distant {
    pub(super) fn new(there: &MemoryBus, latency: Duration) -> Self {
        Self { there: there.clone(), latency, accepted: Arc::default() }
    }

    /// When the last of these events was accepted, if all are.
    pub(super) fn has_all(&self, ids: &[EventId]) -> Option<Instant> {
        let accepted = self.accepted.lock().unwrap();
        ids.iter().map(|id| accepted.get(id).copied()).collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}

impl EventBus for Distant {
    async fn put(&self, entries: &[Entry]) -> Result<Vec<Result<(), Rejection>>, Rejection> {
        sleep(self.latency).await;
        for entry in entries {
            let event: Envelope = serde_json::from_str(&entry.detail).unwrap();
            self.accepted.lock().unwrap().entry(event.event_id).or_insert_with(Instant::now);
        }
        self.there.put(entries).await
    }
}

pub(super) fn throttled() -> Rejection {
    Rejection::Failed(AwsError::Throttled("slow down".to_owned()))
}

pub(super) fn bad_content() -> Rejection {
    Rejection::Content(AwsError::Refused("MalformedDetail".to_owned()))
}
