//! How fast a command for operators calls AWS, and what it puts up with.

use std::{
    future::Future,
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use millrace_aws::AwsError;
use millrace_core::Backoff;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Between attempts at a call that AWS did not serve.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(20) };

/// How often a call is tried that AWS throttles: for about twenty minutes. Nobody waits for the answer, and others have
/// the first right to the capacity.
const THROTTLED: u32 = 80;

/// How often a call is tried while AWS cannot be reached: for about two minutes, on top of what each attempt takes.
const UNREACHABLE: u32 = 12;

/// Why a command ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Halt {
    /// It was told to.
    #[error("told to end")]
    Told,
    /// A call to AWS failed for good: what was done by it, and why it failed.
    #[error("{0}")]
    Aws(&'static str, #[source] AwsError),
    /// Nobody takes the report any more.
    #[error("the report cannot be written")]
    Report(#[from] io::Error),
}

/// The pace of all calls.
pub(crate) struct Pace {
    /// Cancelled when the command is to end.
    pub(crate) stop: CancellationToken,
    /// How many read units a second it may take on average.
    rate: Option<f64>,
    /// When the next call may be sent.
    next: Mutex<Instant>,
    throttled: AtomicU64,
    jitter: fn() -> f64,
}

impl Pace {
    pub(crate) fn new(stop: CancellationToken, rate: Option<u32>, jitter: fn() -> f64) -> Self {
        Self {
            stop,
            rate: rate.map(f64::from),
            next: Mutex::new(Instant::now()),
            throttled: AtomicU64::new(0),
            jitter,
        }
    }

    /// Makes a call when its time has come, and again while AWS throttles it or cannot be reached. `what` says what is
    /// done by it.
    pub(crate) async fn call<T, F>(&self, what: &'static str, call: impl Fn() -> F) -> Result<T, Halt>
    where
        F: Future<Output = Result<T, AwsError>>,
    {
        let (mut throttled, mut unreachable) = (0, 0);
        loop {
            if self.rate.is_some() {
                let next = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
                self.until(next).await?;
            }
            if self.stop.is_cancelled() {
                return Err(Halt::Told);
            }
            let error = match call().await {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            let patient = match &error {
                AwsError::Throttled(_) => {
                    throttled += 1;
                    self.count_throttled();
                    throttled < THROTTLED
                }
                AwsError::Unreachable(_) => {
                    unreachable += 1;
                    unreachable < UNREACHABLE
                }
                AwsError::Refused(_) | AwsError::InvalidResponse(_) => false,
            };
            if !patient {
                return Err(Halt::Aws(what, error));
            }
            tracing::debug!(what, %error, "tried again");
            self.pause(throttled + unreachable).await?;
        }
    }

    /// Counts a call that AWS did not serve, or only in part, for want of capacity.
    pub(crate) fn count_throttled(&self) {
        self.throttled.fetch_add(1, Relaxed);
    }

    /// How many such calls there were.
    pub(crate) fn throttled(&self) -> u64 {
        self.throttled.load(Relaxed)
    }

    /// Notes what a call took, which puts the next ones off.
    pub(crate) fn took(&self, read_units: f64) {
        let Some(rate) = self.rate else { return };
        let time = Duration::try_from_secs_f64(read_units / rate).unwrap_or_default();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(Instant::now()) + time;
    }

    /// Waits after so many failures.
    pub(crate) async fn pause(&self, failures: u32) -> Result<(), Halt> {
        let wait = BACKOFF.after(failures, (self.jitter)());
        self.stop.run_until_cancelled(sleep(wait)).await.ok_or(Halt::Told)
    }

    /// Waits until a moment.
    pub(crate) async fn until(&self, moment: Instant) -> Result<(), Halt> {
        self.stop.run_until_cancelled(sleep_until(moment)).await.ok_or(Halt::Told)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_is_given_up_after_as_many_failures_as_its_kind_deserves() {
        let pace = Pace::new(CancellationToken::new(), None, || 1.0);
        for (error, most) in [
            (AwsError::Throttled(String::new()), THROTTLED),
            (AwsError::Unreachable(String::new()), UNREACHABLE),
            (AwsError::Refused(String::new()), 1),
            (AwsError::InvalidResponse(String::new()), 1),
        ] {
            let calls = Cell::new(0);
            let failing = || async {
                calls.set(calls.get() + 1);
                Err::<(), _>(error.clone())
            };
            assert!(matches!(pace.call("failing", failing).await, Err(Halt::Aws(..))));
            assert_eq!(calls.get(), most, "{error}");
        }
    }
}
