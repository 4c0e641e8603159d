//! The gRPC services of a server, with their names.

use std::convert::Infallible;

use axum::response::IntoResponse;
use http::Request;
use tonic::{
    body::Body,
    server::NamedService,
    service::{Routes, RoutesBuilder},
};
use tower::Service;

/// The largest request that is read, in bytes. A request of 100 lines with 200 four-byte characters each takes about
/// 85 KB.
pub const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// A generated service that reads requests of up to [`MAX_REQUEST_BYTES`](crate::MAX_REQUEST_BYTES), compressed or not:
/// clients set compression by channel, so a client that compresses for one service does it for all. Generated services
/// have these methods by the same names, and no trait.
#[macro_export]
macro_rules! bounded {
    ($service:expr) => {
        $service
            .max_decoding_message_size($crate::MAX_REQUEST_BYTES)
            .accept_compressed(::tonic::codec::CompressionEncoding::Gzip)
            .accept_compressed(::tonic::codec::CompressionEncoding::Zstd)
    };
}

/// Generated services, each [bounded](macro@bounded), as [`Services`](crate::Services).
#[macro_export]
macro_rules! services {
    ($($service:expr),* $(,)?) => {
        $crate::Services::default()$(.and($crate::bounded!($service)))*
    };
}

/// The gRPC services of a server, with their names in health and reflection.
#[derive(Debug, Default, Clone)]
pub struct Services {
    routes: RoutesBuilder,
    names: Vec<&'static str>,
}

impl Services {
    /// These services and one more.
    #[must_use]
    pub fn and<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
    {
        self.routes.add_service(service);
        self.names.push(S::NAME);
        self
    }

    /// The names of the services, such as `grpc.health.v1.Health`.
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// The services, ready to be served.
    pub(crate) fn into_routes(self) -> Routes {
        self.routes.routes()
    }
}
