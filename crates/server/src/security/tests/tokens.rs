//! Tokens, good and bad, over TLS.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode, jwk::Jwk};
use millrace_proto::query::{GetHistoryRequest, GetHistoryResponse};
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, RsaKeySize, SigningKey as _};
use serde_json::{Value, json};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

use super::support::*;
use crate::{
    COMMANDS_WRITE, LIVENESS, QUERIES_READ, Reflection, clock,
    identity::{authenticator::Authenticator, fetch::Source, keys::KeySet, rules::Need, token::Unverified},
};

/// A server over TLS that knows the keys of these, and a client's configuration.
async fn server_with(
    keys: &[Value],
    change: impl FnOnce(&mut Authenticator),
) -> (Server, rustls::ClientConfig, Mount) {
    let authority = Authority::new();
    let mut files = tls_files(&authority.server(), None)
        .into_iter()
        .map(|(name, text)| (name, text.to_owned()))
        .collect::<Vec<_>>();
    files.push(("jwks.json", jwks(keys)));
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let mount = Mount::new(&files);
    let mut authenticator = authenticator(Source::File(mount.path("jwks.json")), SELDOM).await;
    change(&mut authenticator);
    let server = Server::start(security(Some(tls(&mount, false)), Some(authenticator))).await;
    (server, client(&authority, None), mount)
}

async fn server(keys: &[Value]) -> (Server, rustls::ClientConfig, Mount) {
    server_with(keys, |_| ()).await
}

#[tokio::test]
async fn a_good_token_opens_a_servers_services_as_its_tenant() {
    let signer = Signer::new("one");
    let (server, tls, _mount) = server(&[signer.jwk()]).await;
    let token = signer.sign(&claims());
    assert_eq!(ask(&mut server.history(Some(&tls)), &token).await.unwrap(), "acme");
    let bearer = format!("bearer {token}");
    let request = with(GetHistoryRequest::default(), &[("authorization", &bearer)]);
    let reply = server.history(Some(&tls)).get_history(request).await.unwrap().into_inner();
    assert_eq!(reply.next_page_token, "acme");
    server.end().await;
}

#[tokio::test]
async fn the_scope_is_the_servers_for_the_librarys_services_too() {
    let signer = Signer::new("one");
    let mount = Mount::new(&[("jwks.json", &jwks(&[signer.jwk()]))]);
    for scope in [COMMANDS_WRITE, QUERIES_READ] {
        let source = Source::File(mount.path("jwks.json"));
        let security = security(None, Some(authenticator(source, SELDOM).await));
        let server = Server::with_scope(security, scope).await;
        for held in [COMMANDS_WRITE, QUERIES_READ] {
            let token = signer.sign(&claims_with("scope", json!([held])));
            let answer = ask(&mut server.history(None), &token).await;
            if held == scope {
                answer.unwrap();
            } else {
                assert_eq!(refusal(answer), (Code::PermissionDenied, "SCOPE_MISSING".to_owned()));
            }
        }
        server.end().await;
    }
}

