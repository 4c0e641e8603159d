//! What happens to every call before it reaches its service, and to every reply on the way out.

pub(crate) mod meters;

use std::{
    collections::HashMap,
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use millrace_traces::within;
use tokio::{sync::Semaphore, time::Instant};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument as _;

use crate::{Failure, TraceParent, call::Deadline, identity::gate::Gate, traces::Rpc};
use meters::Meters;

/// What a call is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// One message.
    One,
    /// A stream of messages.
    Many,
}

/// The calls that a server knows, by their paths, such as `/grpc.health.v1.Health/Check`.
pub(crate) type Methods = HashMap<String, Answer>;

/// What a call is called that no contract has.
pub(crate) const UNKNOWN: &str = "unknown";

/// No call takes longer, whatever its caller says: each holds one of the places that all callers share. The replies of
/// streams may go on.
const LONGEST_CALL: Duration = Duration::from_secs(30);

/// The longest time that a caller's deadline for a stream is taken for: one of 99,999,999 hours is none.
const LONGEST_STREAM: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Puts the edge around a server's services.
#[derive(Clone)]
pub(crate) struct EdgeLayer {
    slots: Arc<Semaphore>,
    methods: Arc<Methods>,
    meters: Arc<Meters>,
    gate: Gate,
}

impl EdgeLayer {
    /// An edge that lets `calls` run at a time and sheds the rest. Logs and metrics name the calls in `methods`; any
    /// other path is its caller's invention, of any number and content, and is called `unknown`. The `gate` says who may
    /// pass.
    pub(crate) fn new(calls: usize, methods: Methods, gate: Gate) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(calls.min(Semaphore::MAX_PERMITS))),
            meters: Arc::new(Meters::new(&methods)),
            methods: Arc::new(methods),
            gate,
        }
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge {
            inner,
            slots: self.slots.clone(),
            methods: self.methods.clone(),
            meters: self.meters.clone(),
            gate: self.gate.clone(),
        }
    }
}

/// The edge: trace, deadline, a bound on calls, callers authenticated, panics contained, and the framework's own refusals translated.
#[derive(Clone)]
pub(crate) struct Edge<S> {
    inner: S,
    slots: Arc<Semaphore>,
    methods: Arc<Methods>,
    meters: Arc<Meters>,
    gate: Gate,
}

impl<S> Service<Request<Body>> for Edge<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The clone takes the place of the service that was polled ready (see the documentation of `Service`).
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let (slots, gate) = (self.slots.clone(), self.gate.clone());
        let started = Instant::now();
        let known = self.methods.get_key_value(request.uri().path());
        let method = known.map_or(UNKNOWN, |(path, _)| path.as_str()).to_owned();
        if matches!(known, Some((_, Answer::Many))) {
            // Each message of a stream is compressed by itself, and the framework cannot leave out those that are small,
            // as the states of a row are: that would cost time and save nothing.
            request.headers_mut().remove("grpc-accept-encoding");
        }
        let call = self.meters.begin(&method, started);
        let (trace, parent) = caller_trace(&request);
        let patience = caller_patience(&request);
        let end = started + patience.unwrap_or(LONGEST_CALL).min(LONGEST_CALL);
        if let Some(patience) = patience {
            let of_caller = started + patience.min(LONGEST_STREAM);
            request.extensions_mut().insert(Deadline { of_call: end, of_caller });
        }
        let span = tracing::info_span!("rpc", method);
        let streams = matches!(known, Some((_, Answer::Many)));
        let rpc = Rpc::begin(trace, parent, &method, streams.then(|| span.clone()));
        let served = async move {
            // Probes must be answered when the process is busy: that is when they matter.
            let slot = if method.starts_with("/grpc.health.") { None } else { Some(slots.try_acquire()) };
            if matches!(slot, Some(Err(_))) {
                return call.answer(Status::from(Failure::Overloaded).into_http());
            }
            let answer = async {
                let admitted = gate.admit(&method, request.headers()).await?;
                if let Some(identity) = admitted.identity {
                    request.extensions_mut().insert(identity);
                }
                let _place = admitted.place;
                let Ok(response) = inner.call(request).await;
                Ok::<_, Failure>(translate(response))
            };
            let answer = AssertUnwindSafe(answer).catch_unwind();
            let response = match tokio::time::timeout_at(end, answer).await {
                Ok(Ok(Ok(response))) => response,
                Ok(Ok(Err(failure))) => Status::from(failure).into_http(),
                Ok(Err(_)) => Status::from(Failure::Internal("a call panicked".to_owned())).into_http(),
                Err(_) => Status::from(Failure::DeadlineExceeded).into_http(),
            };
            call.answer(response)
        };
        let served = served.map(move |response| Ok(rpc.answered(response)));
        within(trace, served.instrument(span)).boxed()
    }
}

