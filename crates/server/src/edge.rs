//! The edge: a stack of layers around every call, each readable alone.
//!
//! From the outside in:
//!
//! 1. [`TraceLayer`] continues the caller's trace and records the call's span.
//! 2. [`MetricsLayer`] counts and times the call.
//! 3. [`CompressionLayer`] leaves streams of small messages uncompressed.
//! 4. [`ConcurrencyLayer`] sheds calls beyond the limit.
//! 5. [`DeadlineLayer`] ends calls at their deadline.
//! 6. [`PanicLayer`] turns a panic into INTERNAL.
//! 7. [`AuthLayer`] authenticates the caller.
//! 8. [`BadRequestLayer`] translates the framework's refusals.

mod auth;
mod bad_request;
mod compression;
mod concurrency;
mod deadline;
mod methods;
mod metrics;
mod panics;
#[cfg(test)]
mod testing;
mod trace;

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use tokio::time::Instant;
use tonic::body::Body;
use tower::Service;

#[cfg(fuzzing)]
pub(crate) use deadline::caller_timeout;
pub(crate) use methods::Methods;

use crate::identity::authenticator::Authenticator;
use auth::AuthLayer;
use bad_request::BadRequestLayer;
use compression::CompressionLayer;
use concurrency::ConcurrencyLayer;
use deadline::DeadlineLayer;
use methods::Method;
use metrics::MetricsLayer;
use panics::PanicLayer;
use trace::TraceLayer;

/// A call at the edge.
pub(crate) struct EdgeCall {
    request: Request<Body>,
    method: Arc<Method>,
    /// When it arrived.
    arrived: Instant,
}

/// A layer of the edge.
///
/// In place of `tower::Layer`: a layer is one async function, and a stack of them needs one allocation a call, not one a
/// layer.
trait Layer: Send + Sync + 'static {
    /// Answers a call, usually with the reply of the layers within.
    fn around<N: Next>(&self, call: EdgeCall, next: N) -> impl Future<Output = Response<Body>> + Send;
}

/// The layers within, and at last the service.
trait Next: Send {
    /// Answers a call.
    fn run(self, call: EdgeCall) -> impl Future<Output = Response<Body>> + Send;
}

/// Two layers, the outer one first. A stack is a pair whose second part is a stack.
impl<Outer: Layer, Inner: Layer> Layer for (Outer, Inner) {
    // Here and below the future itself is returned, without a wrapper: a deep stack has as few types as possible.
    fn around<N: Next>(&self, call: EdgeCall, next: N) -> impl Future<Output = Response<Body>> + Send {
        self.0.around(call, Within(&self.1, next))
    }
}

struct Within<'a, L, N>(&'a L, N);

impl<L: Layer, N: Next> Next for Within<'_, L, N> {
    fn run(self, call: EdgeCall) -> impl Future<Output = Response<Body>> + Send {
        self.0.around(call, self.1)
    }
}

/// The service in the middle.
struct Innermost<S>(S);

impl<S> Next for Innermost<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send,
    S::Future: Send,
{
    async fn run(mut self, call: EdgeCall) -> Response<Body> {
        let Ok(response) = self.0.call(call.request).await;
        response
    }
}

type Rest = (DeadlineLayer, (PanicLayer, (AuthLayer, BadRequestLayer)));
type Stack = (TraceLayer, (MetricsLayer, (CompressionLayer, (ConcurrencyLayer, Rest))));

/// Puts the edge around a server's services.
#[derive(Clone)]
pub(crate) struct EdgeLayer {
    stack: Arc<Stack>,
    methods: Arc<Methods>,
}

impl EdgeLayer {
    /// An edge that runs up to `max_calls` calls at a time. Logs and metrics name the calls in `methods`. A caller can
    /// invent any other path, so all of those are called `unknown`.
    pub(crate) fn new(max_calls: u32, methods: Methods, authenticator: Option<Arc<Authenticator>>) -> Self {
        let rest = (DeadlineLayer, (PanicLayer, (AuthLayer(authenticator), BadRequestLayer)));
        let stack = (CompressionLayer, (ConcurrencyLayer::new(max_calls), rest));
        let stack = (TraceLayer, (MetricsLayer::new(&methods), stack));
        Self { stack: Arc::new(stack), methods: Arc::new(methods) }
    }
}

impl<S> tower::Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge { inner, edge: self.clone() }
    }
}

/// Services within the edge.
#[derive(Clone)]
pub(crate) struct Edge<S> {
    inner: S,
    edge: EdgeLayer,
}

impl<S> Service<Request<Body>> for Edge<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The clone replaces the service that was polled ready (see the documentation of `Service`).
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let method = self.edge.methods.get(request.uri().path());
        let stack = self.edge.stack.clone();
        // Read here and not within the future: tonic's own timer, which answers CANCELLED, is set after this returns,
        // and so never fires before that of `DeadlineLayer`.
        let call = EdgeCall { request, method, arrived: Instant::now() };
        async move { Ok(stack.around(call, Innermost(inner)).await) }.boxed()
    }
}
