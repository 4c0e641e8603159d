//! Certificates that change while calls run.

use metrics_exporter_prometheus::PrometheusBuilder;
use millrace_proto::query::{GetHistoryRequest, SearchEventsRequest};

use super::support::*;

/// Whether a new connection with this configuration can call.
async fn connects(server: &Server, tls: &rustls::ClientConfig) -> bool {
    server.history(Some(tls)).get_history(GetHistoryRequest::default()).await.is_ok()
}

#[tokio::test]
async fn certificates_are_swapped_while_calls_run_and_none_is_dropped() {
    let (old, new) = (Authority::new(), Authority::new());
    let (first, second) = (old.server(), new.server());
    let mount = Mount::new(&tls_files(&first, None));
    let server = Server::start(security(Some(tls(&mount, false)), None)).await;
    let (by_old, by_new) = (client(&old, None), client(&new, None));
    let mut on_old = server.history(Some(&by_old));
    on_old.get_history(GetHistoryRequest::default()).await.unwrap();
    assert!(!connects(&server, &by_new).await, "the new certificate is there already");

    let mut waiting = on_old.clone();
    let held = tokio::spawn(async move { waiting.search_events(SearchEventsRequest::default()).await });
    let before = server.calls();
    eventually("the call runs", async || server.calls() > before || held.is_finished()).await;
    mount.swap(&tls_files(&second, None));

    let mut answered = 0;
    eventually("new connections get the new certificate", async || {
        on_old.get_history(GetHistoryRequest::default()).await.expect("a call on the old connection");
        answered += 1;
        connects(&server, &by_new).await
    })
    .await;
    assert!(answered > 0);
    assert!(!connects(&server, &by_old).await, "a new connection got the old certificate");

    // The old connection goes on, and the call that began before the swap ends after it.
    on_old.get_history(GetHistoryRequest::default()).await.unwrap();
    server.release.notify_one();
    held.await.unwrap().unwrap();
    server.end().await;
}

#[tokio::test]
async fn a_new_authority_of_clients_counts_from_the_next_connection_on() {
    let (authority, first, second) = (Authority::new(), Authority::new(), Authority::new());
    let certified = authority.server();
    let mount = Mount::new(&tls_files(&certified, Some(&first.pem())));
    let server = Server::start(security(Some(tls(&mount, true)), None)).await;
    let (of_first, of_second) = (first.client(), second.client());
    let (of_first, of_second) = (client(&authority, Some(&of_first)), client(&authority, Some(&of_second)));
    assert!(connects(&server, &of_first).await && !connects(&server, &of_second).await);
    mount.swap(&tls_files(&certified, Some(&second.pem())));
    eventually("the second authority counts", async || connects(&server, &of_second).await).await;
    // Not even by resuming an older session.
    assert!(!connects(&server, &of_first).await);
    server.end().await;
}

#[tokio::test]
async fn bad_new_files_change_nothing_and_are_told() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let _metrics = metrics::set_default_local_recorder(&recorder);
    let authority = Authority::new();
    let (first, other, last) = (authority.server(), authority.server(), authority.server());
    let mount = Mount::new(&tls_files(&first, Some(&authority.pem())));
    let server = Server::start(security(Some(tls(&mount, true)), None)).await;
    let ours = authority.client();
    let tls = client(&authority, Some(&ours));
    let ca = authority.pem();
    let huge = "a".repeat(300_000);
    let bad: [&[(&str, &str)]; 7] = [
        &[("tls.crt", "garbage"), ("tls.key", &first.key), ("ca.crt", &ca)],
        &[("tls.crt", &first.chain), ("tls.key", "garbage"), ("ca.crt", &ca)],
        // Of two pairs, one half each.
        &[("tls.crt", &first.chain), ("tls.key", &other.key), ("ca.crt", &ca)],
        // Without authorities anybody could connect.
        &[("tls.crt", &first.chain), ("tls.key", &first.key), ("ca.crt", "")],
        &[("tls.crt", &first.chain), ("tls.key", &first.key)],
        &[("tls.crt", ""), ("tls.key", ""), ("ca.crt", "")],
        &[("tls.crt", &huge), ("tls.key", &first.key), ("ca.crt", &ca)],
    ];
    for (n, files) in bad.into_iter().enumerate() {
        mount.swap(files);
        let refused = format!("tls_reloads_total{{outcome=\"refused\"}} {}", n + 1);
        eventually(&refused, async || shown.render().contains(&refused)).await;
        assert!(shown.render().contains("tls_files_refused 1"));
        assert!(connects(&server, &tls).await, "the old certificate is gone");
        assert!(!connects(&server, &client(&authority, None)).await, "clients need no certificate any more");
    }
    mount.swap(&tls_files(&last, Some(&ca)));
    eventually("good files are taken up", async || {
        let shown = shown.render();
        shown.contains("tls_reloads_total{outcome=\"taken_up\"} 1") && shown.contains("tls_files_refused 0")
    })
    .await;
    assert!(connects(&server, &tls).await);
    server.end().await;
}
