//! Health by `grpc.health.v1`: whether the process lives, and whether it can work.

pub(crate) use tonic_health::pb::health_server::SERVICE_NAME;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::{HealthReporter, health_reporter},
};

/// The health name that is SERVING as long as the process runs: for liveness probes.
pub const LIVENESS: &str = "liveness";

/// The health name that is SERVING while AWS can be reached and the process is not ending: for readiness probes. The
/// empty name and the name of every gRPC service of the process say the same.
pub const READINESS: &str = "readiness";

/// The statuses that the health service shows.
#[derive(Clone)]
pub(crate) struct Board {
    reporter: HealthReporter,
    names: Vec<&'static str>,
}

impl Board {
    /// A board for these gRPC services, not ready yet, and its health service.
    pub(crate) async fn new(services: &[&'static str]) -> (Self, HealthServer<impl Health + use<>>) {
        let (reporter, server) = health_reporter();
        let names = ["", READINESS].into_iter().chain(services.iter().copied()).collect();
        let board = Self { reporter, names };
        metrics::describe_gauge!("ready", "1 while readiness is SERVING.");
        board.reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
        board.ready(false).await;
        (board, server)
    }

    /// Sets whether the process can do its work.
    pub(crate) async fn ready(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in &self.names {
            self.reporter.set_service_status(*name, status).await;
        }
        metrics::gauge!("ready").set(if ready { 1.0 } else { 0.0 });
    }
}
