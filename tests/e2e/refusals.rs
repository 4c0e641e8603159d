//! A refusal is final, also where a request comes late to AWS itself.

use std::{sync::Arc, time::Duration};

use command_service::Users;
use millrace_aws::Aws;
use millrace_command::snapshots;
use millrace_event_store::DynamoStore;
use millrace_tests::{Answer, Fault, FaultProxy, Replied as _, Reply, aws_stack, eventually};
use shop::contracts::command::{
    UpdateUserProfileRequest, user_command_service_server::UserCommandService as _,
};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::{
    calls::{reason, user},
    replica::{Replica, SHARDS, store},
};

async fn create(users: &Users<DynamoStore>, id: &str) -> Result<Reply, Status> {
    let mut request = user("held@example.com");
    request.command_id = Some(id.to_owned());
    Ok(users.create_user(Request::new(request)).await?.reply())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_not_taken_while_an_attempt_may_still_get_it() {
    let stack = aws_stack().await.unwrap();
    let proxy = FaultProxy::before(stack.endpoint()).await.unwrap();
    let store = store(&stack, &proxy.aws_with(&stack.account, Aws::ATTEMPT_TIMEOUT).await, Some(SHARDS));
    let replica = Arc::new(Replica::new(&store, snapshots::EVERY));
    let holder = create(&replica.users, "holder").await.unwrap().aggregate_id;
    // A refusal that was answered at once is certain.
    proxy.take();
    proxy.next("TransactWriteItems", Fault::Duplicate(Answer::First));
    let taken = create(&replica.users, "other").await.unwrap_err();
    assert_eq!((taken.code(), reason(&taken).as_str()), (Code::AlreadyExists, "EMAIL_TAKEN"));
    assert_eq!(proxy.take()["TransactWriteItems"].failed_conditions, 1);
    // The SDK waits for two seconds, tries again and is refused. By then the first attempt has not arrived.
    proxy.next("TransactWriteItems", Fault::Delay(Duration::from_secs(4)));
    let unknown = create(&replica.users, "late").await.unwrap_err();
    assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::Unavailable, "STORAGE_UNREACHABLE"));
    assert!(unknown.get_error_details().retry_info().is_some());
    // The command may take the address, if that is released before.
    let email = Some("else@example.com".to_owned());
    let let_go = UpdateUserProfileRequest { user_id: holder, email, ..Default::default() };
    replica.users.update_user_profile(Request::new(let_go)).await.unwrap();
    let late = eventually("the address", async || create(&replica.users, "late").await.ok()).await;
    assert_eq!(late.version, 1);
}
