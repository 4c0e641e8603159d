//! Export of spans to a collector.

use std::time::Duration;

use anyhow::Context as _;
use metrics::{counter, describe_counter};
use millrace_telemetry::{Listener, listen};
use opentelemetry::KeyValue;
use opentelemetry_otlp::{
    WithExportConfig as _, WithTonicConfig as _,
    tonic_types::{
        metadata::MetadataMap,
        transport::{Certificate, ClientTlsConfig},
    },
};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanExporter},
};
use tokio::{
    sync::mpsc::{self, Receiver, Sender, error::TrySendError},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::settings::TraceSettings;
use crate::FailureLogThrottle;

/// How many spans wait to be sent; further ones are dropped. Twice OpenTelemetry's own batch queue, about 4 MiB.
const QUEUE: usize = 4096;

/// How many spans are sent at a time (OpenTelemetry, `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`).
const BATCH: usize = 512;

/// How long a span waits for others in its batch.
const LINGER: Duration = Duration::from_millis(500);

/// How long the last spans may take at the end of the process.
const LAST: Duration = Duration::from_secs(2);

/// Spans that have ended, labelled `outcome`: `exported`, `failed`, or `dropped` where the queue was full.
const SPANS: &str = "trace_spans_total";

/// Records spans, and sends them until it is [finished](Self::finish).
pub struct Exporting {
    ending: CancellationToken,
    task: JoinHandle<()>,
}

impl Exporting {
    /// Begins to record and to send, if an endpoint is configured. `name` is the deployable's. A wrong configuration is
    /// an error; an unreachable collector is none.
    pub fn begin(settings: &TraceSettings, name: &str) -> anyhow::Result<Option<Self>> {
        describe_counter!(SPANS, "Spans of sampled traces that have ended.");
        for outcome in ["exported", "failed", "dropped"] {
            counter!(SPANS, "outcome" => outcome).increment(0);
        }
        let Some(url) = &settings.otel_exporter_otlp_endpoint else { return Ok(None) };
        let headers = settings.headers().map_err(anyhow::Error::msg)?;
        let mut exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(url.to_string())
            .with_timeout(settings.timeout())
            .with_metadata(MetadataMap::from_headers(headers));
        if url.scheme_str() == Some("https") {
            let tls = match settings.authorities()? {
                Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
                None => ClientTlsConfig::new().with_native_roots(),
            };
            exporter = exporter.with_tls_config(tls);
        }
        let mut exporter = exporter.build().context("traces cannot be sent")?;
        exporter.set_resource(&resource(settings.otel_service_name.as_deref().unwrap_or(name)));
        let (sender, receiver) = mpsc::channel(QUEUE);
        let ending = CancellationToken::new();
        let task = tokio::spawn(send(receiver, exporter, settings.timeout(), ending.clone()));
        listen(Queue { sender, ratio: settings.ratio() });
        tracing::info!(endpoint = %url, ratio = settings.ratio(), "traces are exported");
        Ok(Some(Self { ending, task }))
    }

    /// Sends the remaining spans, for a moment at most.
    pub async fn finish(mut self) {
        self.ending.cancel();
        if timeout(LAST, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::info!("not all spans could be sent before the end");
        }
    }
}

/// The identity of this process among others. OTEL_RESOURCE_ATTRIBUTES adds to it.
fn resource(name: &str) -> Resource {
    let instance = KeyValue::new("service.instance.id", Uuid::new_v4().to_string());
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    Resource::builder().with_attributes([instance, version]).with_service_name(name.to_owned()).build()
}

/// Queues spans while there is room.
struct Queue {
    sender: Sender<SpanData>,
    ratio: f64,
}

impl Listener for Queue {
    fn ended(&self, span: SpanData) {
        match self.sender.try_send(span) {
            Ok(()) => {}
            // The queue is closed in the last moment of the process.
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {
                counter!(SPANS, "outcome" => "dropped").increment(1);
            }
        }
    }

    fn samples(&self, trace_id: u128) -> bool {
        is_of_part(trace_id, self.ratio)
    }
}

/// Whether a trace is in the sampled part: by its id, whose lower half is random, so that each part contains every
/// smaller one.
fn is_of_part(trace_id: u128, part: f64) -> bool {
    // A floating-point number holds 53 bits exactly.
    const BITS: u32 = 53;
    let place = trace_id & ((1 << BITS) - 1);
    (place as f64) < part * (1_u64 << BITS) as f64
}

/// Sends spans batch by batch, until it is told to end and none is left.
async fn send<E: SpanExporter + 'static>(
    mut spans: Receiver<SpanData>,
    exporter: E,
    patience: Duration,
    ending: CancellationToken,
) {
    let mut throttle = FailureLogThrottle::default();
    while let Some(batch) = next_batch(&mut spans, &ending).await {
        let count = batch.len() as u64;
        // The exporter has its own time-out, but not while it connects.
        let failure = match timeout(patience, exporter.export(batch)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        let outcome = if failure.is_none() { "exported" } else { "failed" };
        counter!(SPANS, "outcome" => outcome).increment(count);
        match failure {
            None => throttle.succeeded(),
            Some(error) => {
                if let Some(lasted) = throttle.failed() {
                    tracing::warn!(error, ?lasted, "traces cannot be sent");
                }
            }
        }
    }
}

/// The next batch of spans; `None` when it is time to end and there are none.
async fn next_batch(spans: &mut Receiver<SpanData>, ending: &CancellationToken) -> Option<Vec<SpanData>> {
    let mut batch = Vec::new();
    let gather = async {
        spans.recv_many(&mut batch, BATCH).await;
        let end = Instant::now() + LINGER;
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            match timeout_at(end, spans.recv_many(&mut batch, room)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
    };
    ending.run_until_cancelled(gather).await;
    while batch.len() < BATCH
        && let Ok(span) = spans.try_recv()
    {
        batch.push(span);
    }
    (!batch.is_empty()).then_some(batch)
}
