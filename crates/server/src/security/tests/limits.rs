//! Tenants with too many calls.

use millrace_proto::query::{GetHistoryRequest, SearchEventsRequest};
use tonic::Code;

use super::support::*;
use crate::{TenantLimiter, identity::fetch::Source};

#[tokio::test]
async fn a_tenant_at_its_limit_keeps_no_other_out() {
    let signer = Signer::new("one");
    let mount = Mount::new(&[("jwks.json", &jwks(&[signer.jwk()]))]);
    let mut authenticator = authenticator(Source::File(mount.path("jwks.json")), SELDOM).await;
    authenticator.limiter = TenantLimiter::new(u32::MAX, 3);
    let server = Server::start(security(None, Some(authenticator))).await;
    let acme = signer.sign(&claims());
    let bearer = format!("Bearer {acme}");
    let mut held = Vec::new();
    // Over separate connections, so that the bound on one connection does not apply.
    for _ in 0..3 {
        let mut client = server.history(None);
        let request = with(SearchEventsRequest::default(), &[("authorization", &bearer)]);
        held.push(tokio::spawn(async move { client.search_events(request).await }));
    }
    eventually("three calls run", async || server.calls() == 3).await;
    let mut client = server.history(None);
    let request = with(GetHistoryRequest::default(), &[("authorization", &bearer)]);
    let refused = refusal(client.get_history(request).await);
    assert_eq!(refused, (Code::ResourceExhausted, "TENANT_BUSY".to_owned()));
    let other = signer.sign(&claims_with("tenant_id", "other".into()));
    assert_eq!(ask(&mut client, &other).await.unwrap(), "other");
    // A permit is free again when a call is answered, and when its caller has left.
    server.release.notify_one();
    held.pop().unwrap().abort();
    eventually("a permit is free", async || ask(&mut client, &acme).await.is_ok()).await;
    server.release.notify_waiters();
    server.end().await;
}
