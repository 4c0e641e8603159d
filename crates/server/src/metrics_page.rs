//! The page of metrics, for Prometheus.

use std::{future::IntoFuture as _, time::Duration};

use anyhow::Context as _;
use axum::{Router, routing::get};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::own_process;

/// How often the samples of histograms are aggregated.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Bounds the memory of the metrics: without this, every sample of a histogram is kept.
pub(crate) async fn keep_up(handle: Option<PrometheusHandle>, shutdown: CancellationToken) {
    let Some(handle) = handle else { return };
    let upkeep = async {
        loop {
            tokio::time::sleep(UPKEEP_INTERVAL).await;
            handle.run_upkeep();
        }
    };
    shutdown.run_until_cancelled(upkeep).await;
}

/// Serves the page until the shutdown.
pub(crate) async fn serve(
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
