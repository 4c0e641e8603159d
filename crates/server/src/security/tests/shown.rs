//! Health and reflection of a secured server.

use std::collections::BTreeSet;

use millrace_proto::query::GetHistoryRequest;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::support::*;
use crate::{LIVENESS, READINESS};

async fn reflect(channel: &Channel, ask: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let mut client = ServerReflectionClient::new(channel.clone());
    let answers = client.server_reflection_info(futures::stream::iter([request])).await.unwrap();
    answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap()
}

async fn services(channel: &Channel) -> BTreeSet<String> {
    let MessageResponse::ListServicesResponse(list) =
        reflect(channel, MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list of services")
    };
    list.service.into_iter().map(|service| service.name).collect()
}

#[tokio::test]
async fn reflection_and_health_know_exactly_what_is_served() {
    let server = Server::start(security(None, None)).await;
    let channel = channel(server.address, None);
    let mut health = HealthClient::new(channel.clone());
    let mut status = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        health.check(request).await.map(|reply| reply.into_inner().status()).map_err(|status| status.code())
    };
    let shown = services(&channel).await;
    let served = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "millrace.query.v1.HistoryService",
        "test.v1.Watch",
    ];
    assert!(shown.iter().eq(served), "{shown:?}");
    eventually("ready", async || status(READINESS).await == Ok(ServingStatus::Serving)).await;
    for name in served.into_iter().chain(["", LIVENESS]) {
        assert_eq!(status(name).await, Ok(ServingStatus::Serving), "{name}");
    }
    for name in ["millrace.query.v1.OrderQueryService", "unknown"] {
        assert_eq!(status(name).await, Err(Code::NotFound), "{name}");
    }
    server.end().await;
}

#[tokio::test]
async fn clients_find_the_contracts_of_calls_and_of_error_details() {
    let server = Server::start(security(None, None)).await;
    server.history(None).get_history(GetHistoryRequest::default()).await.unwrap();
    for symbol in [
        "millrace.query.v1.HistoryService",
        "grpc.health.v1.Health",
        "google.rpc.BadRequest",
        "google.rpc.ErrorInfo",
    ] {
        let ask = MessageRequest::FileContainingSymbol(symbol.to_owned());
        let found = reflect(&channel(server.address, None), ask).await;
        assert!(matches!(found, MessageResponse::FileDescriptorResponse(_)), "{symbol}: {found:?}");
    }
    server.end().await;
}