#[tokio::test]
async fn what_is_no_good_token_is_unauthenticated() {
    let (signer, stranger) = (Signer::new("one"), Signer::new("one"));
    let (server, tls, _mount) = server(&[signer.jwk()]).await;
    let mut client = server.history(Some(&tls));
    let expired = json!(now() - 31);
    let good = signer.sign(&claims());
    let head = json!({ "alg": "ES256", "kid": "one" });
    let critical = {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some("one".to_owned());
        header.crit = Some(vec!["b64".to_owned()]);
        encode(&header, &claims(), &EncodingKey::from_ec_der(&signer.key().serialize_der())).unwrap()
    };
    let (body, signature) = good.rsplit_once('.').unwrap();
    let changed = {
        let other = signer.sign(&claims_with("tenant_id", json!("other")));
        let parts: Vec<_> = other.split('.').collect();
        format!("{}.{}.{signature}", parts[0], parts[1])
    };
    let cases = [
        ("wrong key", stranger.sign(&claims()), "TOKEN_INVALID"),
        ("unknown key", Signer::new("two").sign(&claims()), "TOKEN_INVALID"),
        ("changed claims", changed, "TOKEN_INVALID"),
        ("no signature", format!("{body}."), "TOKEN_INVALID"),
        ("expired", signer.sign(&claims_with("exp", expired)), "TOKEN_EXPIRED"),
        ("no end", signer.sign(&claims_with("exp", Value::Null)), "TOKEN_INVALID"),
        ("an end that is no time", signer.sign(&claims_with("exp", json!("never"))), "TOKEN_INVALID"),
        ("not yet valid", signer.sign(&claims_with("nbf", json!(now() + 600))), "TOKEN_NOT_YET_VALID"),
        ("wrong audience", signer.sign(&claims_with("aud", json!("others"))), "TOKEN_AUDIENCE"),
        ("no audience", signer.sign(&claims_with("aud", Value::Null)), "TOKEN_AUDIENCE"),
        ("wrong issuer", signer.sign(&claims_with("iss", json!("https://evil.example"))), "TOKEN_ISSUER"),
        ("no issuer", signer.sign(&claims_with("iss", Value::Null)), "TOKEN_ISSUER"),
        ("none", token(&json!({ "alg": "none" }), &claims(), b""), "TOKEN_INVALID"),
        ("None", token(&json!({ "alg": "None", "kid": "one" }), &claims(), b""), "TOKEN_INVALID"),
        ("no algorithm", token(&json!({ "kid": "one" }), &claims(), b""), "TOKEN_INVALID"),
        ("ES256 with nothing", token(&head, &claims(), b""), "TOKEN_INVALID"),
        ("ES256 with zeros", token(&head, &claims(), &[0; 64]), "TOKEN_INVALID"),
        ("critical", critical, "TOKEN_INVALID"),
        ("garbage", "garbage".to_owned(), "TOKEN_INVALID"),
        ("dots", "...".to_owned(), "TOKEN_INVALID"),
        ("nothing", String::new(), "TOKEN_INVALID"),
        ("huge", "a".repeat(10_000), "TOKEN_INVALID"),
        ("huge and signed", signer.sign(&claims_with("fat", json!("a".repeat(9_000)))), "TOKEN_INVALID"),
    ];
    for (name, token, reason) in cases {
        let refused = refusal(ask(&mut client, &token).await);
        assert_eq!(refused, (Code::Unauthenticated, reason.to_owned()), "{name}");
    }
    assert_eq!(server.calls(), 0, "a service was reached");
    assert_eq!(ask(&mut client, &good).await.unwrap(), "acme");
    server.end().await;
}

#[tokio::test]
async fn a_public_key_is_nobodys_secret() {
    let signer = Signer::new("one");
    let point = signer.key().public_key_raw().to_vec();
    let x_and_y = point[1..].to_vec();
    let secrets = [
        point,
        x_and_y,
        signer.key().public_key_pem().into_bytes(),
        signer.jwk().to_string().into_bytes(),
        jwks(&[signer.jwk()]).into_bytes(),
        Vec::new(),
    ];
    // A symmetric key in the set is not accepted either.
    let secret = json!({ "kty": "oct", "kid": "secret", "k": "c2VjcmV0" });
    let (server, tls, _mount) = server(&[signer.jwk(), secret]).await;
    let mut client = server.history(Some(&tls));
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        for (key_id, secret) in
            secrets.iter().map(|s| ("one", s.as_slice())).chain([("secret", &b"secret"[..])])
        {
            let mut header = Header::new(algorithm);
            header.kid = Some(key_id.to_owned());
            let token = encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap();
            let refused = refusal(ask(&mut client, &token).await);
            assert_eq!(refused, (Code::Unauthenticated, "TOKEN_INVALID".to_owned()));
        }
    }
    assert_eq!(server.calls(), 0);
    server.end().await;
}

