//! Replies to callers, and stored items, when AWS is slow, out of reach or loses replies: never half a command.

use std::time::Duration;

use millrace_tests::{Answer, Fault, FaultProxy, Replied, TestApp, Throttling, aws_stack};
use shop::contracts::command::UpdateUserProfileRequest;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::calls::{create_user, reason, user};

/// How often the SDK tries a call.
const TRIES: usize = 3;

/// The next append of a single event meets a fault; the relay's writes do not.
fn next_append(app: &TestApp, proxy: &FaultProxy, fault: Fault) {
    proxy.next_about("PutItem", &format!("\"{}\"", app.stack.events()), fault);
}

async fn app() -> (TestApp, FaultProxy) {
    let stack = aws_stack().await.unwrap();
    let proxy = FaultProxy::before(stack.endpoint()).await.unwrap();
    (TestApp::behind(stack, &proxy).await.unwrap(), proxy)
}

/// Renames a user; the version, and whether the reply is a replay.
async fn rename(app: &TestApp, id: &str, command_id: &str) -> Result<(u64, bool), Status> {
    rename_within(app, id, command_id, None).await
}

async fn rename_within(
    app: &TestApp,
    id: &str,
    command_id: &str,
    deadline: Option<Duration>,
) -> Result<(u64, bool), Status> {
    let mut request = Request::new(UpdateUserProfileRequest {
        user_id: id.into(),
        name: Some("Jack".into()),
        command_id: Some(command_id.into()),
        ..Default::default()
    });
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    let reply = app.users().update_user_profile(request).await?.reply();
    Ok((reply.version, reply.replayed))
}

