//! Changes of the issuer's keys, from a file and from a server.

use std::{
    convert::Infallible,
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use jsonwebtoken::Algorithm;
use prost::bytes::Bytes;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::{either::Either, sync::CancellationToken};
use tonic::Code;

use super::support::*;
use crate::{
    READINESS,
    identity::{
        AuthError,
        fetch::{FetchError, Source, keys_url},
        jwks_cache::{JwksCache, Pace},
        keys::{BadKeys, KeySet},
    },
    tls::Tls,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// A key server that counts its requests.
#[derive(Clone)]
struct KeyServer {
    url: String,
    answer: Arc<Mutex<(StatusCode, String)>>,
    asked: Arc<AtomicU32>,
}

impl KeyServer {
    async fn start(answer: String, tls: Option<Tls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let server = Self {
            url: format!("{scheme}://localhost:{port}/keys"),
            answer: Arc::new(Mutex::new((StatusCode::OK, answer))),
            asked: Arc::default(),
        };
        let served = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (served, tls) = (served.clone(), tls.as_ref().map(Tls::current));
                tokio::spawn(async move {
                    let stream = match tls {
                        None => Either::Left(stream),
                        Some(tls) => {
                            let mut config = (*tls.borrow().clone()).clone();
                            config.alpn_protocols.clear();
                            let Ok(stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await else {
                                return;
                            };
                            Either::Right(stream)
                        }
                    };
                    let answering = service_fn(move |_: http::Request<Incoming>| {
                        let served = served.clone();
                        async move { Ok::<_, Infallible>(served.next()) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answering)
                        .await;
                });
            }
        });
        server
    }

    fn next(&self) -> Response<Full<Bytes>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (status, text) = self.answer.lock().unwrap().clone();
        let location = "http://127.0.0.1:1/";
        Response::builder().status(status).header("location", location).body(Full::from(text)).unwrap()
    }

    fn says(&self, status: StatusCode, text: impl Into<String>) {
        *self.answer.lock().unwrap() = (status, text.into());
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }

    fn source(&self) -> Source {
        Source::Url { url: keys_url(&self.url).unwrap(), authorities: None }
    }
}

#[tokio::test]
async fn a_new_key_is_found_without_a_restart_and_one_that_is_gone_no_longer_counts() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let issuer = KeyServer::start(jwks(&[one.jwk()]), None).await;
    let server = Server::start(security(None, Some(authenticator(issuer.source(), SELDOM).await))).await;
    let mut client = server.history(None);
    assert_eq!(ask(&mut client, &one.sign(&claims())).await.unwrap(), "acme");
    assert_eq!(refusal(ask(&mut client, &two.sign(&claims())).await).0, Code::Unauthenticated);
    issuer.says(StatusCode::OK, jwks(&[two.jwk()]));
    let looks = issuer.asked();
    assert_eq!(ask(&mut client, &two.sign(&claims())).await.unwrap(), "acme");
    assert_eq!(issuer.asked(), looks + 1);
    assert_eq!(ask(&mut client, &two.sign(&claims())).await.unwrap(), "acme");
    assert_eq!(issuer.asked(), looks + 1, "a key that is known was looked for");
    assert_eq!(refusal(ask(&mut client, &one.sign(&claims())).await).0, Code::Unauthenticated);
    server.end().await;
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_when_it_changes() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let mount = Mount::new(&[("jwks.json", &jwks(&[one.jwk()]))]);
    let pace = Pace { interval: Duration::from_millis(20), min_interval: HOUR };
    // It is read again at intervals, not for a token.
    let pace = Pace { min_interval: Duration::from_millis(10), ..pace };
    let source = Source::File(mount.path("jwks.json"));
    let server = Server::start(security(None, Some(authenticator(source, pace).await))).await;
    let mut client = server.history(None);
    ask(&mut client, &one.sign(&claims())).await.unwrap();
    mount.swap(&[("jwks.json", &jwks(&[two.jwk()]))]);
    eventually("the old key is gone", async || ask(&mut client, &one.sign(&claims())).await.is_err()).await;
    ask(&mut client, &two.sign(&claims())).await.unwrap();
    mount.swap(&[("jwks.json", "{}")]);
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        ask(&mut client, &two.sign(&claims())).await.expect("a bad file took the keys away");
    }
    server.end().await;
}

