//! Settings, and the messages about them.

use std::ffi::OsString;

use clap::Parser;
use tempfile::TempDir;

use super::support::*;
use crate::{config, config::Common, security::Security};

#[derive(Debug, Parser)]
struct Config {
    #[command(flatten)]
    common: Common,
}

fn read(args: &[&str]) -> Result<Config, String> {
    let args = std::iter::once("program").chain(args.iter().copied()).map(OsString::from);
    config::read::<Config>(args).map_err(|error| error.to_string())
}

fn problems(args: &[&str]) -> Vec<String> {
    read(args).unwrap().common.security.problems()
}

const JWT: [&str; 3] = ["--jwt-issuer=i", "--jwt-audience=a,b", "--jwt-jwks-url=https://i.example/keys"];

#[test]
fn what_does_not_go_together_is_told_at_once() {
    assert_eq!(problems(&[]), Vec::<String>::new());
    assert_eq!(
        problems(&["--tls-cert-file=a", "--tls-key-file=b", "--tls-client-ca-file=c"]),
        Vec::<String>::new()
    );
    assert_eq!(problems(&JWT), Vec::<String>::new());
    for half in [&["--tls-cert-file=a"][..], &["--tls-key-file=a"], &["--tls-client-ca-file=a"]] {
        assert_eq!(problems(half).len(), 1, "{half:?}");
    }
    for without_issuer in
        [JWT[1], JWT[2], "--jwt-jwks-file=f", "--jwt-default-tenant=t", "--jwt-jwks-ca-file=c"]
    {
        assert!(problems(&[without_issuer])[0].contains("JWT_ISSUER"), "{without_issuer}");
    }
    let said = problems(&["--jwt-issuer=i", "--tls-cert-file=a", "--jwt-jwks-ca-file=c"]);
    for name in ["JWT_AUDIENCE", "JWT_JWKS_URL", "JWT_JWKS_CA_FILE", "TLS_KEY_FILE"] {
        assert!(said.iter().any(|text| text.contains(name)), "{name} is not named: {said:?}");
    }
    assert_eq!(problems(&[JWT[0], JWT[1], JWT[2], "--jwt-jwks-file=f"]).len(), 1);
}

#[test]
fn no_algorithm_is_allowed_that_signs_with_what_verifies() {
    for bad in ["HS256", "HS384", "HS512", "none", "None", "", "RS256,HS256", "rs256", "RS256,,ES256"] {
        read(&["--jwt-algorithms", bad]).expect_err(bad);
    }
    let config = read(&["--jwt-algorithms", "ES256, PS512,EdDSA"]).unwrap();
    assert_eq!(config.common.security.jwt_algorithms.len(), 3);
    assert_eq!(read(&[]).unwrap().common.security.jwt_algorithms.len(), 2);
}

#[test]
fn single_values_are_checked() {
    for bad in [
        "--jwt-jwks-url=http://i.example/keys",
        "--jwt-audience=a,,b",
        "--jwt-issuer= ",
        "--jwt-default-tenant=ACME",
        "--jwt-leeway-seconds=301",
        "--jwt-jwks-refresh-seconds=9",
        "--reflection=maybe",
        "--health-addr=nowhere",
        "--max-concurrent-calls-per-tenant=0",
    ] {
        read(&[bad]).expect_err(bad);
    }
}

async fn load(args: &[&str]) -> anyhow::Result<Security> {
    let common = read(args).unwrap().common;
    Security::load(&common.security, common.max_concurrent_calls).await
}

#[tokio::test]
async fn files_that_cannot_be_used_stop_the_start_and_are_named() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (chain, key, jwks) = (path("tls.crt"), path("tls.key"), path("jwks.json"));
    let tls = [&*format!("--tls-cert-file={chain}"), &*format!("--tls-key-file={key}")].map(str::to_owned);
    let tls: Vec<_> = tls.iter().map(String::as_str).collect();
    let failed = |loaded: anyhow::Result<Security>| format!("{:#}", loaded.err().expect("an error"));
    assert!(failed(load(&tls).await).contains("tls.crt"));
    let certified = Authority::new().server();
    std::fs::write(&chain, &certified.chain).unwrap();
    std::fs::write(&key, &certified.chain).unwrap();
    let said = failed(load(&tls).await);
    assert!(said.contains("tls.key") && !said.contains("BEGIN"), "{said}");
    std::fs::write(&key, &certified.key).unwrap();
    assert!(load(&tls).await.unwrap().tls.is_some());

    let source = format!("--jwt-jwks-file={jwks}");
    let jwt = ["--jwt-issuer=i", "--jwt-audience=a", &source];
    assert!(failed(load(&jwt).await).contains("jwks.json"));
    std::fs::write(&jwks, super::support::jwks(&[Signer::new("one").jwk()])).unwrap();
    assert!(load(&jwt).await.unwrap().is_ready().is_ok());
    // A URL is read later.
    assert!(load(&JWT).await.unwrap().is_ready().is_err());
}

#[tokio::test]
async fn what_is_open_to_others_is_said_once_each() {
    let authority = Authority::new();
    let certified = authority.server();
    let mount = Mount::new(&tls_files(&certified, Some(&authority.pem())));
    let jwt = || async {
        let source = crate::identity::fetch::Source::File(mount.path("missing"));
        Some(authenticator(source, SELDOM).await)
    };
    let (here, everywhere) = ("127.0.0.1:1".parse().unwrap(), "0.0.0.0:1".parse().unwrap());
    let warnings = |security: Security, addr| security.warnings(addr).len();
    assert_eq!(warnings(security(None, None), here), 0);
    assert_eq!(warnings(security(None, None), "[::1]:1".parse().unwrap()), 0);
    assert_eq!(warnings(security(None, None), everywhere), 2);
    assert_eq!(warnings(security(None, None), "[::]:1".parse().unwrap()), 2);
    assert_eq!(warnings(security(None, None), "10.0.0.1:1".parse().unwrap()), 2);
    assert_eq!(warnings(security(Some(tls(&mount, false)), None), everywhere), 1);
    assert_eq!(warnings(security(None, jwt().await), everywhere), 1);
    assert_eq!(warnings(security(Some(tls(&mount, true)), None), everywhere), 0);
    assert_eq!(warnings(security(Some(tls(&mount, false)), jwt().await), everywhere), 0);
}
