//! Health and reflection from outside, of every deployable.

use std::collections::BTreeSet;

use millrace_server::{LIVENESS, READINESS};
use millrace_tests::{TestApp, eventually, process::health};
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;

/// Each deployable's services besides health and reflection.
const SERVED: [&[&str]; 3] = [
    &["shop.command.v1.UserCommandService", "shop.command.v1.OrderCommandService"],
    &[
        "shop.query.v1.UserQueryService",
        "shop.query.v1.OrderQueryService",
        "shop.query.v1.CustomerQueryService",
        "millrace.query.v1.HistoryService",
    ],
    &[],
];

fn deployables(app: &TestApp) -> [(&Channel, &'static [&'static str]); 3] {
    let [command, query, projector] = SERVED;
    [(&app.command, command), (&app.query, query), (&app.projector, projector)]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_deployable_tells_the_health_of_exactly_what_it_serves() {
    let app = TestApp::new().await.unwrap();
    for (channel, services) in deployables(&app) {
        for name in services.iter().chain(&["", LIVENESS, READINESS]) {
            eventually(name, async || (health(channel, name).await? == ServingStatus::Serving).then_some(()))
                .await;
        }
        let others = SERVED.concat().into_iter().filter(|name| !services.contains(name));
        for name in others.chain(["nobody.Service"]) {
            assert_eq!(health(channel, name).await, None, "{name} beside {services:?}");
        }
    }
    app.end().await.unwrap();
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
async fn reflection_of_both_versions_names_exactly_what_is_served() {
    let app = TestApp::new().await.unwrap();
    for (channel, services) in deployables(&app) {
        let every = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];
        let expected: BTreeSet<_> = services.iter().chain(&every).copied().collect();
        for named in [services_by_reflection!(v1, channel), services_by_reflection!(v1alpha, channel)] {
            // Of the two versions of reflection itself, one may be named or both.
            let named: BTreeSet<_> =
                named.iter().map(|name| name.replace("reflection.v1alpha", "reflection.v1")).collect();
            let named: BTreeSet<_> = named.iter().map(String::as_str).collect();
            assert_eq!(named, expected);
        }
    }
    app.end().await.unwrap();
}
