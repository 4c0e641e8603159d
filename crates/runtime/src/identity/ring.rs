//! The keys of the issuer, kept up to date.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::Algorithm;
use tokio::{
    sync::{Mutex, Semaphore, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Refusal,
    fetch::{FetchError, Source},
    keys::{Key, KeySet},
};
use crate::Trouble;

/// How many calls may wait at a time for another look at the keys. Each holds one of the places that all callers share,
/// and who they are is not known.
const MOST_WAITING: usize = 32;

/// How often the keys are looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// This often in any case; after a failure, twice a minute at least.
    pub(crate) interval: Duration,
    /// A token with a key that is not known makes for another look, but not within this time after the last one. Anybody
    /// can send such tokens.
    pub(crate) least: Duration,
}

/// A look that failed is repeated after this long, if the interval is longer.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// The keys of the issuer. Those that were read last stay until others are read.
#[derive(Debug)]
pub(crate) struct Ring {
    source: Source,
    pace: Pace,
    known: watch::Sender<Known>,
    /// Looks are made one at a time.
    turn: Mutex<Trouble>,
    waiting: Arc<Semaphore>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    keys: Option<Arc<KeySet>>,
    looked_at: Option<Instant>,
    /// Whether the last look failed.
    is_stale: bool,
}

impl Known {
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Arc<Key>> {
        self.keys.as_ref()?.find(id, algorithm).cloned()
    }
}

impl Ring {
    /// A ring without keys, until somebody looks.
    pub(crate) fn new(source: Source, pace: Pace) -> Arc<Self> {
        Arc::new(Self {
            source,
            pace,
            known: watch::Sender::default(),
            turn: Mutex::default(),
            waiting: Arc::new(Semaphore::new(MOST_WAITING)),
        })
    }

    /// Whether there are any keys.
    pub(crate) fn has_keys(&self) -> bool {
        self.known.borrow().keys.is_some()
    }

    /// The key of this id for this algorithm. Where it is not known, the keys are looked at once more, if that was not
    /// done just now.
    pub(crate) async fn key(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<Key>, Refusal> {
        let known = self.known();
        if let Some(key) = known.find(id, algorithm) {
            return Ok(key);
        }
        if !self.is_recent(&known) {
            let place = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| Refusal::NoKeys)?;
            let ring = Arc::clone(self);
            // A task of its own: a caller who leaves takes nothing from others who wait for the same.
            let look = tokio::spawn(async move {
                let _place = place;
                let _ = ring.look().await;
            });
            // That it panicked leaves the keys that there are.
            let _ = look.await;
        }
        let known = self.known();
        known.find(id, algorithm).ok_or(match known.is_stale || known.keys.is_none() {
            true => Refusal::NoKeys,
            false => Refusal::UnknownKey,
        })
    }

    /// Looks again and again, until the shutdown.
    pub(crate) async fn keep(&self, shutdown: CancellationToken) {
        let keep = async {
            loop {
                // Whether it failed is noted, counted, and told if it lasts.
                let _ = self.look().await;
                let known = self.known();
                let pause = match known.is_stale {
                    true => self.pace.interval.min(AFTER_FAILURE),
                    false => self.pace.interval,
                };
                // Replicas that were started together should not ask together for ever.
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.9..1.1))).await;
            }
        };
        shutdown.run_until_cancelled(keep).await;
    }

    /// Looks at the keys, unless that was done just now.
    pub(crate) async fn look(&self) -> Result<(), FetchError> {
        let mut trouble = self.turn.lock().await;
        if self.is_recent(&self.known()) {
            return Ok(());
        }
        let read = self.source.read().await;
        let outcome = if read.is_ok() { "read" } else { "failed" };
        metrics::counter!("jwks_reads_total", "outcome" => outcome).increment(1);
        let (keys, result) = match read {
            Ok(set) => {
                trouble.over();
                metrics::gauge!("jwks_keys").set(u32::try_from(set.len()).unwrap_or(u32::MAX));
                (Some(Arc::new(set)), Ok(()))
            }
            Err(error) => {
                if let Some(lasted) = trouble.met() {
                    let lasted = lasted.as_secs();
                    tracing::warn!(%error, lasted, "the issuer's keys cannot be read; the old ones are in use");
                }
                (self.known().keys, Err(error))
            }
        };
        let is_stale = result.is_err();
        self.known.send_replace(Known { keys, looked_at: Some(Instant::now()), is_stale });
        result
    }

    fn known(&self) -> Known {
        self.known.borrow().clone()
    }

    fn is_recent(&self, known: &Known) -> bool {
        known.looked_at.is_some_and(|at| at.elapsed() < self.pace.least)
    }
}
