//! Compression of replies.

use http::Response;
use tonic::body::Body;

use super::{EdgeCall, Layer, Next, methods::Answer};

/// Leaves streams uncompressed. The framework compresses each message by itself and cannot leave out the small ones,
/// such as the states of a row: that would cost time and save nothing.
pub(super) struct CompressionLayer;

impl Layer for CompressionLayer {
    async fn around<N: Next>(&self, mut call: EdgeCall, next: N) -> Response<Body> {
        if call.method.answer == Answer::Stream {
            call.request.headers_mut().remove("grpc-accept-encoding");
        }
        next.run(call).await
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{PROBE, STREAM, call, request},
        *,
    };

    #[tokio::test]
    async fn a_stream_is_not_compressed() {
        for (path, is_asked) in [(PROBE, true), (STREAM, false), ("/unknown", true)] {
            let call = call(request(path, &[("grpc-accept-encoding", "gzip")]));
            let echo = async |call: EdgeCall| {
                let mut response = Response::new(Body::empty());
                *response.headers_mut() = call.request.headers().clone();
                response
            };
            let response = CompressionLayer.around(call, echo).await;
            assert_eq!(response.headers().contains_key("grpc-accept-encoding"), is_asked, "{path}");
        }
    }
}
