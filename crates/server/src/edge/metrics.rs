//! How many calls there were, how they ended, and how long they took.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use metrics::{Counter, Histogram, Unit, describe_counter, describe_histogram};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};

use super::{
    EdgeCall, Layer, Methods, Next,
    methods::{Answer, Method},
};
use crate::telemetry::STREAMED;

/// Calls that have ended, labelled `method` and `code`: a stream when its last message is sent, with the code in its
/// trailers; a call whose caller left before its end as Cancelled.
const ENDED: &str = "rpc_total";
/// From a call's arrival to the first message of its reply, or to its end if there is none, labelled `method`.
const ANSWERED: &str = "rpc_seconds";
/// All of gRPC's codes, by their number.
const CODES: [Code; 17] = [
    Code::Ok,
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

/// Counts and times calls, each to its end.
///
/// A method's metrics are made at its first call, by the recorder then installed. All unknown paths share one method:
/// no caller can invent a label.
pub(super) struct MetricsLayer(HashMap<String, OnceLock<Arc<Meter>>>);

/// The meters of a method.
struct Meter {
    answered: Histogram,
    /// For streaming replies.
    streamed: Option<Histogram>,
    /// By the code's number. All exist from the first call on, since Prometheus sees no increase of a counter that
    /// begins with its first count.
    ended: [Counter; CODES.len()],
}

/// A running call. If it is dropped before its end, its caller has left.
struct Running {
    meter: Arc<Meter>,
    started: Instant,
    is_answered: bool,
    has_ended: bool,
}

impl MetricsLayer {
    pub(super) fn new(methods: &Methods) -> Self {
        describe_counter!(ENDED, "Calls that have ended; streams at their end.");
        describe_histogram!(
            ANSWERED,
            Unit::Seconds,
            "From a call's arrival to the first message of its answer, or to its end where there is none."
        );
        describe_histogram!(STREAMED, Unit::Seconds, "From the arrival of a call to the end of its stream.");
        Self(methods.iter().map(|method| (method.path.clone(), OnceLock::new())).collect())
    }

    /// Begins a call that arrives now.
    fn begin(&self, method: &Method) -> Running {
        let meter = match self.0.get(&method.path) {
            Some(meter) => meter.get_or_init(|| Arc::new(Meter::of(method))).clone(),
            None => Arc::new(Meter::of(method)),
        };
        Running { meter, started: Instant::now(), is_answered: false, has_ended: false }
    }
}

impl Layer for MetricsLayer {
    async fn around<N: Next>(&self, call: EdgeCall, next: N) -> Response<Body> {
        let running = self.begin(&call.method);
        running.answer(next.run(call).await)
    }
}

impl Meter {
    fn of(method: &Method) -> Self {
        let (method, answer) = (method.path.clone(), method.answer);
        Self {
            answered: metrics::histogram!(ANSWERED, "method" => method.clone()),
            streamed: match answer {
                Answer::Message => None,
                Answer::Stream => Some(metrics::histogram!(STREAMED, "method" => method.clone())),
            },
            ended: CODES.map(
                |code| metrics::counter!(ENDED, "method" => method.clone(), "code" => format!("{code:?}")),
            ),
        }
    }
}

impl Running {
    /// Follows the reply to its end.
    fn answer(mut self, response: Response<Body>) -> Response<Body> {
        if let Some(status) = Status::from_header_map(response.headers()) {
            self.end(status.code());
            return response;
        }
        response.map(|body| Body::new(Counted { body, call: self }))
    }

    /// The first message goes out, or there will be none.
    fn answered(&mut self) {
        if !self.is_answered {
            self.is_answered = true;
            self.meter.answered.record(self.started.elapsed());
        }
    }

    fn end(&mut self, code: Code) {
        if self.has_ended {
            return;
        }
        self.has_ended = true;
        self.answered();
        if let Some(streamed) = &self.meter.streamed {
            streamed.record(self.started.elapsed());
        }
        if let Some(at) = CODES.iter().position(|each| *each == code) {
            self.meter.ended[at].increment(1);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The body of a reply that is counted at its end.
struct Counted {
    body: Body,
    call: Running,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(frame) = &polled {
            match frame {
                Some(Ok(frame)) => match frame.trailers_ref() {
                    // A client must treat trailers without a status as Unknown (gRPC over HTTP/2, "Responses").
                    Some(trailers) => {
                        let status = Status::from_header_map(trailers);
                        self.call.end(status.map_or(Code::Unknown, |status| status.code()));
                    }
                    None => self.call.answered(),
                },
                Some(Err(status)) => self.call.end(status.code()),
                None => self.call.end(Code::Unknown),
            }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::HeaderMap;
    use http_body_util::{BodyExt as _, StreamBody};
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::{
        super::testing::{PROBE, STREAM, call, methods, request},
        *,
    };

    /// A stream of one message that ends with this status, or does not end.
    fn stream(end: Option<Status>) -> Response<Body> {
        let message = Ok(Frame::data(Bytes::from_static(b"a message")));
        let end = end.map(|status| {
            let mut trailers = HeaderMap::new();
            status.add_header(&mut trailers).unwrap();
            Ok::<_, Status>(Frame::trailers(trailers))
        });
        let frames = futures::stream::iter(std::iter::once(message).chain(end));
        Response::new(Body::new(StreamBody::new(futures::StreamExt::chain(
            frames,
            futures::stream::pending(),
        ))))
    }

    /// The counts after a call: each code with its number, and the numbers of first and whole durations.
    async fn counted<F: Future<Output = ()>>(
        path: &str,
        call: impl FnOnce(Running) -> F,
    ) -> (BTreeMap<String, u64>, u64, u64) {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let begun = metrics::with_local_recorder(&recorder, || {
            let methods = methods();
            MetricsLayer::new(&methods).begin(&methods.get(path))
        });
        call(begun).await;
        let shown = handle.render();
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        let codes = shown.lines().filter(|line| line.starts_with("rpc_total{") && value(line) > 0);
        let codes = codes.map(|line| {
            let code = line.split("code=\"").nth(1).unwrap().split('"').next().unwrap();
            (code.to_owned(), value(line))
        });
        let of = |name: &str| shown.lines().filter(|line| line.starts_with(name)).map(value).sum::<u64>();
        (codes.collect(), of("rpc_seconds_count"), of("rpc_stream_seconds_count"))
    }

    fn one(code: &str) -> BTreeMap<String, u64> {
        BTreeMap::from([(code.to_owned(), 1)])
    }

    #[tokio::test]
    async fn a_stream_counts_at_its_end_with_the_code_of_its_trailers() {
        for (status, code) in [
            (Status::ok(""), "Ok"),
            (Status::unavailable("ending"), "Unavailable"),
            (Status::internal("x"), "Internal"),
        ] {
            let followed = counted(STREAM, async |call| {
                let mut body = call.answer(stream(Some(status))).into_body();
                while let Some(frame) = body.frame().await {
                    if frame.unwrap().is_trailers() {
                        break;
                    }
                }
            });
            assert_eq!(followed.await, (one(code), 1, 1));
        }
    }

    #[tokio::test]
    async fn a_stream_that_goes_on_is_answered_and_has_not_ended() {
        let followed = counted(STREAM, async |call| {
            let mut body = call.answer(stream(None)).into_body();
            body.frame().await.unwrap().unwrap();
            std::mem::forget(body);
        });
        assert_eq!(followed.await, (BTreeMap::new(), 1, 0));
    }

    #[tokio::test]
    async fn a_call_whose_caller_leaves_is_cancelled_at_whatever_point() {
        assert_eq!(counted(STREAM, async |call| drop(call)).await, (one("Cancelled"), 1, 1));
        let during = counted(STREAM, async |call| {
            let mut body = call.answer(stream(None)).into_body();
            body.frame().await.unwrap().unwrap();
        });
        assert_eq!(during.await, (one("Cancelled"), 1, 1));
    }

    #[tokio::test]
    async fn a_refusal_counts_at_once_and_what_nobody_serves_has_no_name() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let _metrics = metrics::set_default_local_recorder(&recorder);
        let layer = MetricsLayer::new(&methods());
        for path in ["/john@example.com/0", "/john@example.com/1", PROBE] {
            let next = async |_| Status::not_found("").into_http();
            layer.around(call(request(path, &[])), next).await;
        }
        let shown = handle.render();
        assert!(!shown.contains("john"), "{shown}");
        for (method, calls) in [("unknown", 2), (PROBE, 1)] {
            let line = format!("rpc_total{{method=\"{method}\",code=\"NotFound\"}} {calls}");
            assert!(shown.contains(&line), "{line} is not in {shown}");
        }
    }

    #[test]
    fn every_code_has_its_place() {
        for (number, code) in CODES.iter().enumerate() {
            assert_eq!(i32::from(*code), i32::try_from(number).unwrap());
        }
    }
}
