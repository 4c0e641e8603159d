//! A deployable as in production: TLS from files, callers with tokens, and health on a port of its own.

use std::{fs, process::Command, time::SystemTime};

use aws_sdk_dynamodb::types::AttributeValue;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use millrace_tests::{
    Replied as _, aws_stack, eventually,
    process::{Deployable, Process, health, log_folder},
};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use serde_json::{Value, json};
use shop::contracts::command::{CreateUserRequest, user_command_service_client::UserCommandServiceClient};
use tonic::{
    Code, Request,
    metadata::AsciiMetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    calls::{reason, user},
    processes::end,
};

const ISSUER: &str = "https://issuer.example";

/// A token of tenant `acme` with these scopes.
fn token(key: &KeyPair, scope: &str) -> String {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let claims = json!({
        "iss": ISSUER, "aud": "millrace", "exp": now + 600, "tenant_id": "acme", "scope": scope,
    });
    encode(&Header::new(Algorithm::ES256), &claims, &EncodingKey::from_ec_der(&key.serialize_der())).unwrap()
}

/// A request with a token, and a tenant that is named beside it.
fn with(token: &str, tenant: Option<&str>) -> Request<CreateUserRequest> {
    let mut request = Request::new(user("ada@example.com"));
    let bearer = AsciiMetadataValue::try_from(format!("Bearer {token}")).unwrap();
    request.metadata_mut().insert("authorization", bearer);
    if let Some(tenant) = tenant {
        request.metadata_mut().insert("x-tenant-id", tenant.parse().unwrap());
    }
    request
}

/// The port that serves health alone, as the process has logged it.
fn health_channel(running: &Process) -> Channel {
    let log = fs::read_to_string(running.log()).unwrap();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let address = lines.filter_map(|line| line["health_addr"].as_str().map(str::to_owned)).next();
    Endpoint::from_shared(format!("http://{}", address.expect("health has a port"))).unwrap().connect_lazy()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployable_as_in_production_serves_tls_to_callers_with_tokens_and_health_apart() {
    let stack = aws_stack().await.unwrap();
    let files = tempfile::tempdir().unwrap();
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["command-service.millrace".to_owned()]).unwrap();
    let signer = KeyPair::generate().unwrap();
    let encoding = EncodingKey::from_ec_der(&signer.serialize_der());
    let keys = json!({ "keys": [Jwk::from_encoding_key(&encoding, Algorithm::ES256).unwrap()] });
    let written = |name: &str, text: String| {
        fs::write(files.path().join(name), text).unwrap();
        files.path().join(name)
    };
    let mut command: Command = Deployable::CommandService.command(&stack);
    command
        .env("TLS_CERT_FILE", written("tls.crt", cert.pem()))
        .env("TLS_KEY_FILE", written("tls.key", signing_key.serialize_pem()))
        .env("HEALTH_ADDR", "127.0.0.1:0")
        .env("JWT_ISSUER", ISSUER)
        .env("JWT_AUDIENCE", "millrace")
        .env("JWT_JWKS_FILE", written("keys.json", keys.to_string()))
        .env("JWT_ALGORITHMS", "ES256");
    let logs = log_folder("guarded").unwrap();
    let running = Process::start(command, &logs.join("command-service.log")).await.unwrap();

    let apart = health_channel(&running);
    let ready = async || (health(&apart, "readiness").await? == ServingStatus::Serving).then_some(());
    eventually("readiness, as the kubelet asks", ready).await;
    let mut alone = UserCommandServiceClient::new(apart.clone());
    let elsewhere = alone.create_user(user("ada@example.com")).await.unwrap_err();
    assert_eq!(elsewhere.code(), Code::Unimplemented, "nothing but health is served in plain text");
    let mut plain = UserCommandServiceClient::new(running.channel().clone());
    let unread = plain.create_user(user("ada@example.com")).await.unwrap_err();
    assert!(unread.details().is_empty(), "plain text is not even read: {unread:?}");

    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(cert.pem()))
        .domain_name("command-service.millrace");
    let endpoint = Endpoint::from_shared(format!("https://{}", running.address())).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
    assert!(health(&channel, "liveness").await.is_some(), "health is there over TLS as well, for all");
    let mut client = UserCommandServiceClient::new(channel);

    let writer = token(&signer, "commands:write");
    let reader = token(&signer, "queries:read");
    let forged = token(&KeyPair::generate().unwrap(), "commands:write");
    for (request, code, because) in [
        (Request::new(user("ada@example.com")), Code::Unauthenticated, "no token"),
        (with(&forged, None), Code::Unauthenticated, "another's key"),
        (with(&reader, None), Code::PermissionDenied, "no scope"),
        (with(&writer, Some("globex")), Code::PermissionDenied, "another tenant"),
    ] {
        let refused = client.create_user(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{because}: {}", reason(&refused));
    }
    let created = client.create_user(with(&writer, Some("acme"))).await.unwrap().reply();
    let key = AttributeValue::S(format!("acme#user#{}", created.aggregate_id));
    let stored = stack.aws().await.dynamodb().get_item().table_name(stack.events());
    let stored = stored.key("AggregateId", key).key("Version", AttributeValue::N("1".into()));
    assert!(stored.consistent_read(true).send().await.unwrap().item.is_some(), "it is the token's tenant's");

    running.terminate().unwrap();
    let log = running.log().to_owned();
    assert_eq!(end(running).await, Some(0));
    let log = fs::read_to_string(log).unwrap();
    let told = [writer, reader, forged, "ada@example.com".to_owned()];
    assert!(told.iter().all(|secret| !log.contains(secret.as_str())), "no token and no address is logged");
}