/// Our span in the caller's trace, and the caller's own; in a new trace where the caller sent none, or nonsense.
fn caller_trace<B>(request: &Request<B>) -> (TraceParent, Option<TraceParent>) {
    let sent = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
    let parent: Option<TraceParent> = sent.and_then(|text| text.parse().ok());
    (parent.map_or_else(TraceParent::new_root, TraceParent::child), parent)
}

/// How long the caller waits: `grpc-timeout`, at most eight digits and a unit (gRPC over HTTP/2, "Requests").
pub(crate) fn caller_patience<B>(request: &Request<B>) -> Option<Duration> {
    let text = request.headers().get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// Translates a refusal of the framework's. Every status of ours carries details. One without was made while the
/// request was read, and the framework calls bytes that are no message INTERNAL, too many of them OUT_OF_RANGE, and those
/// that become too many when they are decompressed RESOURCE_EXHAUSTED; all are the caller's bad input.
fn translate(response: Response<Body>) -> Response<Body> {
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    let is_refusal = matches!(status.code(), Code::Internal | Code::OutOfRange | Code::ResourceExhausted);
    if is_refusal && status.details().is_empty() {
        Status::from(Failure::invalid("", "the request is not a message of this call, or too large"))
            .into_http()
    } else {
        response
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::stream;
    use http_body::Frame;
    use http_body_util::{BodyExt as _, StreamBody};
    use millrace_traces::testing::Heard;
    use tonic_types::StatusExt as _;
    use tower::service_fn;

    use super::*;

    const PROBE: &str = "/grpc.health.v1.Health/Check";
    const STREAM: &str = "/grpc.health.v1.Health/Watch";
    const WATCH: &str = "/millrace.query.v1.OrderQueryService/WatchOrder";

    fn edge(calls: usize) -> EdgeLayer {
        EdgeLayer::new(
            calls,
            HashMap::from([(PROBE.to_owned(), Answer::One), (STREAM.to_owned(), Answer::Many)]),
            Gate::default(),
        )
    }

    async fn through<F>(edge: &EdgeLayer, request: Request<Body>, answer: impl Fn() -> F) -> Status
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let answer = Arc::new(Mutex::new(Some(answer())));
        let service = service_fn(move |_| {
            let answer = answer.lock().unwrap().take().expect("one call");
            answer.map(Ok)
        });
        let response = edge.layer(service).call(request).await.unwrap();
        Status::from_header_map(response.headers()).unwrap_or_else(|| Status::ok(""))
    }

    fn request(headers: &[(&'static str, &'static str)]) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        request
    }

    #[tokio::test]
    async fn bytes_that_are_no_message_are_the_callers_fault() {
        for framework in [
            Status::internal("failed to decode"),
            Status::out_of_range("too large"),
            Status::resource_exhausted("too large when decompressed"),
        ] {
            let answer = || std::future::ready(framework.clone().into_http());
            let status = through(&edge(1), request(&[]), answer).await;
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.get_error_details().bad_request().is_some());
        }
    }

    #[tokio::test]
    async fn our_own_internal_errors_stay_internal() {
        let answer = || async { Status::from(Failure::Internal("x".into())).into_http() };
        let status = through(&edge(1), request(&[]), answer).await;
        assert_eq!(status.code(), Code::Internal);
    }

    #[tokio::test]
    async fn what_a_stream_is_made_of_is_not_compressed() {
        for (path, is_asked) in [(PROBE, true), (STREAM, false), ("/unknown", true)] {
            let seen = Arc::new(Mutex::new(None));
            let sees = seen.clone();
            let service = service_fn(move |request: Request<Body>| {
                *sees.lock().unwrap() = Some(request.headers().contains_key("grpc-accept-encoding"));
                std::future::ready(Ok(Status::unimplemented("").into_http()))
            });
            let mut request = request(&[("grpc-accept-encoding", "gzip")]);
            *request.uri_mut() = path.parse().unwrap();
            edge(1).layer(service).call(request).await.unwrap();
            assert_eq!(*seen.lock().unwrap(), Some(is_asked), "{path}");
        }
    }

    #[tokio::test]
    async fn what_a_stream_says_long_after_the_answer_is_within_its_call() {
        let heard = Heard::begin();
        let sent = heard.root().to_string();
        let trailers = stream::once(async {
            let mut trailers = http::HeaderMap::new();
            let failed = Status::from(Failure::Internal("x".to_owned()));
            failed.add_header(&mut trailers).unwrap();
            Ok::<_, Status>(Frame::trailers(trailers))
        });
        let body = Arc::new(Mutex::new(Some(Body::new(StreamBody::new(trailers)))));
        let service = service_fn(move |_: Request<Body>| {
            std::future::ready(Ok(Response::new(body.lock().unwrap().take().unwrap())))
        });
        let mut request = Request::new(Body::empty());
        request.headers_mut().insert("traceparent", sent.parse().unwrap());
        *request.uri_mut() = WATCH.parse().unwrap();
        let methods = HashMap::from([(WATCH.to_owned(), Answer::Many)]);
        let edge = EdgeLayer::new(1, methods, Gate::default());
        let response = edge.layer(service).call(request).await.unwrap();
        assert!(heard.spans().is_empty(), "the call goes on");
        let trailers = response.into_body().collect().await.unwrap().trailers().unwrap().clone();
        let status = Status::from_header_map(&trailers).unwrap();
        assert!(status.message().contains(&heard.root().trace_id()), "{}", status.message());
        let told = heard.spans();
        assert_eq!(
            (told.len(), told[0].name.as_ref()),
            (1, "millrace.query.v1.OrderQueryService/WatchOrder")
        );
        assert!(told[0].attributes.iter().any(|told| told.value.as_str() == "INTERNAL"), "{told:?}");
    }

    #[tokio::test]
    async fn a_panic_is_one_calls_internal_error() {
        let status = through(&edge(1), request(&[]), || async { panic!("boom") }).await;
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("boom"));
    }

    #[tokio::test]
    async fn what_is_beyond_the_bound_is_shed_and_probes_are_not() {
        let full = edge(0);
        let ok = || async { Status::not_found("").into_http() };
        let status = through(&full, request(&[]), ok).await;
        assert_eq!(status.code(), Code::ResourceExhausted);
        let mut probe = request(&[]);
        *probe.uri_mut() = PROBE.parse().unwrap();
        assert_eq!(through(&full, probe, ok).await.code(), Code::NotFound);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_the_call() {
        let forever = || std::future::pending();
        let status = through(&edge(1), request(&[("grpc-timeout", "50m")]), forever).await;
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn a_path_that_nobody_serves_is_no_label() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let shown = recorder.handle();
        metrics::set_global_recorder(recorder).unwrap();
        for (path, edge) in
            [("/john@example.com/0", edge(0)), ("/john@example.com/1", edge(1)), (PROBE, edge(1))]
        {
            let mut request = request(&[]);
            *request.uri_mut() = path.parse().unwrap();
            through(&edge, request, || async { Status::unimplemented("").into_http() }).await;
        }
        let shown = shown.render();
        assert!(!shown.contains("john"), "{shown}");
        assert!(shown.contains(r#"method="unknown""#) && shown.contains(PROBE), "{shown}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_keeps_its_place_for_ever() {
        for headers in [&[][..], &[("grpc-timeout", "99999999H")]] {
            let started = Instant::now();
            let status = through(&edge(1), request(headers), std::future::pending).await;
            assert_eq!((status.code(), started.elapsed()), (Code::DeadlineExceeded, LONGEST_CALL));
        }
    }

    #[test]
    fn a_timeout_is_at_most_eight_digits_and_a_unit() {
        let patience = |text| caller_patience(&request(&[("grpc-timeout", text)]));
        assert_eq!(patience("2S"), Some(Duration::from_secs(2)));
        assert_eq!(patience("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for text in ["", "S", "2", "2x", "-2S", "123456789S", "2 S"] {
            assert_eq!(patience(text), None, "{text}");
        }
    }

    #[test]
    fn a_trace_is_continued_and_nonsense_starts_a_new_one() {
        let sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (trace, parent) = caller_trace(&request(&[("traceparent", sent)]));
        assert_eq!(trace.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(parent.unwrap().to_string(), sent);
        assert_ne!(trace.to_string(), sent);
        let (other, nobody) = caller_trace(&request(&[("traceparent", "nonsense")]));
        assert!(nobody.is_none() && other.trace_id() != trace.trace_id());
    }
}
