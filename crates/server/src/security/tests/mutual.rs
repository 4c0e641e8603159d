//! Clients with and without certificates.

use std::{net::SocketAddr, time::Duration};

use millrace_proto::query::GetHistoryRequest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::support::*;
use crate::LIVENESS;

#[tokio::test]
async fn only_clients_of_the_authority_can_connect() {
    let (authority, clients, foreign) = (Authority::new(), Authority::new(), Authority::new());
    let certified = authority.server();
    let mount = Mount::new(&tls_files(&certified, Some(&clients.pem())));
    let server = Server::start(security(Some(tls(&mount, true)), None)).await;
    let (ours, theirs) = (clients.client(), foreign.client());
    for (name, certified) in [("none", None), ("a foreign one", Some(&theirs))] {
        let tls = client(&authority, certified);
        server.history(Some(&tls)).get_history(GetHistoryRequest::default()).await.expect_err(name);
    }
    server.history(None).get_history(GetHistoryRequest::default()).await.expect_err("plain text");
    assert_eq!(server.calls(), 0);
    let tls = client(&authority, Some(&ours));
    // A client with a certificate is trusted to name the tenant, as a gateway is.
    let request = with(GetHistoryRequest::default(), &[("x-tenant-id", "other")]);
    let reply = server.history(Some(&tls)).get_history(request).await.unwrap();
    assert_eq!(reply.into_inner().next_page_token, "other");
    let request = HealthCheckRequest { service: LIVENESS.to_owned() };
    HealthClient::new(channel(server.health, None)).check(request).await.unwrap();
    server.end().await;
}

#[tokio::test]
async fn a_certificate_does_not_stand_for_a_token() {
    let (authority, signer) = (Authority::new(), Signer::new("one"));
    let (certified, ca, keys) = (authority.server(), authority.pem(), jwks(&[signer.jwk()]));
    let mut files = tls_files(&certified, Some(&ca));
    files.push(("jwks.json", &keys));
    let mount = Mount::new(&files);
    let source = crate::identity::fetch::Source::File(mount.path("jwks.json"));
    let server =
        Server::start(security(Some(tls(&mount, true)), Some(authenticator(source, SELDOM).await))).await;
    let ours = authority.client();
    let mut client = server.history(Some(&client(&authority, Some(&ours))));
    refusal(client.get_history(GetHistoryRequest::default()).await);
    assert_eq!(ask(&mut client, &signer.sign(&claims())).await.unwrap(), "acme");
    server.end().await;
}

/// Whether a server closes a silent connection within a minute.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let minute = Duration::from_secs(60);
    timeout(minute, stream.read(&mut [0; 1])).await.is_ok_and(|read| read.is_ok_and(|read| read == 0))
}

#[tokio::test]
async fn connections_that_never_shake_hands_hold_nobody_up_and_are_let_go() {
    let authority = Authority::new();
    let certified = authority.server();
    let mount = Mount::new(&tls_files(&certified, None));
    let server = Server::start(security(Some(tls(&mount, false)), None)).await;
    let connect = async |address: SocketAddr| TcpStream::connect(address).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(connect(server.address).await);
    }
    let mut nonsense = connect(server.address).await;
    nonsense.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let tls = client(&authority, None);
    server.history(Some(&tls)).get_history(GetHistoryRequest::default()).await.unwrap();
    for stream in &mut silent {
        assert!(is_closed(stream).await);
    }
    server.end().await;
}
