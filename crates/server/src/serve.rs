//! A deployable's ports: gRPC with health and reflection, and metrics.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use futures::{FutureExt as _, future::BoxFuture};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

pub use crate::readiness::{Probe, reachable};
use crate::{
    Services, bounded,
    config::Common,
    edge::{EdgeLayer, Methods},
    health::{self, Board},
    identity::rules::Need,
    metrics_page,
    readiness::keep_readiness,
    reflection::{self, Reflection},
    security::Security,
    tls::{Tls, incoming::incoming},
};

/// How long calls in flight have after the shutdown; then idle connections are cut.
const DRAIN: Duration = Duration::from_secs(12);

/// How many health calls run at a time on a port of their own.
const MAX_HEALTH_CALLS: u32 = 16;

/// The bound ports of a deployable, and the security of the gRPC port.
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For metrics, where they are served.
    pub metrics: Option<TcpListener>,
    /// For health alone, in plain text, where it is served apart.
    pub health: Option<TcpListener>,
    /// TLS and authentication of the gRPC port.
    pub security: Security,
    /// The age at which a connection of the gRPC port is ended by GOAWAY. Its calls in flight end first.
    pub max_connection_age: Option<Duration>,
}

impl Listeners {
    /// Loads the port's security, and binds the ports.
    pub async fn bind(grpc: SocketAddr, common: &Common) -> anyhow::Result<Self> {
        let security = Security::load(&common.security, common.max_concurrent_calls).await?;
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
            security,
            max_connection_age: max_connection_age(common.max_connection_age_seconds, rand::random()),
        })
    }

    /// A gRPC port that anybody may call, and no other port.
    pub fn open(grpc: TcpListener) -> Self {
        Self { grpc, metrics: None, health: None, security: Security::default(), max_connection_age: None }
    }
}

/// The services of a deployable.
pub struct Served {
    /// Its gRPC services. Health and reflection are added to them.
    pub services: Services,
    /// The scope that callers of these services need, where callers are authenticated.
    pub scope: &'static str,
    /// The application's contracts: an encoded `FileDescriptorSet`. Millrace's own contracts are added.
    pub contracts: &'static [u8],
    /// The part of a package, such as `command`, whose services in the application's contracts all have to be served.
    pub package_part: &'static str,
    /// Whether the deployable can do its work, such as reach AWS.
    pub probe: Probe,
    /// How many calls run at a time.
    pub max_concurrent_calls: u32,
    /// The recorder behind the metrics port.
    pub metrics: Option<PrometheusHandle>,
}

/// Serves until `shutdown`, then lets calls in flight end.
///
/// From `shutdown` on, the health service answers NOT_SERVING and no connection is accepted. If serving fails or is
/// refused, `shutdown` is cancelled, so that all its other listeners end as well.
///
/// # Errors
/// If a service has no contract, a service of the contracts is left out, or a port fails.
pub async fn serve(listeners: Listeners, served: Served, shutdown: CancellationToken) -> anyhow::Result<()> {
    // A refusal ends the process too, and not this alone.
    let _ended = shutdown.clone().drop_guard();
    let Listeners { grpc, metrics, health, security, max_connection_age } = listeners;
    let grpc_addr = grpc.local_addr()?;
    let metrics_addr = metrics.as_ref().map(TcpListener::local_addr).transpose()?;
    let health_addr = health.as_ref().map(TcpListener::local_addr).transpose()?;
    let Served { services, scope, contracts, package_part, probe, max_concurrent_calls, metrics: handle } =
        served;
    Methods::ensure_all(contracts, package_part, services.names())?;
    let contracts = all_contracts(contracts);
    let names = [services.names(), &[health::SERVICE_NAME], security.reflection.names()].concat();
    let methods = Methods::new(&contracts, &needs(services.names(), scope, security.reflection))?;
    let (board, health_service) = Board::new(&names).await;
    let services = services.and(bounded!(health_service.clone()));
    let services = security.reflection.add_to(services, &names, &contracts)?;

    let upkeep = metrics_page::keep_up(handle.clone(), shutdown.clone());
    let metrics = metrics_page::serve(metrics, handle, shutdown.clone());
    let probe = || async {
        security.is_ready()?;
        probe().await
    };
    let readiness = keep_readiness(board, probe, shutdown.clone());
    // Boxed, as is the upkeep of security: they are large, and no call goes through them.
    let mut grpc_server = server();
    if let Some(age) = max_connection_age {
        // Not tonic's grace: with it, the connection is cut without a GOAWAY.
        grpc_server = grpc_server.max_connection_age(age);
    }
    let grpc = grpc_server
        // No single connection takes all slots; some streams take none, such as health's.
        .max_concurrent_streams(Some((max_concurrent_calls / 4).max(16)))
        .layer(EdgeLayer::new(max_concurrent_calls, methods, security.authenticator.clone()))
        .add_routes(services.into_routes())
        .serve_with_incoming_shutdown(
            incoming(grpc, security.tls.as_ref().map(Tls::current)),
            shutdown.clone().cancelled_owned(),
        )
        .boxed();
    let health = serve_health(health, crate::services![health_service])?;

    let [metrics_addr, health_addr] =
        [metrics_addr, health_addr].map(|addr| addr.map(|addr| addr.to_string()));
    tracing::info!(grpc_addr = %grpc_addr, metrics_addr, health_addr, "serving");
    security.warn(grpc_addr);
    let grpc = async {
        let served = async {
            tokio::select! {
                ended = grpc => ended.context("serving gRPC"),
                () = after(&shutdown, DRAIN) => Ok(()),
            }
        };
        // The health port stays while calls are answered, to say that no more should come.
        let ended = tokio::select! {
            ended = served => ended,
            ended = health => ended,
        };
        shutdown.cancel();
        ended
    };
    let (grpc, metrics, (), (), ()) =
        tokio::join!(grpc, metrics, readiness, upkeep, security.keep(shutdown.clone()).boxed());
    grpc.and(metrics)
}

