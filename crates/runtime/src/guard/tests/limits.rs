//! Tenants that call too much.

use millrace_proto::command::{CreateUserRequest, UpdateUserProfileRequest};
use tonic::Code;

use super::support::*;
use crate::{Places, identity::fetch::Source};

#[tokio::test]
async fn a_tenant_that_has_its_places_keeps_no_other_out() {
    let signer = Signer::new("one");
    let mount = Mount::new(&[("jwks.json", &jwks(&[signer.jwk()]))]);
    let mut callers = callers(Source::File(mount.path("jwks.json")), SELDOM).await;
    callers.places = Places::new(u32::MAX, 3);
    let server = Server::start(guard(None, Some(callers))).await;
    let acme = signer.sign(&claims());
    let bearer = format!("Bearer {acme}");
    let mut held = Vec::new();
    // Over connections of their own: it is not the bound on one connection that holds.
    for _ in 0..3 {
        let mut client = server.commands(None);
        let request = with(UpdateUserProfileRequest::default(), &[("authorization", &bearer)]);
        held.push(tokio::spawn(async move { client.update_user_profile(request).await }));
    }
    eventually("three calls run", async || server.calls() == 3).await;
    let mut client = server.commands(None);
    let request = with(CreateUserRequest::default(), &[("authorization", &bearer)]);
    let refused = refusal(client.create_user(request).await);
    assert_eq!(refused, (Code::ResourceExhausted, "TENANT_BUSY".to_owned()));
    let other = signer.sign(&claims_with("tenant_id", "other".into()));
    assert_eq!(create(&mut client, &other).await.unwrap(), "other");
    // A place is free again when a call is answered, and when its caller has left.
    server.release.notify_one();
    held.pop().unwrap().abort();
    eventually("a place is free", async || create(&mut client, &acme).await.is_ok()).await;
    server.release.notify_waiters();
    server.end().await;
}
