//! A collector of traces: it takes spans by OTLP, as production's does, and shows them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, status::StatusCode},
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{Request, Response, Status, transport::Server, transport::server::TcpIncoming};

/// A collector's treatment of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It takes everything.
    Takes,
    /// It answers with an error.
    Refuses,
    /// It never answers.
    Hangs,
}

/// A collector on a free port. Gone when this is dropped.
pub struct Collector {
    address: SocketAddr,
    told: Told,
    serving: JoinHandle<()>,
}

/// A received span and its sender.
#[derive(Debug, Clone, PartialEq)]
pub struct ToldSpan {
    /// The service that sent it.
    pub service: String,
    /// The span.
    pub span: Span,
}

#[derive(Clone)]
struct Told {
    manner: Manner,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    headers: Arc<Mutex<Vec<Option<String>>>>,
}

impl Collector {
    /// A collector of this manner.
    pub async fn start(manner: Manner) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let told = Told { manner, requests: Arc::default(), headers: Arc::default() };
        let server = Server::builder().add_service(TraceServiceServer::new(told.clone()));
        let serving = tokio::spawn(async move {
            // It ends with the test.
            let _ = server.serve_with_incoming(TcpIncoming::from(listener)).await;
        });
        Ok(Self { address, told, serving })
    }

    /// Makes a process send its spans here, and record every trace that begins there.
    pub fn hears(&self, process: &mut Command) {
        process
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", self.address))
            .env("OTEL_TRACES_SAMPLER", "parentbased_always_on");
    }

    /// The spans so far, in order of arrival.
    pub fn spans(&self) -> Vec<ToldSpan> {
        let requests = self.told.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spans = Vec::new();
        for resource in requests.iter().flat_map(|request| &request.resource_spans) {
            let attributes = resource.resource.as_ref().map(|resource| &resource.attributes[..]);
            let service = text(attributes.unwrap_or_default(), "service.name").unwrap_or_default();
            let told = resource.scope_spans.iter().flat_map(|scope| &scope.spans);
            spans.extend(told.map(|span| ToldSpan { service: service.clone(), span: span.clone() }));
        }
        spans
    }

    /// The value of `authorization` that came with each request.
    pub fn authorizations(&self) -> Vec<Option<String>> {
        self.told.headers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All that came as it was on the wire, to be searched.
    pub fn bytes(&self) -> Vec<u8> {
        let requests = self.told.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().flat_map(ExportTraceServiceRequest::encode_to_vec).collect()
    }

    /// How often something was sent.
    pub fn requests(&self) -> usize {
        self.told.requests.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl ToldSpan {
    /// Its trace, in hexadecimal digits.
    pub fn trace_id(&self) -> String {
        hex(&self.span.trace_id)
    }

    /// Its own id.
    pub fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    /// The span that it is a part of; empty where it is of none.
    pub fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    /// An attribute that is a text.
    pub fn text(&self, key: &str) -> Option<String> {
        text(&self.span.attributes, key)
    }

    /// Whether its status is an error.
    pub fn failed(&self) -> bool {
        self.span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
    }
}

/// Spans, each once: delivery is at least once, and a repeat must be equal.
pub fn by_id(spans: Vec<ToldSpan>) -> BTreeMap<String, ToldSpan> {
    let mut known: BTreeMap<String, ToldSpan> = BTreeMap::new();
    for told in spans {
        if let Some(before) = known.get(&told.id()) {
            let what =
                |told: &ToldSpan| (told.trace_id(), told.parent(), told.span.name.clone(), told.span.kind);
            assert_eq!(what(before), what(&told), "two spans of one id");
        }
        known.insert(told.id(), told);
    }
    known
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other @ (Value::BoolValue(_)
        | Value::DoubleValue(_)
        | Value::ArrayValue(_)
        | Value::KvlistValue(_)
        | Value::BytesValue(_)
        | Value::StringValueStrindex(_)) => Some(format!("{other:?}")),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tonic::async_trait]
impl TraceService for Told {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        self.headers.lock().unwrap_or_else(PoisonError::into_inner).push(header.map(str::to_owned));
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request.into_inner());
        match self.manner {
            Manner::Takes => Ok(Response::new(ExportTraceServiceResponse::default())),
            Manner::Refuses => Err(Status::unavailable("a test says so")),
            Manner::Hangs => std::future::pending().await,
        }
    }
}
