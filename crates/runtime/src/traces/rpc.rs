//! The span of a call that is served.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use millrace_traces::{Kind, Span, TraceParent, enter};
use tonic::{Code, Status, body::Body, codegen::Bytes};

use crate::edge::UNKNOWN;

/// A call that is served, as the OpenTelemetry conventions for gRPC have it.
pub(crate) struct Rpc {
    own: TraceParent,
    span: Span,
    /// The log's span, where messages follow the answer.
    log: Option<tracing::Span>,
}

impl Rpc {
    /// A call to a method, such as `/grpc.health.v1.Health/Check`; with the log's span, where it is answered by a stream.
    /// What only looks at the process (health, reflection) is no call of anybody's work, and is not told.
    pub(crate) fn begin(
        own: TraceParent,
        parent: Option<TraceParent>,
        method: &str,
        log: Option<tracing::Span>,
    ) -> Self {
        if method.starts_with("/grpc.") {
            return Self { own, span: Span::default(), log };
        }
        let name = || {
            if method == UNKNOWN { "_OTHER".to_owned() } else { method.trim_start_matches('/').to_owned() }
        };
        let mut span = Span::start(own, parent, Kind::Server, name);
        span.describe(|span| {
            span.set("rpc.system.name", "grpc");
            span.set("rpc.method", name());
            // What it stays if the caller leaves.
            span.set("rpc.response.status_code", code_name(Code::Cancelled));
        });
        Self { own, span, log }
    }

    /// Notes what the call was answered with. Where messages follow, the work on them goes on within the call: its trace
    /// is theirs, and its span ends with them.
    pub(crate) fn answered(mut self, response: Response<Body>) -> Response<Body> {
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

    /// Notes the status in headers or trailers; none is OK.
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

/// The messages of an answer, and the call that they belong to.
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

/// The codes that say that the server failed, and not its caller (OpenTelemetry, "Semantic conventions for gRPC").
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
