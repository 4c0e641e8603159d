//! The deployable as a server: what only shows over a connection.

use std::time::Duration;

use crate::support::{World, after, order_id, reason, user_id};
use millrace_proto::query::{
    GetOrderRequest, GetUserProfileRequest, order_query_service_client::OrderQueryServiceClient,
    user_query_service_client::UserQueryServiceClient,
};
use millrace_runtime::{process::Process, serve::Listeners};
use query_service::token::PageTokens;
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, transport::Channel};

pub(crate) async fn start(world: &World) -> (Channel, CancellationToken, JoinHandle<anyhow::Result<()>>) {
    let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", grpc.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let process = Process { shutdown: shutdown.clone(), metrics: None };
    let listeners = Listeners { grpc, metrics: None };
    let tokens = PageTokens::of_table("orders");
    let server = tokio::spawn(query_service::answer(world.models(), tokens, listeners, 64, process));
    (Channel::from_shared(address).unwrap().connect().await.unwrap(), shutdown, server)
}

#[tokio::test]
async fn both_services_answer_and_the_server_ends_when_told() {
    let world = World::default();
    world.user(1, 1, "john@example.com").await;
    world.place(2, 1, 0).await;
    let (channel, shutdown, server) = start(&world).await;
    let request = GetUserProfileRequest { user_id: user_id(1).to_string(), after: None };
    let reply = UserQueryServiceClient::new(channel.clone()).get_user_profile(request).await.unwrap();
    assert_eq!(reply.into_inner().user_profile.unwrap().version, 1);
    let request = GetOrderRequest { order_id: order_id(2).to_string(), after: None };
    let reply = OrderQueryServiceClient::new(channel.clone()).get_order(request).await.unwrap();
    assert_eq!(reply.into_inner().order.unwrap().version, 1);
    drop(channel);
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_caller_learns_that_the_read_model_is_behind_before_its_deadline() {
    let world = World::default();
    let (channel, _shutdown, _server) = start(&world).await;
    let mut request = Request::new(GetOrderRequest { order_id: order_id(2).to_string(), after: after(2, 1) });
    request.set_timeout(Duration::from_millis(600));
    let start = Instant::now();
    let status = OrderQueryServiceClient::new(channel).get_order(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_deref()), (Code::Unavailable, Some("READ_MODEL_BEHIND")));
    assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
}
