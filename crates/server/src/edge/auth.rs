//! Authentication at the edge.

use std::sync::Arc;

use http::Response;
use tonic::{Status, body::Body};

use super::{EdgeCall, Layer, Next};
use crate::identity::authenticator::Authenticator;

/// Passes only authorised calls, and puts the caller's identity into the request's extensions. Without an authenticator
/// all calls pass.
pub(super) struct AuthLayer(pub(super) Option<Arc<Authenticator>>);

impl Layer for AuthLayer {
    async fn around<N: Next>(&self, mut call: EdgeCall, next: N) -> Response<Body> {
        let Some(authenticator) = &self.0 else { return next.run(call).await };
        let admitted = match authenticator.admit(call.method.need, call.request.headers()).await {
            Ok(admitted) => admitted,
            Err(failure) => return Status::from(failure).into_http(),
        };
        call.request.extensions_mut().insert(admitted.identity);
        let response = next.run(call).await;
        drop(admitted.permit);
        response
    }
}
