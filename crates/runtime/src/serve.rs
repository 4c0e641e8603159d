//! A deployable's ports: gRPC with health and reflection, and metrics.

use std::{future::IntoFuture as _, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use axum::{Router, routing::get};
use futures::{FutureExt as _, future::BoxFuture};
use metrics_exporter_prometheus::PrometheusHandle;
use millrace_aws::AwsError;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{service::RoutesBuilder, transport::Server};

use crate::{
    config::Common,
    edge::{Answer, EdgeLayer, Methods},
    guard::Guard,
    health::Board,
    identity::{Reflection, gate::Gate},
    own_process,
    tls::{Tls, incoming::incoming},
};

/// The largest request that is read, in bytes. The largest valid one, an order of 100 items with products of 200
/// four-byte characters, takes about 85 KB.
pub const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// A generated service that reads requests of up to [`MAX_REQUEST_BYTES`], compressed or not: clients set compression by
/// channel, so whoever compresses for one service does it for all. Generated services have these methods by the same
/// names, and no trait.
#[macro_export]
macro_rules! bounded {
    ($service:expr) => {
        $service
            .max_decoding_message_size($crate::serve::MAX_REQUEST_BYTES)
            .accept_compressed(::tonic::codec::CompressionEncoding::Gzip)
            .accept_compressed(::tonic::codec::CompressionEncoding::Zstd)
    };
}

/// How often a process looks whether it can still do its work. While it starts, it looks sooner, and each time waits
/// twice as long.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
const FIRST_PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// How often the reason is repeated while a process cannot do its work.
const REMIND_INTERVAL: Duration = Duration::from_secs(60);

/// How often the samples of histograms are put together.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// A look that takes longer than this found nothing.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// From the signal on, calls in flight have this long; connections that are idle but open are cut after it.
const DRAIN: Duration = Duration::from_secs(12);

/// The ports of a deployable, bound, and what guards them.
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For metrics, where they are served.
    pub metrics: Option<TcpListener>,
    /// For health alone, in plain text, where it is served apart.
    pub health: Option<TcpListener>,
    /// What guards the gRPC port.
    pub guard: Guard,
}

impl Listeners {
    /// Reads what guards the ports, and binds them.
    pub async fn bind(grpc: SocketAddr, common: &Common) -> anyhow::Result<Self> {
        let guard = Guard::load(&common.security, common.max_concurrent_calls).await?;
        let bound = async |name, addr| {
            TcpListener::bind(addr).await.with_context(|| format!("binding the {name} port {addr}"))
        };
        Ok(Self {
            grpc: bound("gRPC", grpc).await?,
            metrics: Some(bound("metrics", common.metrics_addr).await?),
            health: match common.security.health_addr {
                Some(addr) => Some(bound("health", addr).await?),
                None => None,
            },
            guard,
        })
    }

    /// A gRPC port that anybody may call, and no other.
    pub fn open(grpc: TcpListener) -> Self {
        Self { grpc, metrics: None, health: None, guard: Guard::default() }
    }
}

/// Looks whether the process can do its work, and says what keeps it from it.
pub type Probe = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What a read of AWS says of readiness. A table that throttles is there: to take replicas out of service because of it
/// would only load the others more.
pub fn reachable<T>(read: Result<T, AwsError>) -> Result<(), String> {
    match read {
        Ok(_) | Err(AwsError::Throttled(_)) => Ok(()),
        Err(error @ (AwsError::Unreachable(_) | AwsError::Refused(_) | AwsError::Nonsense(_))) => {
            Err(error.to_string())
        }
    }
}

/// What a deployable serves.
pub struct Served {
    /// Its gRPC services.
    pub routes: RoutesBuilder,
    /// Their full names, for health.
    pub names: &'static [&'static str],
    /// Whether it can do its work, such as reach AWS.
    pub probe: Probe,
    /// How many calls run at a time.
    pub max_concurrent_calls: u32,
    /// What the metrics port shows.
    pub metrics: Option<PrometheusHandle>,
}

