//! The rate at which an operator's command calls AWS, and its retries.

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

/// How often a throttled call is tried: for about twenty minutes. Nobody waits for the answer, and production comes
/// first.
const THROTTLED: u32 = 80;

/// How often a call is tried while AWS cannot be reached: about two minutes, plus the time of each attempt.
const UNREACHABLE: u32 = 12;

/// Why a command ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Halt {
    /// The command was told to end.
    #[error("told to end")]
    Told,
    /// A call to AWS failed for good: the purpose of the call, and the error.
    #[error("{0}")]
    Aws(&'static str, #[source] AwsError),
    /// A living process holds the job.
    #[error("another process is at it: {0}. It goes on from its progress if that process ends")]
    Held(String),
    /// Another process took the job, since this one did not answer for long.
    #[error("another process has taken it over")]
    TakenOver,
    /// The command lacks something that an earlier run leaves.
    #[error("{0}")]
    Lacking(&'static str),
    /// The report's reader is gone.
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

    /// Makes a call when its time has come, and again while AWS throttles it or cannot be reached. `what` names its
    /// purpose.
    pub(crate) async fn call<T, F>(&self, what: &'static str, call: impl Fn() -> F) -> Result<T, Halt>
    where
        F: Future<Output = Result<T, AwsError>>,
    {
        self.attempts(what, true, call).await
    }

    /// Like [`call`](Self::call), but at once: for calls that read no table under work.
    pub(crate) async fn unpaced<T, F>(&self, what: &'static str, call: impl Fn() -> F) -> Result<T, Halt>
    where
        F: Future<Output = Result<T, AwsError>>,
    {
        self.attempts(what, false, call).await
    }

    async fn attempts<T, F>(&self, what: &'static str, paced: bool, call: impl Fn() -> F) -> Result<T, Halt>
    where
        F: Future<Output = Result<T, AwsError>>,
    {
        let (mut throttled, mut unreachable) = (0, 0);
        loop {
            if paced && self.rate.is_some() {
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

    /// Counts a call that AWS throttled, in full or in part.
    pub(crate) fn count_throttled(&self) {
        self.throttled.fetch_add(1, Relaxed);
    }

    /// The number of such calls.
    pub(crate) fn throttled(&self) -> u64 {
        self.throttled.load(Relaxed)
    }

    /// Notes the cost of a call, which delays the next calls.
    pub(crate) fn took(&self, read_units: f64) {
        let Some(rate) = self.rate else { return };
        let time = Duration::try_from_secs_f64(read_units / rate).unwrap_or_default();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(Instant::now()) + time;
    }

    /// Waits after this many failures.
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
