//! The life of a process: configuration, telemetry, work, an orderly end.

use std::{ffi::OsString, future::Future, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, Common},
    telemetry,
};

/// From the signal to the end a process has this long for what is in flight. Kubernetes' default patience is 30 s.
const DRAIN: Duration = Duration::from_secs(18);

/// A configuration that has the common part.
pub trait Configured: Parser + Send + 'static {
    /// The common part.
    fn common(&self) -> &Common;
}

/// What a deployable's work is given.
pub struct Process {
    /// Cancelled when the process is to end.
    pub shutdown: CancellationToken,
    /// What the metrics endpoint shows.
    pub metrics: Option<PrometheusHandle>,
}

/// Runs a deployable as a process: reads its configuration from `args` (the first is the program's name) and the
/// environment, starts telemetry, runs `work`, cancels it on SIGTERM and SIGINT.
///
/// Exits 0 after an orderly end, 1 where the work failed or did not end in time, 2 where the configuration is wrong.
pub fn main<C, W, F>(args: impl IntoIterator<Item = OsString>, work: W) -> ExitCode
where
    C: Configured,
    W: FnOnce(C, Process) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let config: C = match config::read(args) {
        Ok(config) => config,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let outcome = telemetry::init(config.common().log_format).and_then(|metrics| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let ended = runtime.block_on(run(config, metrics, work));
        runtime.shutdown_background();
        ended
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the process ends with an error");
            ExitCode::FAILURE
        }
    }
}

async fn run<C, W, F>(config: C, metrics: Option<PrometheusHandle>, work: W) -> anyhow::Result<()>
where
    C: Configured,
    W: FnOnce(C, Process) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    if config.common().exit_with_stdin {
        cancel_with_stdin(shutdown.clone());
    }
    let mut work = Box::pin(work(config, Process { shutdown: shutdown.clone(), metrics }));
    tokio::select! {
        ended = &mut work => return ended,
        _ = terminate.recv() => tracing::info!("SIGTERM: ending"),
        _ = interrupt.recv() => tracing::info!("SIGINT: ending"),
        () = shutdown.cancelled() => tracing::info!("ending"),
    }
    shutdown.cancel();
    tokio::time::timeout(DRAIN, work).await.context("work in flight did not end in time")?
}

/// Cancels when standard input ends, which it does when the parent process ends, however that comes about.
fn cancel_with_stdin(shutdown: CancellationToken) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        shutdown.cancel();
    });
}
