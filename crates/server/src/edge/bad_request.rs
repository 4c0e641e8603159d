//! Requests that are no messages.

use http::Response;
use tonic::{Code, Status, body::Body};

use super::{EdgeCall, Layer, Next};
use crate::Failure;

/// Answers INVALID_ARGUMENT where the framework could not read the request.
///
/// The framework answers INTERNAL for bytes that are no message, OUT_OF_RANGE for too many, and RESOURCE_EXHAUSTED for
/// those that become too many when they are decompressed. All are the caller's bad input. Our own statuses carry
/// details, which distinguish them from the framework's.
pub(super) struct BadRequestLayer;

impl Layer for BadRequestLayer {
    async fn around<N: Next>(&self, call: EdgeCall, next: N) -> Response<Body> {
        let response = next.run(call).await;
        let Some(status) = Status::from_header_map(response.headers()) else { return response };
        let is_refusal = matches!(status.code(), Code::Internal | Code::OutOfRange | Code::ResourceExhausted);
        if is_refusal && status.details().is_empty() {
            let failure = Failure::invalid("", "the request is not a message of this call, or too large");
            Status::from(failure).into_http()
        } else {
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::{
        super::testing::{WORK, call, request, status},
        *,
    };

    async fn translated(answer: Status) -> Status {
        let next = async |_| answer.into_http();
        status(&BadRequestLayer.around(call(request(WORK, &[])), next).await)
    }

    #[tokio::test]
    async fn bytes_that_are_no_message_are_the_callers_fault() {
        for framework in [
            Status::internal("failed to decode"),
            Status::out_of_range("too large"),
            Status::resource_exhausted("too large when decompressed"),
        ] {
            let status = translated(framework).await;
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.get_error_details().bad_request().is_some());
        }
    }

    #[tokio::test]
    async fn our_own_internal_errors_stay_internal() {
        let status = translated(Failure::Internal("x".into()).into()).await;
        assert_eq!(status.code(), Code::Internal);
    }
}
