//! The life of a process: configuration, telemetry, work, an orderly end.

use std::{ffi::OsString, future::Future, io::Write as _, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::{Parser, error::ErrorKind};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, Common},
    telemetry::{self, LogFormat},
    traces::Exporting,
};

/// How long work in flight may take after the signal. Kubernetes waits 30 s by default.
const DRAIN: Duration = Duration::from_secs(18);

/// A configuration with the common settings.
pub trait Configured: Parser + Send + 'static {
    /// The common settings.
    fn common(&self) -> &Common;
}

/// A configuration of an operator's command.
pub trait Commanded: Parser + Send + 'static {
    /// The format of log lines.
    fn log_format(&self) -> Option<LogFormat>;
}

/// The surroundings of a deployable's work.
pub struct Process {
    /// Cancelled when the process is to end.
    pub shutdown: CancellationToken,
    /// The recorder behind the metrics endpoint.
    pub metrics: Option<PrometheusHandle>,
}

/// Runs a deployable as a process: reads its configuration from `args` (the first is the program's name) and the
/// environment, starts telemetry, runs `work`, cancels it on SIGTERM and SIGINT.
///
/// Exits 0 after an orderly end, 1 where the work failed or did not end in time, 2 where the configuration is bad.
pub fn main<C, W, F>(args: impl IntoIterator<Item = OsString>, work: W) -> ExitCode
where
    C: Configured,
    W: FnOnce(C, Process) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let config: C = match config::read(args).and_then(consistent) {
        Ok(config) => config,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let outcome = telemetry::init(config.common().log_format).and_then(|metrics| {
        let runtime = runtime(config.common())?;
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

/// By default, tokio takes a thread for each core of the machine, and a container without a limit sees all cores.
fn runtime(common: &Common) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(common.worker_threads.into()).enable_all().build()
}

/// A configuration whose values fit together, or all conflicts.
fn consistent<C: Configured>(config: C) -> Result<C, clap::Error> {
    let common = config.common();
    let mut problems = common.security.problems();
    problems.extend(common.traces.problems());
    if problems.is_empty() {
        return Ok(config);
    }
    Err(C::command().error(ErrorKind::ArgumentConflict, problems.join("\n\n")))
}

/// How an operator's command ended that ran completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// No work is left: exit code 0.
    Well,
    /// A person has to act on the rest: exit code 1.
    Left,
}

/// Why an operator's command did not run completely.
#[derive(Debug)]
pub enum Unfinished {
    /// The configuration or the environment is unusable: exit code 2.
    Misconfigured(anyhow::Error),
    /// It failed, or was told to end: exit code 3.
    Incomplete(anyhow::Error),
}

/// Runs an operator's command as a process: reads its configuration from `args` (the first is the program's name) and
/// the environment, starts logging to standard error, runs `work`, and cancels it on SIGTERM and SIGINT. `hint` is the
/// advice for a bad configuration.
///
/// Exits as [`Ended`] and [`Unfinished`] say.
pub fn command<C, W, F>(args: impl IntoIterator<Item = OsString>, hint: &str, work: W) -> ExitCode
where
    C: Commanded,
    W: FnOnce(C, CancellationToken) -> F,
    F: Future<Output = Result<Ended, Unfinished>>,
{
    let config: C = match config::read(args) {
        Ok(config) => config,
        Err(error) if error.use_stderr() => {
            say(&format!("{error}\n{hint}"));
            return ExitCode::from(2);
        }
        Err(asked_for) => {
            let _ = asked_for.print();
            return ExitCode::SUCCESS;
        }
    };
    let started = telemetry::init_for_command(config.log_format())
        .and_then(|()| Ok(Builder::new_multi_thread().enable_all().build()?));
    let outcome = started.map_err(Unfinished::Incomplete).and_then(|runtime| {
        let shutdown = CancellationToken::new();
        let work = work(config, shutdown.clone());
        let ended = runtime.block_on(until_told(shutdown, work));
        runtime.shutdown_background();
        ended.map_err(Unfinished::Incomplete)?
    });
    match outcome {
        Ok(Ended::Well) => ExitCode::SUCCESS,
        Ok(Ended::Left) => ExitCode::FAILURE,
        Err(Unfinished::Misconfigured(error)) => {
            say(&format!("error: {error:#}\n\n{hint}"));
            ExitCode::from(2)
        }
        Err(Unfinished::Incomplete(error)) => {
            say(&format!("error: {error:#}"));
            ExitCode::from(3)
        }
    }
}

/// Writes to standard error. A closed standard error is no reason to panic.
fn say(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}

async fn run<C, W, F>(config: C, metrics: Option<PrometheusHandle>, work: W) -> anyhow::Result<()>
where
    C: Configured,
    W: FnOnce(C, Process) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let shutdown = CancellationToken::new();
    if config.common().exit_with_stdin {
        cancel_with_stdin(shutdown.clone());
    }
    let exporting = Exporting::begin(&config.common().traces, C::command().get_name())?;
    let work = work(config, Process { shutdown: shutdown.clone(), metrics });
    let ended = until_told(shutdown, work).await;
    if let Some(exporting) = exporting {
        exporting.finish().await;
    }
    ended?
}

/// Runs `work` to its end; SIGTERM and SIGINT cancel `shutdown`, and `work` then has `DRAIN` to end.
async fn until_told<T>(shutdown: CancellationToken, work: impl Future<Output = T>) -> anyhow::Result<T> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut work = Box::pin(work);
    tokio::select! {
        ended = &mut work => return Ok(ended),
        _ = terminate.recv() => tracing::info!("SIGTERM: ending"),
        _ = interrupt.recv() => tracing::info!("SIGINT: ending"),
        () = shutdown.cancelled() => tracing::info!("ending"),
    }
    shutdown.cancel();
    tokio::time::timeout(DRAIN, work).await.context("work in flight did not end in time")
}

/// Cancels at the end of standard input, which comes when the parent process ends in any way.
fn cancel_with_stdin(shutdown: CancellationToken) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        shutdown.cancel();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Config {
        #[command(flatten)]
        common: Common,
    }

    impl Configured for Config {
        fn common(&self) -> &Common {
            &self.common
        }
    }

    fn read(args: &[&str]) -> Result<Config, clap::Error> {
        config::read::<Config>(args.iter().map(OsString::from)).and_then(consistent)
    }

    #[test]
    fn there_is_one_worker_unless_more_are_asked_for() {
        for (args, workers) in [(&["program"][..], 1), (&["program", "--worker-threads=3"], 3)] {
            let runtime = runtime(read(args).unwrap().common()).unwrap();
            assert_eq!(runtime.metrics().num_workers(), workers);
        }
        for bad in ["0", "1025", "all"] {
            let said = read(&["program", &format!("--worker-threads={bad}")]).unwrap_err().to_string();
            assert!(said.contains("--worker-threads"), "{said}");
        }
    }

    #[test]
    fn values_that_do_not_go_together_are_a_mistake_of_configuration() {
        assert!(read(&["program"]).is_ok());
        let said = read(&["program", "--tls-cert-file=a", "--jwt-issuer=i"]).unwrap_err().to_string();
        assert!(said.contains("TLS_KEY_FILE") && said.contains("JWT_AUDIENCE"), "{said}");
    }
}
