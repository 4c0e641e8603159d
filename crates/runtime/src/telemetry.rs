//! Logs and metrics.

use std::io::IsTerminal as _;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, fmt};

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

/// Starts logging to standard output and collecting metrics, once a process; a later call changes nothing.
///
/// What is logged follows `RUST_LOG`, `info` where it is unset; the format is JSON where none is asked for and standard
/// output is no terminal.
pub fn init(format: Option<LogFormat>) -> anyhow::Result<Option<PrometheusHandle>> {
    let terminal = std::io::stdout().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    // The AWS SDK logs the requests it sends at debug and below: never in these deployables, whatever RUST_LOG says.
    let quiet =
        ["aws_smithy_runtime=info", "aws_sdk_dynamodb=info", "aws_runtime=info", "hyper=info", "h2=info"];
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    for directive in quiet {
        filter = filter.add_directive(directive.parse()?);
    }
    let lines = fmt().with_env_filter(filter);
    // A subscriber that is set already belongs to a test: it stays.
    let _ = match format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text => lines.with_ansi(terminal).try_init(),
    };
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .build_recorder();
    let handle = recorder.handle();
    Ok(metrics::set_global_recorder(recorder).is_ok().then_some(handle))
}
