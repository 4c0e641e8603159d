//! Calling, with deadlines, and making sense of the answers.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint},
};

use super::screen::code_name;

/// The deadline of every call and wait. It only bounds the time until a failure shows.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// A query that was sent: its reply, and how long that took.
pub type Asked<T> = AbortOnDropHandle<Result<(T, Duration), Status>>;

/// A connection to a deployable, by host and port.
///
/// # Errors
/// If the deployable cannot be reached.
pub async fn connect(address: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(TIMEOUT);
    endpoint.connect().await.with_context(|| format!("cannot reach {address}"))
}

/// A request with a deadline. A query with `after` waits as long as that lets it.
#[must_use]
pub fn calling<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(TIMEOUT);
    request
}

/// Sends a query at once, concurrently with the walk.
pub fn ask<T: Send + 'static>(
    query: impl Future<Output = Result<Response<T>, Status>> + Send + 'static,
) -> Asked<T> {
    let start = Instant::now();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let reply = query.await?.into_inner();
        Ok((reply, start.elapsed()))
    }))
}

/// The reply to a query that was sent, and how long it took.
///
/// # Errors
/// If it failed.
pub async fn answered<T>(method: &str, asked: Asked<T>) -> anyhow::Result<(T, Duration)> {
    asked
        .await
        .with_context(|| format!("{method} was not answered"))?
        .map_err(|status| failed(method, &status))
}

/// The reply to a call.
///
/// # Errors
/// If it failed.
pub fn accepted<T>(method: &str, result: Result<Response<T>, Status>) -> anyhow::Result<T> {
    result.map(Response::into_inner).map_err(|status| failed(method, &status))
}

/// The status of a call that was refused with this code.
///
/// # Errors
/// If it was accepted, or failed otherwise.
pub fn refused<T>(method: &str, result: Result<Response<T>, Status>, code: Code) -> anyhow::Result<Status> {
    match result {
        Err(status) if status.code() == code => Ok(status),
        Err(status) => Err(failed(method, &status)),
        Ok(_) => bail!("{method} was accepted instead of refused with {}", code_name(code)),
    }
}

fn failed(method: &str, status: &Status) -> anyhow::Error {
    anyhow!("{method} failed with {}: {}", code_name(status.code()), status.message())
}
