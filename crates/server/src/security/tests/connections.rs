//! Connections that end by their age.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use hyper_util::rt::TokioIo;
use millrace_proto::query::{
    GetHistoryRequest, SearchEventsRequest, history_service_client::HistoryServiceClient,
};
use tokio::net::TcpStream;
use tonic::{
    Code,
    transport::{Endpoint, Uri},
};

use super::support::*;
use crate::{COMMANDS_WRITE, security::Security};

#[tokio::test]
async fn an_old_connection_is_replaced_and_its_calls_end_first() {
    let age = Some(Duration::from_millis(50));
    let server = Server::with(Security::default(), COMMANDS_WRITE, age).await;
    let connections = Arc::new(AtomicU32::new(0));
    let (address, counted) = (server.address, connections.clone());
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_with_connector_lazy(
        tower::service_fn(move |_: Uri| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move { TcpStream::connect(address).await.map(TokioIo::new) }
        }),
    );
    let mut client = HistoryServiceClient::new(channel);
    let mut held = client.clone();
    let held = tokio::spawn(async move { held.search_events(SearchEventsRequest::default()).await });
    eventually("a call runs", async || server.calls() == 1).await;
    eventually("three connections came after it", async || {
        // hyper's client does not send again a call that waits to be sent when the connection closes.
        if let Err(status) = client.get_history(GetHistoryRequest::default()).await {
            assert_eq!(status.code(), Code::Cancelled);
        }
        connections.load(Ordering::SeqCst) > 3
    })
    .await;
    assert!(!held.is_finished());
    server.release.notify_waiters();
    held.await.unwrap().unwrap();
    server.end().await;
}