#[tokio::test]
async fn rsa_signatures_are_taken_where_the_algorithm_is_allowed() {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let public = DecodingKey::from_rsa_der(key.public_key_raw());
    let mut jwk = serde_json::to_value(Jwk::from_decoding_key(&public, None).unwrap()).unwrap();
    jwk["kid"] = "rsa".into();
    let (server, tls, _mount) = server(&[jwk, Signer::new("one").jwk()]).await;
    let mut client = server.history(Some(&tls));
    let signed = |algorithm: &str| {
        let unsigned = token(&json!({ "alg": algorithm, "kid": "rsa" }), &claims(), b"");
        let signature = key.sign(unsigned.trim_end_matches('.').as_bytes()).unwrap();
        token(&json!({ "alg": algorithm, "kid": "rsa" }), &claims(), &signature)
    };
    assert_eq!(ask(&mut client, &signed("RS256")).await.unwrap(), "acme");
    for algorithm in ["RS512", "PS256", "ES256", "EdDSA", "HS256"] {
        let refused = refusal(ask(&mut client, &signed(algorithm)).await);
        assert_eq!(refused, (Code::Unauthenticated, "TOKEN_INVALID".to_owned()), "{algorithm}");
    }
    server.end().await;
}

#[tokio::test]
async fn a_signature_counts_only_by_an_algorithm_that_is_allowed() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let key = EncodingKey::from_ec_der(&key.serialize_der());
    let jwk = serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::ES384).unwrap()).unwrap();
    let token = encode(&Header::new(Algorithm::ES384), &claims(), &key).unwrap();
    for (allowed, answer) in [
        (vec![Algorithm::ES256, Algorithm::RS256], Err((Code::Unauthenticated, "TOKEN_INVALID".to_owned()))),
        (vec![Algorithm::ES384], Ok("acme".to_owned())),
    ] {
        let (server, tls, _mount) =
            server_with(std::slice::from_ref(&jwk), |authenticator| authenticator.algorithms = allowed).await;
        let answered = ask(&mut server.history(Some(&tls)), &token).await;
        assert_eq!(answered.map_err(|status| refusal::<()>(Err(status))), answer);
        server.end().await;
    }
}

#[tokio::test]
async fn who_may_not_is_denied() {
    let signer = Signer::new("one");
    let (server, tls, _mount) = server(&[signer.jwk()]).await;
    let mut client = server.history(Some(&tls));
    let cases = [
        ("no scope", claims_with("scope", Value::Null), "SCOPE_MISSING"),
        ("the other scope", claims_with("scope", json!("queries:read")), "SCOPE_MISSING"),
        ("a longer scope", claims_with("scope", json!("commands:write:all")), "SCOPE_MISSING"),
        ("no tenant", claims_with("tenant_id", Value::Null), "TENANT_MISSING"),
        ("an impossible tenant", claims_with("tenant_id", json!("ACME#user")), "TENANT_MISSING"),
        ("a tenant that is no text", claims_with("tenant_id", json!(["acme"])), "TENANT_MISSING"),
    ];
    for (name, claims, reason) in cases {
        let refused = refusal(ask(&mut client, &signer.sign(&claims)).await);
        assert_eq!(refused, (Code::PermissionDenied, reason.to_owned()), "{name}");
    }
    let bearer = format!("Bearer {}", signer.sign(&claims_with("scope", json!(["commands:write"]))));
    assert_eq!(server.calls(), 0);
    let command = with(GetHistoryRequest::default(), &[("authorization", &bearer)]);
    client.get_history(command).await.unwrap();
    server.end().await;
}

