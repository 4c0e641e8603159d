//! Readiness: whether the process can do its work, for probes.

use std::time::Duration;

use futures::future::BoxFuture;
use millrace_aws::AwsError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::health::Board;

/// How often a process probes whether it can work. At its start it probes sooner, with pauses that double.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
const FIRST_PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// A probe that takes longer fails.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the reason is logged again while a process cannot work.
const REMIND_INTERVAL: Duration = Duration::from_secs(60);

/// Probes whether the process can work; the error says why not.
pub type Probe = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Readiness by a read from AWS. A table that throttles is reachable: taking replicas out of service would only load
/// the others more.
pub fn reachable<T>(read: Result<T, AwsError>) -> Result<(), String> {
    match read {
        Ok(_) | Err(AwsError::Throttled(_)) => Ok(()),
        Err(error @ (AwsError::Unreachable(_) | AwsError::Refused(_) | AwsError::InvalidResponse(_))) => {
            Err(error.to_string())
        }
    }
}

/// Shows the probe's result until the shutdown, and NOT_SERVING from then on. Each change is logged; while the process
/// cannot work, the reason is repeated from time to time.
pub(crate) async fn keep_readiness<F>(board: Board, probe: impl Fn() -> F, shutdown: CancellationToken)
where
    F: Future<Output = Result<(), String>>,
{
    let mut pause = FIRST_PROBE_INTERVAL;
    let mut readiness = Readiness::new();
    let watch = async {
        loop {
            let found = tokio::time::timeout(PROBE_TIMEOUT, probe()).await;
            let found = found.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            readiness.log(&found);
            let ready = found.is_ok();
            board.ready(ready).await;
            tokio::time::sleep(pause).await;
            pause = if ready { PROBE_INTERVAL } else { (pause * 2).min(PROBE_INTERVAL) };
        }
    };
    shutdown.run_until_cancelled(watch).await;
    board.ready(false).await;
}

/// The readiness last logged, and the time.
struct Readiness {
    started: Instant,
    ready: Option<bool>,
    logged: Option<Instant>,
}

impl Readiness {
    fn new() -> Self {
        Self { started: Instant::now(), ready: None, logged: None }
    }

    /// Logs a change, and a lasting reason. A process that is not ready in its first moments is not logged.
    fn log(&mut self, found: &Result<(), String>) {
        let now = Instant::now();
        let was_ready = self.ready == Some(true);
        if self.ready != Some(found.is_ok()) {
            self.ready = Some(found.is_ok());
            self.logged = None;
        }
        match (found, self.logged) {
            (Ok(()), None) => tracing::info!("ready"),
            (Err(reason), None) if was_ready || now - self.started >= PROBE_INTERVAL => {
                tracing::warn!(reason, "not ready");
            }
            (Err(reason), Some(logged)) if now - logged >= REMIND_INTERVAL => {
                tracing::warn!(reason, "still not ready")
            }
            (Ok(()) | Err(_), _) => return,
        }
        self.logged = Some(now);
    }
}