/// The contracts of the application, of Millrace, of health and of reflection.
fn all_contracts(application: &'static [u8]) -> Vec<&'static [u8]> {
    let own = [application, millrace_proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];
    own.into_iter().chain(reflection::CONTRACTS).collect()
}

/// The permission that the calls of each service need.
fn needs(
    services: &[&'static str],
    scope: &'static str,
    reflection: Reflection,
) -> Vec<(&'static str, Need)> {
    let application = services.iter().map(|name| (*name, Need::Scope(scope)));
    let reflection = reflection.names().iter().map(|name| (*name, reflection.need()));
    application.chain([(health::SERVICE_NAME, Need::Nothing)]).chain(reflection).collect()
}

/// The settings of all gRPC ports.
fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_header_list_size(Some(16 * 1024))
}

/// An age within a tenth of a number of seconds, by a random number from 0 to 1: connections of many replicas that began
/// together do not end together. None for 0.
fn max_connection_age(seconds: u32, jitter: f64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()).mul_f64(0.9 + 0.2 * jitter))
}

/// Serves health alone, open to all, while it is polled. It takes no slots from calls, and shows only whether the
/// process lives and works.
fn serve_health(
    listener: Option<TcpListener>,
    services: Services,
) -> anyhow::Result<BoxFuture<'static, anyhow::Result<()>>> {
    let Some(listener) = listener else { return Ok(std::future::pending().boxed()) };
    let contracts = [tonic_health::pb::FILE_DESCRIPTOR_SET];
    let methods = Methods::new(&contracts, &[(health::SERVICE_NAME, Need::Nothing)])?;
    let served = server()
        .max_concurrent_streams(Some(MAX_HEALTH_CALLS))
        .layer(EdgeLayer::new(MAX_HEALTH_CALLS, methods, None))
        .add_routes(services.into_routes())
        .serve_with_incoming(incoming(listener, None));
    Ok(served.map(|ended| ended.context("serving health")).boxed())
}

async fn after(shutdown: &CancellationToken, duration: Duration) {
    shutdown.cancelled().await;
    tokio::time::sleep(duration).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{COMMANDS_WRITE, QUERIES_READ};

    #[tokio::test]
    async fn a_deployable_that_leaves_a_service_out_does_not_start() {
        let listeners = Listeners::open(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let served = Served {
            services: Services::default(),
            scope: QUERIES_READ,
            contracts: millrace_proto::DESCRIPTORS,
            package_part: "query",
            probe: Box::new(|| async { Ok(()) }.boxed()),
            max_concurrent_calls: 1,
            metrics: None,
        };
        let shutdown = CancellationToken::new();
        let refused = serve(listeners, served, shutdown.clone()).await.unwrap_err().to_string();
        assert!(refused.contains("`millrace.query.v1.HistoryService`, and it is not served"), "{refused}");
        assert!(shutdown.is_cancelled(), "the relay beside it ends");
    }

    #[test]
    fn connections_end_within_a_tenth_of_their_age() {
        for (seconds, jitter, expected) in
            [(0, 0.5, None), (300, 0.0, Some(270)), (300, 0.5, Some(300)), (300, 1.0, Some(330))]
        {
            let age =
                max_connection_age(seconds, jitter).map(|age| (age + Duration::from_millis(1)).as_secs());
            assert_eq!(age, expected);
        }
    }

    #[test]
    fn every_service_has_its_need_and_only_health_is_open_by_default() {
        let served = ["shop.v1.Shop", "millrace.query.v1.HistoryService"];
        for scope in [COMMANDS_WRITE, QUERIES_READ] {
            let own = [(served[0], Need::Scope(scope)), (served[1], Need::Scope(scope))];
            let health = ("grpc.health.v1.Health", Need::Nothing);
            for (policy, reflection) in [
                (Reflection::Open, Some(Need::Nothing)),
                (Reflection::Token, Some(Need::Token)),
                (Reflection::Off, None),
            ] {
                let versions =
                    ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];
                let reflection = versions.into_iter().filter_map(|name| Some((name, reflection?)));
                let all: Vec<_> = own.into_iter().chain([health]).chain(reflection).collect();
                assert_eq!(needs(&served, scope, policy), all, "{policy:?}");
            }
        }
    }
}