/// Serves until `shutdown`, then lets calls in flight end.
///
/// From the moment of `shutdown` on the health service answers NOT_SERVING and no connection is taken. Where serving
/// fails, `shutdown` is cancelled, so that everything else that listens to it ends as well.
pub async fn serve(
    listeners: Listeners,
    mut served: Served,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Listeners { grpc, metrics, health, guard } = listeners;
    let grpc_addr = grpc.local_addr()?;
    let metrics_addr = metrics.as_ref().map(TcpListener::local_addr).transpose()?;
    let health_addr = health.as_ref().map(TcpListener::local_addr).transpose()?;
    let (board, health_service) = Board::new(served.names).await;
    let mut health_alone = RoutesBuilder::default();
    health_alone.add_service(bounded!(health_service.clone()));
    served.routes.add_service(bounded!(health_service));
    if guard.reflection != Reflection::Off {
        add_reflection(&mut served.routes)?;
    }

    let upkeep = keep_metrics_up(served.metrics.clone(), shutdown.clone());
    let metrics = serve_metrics(metrics, served.metrics, shutdown.clone());
    let probe = || async {
        guard.is_ready()?;
        (served.probe)().await
    };
    let readiness = keep_readiness(board, probe, shutdown.clone());
    let calls = usize::try_from(served.max_concurrent_calls).unwrap_or(usize::MAX);
    // Boxed, as is what keeps the guard: they are large, and on the path of nothing that is fast.
    let grpc = server()
        // No single connection takes all of the places; some are for streams that take none, such as health's.
        .max_concurrent_streams(Some((served.max_concurrent_calls / 4).max(16)))
        .layer(EdgeLayer::new(calls, methods()?, guard.gate.clone()))
        .add_routes(served.routes.routes())
        .serve_with_incoming_shutdown(
            incoming(grpc, guard.tls.as_ref().map(Tls::current)),
            shutdown.clone().cancelled_owned(),
        )
        .boxed();
    let health = serve_health(health, health_alone)?;

    let [metrics_addr, health_addr] =
        [metrics_addr, health_addr].map(|addr| addr.map(|addr| addr.to_string()));
    tracing::info!(grpc_addr = %grpc_addr, metrics_addr, health_addr, "serving");
    guard.warn(grpc_addr);
    let grpc = async {
        let served = async {
            tokio::select! {
                ended = grpc => ended.context("serving gRPC"),
                () = after(&shutdown, DRAIN) => Ok(()),
            }
        };
        // Health apart is there for as long as calls are answered, to say that no more should come.
        let ended = tokio::select! {
            ended = served => ended,
            ended = health => ended,
        };
        // Where serving failed, nothing else is to go on.
        shutdown.cancel();
        ended
    };
    let (grpc, metrics, (), (), ()) =
        tokio::join!(grpc, metrics, readiness, upkeep, guard.keep(shutdown.clone()).boxed());
    grpc.and(metrics)
}

/// What all gRPC ports have in common.
fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_header_list_size(Some(16 * 1024))
}

/// Serves health alone, until nobody waits for it any more. It takes no places from calls, tells nothing but whether the
/// process lives and works, and is open.
fn serve_health(
    listener: Option<TcpListener>,
    routes: RoutesBuilder,
) -> anyhow::Result<BoxFuture<'static, anyhow::Result<()>>> {
    let Some(listener) = listener else { return Ok(std::future::pending().boxed()) };
    let served = server()
        .max_concurrent_streams(Some(16))
        .layer(EdgeLayer::new(16, methods()?, Gate::default()))
        .add_routes(routes.routes())
        .serve_with_incoming(incoming(listener, None));
    Ok(served.map(|ended| ended.context("serving health")).boxed())
}

async fn after(shutdown: &CancellationToken, patience: Duration) {
    shutdown.cancelled().await;
    tokio::time::sleep(patience).await;
}

/// The contracts that servers show by reflection.
const SHOWN: [&[u8]; 2] = [millrace_proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];

/// The contracts of reflection itself.
const REFLECTION: [&[u8]; 2] =
    [tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET];

/// Every call of every contract.
fn methods() -> anyhow::Result<Methods> {
    let mut methods = Methods::new();
    for contracts in SHOWN.into_iter().chain(REFLECTION) {
        for file in FileDescriptorSet::decode(contracts).context("reading a contract")?.file {
            for service in &file.service {
                methods.extend(service.method.iter().map(|call| {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), call.name());
                    (path, if call.server_streaming() { Answer::Many } else { Answer::One })
                }));
            }
        }
    }
    Ok(methods)
}

