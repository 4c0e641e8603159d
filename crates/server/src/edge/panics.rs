//! Panics.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use http::Response;
use tonic::{Status, body::Body};

use super::{EdgeCall, Layer, Next};
use crate::Failure;

/// Answers INTERNAL for a call that panics; the connection and its other calls go on.
pub(super) struct PanicLayer;

impl Layer for PanicLayer {
    async fn around<N: Next>(&self, call: EdgeCall, next: N) -> Response<Body> {
        let caught = AssertUnwindSafe(next.run(call)).catch_unwind().await;
        caught.unwrap_or_else(|_| Status::from(Failure::Internal("a call panicked".to_owned())).into_http())
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::{
        super::testing::{WORK, call, request, status},
        *,
    };

    #[tokio::test]
    async fn a_panic_is_one_calls_internal_error() {
        let response = PanicLayer.around(call(request(WORK, &[])), async |_| panic!("boom")).await;
        let status = status(&response);
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("boom"));
    }
}
