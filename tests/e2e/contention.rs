//! Many clients on one aggregate. Run with `--nocapture` to see its cost.

use std::sync::Arc;

use futures::future::join_all;
use millrace_command::snapshots;
use millrace_core::{Aggregate as _, StreamId, TenantId};
use millrace_event_store::LoadEvents as _;
use millrace_tests::{Replied as _, Reply, aws_stack};
use shop::{
    contracts::command::{
        UpdateUserProfileRequest, UpdateUserProfileResponse,
        user_command_service_server::UserCommandService as _,
    },
    user::User,
};
use tokio::time::sleep;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use crate::{
    calls::{reason, user},
    replica::{Replica, SHARDS, store},
};

const CLIENTS: usize = 16;
const UPDATES: usize = 100;

/// Sends an update, and again where its turn did not come: on a busy machine others hold it for more than the five seconds
/// that a command waits. Nothing has happened then, and the answer says to try again.
async fn patiently(
    replica: &Replica,
    request: UpdateUserProfileRequest,
) -> Result<Response<UpdateUserProfileResponse>, Status> {
    for _ in 0..20 {
        let reply = replica.users.update_user_profile(Request::new(request.clone())).await;
        match &reply {
            Err(status) if status.code() == Code::ResourceExhausted => {
                assert_eq!(reason(status), "OVERLOADED");
                let wait = status.get_error_details().retry_info().and_then(|again| again.retry_delay);
                sleep(wait.expect("when to try again")).await;
            }
            Ok(_) | Err(_) => return reply,
        }
    }
    panic!("the turn of {:?} has never come", request.command_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_clients_on_one_user_lose_nothing_and_cost_less_than_two_requests_an_attempt() {
    println!("replicas  updates  refused  requests a command  requests an append");
    for replicas in [1, 2] {
        let stack = aws_stack().await.unwrap();
        let aws = stack.aws().await;
        let store = store(&stack, &aws, Some(SHARDS));
        let services: Arc<[_]> = (0..replicas).map(|_| Replica::new(&store, snapshots::EVERY)).collect();
        let john = services[0].users.create_user(Request::new(user("john@example.com"))).await.unwrap();
        let john = john.reply().aggregate_id;
        aws.requests().take();
        let clients = (0..CLIENTS).map(|client| {
            let (services, john) = (services.clone(), john.clone());
            tokio::spawn(async move {
                let mut replies = Vec::new();
                for n in 0..UPDATES {
                    let request = UpdateUserProfileRequest {
                        user_id: john.clone(),
                        name: Some(format!("{client}-{n}")),
                        command_id: Some(format!("{client}-{n}")),
                        ..Default::default()
                    };
                    replies.push(patiently(&services[client % replicas], request).await);
                }
                replies
            })
        });
        let replies: Vec<_> = join_all(clients).await.into_iter().flat_map(Result::unwrap).collect();
        let sent = aws.requests().take();
        let requests = sent.values().sum::<u64>();

        let stream =
            StreamId { tenant: TenantId::default(), aggregate_type: User::TYPE, id: john.parse().unwrap() };
        let mut history = Vec::new();
        while let page @ [_, ..] = &*store.between(&stream, history.len() as u64, u64::MAX).await.unwrap() {
            history.extend_from_slice(page);
        }
        let mut done = 0;
        for reply in &replies {
            match reply {
                Ok(reply) => {
                    let reply = Reply::from(reply.get_ref().clone());
                    let event = &history[usize::try_from(reply.version).unwrap() - 1];
                    assert_eq!(event.command_id.as_str(), reply.command_id, "the event of the reply");
                    assert_eq!(event.event_id.to_string(), reply.event_id);
                    assert!(!reply.replayed);
                    done += 1;
                }
                Err(status) => {
                    assert_eq!((status.code(), reason(status).as_str()), (Code::Aborted, "VERSION_CONFLICT"));
                    let details = status.get_error_details();
                    let current: usize =
                        details.error_info().unwrap().metadata["current_version"].parse().unwrap();
                    assert!((1..=history.len()).contains(&current), "{current}");
                }
            }
        }
        assert!(replies.chunks(UPDATES).all(|client| client.iter().any(Result::is_ok)), "nobody starves");
        // The store itself prevents gaps.
        assert_eq!(history.len(), done + 1, "the creation, and an event a success");
        let commands = CLIENTS * UPDATES;
        let refused = commands - done;
        let each = requests as f64 / commands as f64;
        let append = requests as f64 / sent["PutItem"] as f64;
        println!("{replicas:>8} {commands:>8} {refused:>8} {each:>19.2} {append:>19.2}   {sent:?}");
        assert!(append < 2.0, "{append} requests an append");
    }
}