/// Reflection in both of its versions, since clients in the field use either.
fn add_reflection(routes: &mut RoutesBuilder) -> anyhow::Result<()> {
    let builder = || {
        let empty = tonic_reflection::server::Builder::configure();
        SHOWN.into_iter().fold(empty, |all, some| all.register_encoded_file_descriptor_set(some))
    };
    routes.add_service(bounded!(builder().build_v1()?));
    routes.add_service(bounded!(builder().build_v1alpha()?));
    Ok(())
}

/// Shows what the probe finds, until the shutdown, and NOT_SERVING from then on. Each change is logged, and while the
/// process cannot do its work the reason is repeated from time to time.
async fn keep_readiness<F>(board: Board, probe: impl Fn() -> F, shutdown: CancellationToken)
where
    F: Future<Output = Result<(), String>>,
{
    let mut pause = FIRST_PROBE_INTERVAL;
    let mut readiness = Readiness::new();
    let watch = async {
        loop {
            let found = tokio::time::timeout(PROBE_PATIENCE, probe()).await;
            let found = found.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            readiness.tell(&found);
            let ready = found.is_ok();
            board.ready(ready).await;
            tokio::time::sleep(pause).await;
            pause = if ready { PROBE_INTERVAL } else { (pause * 2).min(PROBE_INTERVAL) };
        }
    };
    shutdown.run_until_cancelled(watch).await;
    board.ready(false).await;
}

/// What was said of the process's readiness last, and when.
struct Readiness {
    started: Instant,
    ready: Option<bool>,
    said: Option<Instant>,
}

impl Readiness {
    fn new() -> Self {
        Self { started: Instant::now(), ready: None, said: None }
    }

    /// Says what is new, or has gone on for long. That a process is not ready in its first moments is not worth a word.
    fn tell(&mut self, found: &Result<(), String>) {
        let now = Instant::now();
        let was_ready = self.ready == Some(true);
        if self.ready != Some(found.is_ok()) {
            self.ready = Some(found.is_ok());
            self.said = None;
        }
        match (found, self.said) {
            (Ok(()), None) => tracing::info!("ready"),
            (Err(reason), None) if was_ready || now - self.started >= PROBE_INTERVAL => {
                tracing::warn!(reason, "not ready");
            }
            (Err(reason), Some(said)) if now - said >= REMIND_INTERVAL => {
                tracing::warn!(reason, "still not ready")
            }
            (Ok(()) | Err(_), _) => return,
        }
        self.said = Some(now);
    }
}

/// Keeps the memory of the metrics bounded: until this is done, every sample of a histogram is kept.
async fn keep_metrics_up(handle: Option<PrometheusHandle>, shutdown: CancellationToken) {
    let Some(handle) = handle else { return };
    let upkeep = async {
        loop {
            tokio::time::sleep(UPKEEP_INTERVAL).await;
            handle.run_upkeep();
        }
    };
    shutdown.run_until_cancelled(upkeep).await;
}

async fn serve_metrics(
    listener: Option<TcpListener>,
    handle: Option<PrometheusHandle>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (Some(listener), Some(handle)) = (listener, handle) else { return Ok(()) };
    own_process::describe();
    let page = move || async move {
        own_process::tell();
        handle.render()
    };
    let pages = Router::new().route("/metrics", get(page));
    let ended = axum::serve(listener, pages).into_future();
    match shutdown.run_until_cancelled(ended).await {
        Some(ended) => ended.context("serving metrics"),
        None => Ok(()),
    }
}

/// The path of every call of every contract, for tests of what holds for all.
#[cfg(test)]
pub(crate) fn method_paths() -> Vec<String> {
    methods().expect("contracts that can be read").into_keys().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_every_contract_is_known() {
        let methods = methods().unwrap();
        for (path, answer) in [
            ("/millrace.command.v1.UserCommandService/CreateUser", Answer::One),
            ("/millrace.query.v1.OrderQueryService/GetOrdersByStatus", Answer::One),
            ("/millrace.query.v1.OrderQueryService/WatchOrder", Answer::Many),
            ("/grpc.health.v1.Health/Check", Answer::One),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Answer::Many),
            ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Answer::Many),
        ] {
            assert_eq!(methods.get(path), Some(&answer), "{path}: {methods:?}");
        }
    }
}
