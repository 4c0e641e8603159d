//! A cache of the issuer's keys.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::Algorithm;
use tokio::{
    sync::{Mutex, Semaphore, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    auth_error::AuthError,
    fetch::{FetchError, Source},
    keys::{Key, KeySet},
};
use crate::FailureLogThrottle;

/// How many calls may wait for a read of the keys at a time. Each holds one of the server's slots, and its caller is not
/// authenticated yet.
const MAX_WAITING: usize = 32;

/// How often the keys are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// The interval of regular reads; after a failure at most [`AFTER_FAILURE`].
    pub(crate) interval: Duration,
    /// A token with an unknown key causes another read, but not within this time after the last one: anybody can send
    /// such tokens.
    pub(crate) min_interval: Duration,
}

/// A failed read is repeated after this long, if the interval is longer.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// The issuer's keys. A failed read leaves the keys of the last good one in use.
#[derive(Debug)]
pub(crate) struct JwksCache {
    source: Source,
    pace: Pace,
    known: watch::Sender<Known>,
    /// Held during a read: one at a time.
    reading: Mutex<FailureLogThrottle>,
    waiting: Arc<Semaphore>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    keys: Option<Arc<KeySet>>,
    read_at: Option<Instant>,
    /// Whether the last read failed.
    is_stale: bool,
}

impl Known {
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Arc<Key>> {
        self.keys.as_ref()?.find(id, algorithm).cloned()
    }
}

impl JwksCache {
    /// An empty cache; nothing is read yet.
    pub(crate) fn new(source: Source, pace: Pace) -> Arc<Self> {
        Arc::new(Self {
            source,
            pace,
            known: watch::Sender::default(),
            reading: Mutex::default(),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        })
    }

    /// Whether any keys were read.
    pub(crate) fn has_keys(&self) -> bool {
        self.known.borrow().keys.is_some()
    }

    /// The key with this id, for this algorithm. An unknown id causes another read, unless the last was just now.
    pub(crate) async fn key(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<Key>, AuthError> {
        let known = self.known();
        if let Some(key) = known.find(id, algorithm) {
            return Ok(key);
        }
        if !self.is_recent(&known) {
            let slot = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| AuthError::NoKeys)?;
            let cache = Arc::clone(self);
            // A task of its own, so that a caller who leaves does not cancel the read for the others.
            let read = tokio::spawn(async move {
                let _slot = slot;
                let _ = cache.read().await;
            });
            // A panic leaves the old keys in use.
            let _ = read.await;
        }
        let known = self.known();
        known.find(id, algorithm).ok_or(match known.is_stale || known.keys.is_none() {
            true => AuthError::NoKeys,
            false => AuthError::UnknownKey,
        })
    }

    /// Reads the keys again and again, until the shutdown.
    pub(crate) async fn keep(&self, shutdown: CancellationToken) {
        let keep = async {
            loop {
                // A failure is counted, and logged if it lasts.
                let _ = self.read().await;
                let known = self.known();
                let pause = match known.is_stale {
                    true => self.pace.interval.min(AFTER_FAILURE),
                    false => self.pace.interval,
                };
                // Replicas that start together should not ask together for ever.
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.9..1.1))).await;
            }
        };
        shutdown.run_until_cancelled(keep).await;
    }

    /// Reads the keys, unless the last read was just now.
    pub(crate) async fn read(&self) -> Result<(), FetchError> {
        let mut throttle = self.reading.lock().await;
        if self.is_recent(&self.known()) {
            return Ok(());
        }
        let read = self.source.read().await;
        let outcome = if read.is_ok() { "read" } else { "failed" };
        metrics::counter!("jwks_reads_total", "outcome" => outcome).increment(1);
        let (keys, result) = match read {
            Ok(set) => {
                throttle.succeeded();
                metrics::gauge!("jwks_keys").set(u32::try_from(set.len()).unwrap_or(u32::MAX));
                (Some(Arc::new(set)), Ok(()))
            }
            Err(error) => {
                if let Some(lasted) = throttle.failed() {
                    let lasted = lasted.as_secs();
                    tracing::warn!(%error, lasted, "the issuer's keys cannot be read; the old ones are in use");
                }
                (self.known().keys, Err(error))
            }
        };
        let is_stale = result.is_err();
        self.known.send_replace(Known { keys, read_at: Some(Instant::now()), is_stale });
        result
    }

    fn known(&self) -> Known {
        self.known.borrow().clone()
    }

    fn is_recent(&self, known: &Known) -> bool {
        known.read_at.is_some_and(|at| at.elapsed() < self.pace.min_interval)
    }
}
