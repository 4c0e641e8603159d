//! Logs and metrics of authentication.

use metrics_exporter_prometheus::PrometheusBuilder;
use millrace_telemetry::testing::LogLines;
use serde_json::json;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _};

use super::support::*;
use crate::{identity::fetch::Source, telemetry};

#[tokio::test]
async fn neither_logs_nor_metrics_hold_tokens_or_who_they_are_about() {
    let written = LogLines::begin();
    let writer = written.clone();
    let lines = tracing_subscriber::registry()
        .with(EnvFilter::new("trace"))
        .with(telemetry::harmless())
        .with(fmt::layer().with_ansi(false).with_writer(move || writer.clone()));
    let _logs = tracing::subscriber::set_default(lines);
    let recorder = PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let _metrics = metrics::set_default_local_recorder(&recorder);

    let (authority, signer) = (Authority::new(), Signer::new("one"));
    let (certified, keys) = (authority.server(), jwks(&[signer.jwk()]));
    let mut files = tls_files(&certified, None);
    files.push(("jwks.json", &keys));
    let mount = Mount::new(&files);
    let authenticator = authenticator(Source::File(mount.path("jwks.json")), SELDOM).await;
    let server = Server::start(security(Some(tls(&mount, false)), Some(authenticator))).await;
    let mut client = server.history(Some(&client(&authority, None)));
    let mut tokens =
        vec![signer.sign(&claims()), Signer::new("john.doe").sign(&claims()), "john.doe".to_owned()];
    for (name, value) in [
        ("exp", json!(1)),
        ("iss", json!("john.doe")),
        ("aud", json!("john.doe")),
        ("scope", json!("john.doe")),
        ("tenant_id", json!("john.doe@example.com")),
    ] {
        tokens.push(signer.sign(&claims_with(name, value)));
    }
    for token in &tokens {
        let answer = ask(&mut client, token).await;
        assert!(answer.err().is_none_or(|status| !format!("{status:?}").contains("john")));
    }
    server.end().await;

    let said = format!("{}{}", written.text(), shown.render());
    assert!(said.contains("callers_total{outcome=\"no_scope\"} 1"), "{said}");
    assert!(said.contains("GetHistory"), "{said}");
    for token in &tokens {
        for part in token.split('.').filter(|part| part.len() > 8) {
            assert!(!said.contains(part), "{said}");
        }
    }
    for private in ["john", "doe", "@", "eyJ", "Bearer", "PRIVATE KEY"] {
        assert!(!said.contains(private), "{private}: {said}");
    }
}
