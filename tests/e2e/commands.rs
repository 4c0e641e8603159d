//! Commands over gRPC on DynamoDB: once, however often and from however many sides they come.

use futures::future::join_all;
use millrace_tests::{Replied as _, TestApp};
use shop::contracts::command::{
    UpdateUserProfileRequest, user_command_service_client::UserCommandServiceClient,
};
use tonic::{Code, Request, transport::Channel};

use crate::calls::{create_order, create_user, reason, set_status, user};

async fn events(app: &TestApp) -> usize {
    let client = app.stack.aws().await.dynamodb();
    let scan = client.scan().table_name(app.stack.events()).consistent_read(true);
    let pages = scan.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    pages.unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_creates_with_one_command_id_at_once_are_one_event_and_one_reply() {
    let mut app = TestApp::new().await.unwrap();
    let clients = [app.command.clone(), app.another_command_service().await.unwrap()];
    let mut request = user("john@example.com");
    request.command_id = Some("cmd-001".into());
    let attempts = (0..20).map(|n| {
        let (mut client, request) = (UserCommandServiceClient::new(clients[n % 2].clone()), request.clone());
        async move { client.create_user(request).await.unwrap().reply() }
    });
    let replies = join_all(attempts).await;
    assert_eq!(events(&app).await, 1);
    assert_eq!(replies.iter().filter(|reply| reply.replayed).count(), 19);
    let first = &replies[0];
    assert!(replies.iter().all(|r| (&r.aggregate_id, &r.event_id, r.version, &r.command_id)
        == (&first.aggregate_id, &first.event_id, 1, &first.command_id)));
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_users_with_one_address_at_once_are_one_user() {
    let app = TestApp::new().await.unwrap();
    let attempts = (0..30).map(|_| create_user(&app, "john@example.com"));
    let replies = join_all(attempts).await;
    let refused: Vec<_> = replies.iter().filter_map(|reply| reply.as_ref().err()).collect();
    assert_eq!((refused.len(), events(&app).await), (29, 1));
    for status in refused {
        assert_eq!((status.code(), reason(status).as_str()), (Code::AlreadyExists, "EMAIL_TAKEN"));
    }
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_clients_on_one_user_lose_nothing() {
    const CLIENTS: u32 = 16;
    const UPDATES: u32 = 10;
    let mut app = TestApp::new().await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    let channels = [app.command.clone(), app.another_command_service().await.unwrap()];
    let update = |channel: Channel, id: String, name: String| async move {
        let request = UpdateUserProfileRequest { user_id: id, name: Some(name), ..Default::default() };
        UserCommandServiceClient::new(channel).update_user_profile(request).await
    };
    let clients = (0..CLIENTS).map(|client| {
        let (channel, id) = (channels[client as usize % 2].clone(), john.id.clone());
        async move {
            let mut done = 0_usize;
            for n in 0..UPDATES {
                match update(channel.clone(), id.clone(), format!("{client}-{n}")).await {
                    Ok(_) => done += 1,
                    Err(status) => {
                        assert_eq!(
                            (status.code(), reason(&status).as_str()),
                            (Code::Aborted, "VERSION_CONFLICT")
                        );
                    }
                }
            }
            done
        }
    });
    let done: usize = join_all(clients).await.into_iter().sum();
    assert!(done > 0);
    assert_eq!(events(&app).await, done + 1, "as many events as acknowledged commands");
    let last = update(channels[0].clone(), john.id, "last".into()).await.unwrap().reply();
    assert_eq!(last.version, u64::try_from(done).unwrap() + 2, "no gaps");
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_errors_over_the_proxy() {
    use shop::contracts::types::OrderStatus;
    use tonic_types::StatusExt as _;

    let app = TestApp::new().await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    let order = create_order(&app, &john).await.unwrap();

    let missing = set_status(&app, &john, OrderStatus::Shipped).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound, "a user's id is no order's");
    assert_eq!(missing.get_error_details().resource_info().unwrap().resource_name, john.id);

    let refused = set_status(&app, &order, OrderStatus::Delivered).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let details = refused.get_error_details();
    assert_eq!(details.precondition_failure().unwrap().violations[0].subject, order.id);

    let nobody = create_order(&app, &order).await.unwrap_err();
    assert_eq!(nobody.code(), Code::FailedPrecondition, "an order's id is no user's");

    let mut stale = Request::new(UpdateUserProfileRequest {
        user_id: john.id.clone(),
        name: Some("Jack".into()),
        expected_version: Some(7),
        ..Default::default()
    });
    let conflict = app.users().update_user_profile(stale.get_ref().clone()).await.unwrap_err();
    assert_eq!((conflict.code(), reason(&conflict).as_str()), (Code::Aborted, "VERSION_CONFLICT"));
    assert_eq!(conflict.get_error_details().error_info().unwrap().metadata["current_version"], "1");

    stale.metadata_mut().insert("x-tenant-id", "acme".parse().unwrap());
    let foreign = app.users().update_user_profile(stale).await.unwrap_err();
    assert_eq!(foreign.code(), Code::NotFound, "another tenant's user does not exist");

    let mut bad = Request::new(user("jane@example.com"));
    bad.metadata_mut().insert("x-tenant-id", "ACME#user".parse().unwrap());
    let bad = app.users().create_user(bad).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    assert_eq!(bad.get_error_details().bad_request().unwrap().field_violations[0].field, "x-tenant-id");
    assert_eq!(events(&app).await, 2);
    app.end().await.unwrap();
}
