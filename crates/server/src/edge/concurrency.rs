//! A bound on the calls that run at a time.

use http::Response;
use tokio::sync::Semaphore;
use tonic::{Status, body::Body};

use super::{EdgeCall, Layer, Next};
use crate::Failure;

/// Refuses calls beyond the limit at once. Probes always pass: they matter most when the process is busy.
pub(super) struct ConcurrencyLayer(Semaphore);

impl ConcurrencyLayer {
    /// Up to `max_calls` at a time.
    pub(super) fn new(max_calls: u32) -> Self {
        let max_calls = usize::try_from(max_calls).unwrap_or(usize::MAX);
        Self(Semaphore::new(max_calls.min(Semaphore::MAX_PERMITS)))
    }
}

impl Layer for ConcurrencyLayer {
    async fn around<N: Next>(&self, call: EdgeCall, next: N) -> Response<Body> {
        if call.method.is_health() {
            return next.run(call).await;
        }
        match self.0.try_acquire() {
            Ok(_permit) => next.run(call).await,
            Err(_) => Status::from(Failure::Overloaded).into_http(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::{
        super::testing::{PROBE, WORK, call, request, status},
        *,
    };

    #[tokio::test]
    async fn calls_beyond_the_limit_are_shed_and_probes_are_not() {
        let full = ConcurrencyLayer::new(0);
        for (path, code) in [(WORK, Code::ResourceExhausted), (PROBE, Code::NotFound)] {
            let next = async |_| Status::not_found("").into_http();
            let response = full.around(call(request(path, &[])), next).await;
            assert_eq!(status(&response).code(), code, "{path}");
        }
    }
}