#[track_caller]
fn assert_later(status: &Status, code: Code, why: &str) {
    assert_eq!((status.code(), reason(status).as_str()), (code, why), "{status:?}");
    assert!(status.get_error_details().retry_info().is_some(), "it says when to try again");
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_is_resource_exhausted_and_stores_nothing() {
    let (app, proxy) = app().await;
    let john = create_user(&app, "john@example.com").await.unwrap();
    for throttling in
        [Throttling::ProvisionedThroughputExceeded, Throttling::Throttling, Throttling::RequestLimitExceeded]
    {
        (0..TRIES).for_each(|_| next_append(&app, &proxy, Fault::Throttle(throttling)));
        let refused = rename(&app, &john.id, "a").await.unwrap_err();
        assert_later(&refused, Code::ResourceExhausted, "THROTTLED");
    }
    assert_eq!(rename(&app, &john.id, "a").await.unwrap(), (2, false), "nothing was stored before");
    // A single one is not the caller's concern.
    next_append(&app, &proxy, Fault::Throttle(Throttling::Throttling));
    assert_eq!(rename(&app, &john.id, "b").await.unwrap(), (3, false));
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_out_of_reach_is_unavailable_and_the_same_command_works_later() {
    let (app, proxy) = app().await;
    let john = create_user(&app, "john@example.com").await.unwrap();
    for (n, fault) in [Fault::Reset, Fault::ServerError].into_iter().enumerate() {
        (0..TRIES).for_each(|_| next_append(&app, &proxy, fault));
        let refused = rename(&app, &john.id, &n.to_string()).await.unwrap_err();
        assert_later(&refused, Code::Unavailable, "STORAGE_UNREACHABLE");
        let version = u64::try_from(n).unwrap() + 2;
        assert_eq!(rename(&app, &john.id, &n.to_string()).await.unwrap(), (version, false));
    }
    (0..TRIES).for_each(|_| proxy.next("TransactWriteItems", Fault::Reset));
    let refused = create_user(&app, "jane@example.com").await.unwrap_err();
    assert_later(&refused, Code::Unavailable, "STORAGE_UNREACHABLE");
    create_user(&app, "jane@example.com").await.expect("the address is free");
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_is_found_again_by_the_service_or_by_the_callers_retry() {
    let (app, proxy) = app().await;
    let create = |email: &str| {
        let (mut users, mut request) = (app.users(), user(email));
        // Logged, as are all ids of commands: so not the address itself.
        request.command_id = email.split('@').next().map(str::to_owned);
        async move { users.create_user(request).await.map(Replied::reply) }
    };
    // Once, and the SDK's next try finds the first one's events.
    for fault in [Fault::ResetAfter, Fault::ServerErrorAfter, Fault::HangAfter] {
        let email = format!("{:?}@example.com", fault.kind());
        proxy.next("TransactWriteItems", fault);
        let john = create(&email).await.unwrap();
        assert!(!john.replayed, "{fault:?}");
        next_append(&app, &proxy, fault);
        assert_eq!(rename(&app, &john.aggregate_id, "a").await.unwrap(), (2, false), "{fault:?}");
    }
    // Each time, and the caller's retry gets the reply that was lost.
    (0..TRIES).for_each(|_| proxy.next("TransactWriteItems", Fault::ResetAfter));
    assert_later(&create("jane@example.com").await.unwrap_err(), Code::Unavailable, "STORAGE_UNREACHABLE");
    let jane = create("jane@example.com").await.unwrap();
    assert_eq!((jane.version, jane.replayed), (1, true));
    (0..TRIES).for_each(|_| next_append(&app, &proxy, Fault::ResetAfter));
    let lost = rename(&app, &jane.aggregate_id, "a").await.unwrap_err();
    assert_later(&lost, Code::Unavailable, "STORAGE_UNREACHABLE");
    assert_eq!(rename(&app, &jane.aggregate_id, "a").await.unwrap(), (2, true));
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_arrives_twice_is_known_by_its_token() {
    let (app, proxy) = app().await;
    proxy.next("TransactWriteItems", Fault::Duplicate(Answer::Second));
    create_user(&app, "john@example.com").await.unwrap();
    let traffic = proxy.take()["TransactWriteItems"];
    // AWS did it once, and answered the second as it had the first: no condition was looked at again.
    assert_eq!((traffic.requests, traffic.failed_conditions), (1, 0));
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_is_lost_before_aws_throttles_is_found_by_the_callers_retry() {
    let (app, proxy) = app().await;
    let john = create_user(&app, "john@example.com").await.unwrap();
    let throttle = Fault::Throttle(Throttling::Throttling);
    [Fault::ResetAfter, throttle, throttle].into_iter().for_each(|fault| next_append(&app, &proxy, fault));
    // Not THROTTLED, which says that nothing was done.
    let lost = rename(&app, &john.id, "a").await.unwrap_err();
    assert_later(&lost, Code::Unavailable, "STORAGE_UNREACHABLE");
    assert_eq!(rename(&app, &john.id, "a").await.unwrap(), (2, true));
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_while_aws_hangs_holds_up_nobody_and_leaves_nothing_half_done() {
    let (app, proxy) = app().await;
    let john = create_user(&app, "john@example.com").await.unwrap();
    let mut version = 1;
    for (id, fault, stored) in [("a", Fault::Hang, false), ("b", Fault::HangAfter, true)] {
        let deadline = Some(Duration::from_millis(300));
        next_append(&app, &proxy, fault);
        let left = rename_within(&app, &john.id, id, deadline).await.unwrap_err();
        assert!(matches!(left.code(), Code::DeadlineExceeded | Code::Cancelled), "{left:?}");
        // Another command on the same user goes ahead, and the one that was left is whole or not there.
        version += 1 + u64::from(stored);
        assert_eq!(rename(&app, &john.id, &format!("{id}2")).await.unwrap(), (version, false), "{fault:?}");
        let again = rename(&app, &john.id, id).await.unwrap();
        if stored {
            assert_eq!(again, (version - 1, true));
        } else {
            version += 1;
            assert_eq!(again, (version, false));
        }
    }
    app.end().await.unwrap();
}
