//! The span of a served call.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use millrace_telemetry::{Kind, Span, TraceParent, enter, within};
use tonic::{Code, Status, body::Body, codegen::Bytes};
use tracing::Instrument as _;

use super::{
    EdgeCall, Layer, Next,
    methods::{Answer, Method, UNKNOWN},
};

/// Continues the caller's trace, and records the call as a span of it. Lines of the log name the method.
pub(super) struct TraceLayer;

impl Layer for TraceLayer {
    async fn around<N: Next>(&self, call: EdgeCall, next: N) -> Response<Body> {
        let (trace, parent) = caller_trace(&call.request);
        let log = tracing::info_span!("rpc", method = call.method.path);
        let rpc = Rpc::begin(trace, parent, &call.method, &log);
        let response = within(trace, next.run(call).instrument(log)).await;
        rpc.answered(response)
    }
}

/// Our span in the caller's trace, and the caller's own; in a new trace if the caller sent none, or an invalid one.
fn caller_trace<B>(request: &Request<B>) -> (TraceParent, Option<TraceParent>) {
    let sent = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
    let parent: Option<TraceParent> = sent.and_then(|text| text.parse().ok());
    (parent.map_or_else(TraceParent::new_root, TraceParent::child), parent)
}

/// A served call, by the OpenTelemetry conventions for gRPC.
struct Rpc {
    own: TraceParent,
    span: Span,
    /// The log's span, if messages follow the reply's head.
    log: Option<tracing::Span>,
}

impl Rpc {
    /// Begins a call.
    fn begin(own: TraceParent, parent: Option<TraceParent>, method: &Method, log: &tracing::Span) -> Self {
        let log = (method.answer == Answer::Stream).then(|| log.clone());
        if method.is_about_the_process() {
            return Self { own, span: Span::default(), log };
        }
        let name = || match method.path.as_str() {
            UNKNOWN => "_OTHER".to_owned(),
            path => path.trim_start_matches('/').to_owned(),
        };
        let mut span = Span::start(own, parent, Kind::Server, name);
        span.describe(|span| {
            span.set("rpc.system.name", "grpc");
            span.set("rpc.method", name());
            // The code stays if the caller leaves.
            span.set("rpc.response.status_code", code_name(Code::Cancelled));
        });
        Self { own, span, log }
    }

    /// Records the reply's status. Where messages follow, the work on them is part of the call: it has the call's
    /// trace, and the span ends with the messages.
    fn answered(mut self, response: Response<Body>) -> Response<Body> {
        match self.log.take() {
            Some(log) if !response.headers().contains_key("grpc-status") => {
                response.map(|body| Body::new(Messages { body, rpc: self, log }))
            }
            Some(_) | None => {
                self.ended(response.headers());
                response
            }
        }
    }

    /// Records the status in headers or trailers; a missing one is OK.
    fn ended(&mut self, headers: &HeaderMap) {
        self.span.describe(|span| {
            let code = Status::from_header_map(headers).map_or(Code::Ok, |status| status.code());
            span.set("rpc.response.status_code", code_name(code));
            if is_the_servers_fault(code) {
                span.fail(code_name(code));
            }
        });
    }
}

/// The messages of a reply, and their call.
struct Messages {
    body: Body,
    rpc: Rpc,
    log: tracing::Span,
}

impl http_body::Body for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, rpc, log } = &mut *self;
        let polled = enter(rpc.own, || log.in_scope(|| Pin::new(body).poll_frame(cx)));
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
        {
            rpc.ended(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The codes for a failure of the server, not of its caller (OpenTelemetry, "Semantic conventions for gRPC").
fn is_the_servers_fault(code: Code) -> bool {
    match code {
        Code::Unknown
        | Code::DeadlineExceeded
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unauthenticated => false,
    }
}

/// A code by its name in gRPC's own words.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::{BodyExt as _, StreamBody};
    use millrace_telemetry::testing::Heard;

    use super::{
        super::testing::{WORK, call, request},
        *,
    };
    use crate::{Failure, identity::rules::Need};

    #[tokio::test]
    async fn a_stream_that_goes_on_after_the_answer_stays_within_its_call() {
        let heard = Heard::begin();
        let trailers = stream::once(async {
            let mut trailers = http::HeaderMap::new();
            let failed = Status::from(Failure::Internal("x".to_owned()));
            failed.add_header(&mut trailers).unwrap();
            Ok::<_, Status>(Frame::trailers(trailers))
        });
        let body = Body::new(StreamBody::new(trailers));
        let request = request(WORK, &[("traceparent", &heard.root().to_string())]);
        let (path, need) = ("/shop.v1.Shop/Watch".to_owned(), Need::Nothing);
        let method = Method { path, answer: Answer::Stream, need };
        let call = EdgeCall { method: method.into(), ..call(request) };
        let response = TraceLayer.around(call, async |_| Response::new(body)).await;
        assert!(heard.spans().is_empty(), "the call goes on");
        let trailers = response.into_body().collect().await.unwrap().trailers().unwrap().clone();
        let status = Status::from_header_map(&trailers).unwrap();
        assert!(status.message().contains(&heard.root().trace_id()), "{}", status.message());
        let spans = heard.spans();
        assert_eq!((spans.len(), spans[0].name.as_ref()), (1, "shop.v1.Shop/Watch"));
        assert!(spans[0].attributes.iter().any(|known| known.value.as_str() == "INTERNAL"), "{spans:?}");
    }

    #[test]
    fn a_trace_is_continued_and_nonsense_starts_a_new_one() {
        let sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (trace, parent) = caller_trace(&request(WORK, &[("traceparent", sent)]));
        assert_eq!(trace.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(parent.unwrap().to_string(), sent);
        assert_ne!(trace.to_string(), sent);
        let (other, nobody) = caller_trace(&request(WORK, &[("traceparent", "nonsense")]));
        assert!(nobody.is_none() && other.trace_id() != trace.trace_id());
    }
}