#[tokio::test]
async fn a_storm_of_unknown_keys_asks_the_issuer_once() {
    let one = Signer::new("one");
    let issuer = KeyServer::start(jwks(&[one.jwk()]), None).await;
    let cache = JwksCache::new(issuer.source(), Pace { interval: HOUR, min_interval: HOUR });
    let storm = (0..200).map(|n| {
        let cache = cache.clone();
        async move { cache.key(Some(&format!("no-{n}")), Algorithm::ES256).await.map(|_| ()) }
    });
    let answers = futures::future::join_all(storm).await;
    assert_eq!(issuer.asked(), 1);
    // The waiting calls have their reply; the rest may ask again.
    let count = |refusal| answers.iter().filter(|answer| **answer == Err(refusal)).count();
    assert_eq!((count(AuthError::UnknownKey), count(AuthError::NoKeys)), (32, 168));
    for n in 0..200 {
        let unknown = cache.key(Some(&format!("no-{n}")), Algorithm::ES256).await;
        assert_eq!(unknown.map(|_| ()), Err(AuthError::UnknownKey));
    }
    assert_eq!(issuer.asked(), 1);
    cache.key(Some("one"), Algorithm::ES256).await.unwrap();
}

#[tokio::test]
async fn an_issuer_that_fails_leaves_its_keys_in_use() {
    let one = Signer::new("one");
    let issuer = KeyServer::start(jwks(&[one.jwk()]), None).await;
    let server = Server::start(security(None, Some(authenticator(issuer.source(), SELDOM).await))).await;
    let mut client = server.history(None);
    // Each reply holds a good key, so only its fault keeps that key from being used.
    let other = jwks(&[Signer::new("two").jwk()]);
    for (status, text) in [
        (StatusCode::INTERNAL_SERVER_ERROR, other.clone()),
        (StatusCode::FOUND, other.clone()),
        (StatusCode::OK, format!("{other}{}", " ".repeat(300_000))),
        (StatusCode::OK, jwks(&[])),
        (StatusCode::OK, "<html>".to_owned()),
    ] {
        issuer.says(status, text);
        // An unknown key causes a read, and whether the key exists is unknown.
        let refused = refusal(ask(&mut client, &Signer::new("three").sign(&claims())).await);
        assert_eq!(refused, (Code::Unavailable, "KEYS_UNAVAILABLE".to_owned()));
        assert_eq!(ask(&mut client, &one.sign(&claims())).await.unwrap(), "acme");
    }
    server.end().await;
}

#[tokio::test]
async fn without_keys_a_server_is_not_ready_until_it_has_some() {
    let one = Signer::new("one");
    let issuer = KeyServer::start(String::new(), None).await;
    let server = Server::start(security(None, Some(authenticator(issuer.source(), SELDOM).await))).await;
    let mut client = server.history(None);
    let refused = refusal(ask(&mut client, &one.sign(&claims())).await);
    assert_eq!(refused, (Code::Unavailable, "KEYS_UNAVAILABLE".to_owned()));
    let health = channel(server.health, None);
    let is_ready = async || {
        let request = tonic_health::pb::HealthCheckRequest { service: READINESS.to_owned() };
        let mut health = tonic_health::pb::health_client::HealthClient::new(health.clone());
        health.check(request).await.unwrap().into_inner().status
            == i32::from(tonic_health::pb::health_check_response::ServingStatus::Serving)
    };
    assert!(!is_ready().await);
    issuer.says(StatusCode::OK, jwks(&[one.jwk()]));
    ask(&mut client, &one.sign(&claims())).await.unwrap();
    eventually("the server is ready", is_ready).await;
    server.end().await;
}

#[tokio::test]
async fn keys_come_over_tls_from_who_is_trusted_and_nobody_else() {
    let (authority, foreign, one) = (Authority::new(), Authority::new(), Signer::new("one"));
    let (certified, ours, theirs) = (authority.server(), authority.pem(), foreign.pem());
    let mut files = tls_files(&certified, Some(&ours));
    files.push(("foreign.crt", &theirs));
    let mount = Mount::new(&files);
    let issuer = KeyServer::start(jwks(&[one.jwk()]), Some(tls(&mount, false))).await;
    let url = keys_url(&issuer.url).unwrap();
    let by = |file: &str| Source::Url { url: url.clone(), authorities: Some(mount.path(file)) };
    assert_eq!(by("ca.crt").read().await.unwrap().len(), 1);
    for source in [by("foreign.crt"), issuer.source()] {
        assert!(matches!(source.read().await, Err(FetchError::Unreachable(_))));
    }
    assert!(matches!(by("missing.crt").read().await, Err(FetchError::File(_))));
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn a_server_of_keys_that_does_not_answer_is_not_waited_for_long() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let source = Source::Url { url: keys_url(&url).unwrap(), authorities: None };
    let read = tokio::time::timeout(Duration::from_secs(60), source.read()).await;
    assert!(matches!(read, Ok(Err(FetchError::TooLate))));
}