#[tokio::test]
async fn a_tenant_that_is_not_the_tokens_is_denied() {
    let signer = Signer::new("one");
    let (server, tls, _mount) = server(&[signer.jwk()]).await;
    let mut client = server.history(Some(&tls));
    let bearer = format!("Bearer {}", signer.sign(&claims()));
    let mut call = async |tenants: &[&str]| {
        let mut metadata = vec![("authorization", bearer.as_str())];
        metadata.extend(tenants.iter().map(|tenant| ("x-tenant-id", *tenant)));
        client.get_history(with(GetHistoryRequest::default(), &metadata)).await
    };
    assert_eq!(call(&["acme"]).await.unwrap().into_inner().next_page_token, "acme");
    for tenant in ["other", "default", "acm"] {
        let refused = refusal(call(&[tenant]).await);
        assert_eq!(refused, (Code::PermissionDenied, "TENANT_MISMATCH".to_owned()));
    }
    for tenants in [&["acme", "other"][..], &["ACME"], &[""]] {
        assert_eq!(call(tenants).await.unwrap_err().code(), Code::InvalidArgument, "{tenants:?}");
    }
    assert_eq!(server.calls(), 1);
    server.end().await;
}

#[tokio::test]
async fn names_of_claims_and_the_tenant_of_those_without_are_configured() {
    let signer = Signer::new("one");
    let (server, tls, _mount) = server_with(&[signer.jwk()], |authenticator| {
        authenticator.rules.tenant_claim = "https://example.com/tenant".to_owned();
        authenticator.rules.scope_claim = "scp".to_owned();
        authenticator.rules.default_tenant = Some("all".parse().unwrap());
        authenticator.rules.audiences.push("others".to_owned());
    })
    .await;
    let mut client = server.history(Some(&tls));
    let mut claims = claims_with("scp", json!(["a", "commands:write"]));
    claims["aud"] = json!(["x", "others"]);
    assert_eq!(ask(&mut client, &signer.sign(&claims)).await.unwrap(), "all");
    claims["https://example.com/tenant"] = json!("acme");
    assert_eq!(ask(&mut client, &signer.sign(&claims)).await.unwrap(), "acme");
    claims["https://example.com/tenant"] = json!("");
    let refused = refusal(ask(&mut client, &signer.sign(&claims)).await);
    assert_eq!(refused, (Code::PermissionDenied, "TENANT_MISSING".to_owned()));
    server.end().await;
}

#[tokio::test]
async fn a_call_without_a_token_is_unauthenticated_and_so_is_one_with_two() {
    let signer = Signer::new("one");
    let (server, tls, _mount) = server(&[signer.jwk()]).await;
    let mut client = server.history(Some(&tls));
    let good = format!("Bearer {}", signer.sign(&claims()));
    for (metadata, reason) in [
        (&[][..], "TOKEN_MISSING"),
        (&[("authorization", "Basic am9objpkb2U=")], "TOKEN_MISSING"),
        (&[("authorization", "Bearer")], "TOKEN_MISSING"),
        (&[("x-tenant-id", "acme")], "TOKEN_MISSING"),
        (&[("authorization", good.as_str()), ("authorization", good.as_str())], "TOKEN_INVALID"),
    ] {
        let refused = refusal(client.get_history(with(GetHistoryRequest::default(), metadata)).await);
        assert_eq!(refused, (Code::Unauthenticated, reason.to_owned()), "{metadata:?}");
    }
    assert_eq!(server.calls(), 0);
    server.end().await;
}

#[tokio::test]
async fn metadata_beyond_all_bounds_harm_nobody() {
    let signer = Signer::new("one");
    let (server, tls, _mount) = server(&[signer.jwk()]).await;
    let mut client = server.history(Some(&tls));
    ask(&mut client, &"a".repeat(100_000)).await.unwrap_err();
    assert_eq!(ask(&mut client, &signer.sign(&claims())).await.unwrap(), "acme");
    server.end().await;
}

#[tokio::test]
async fn a_reply_that_goes_on_ends_with_the_token() {
    let signer = Signer::new("one");
    let (server, tls, _mount) = server(&[signer.jwk()]).await;
    // With the leeway, good for two or three seconds.
    let bearer = format!("Bearer {}", signer.sign(&claims_with("exp", json!(now() - 27))));
    let watch = with(GetHistoryRequest::default(), &[("authorization", &bearer)]);
    let mut grpc = tonic::client::Grpc::new(channel(server.address, Some(&tls)));
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<GetHistoryRequest, GetHistoryResponse>::default();
    let answer = grpc.server_streaming(watch, WATCH.parse().unwrap(), codec).await;
    let mut states = answer.unwrap().into_inner();
    states.message().await.unwrap().unwrap();
    let refused = refusal(states.message().await);
    assert_eq!(refused, (Code::Unauthenticated, "TOKEN_EXPIRED".to_owned()));
    server.end().await;
}

