//! Helpers for the layers' tests.

use super::*;
use crate::identity::{QUERIES_READ, rules::Need};
use tonic::Status;

pub(super) const PROBE: &str = "/grpc.health.v1.Health/Check";
pub(super) const STREAM: &str = "/grpc.health.v1.Health/Watch";

/// A call of the history, which is no probe.
pub(super) const WORK: &str = "/millrace.query.v1.HistoryService/GetHistory";

pub(super) fn methods() -> Methods {
    let contracts = [millrace_proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let services = [
        ("millrace.query.v1.HistoryService", Need::Scope(QUERIES_READ)),
        ("grpc.health.v1.Health", Need::Nothing),
    ];
    Methods::new(&contracts, &services).unwrap()
}

pub(super) fn request(path: &str, headers: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = path.parse().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

pub(super) fn call(request: Request<Body>) -> EdgeCall {
    EdgeCall { method: methods().get(request.uri().path()), request, arrived: Instant::now() }
}

/// The status of a reply.
pub(super) fn status(response: &Response<Body>) -> Status {
    Status::from_header_map(response.headers()).unwrap_or_else(|| Status::ok(""))
}

/// A function in place of the layers within.
impl<F, A> Next for F
where
    F: FnOnce(EdgeCall) -> A + Send,
    A: Future<Output = Response<Body>> + Send,
{
    async fn run(self, call: EdgeCall) -> Response<Body> {
        self(call).await
    }
}