#[tokio::test]
async fn the_ring_looks_by_itself_until_the_shutdown() {
    let issuer = KeyServer::start(jwks(&[Signer::new("one").jwk()]), None).await;
    let pace = Pace { interval: Duration::from_millis(20), min_interval: Duration::ZERO };
    let cache = JwksCache::new(issuer.source(), pace);
    let shutdown = CancellationToken::new();
    let (keeper, told) = (cache.clone(), shutdown.clone());
    let keeping = tokio::spawn(async move { keeper.keep(told).await });
    eventually("three looks", async || issuer.asked() >= 3).await;
    assert!(cache.has_keys());
    shutdown.cancel();
    keeping.await.unwrap();
}

#[test]
fn keys_are_fetched_from_where_nobody_can_change_them() {
    for good in [
        "https://issuer.example/keys",
        "https://issuer.example:8443/keys?a=b",
        "http://localhost:8080/keys",
        "http://127.0.0.1/keys",
        "http://[::1]:80/keys",
    ] {
        keys_url(good).expect(good);
    }
    for bad in [
        "",
        "keys",
        "/keys",
        "http://issuer.example/keys",
        "http://127.0.0.1.example/keys",
        "http://10.0.0.1/keys",
        "ftp://issuer.example/keys",
        "file:///keys",
        "https://john:secret@issuer.example/keys",
    ] {
        keys_url(bad).expect_err(bad);
    }
}

#[test]
fn of_a_set_only_what_verifies_is_kept() {
    let one = Signer::new("one").jwk();
    let other_use = |name: &str, value: serde_json::Value| {
        let mut jwk = Signer::new("two").jwk();
        jwk[name] = value;
        jwk
    };
    let secret = serde_json::json!({ "kty": "oct", "kid": "secret", "k": "c2VjcmV0" });
    let odd = serde_json::json!({ "kty": "odd", "kid": "odd" });
    let broken = serde_json::json!({ "kty": "EC", "crv": "P-256", "kid": "broken", "x": "!", "y": "!" });
    let of_encryption = other_use("use", "enc".into());
    let of_signing = other_use("key_ops", serde_json::json!(["sign"]));
    let of_oaep = other_use("alg", "RSA-OAEP".into());
    let useless = [secret, odd, broken, of_encryption, of_signing, of_oaep, 7.into(), "a".into()];
    assert!(matches!(KeySet::parse(jwks(&useless).as_bytes()), Err(BadKeys::NoneOfUse)));
    let with_one: Vec<_> = useless.into_iter().chain([one]).collect();
    let set = KeySet::parse(jwks(&with_one).as_bytes()).unwrap();
    assert_eq!(set.len(), 1);
    assert!(set.find(Some("one"), Algorithm::ES256).is_some());
    assert!(set.find(Some("one"), Algorithm::RS256).is_none());
    assert!(set.find(Some("one"), Algorithm::ES384).is_none(), "the key says which algorithm it is for");
    for text in ["", "[]", "{}", "{\"keys\":{}}", "{\"keys\":7}", "null"] {
        assert!(matches!(KeySet::parse(text.as_bytes()), Err(BadKeys::NotASet)), "{text}");
    }
}

#[test]
fn a_token_without_a_key_name_is_the_only_keys() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let alone = KeySet::parse(jwks(&[one.jwk()]).as_bytes()).unwrap();
    assert!(alone.find(None, Algorithm::ES256).is_some());
    let both = KeySet::parse(jwks(&[one.jwk(), two.jwk()]).as_bytes()).unwrap();
    assert!(both.find(None, Algorithm::ES256).is_none());
    let many: Vec<_> = std::iter::repeat_with(|| one.jwk()).take(1_000).collect();
    assert_eq!(KeySet::parse(jwks(&many).as_bytes()).unwrap().len(), 100);
}

#[tokio::test]
async fn a_file_that_is_too_large_is_not_read() {
    let mount = Mount::new(&[("jwks.json", &" ".repeat(300_000))]);
    assert!(matches!(Source::File(mount.path("jwks.json")).read().await, Err(FetchError::File(_))));
    fs::write(mount.path("jwks.json"), jwks(&[Signer::new("one").jwk()])).unwrap();
    Source::File(mount.path("jwks.json")).read().await.unwrap();
}