async fn reflect(channel: Channel, bearer: Option<&str>) -> Result<(), tonic::Status> {
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let metadata: Vec<_> = bearer.iter().map(|bearer| ("authorization", *bearer)).collect();
    let request = with(futures::stream::iter([ask]), &metadata);
    ServerReflectionClient::new(channel).server_reflection_info(request).await.map(|_| ())
}

#[tokio::test]
async fn health_is_open_and_reflection_as_configured() {
    let signer = Signer::new("one");
    let scopeless = format!("Bearer {}", signer.sign(&claims_with("scope", Value::Null)));
    for (policy, without, with_token) in [
        (Reflection::Open, Code::Ok, Code::Ok),
        (Reflection::Token, Code::Unauthenticated, Code::Ok),
        (Reflection::Off, Code::Unauthenticated, Code::Unimplemented),
    ] {
        let authority = Authority::new();
        let certified = authority.server();
        let jwks = jwks(&[signer.jwk()]);
        let mut files = tls_files(&certified, None);
        files.push(("jwks.json", &jwks));
        let mount = Mount::new(&files);
        let authenticator = authenticator(Source::File(mount.path("jwks.json")), SELDOM).await;
        let mut security = security(Some(tls(&mount, false)), Some(authenticator));
        security.reflection = policy;
        let server = Server::start(security).await;
        let over_tls = channel(server.address, Some(&client(&authority, None)));
        let code =
            |answer: Result<(), tonic::Status>| answer.map_or_else(|status| status.code(), |()| Code::Ok);
        assert_eq!(code(reflect(over_tls.clone(), None).await), without, "{policy:?}");
        assert_eq!(code(reflect(over_tls.clone(), Some(&scopeless)).await), with_token, "{policy:?}");
        for channel in [over_tls, channel(server.health, None)] {
            let request = HealthCheckRequest { service: LIVENESS.to_owned() };
            HealthClient::new(channel).check(request).await.unwrap();
        }
        let refused = reflect(channel(server.health, None), Some(&scopeless)).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unimplemented, "the health port serves health alone");
        server.end().await;
    }
}

/// The cost of a token: `cargo test --release -p millrace-es-server -- --ignored token_costs --nocapture`.
#[test]
#[ignore = "a measurement"]
fn token_costs() {
    const TIMES: u32 = 2_000;
    let signer = Signer::new("one");
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let public = DecodingKey::from_rsa_der(rsa.public_key_raw());
    let jwk = serde_json::to_value(Jwk::from_decoding_key(&public, None).unwrap()).unwrap();
    let unsigned = token(&json!({ "alg": "RS256" }), &claims(), b"");
    let signature = rsa.sign(unsigned.trim_end_matches('.').as_bytes()).unwrap();
    let by_rsa = format!("{unsigned}{}", URL_SAFE_NO_PAD.encode(signature));
    let keys = KeySet::parse(jwks(&[signer.jwk(), jwk]).as_bytes()).unwrap();
    let algorithms = [Algorithm::ES256, Algorithm::RS256];
    for token in [signer.sign(&claims()), by_rsa] {
        let started = std::time::Instant::now();
        for _ in 0..TIMES {
            let unverified = Unverified::read(&token, &algorithms).unwrap();
            let key = keys.find(None, unverified.algorithm()).unwrap();
            let need = Need::Scope(COMMANDS_WRITE);
            rules().admit(&unverified.verify(key).unwrap(), need, clock::since_epoch()).unwrap();
        }
        println!("{} bytes: {:?} each", token.len(), started.elapsed() / TIMES);
    }
}
