//! Health and reflection from outside, of every deployable.

use millrace_runtime::{LIVENESS, READINESS};
use millrace_tests::{World, eventually, process::health};
use tonic_health::pb::health_check_response::ServingStatus;

#[tokio::test(flavor = "multi_thread")]
async fn every_deployable_tells_its_health_by_service_and_as_a_process() {
    let world = World::new().await.unwrap();
    let deployables = [
        (
            &world.command,
            &["millrace.command.v1.UserCommandService", "millrace.command.v1.OrderCommandService"][..],
        ),
        (
            &world.query,
            &[
                "millrace.query.v1.UserQueryService",
                "millrace.query.v1.OrderQueryService",
                "millrace.query.v1.HistoryService",
            ],
        ),
        (&world.projector, &[]),
    ];
    for (channel, services) in deployables {
        for name in services.iter().chain(&["", LIVENESS, READINESS]) {
            eventually(name, async || (health(channel, name).await? == ServingStatus::Serving).then_some(()))
                .await;
        }
        assert_eq!(health(channel, "nobody.Service").await, None);
    }
    world.end().await.unwrap();
}

macro_rules! services_by_reflection {
    ($version:ident, $channel:expr) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let requests = futures::stream::iter([request]);
        let mut replies = ServerReflectionClient::new($channel.clone())
            .server_reflection_info(requests)
            .await
            .unwrap()
            .into_inner();
        let reply = replies.message().await.unwrap().unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = reply.message_response else {
            panic!("no list: {reply:?}")
        };
        list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_of_both_versions_names_the_services() {
    let world = World::new().await.unwrap();
    for (channel, service) in [
        (&world.command, "millrace.command.v1.OrderCommandService"),
        (&world.query, "millrace.query.v1.HistoryService"),
        (&world.projector, "grpc.health.v1.Health"),
    ] {
        for services in [services_by_reflection!(v1, channel), services_by_reflection!(v1alpha, channel)] {
            assert!(services.iter().any(|name| name == service), "{service}: {services:?}");
        }
    }
    world.end().await.unwrap();
}
