//! Logs, joined to traces, and metrics.

use std::{
    env::VarError,
    io::{self, IsTerminal as _},
};

use metrics::describe_gauge;
pub use metrics_exporter_prometheus::PrometheusHandle;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};
use millrace_telemetry::current;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    filter::filter_fn,
    fmt::{self, FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
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

/// From a call's arrival to its end, of calls that are answered with a stream, labelled `method`.
pub(crate) const STREAMED: &str = "rpc_stream_seconds";

/// Bounds of the histogram of whole streams, in seconds: a watch may last for hours.
const STREAM_SECONDS: [f64; 9] = [0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 14_400.0, 86_400.0];

/// The filter of `RUST_LOG`; `info` where it is unset.
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
    collect()
}

/// Logs all that may be logged, whatever its level, and collects metrics: for tests that hold what a process says against
/// what it must not say. `writer` gets a JSON object with each writing.
pub fn overhear<W>(writer: W) -> anyhow::Result<Option<PrometheusHandle>>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    log_some(EnvFilter::new("trace"), writer, false, LogFormat::Json);
    collect()
}

/// Collects metrics; none are returned where something else collects them already.
fn collect() -> anyhow::Result<Option<PrometheusHandle>> {
    let recorder = recorder()?;
    let handle = recorder.handle();
    let is_first = metrics::set_global_recorder(recorder).is_ok();
    describe_gauge!("millrace_build_info", "The release that runs, as the label `version`; always 1.");
    metrics::gauge!("millrace_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(is_first.then_some(handle))
}

/// A recorder of metrics with Millrace's histograms.
fn recorder() -> anyhow::Result<PrometheusRecorder> {
    Ok(PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(STREAMED.to_owned()), &STREAM_SECONDS)?
        .build_recorder())
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
    log_some(filter().map_err(anyhow::Error::msg)?, writer, terminal, format);
    Ok(())
}

fn log_some<W>(filter: EnvFilter, writer: W, terminal: bool, format: LogFormat)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::registry().with(filter).with(filter_fn(is_harmless));
    let layer = fmt::layer().with_writer(writer);
    // A subscriber that is set already belongs to a test: it stays.
    let _ = match format {
        LogFormat::Json => {
            let layer = layer.json().flatten_event(true).map_event_format(|inner| Joined { inner, format });
            lines.with(layer).try_init()
        }
        LogFormat::Text => {
            let layer = layer.with_ansi(terminal).map_event_format(|inner| Joined { inner, format });
            lines.with(layer).try_init()
        }
    };
}

/// Lines of a log that are joined to traces: what is said within a span has `trace_id` and `span_id`, in front of all else
/// in JSON, and behind it in text.
struct Joined<F> {
    inner: F,
    format: LogFormat,
}

impl<S, N, F> FormatEvent<S, N> for Joined<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        // A line that names a trace by itself knows better: it may be about one of many messages.
        let is_joined = event.fields().any(|field| field.name() == "trace_id");
        let Some(span) = current().filter(|_| !is_joined) else {
            return self.inner.format_event(ctx, writer, event);
        };
        let (trace_id, span_id) = (span.trace_id(), span.span_id());
        let mut line = String::new();
        self.inner.format_event(ctx, Writer::new(&mut line), event)?;
        match (self.format, line.strip_prefix('{')) {
            (LogFormat::Json, Some(rest)) => {
                write!(writer, r#"{{"trace_id":"{trace_id}","span_id":"{span_id}",{rest}"#)
            }
            (LogFormat::Json, None) | (LogFormat::Text, _) => {
                writeln!(writer, "{} trace_id={trace_id} span_id={span_id}", line.trim_end())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_telemetry::{TraceParent, enter, testing::LogLines};

    use super::*;

    #[test]
    fn what_the_sdk_says_of_its_requests_is_never_logged() {
        let written = LogLines::begin();
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
        let written = written.text();
        assert!(!written.contains("john"), "{written}");
        assert!(written.contains("a warning") && written.contains("our own"), "{written}");
    }

    fn written(format: LogFormat, say: impl FnOnce()) -> String {
        let written = LogLines::begin();
        let writer = written.clone();
        let layer = fmt::layer().with_writer(move || writer.clone());
        let lines = tracing_subscriber::registry();
        match format {
            LogFormat::Json => {
                let layer =
                    layer.json().flatten_event(true).map_event_format(|inner| Joined { inner, format });
                tracing::subscriber::with_default(lines.with(layer), say);
            }
            LogFormat::Text => {
                let layer = layer.with_ansi(false).map_event_format(|inner| Joined { inner, format });
                tracing::subscriber::with_default(lines.with(layer), say);
            }
        }
        written.text()
    }

    #[test]
    fn a_line_within_a_span_names_its_trace_on_top_and_one_without_is_left_as_it_is() {
        let span: TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00".parse().unwrap();
        let say = || {
            let _call = tracing::info_span!("rpc", method = "m").entered();
            enter(span, || tracing::info!("within"));
            enter(span, || tracing::info!(trace_id = "another", "one of many"));
            tracing::info!("outside");
        };
        let text = written(LogFormat::Json, say);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(
            (&lines[0]["span_id"], &lines[0]["message"]),
            (&"b7ad6b7169203331".into(), &"within".into())
        );
        assert_eq!((&lines[1]["trace_id"], lines[1].get("span_id")), (&"another".into(), None));
        assert_eq!((lines[2].get("trace_id"), lines.len()), (None, 3));
        let text = written(LogFormat::Text, say);
        let ends = "within trace_id=0af7651916cd43dd8448eb211c80319c span_id=b7ad6b7169203331";
        assert!(text.lines().next().unwrap().ends_with(ends), "{text}");
    }
}
