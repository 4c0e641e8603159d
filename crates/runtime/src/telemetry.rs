//! Logs and metrics.

use std::{
    env::VarError,
    io::{self, IsTerminal as _},
};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter,
    filter::filter_fn,
    fmt::{self, MakeWriter},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Bounds of the histograms of durations, in seconds.
const SECONDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0];

/// What `RUST_LOG` asks to be logged; `info` where it is unset.
pub(crate) fn filter() -> Result<EnvFilter, String> {
    match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(text).map_err(|error| error.to_string()),
        Ok(_) | Err(VarError::NotPresent) => Ok(EnvFilter::new("info")),
        Err(VarError::NotUnicode(_)) => Err("it is no text".to_owned()),
    }
}

/// Whether a line may be logged at all. Below `info`, the AWS SDK and what carries it log requests and replies whole,
/// credentials and personal data with them: whatever `RUST_LOG` says, those lines are not for a log.
fn is_harmless(line: &Metadata<'_>) -> bool {
    const TALKATIVE: [&str; 5] = ["aws_", "hyper", "h2", "rustls", "tonic"];
    *line.level() <= Level::INFO || !TALKATIVE.iter().any(|library| line.target().starts_with(library))
}

/// The same as a filter.
#[cfg(test)]
pub(crate) fn harmless() -> tracing_subscriber::filter::FilterFn {
    filter_fn(is_harmless)
}

/// Starts logging to standard output and collecting metrics, once a process; a later call changes nothing.
pub fn init(format: Option<LogFormat>) -> anyhow::Result<Option<PrometheusHandle>> {
    log_to(io::stdout, io::stdout().is_terminal(), format)?;
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .build_recorder();
    let handle = recorder.handle();
    Ok(metrics::set_global_recorder(recorder).is_ok().then_some(handle))
}

/// Starts logging to standard error, for a command whose standard output is its result. Once a process; a later call
/// changes nothing.
pub fn init_for_command(format: Option<LogFormat>) -> anyhow::Result<()> {
    log_to(io::stderr, io::stderr().is_terminal(), format)
}

/// What is logged follows `RUST_LOG`; the format is JSON where none is asked for and nobody watches.
fn log_to<W>(writer: W, terminal: bool, format: Option<LogFormat>) -> anyhow::Result<()>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let format = format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let filter = filter().map_err(anyhow::Error::msg)?;
    let lines = tracing_subscriber::registry().with(filter).with(filter_fn(is_harmless));
    let layer = fmt::layer().with_writer(writer);
    // A subscriber that is set already belongs to a test: it stays.
    let _ = match format {
        LogFormat::Json => lines.with(layer.json().flatten_event(true)).try_init(),
        LogFormat::Text => lines.with(layer.with_ansi(terminal)).try_init(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_the_sdk_says_of_its_requests_is_never_logged() {
        let written = Written::default();
        let writer = written.clone();
        let filter = EnvFilter::new("trace,[rpc]=trace,aws_smithy_runtime::client=trace,aws_sigv4=trace");
        let lines = fmt::layer().with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(filter).with(filter_fn(is_harmless)).with(lines);
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("rpc").entered();
            tracing::trace!(target: "aws_smithy_runtime::client::orchestrator", "john@example.com");
            tracing::debug!(target: "aws_sigv4::http_request", "john@example.com");
            tracing::debug!(target: "hyper_util::client", "john@example.com");
            tracing::warn!(target: "aws_config", "a warning");
            tracing::trace!("our own");
        });
        let written = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert!(!written.contains("john"), "{written}");
        assert!(written.contains("a warning") && written.contains("our own"), "{written}");
    }
}
