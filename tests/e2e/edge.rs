//! The rules of every query: its deadline, and its NOT_FOUND.

use std::{collections::BTreeMap, time::Duration};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Bytes};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use millrace_tests::{
    Gate, TestApp, aws_stack,
    process::{Deployable, Process, log_folder},
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    calls::reason,
    validation::{Case, cases, send},
};

/// A good input of every query, of those that wait for nothing.
fn queries() -> BTreeMap<String, Case> {
    let good = cases().into_iter().filter(|case| case.violations.is_empty() && !case.waits);
    good.filter(|case| case.rpc.contains(".query.")).map(|case| (case.rpc.clone(), case)).rev().collect()
}

/// A server's status for a call with a deadline. Not by a gRPC client: it would keep the deadline itself, and be first.
async fn answered(address: &str, rpc: &str, message: &[u8]) -> Status {
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body: Bytes = [&[0], &length[..], message].concat().into();
    let request = Request::post(format!("http://{address}/{rpc}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "300m");
    let reply = client.request(request.body(Full::new(body)).unwrap()).await.unwrap();
    let (parts, body) = reply.into_parts();
    let rest = body.collect().await.unwrap();
    let headers =
        if parts.headers.contains_key("grpc-status") { Some(&parts.headers) } else { rest.trailers() };
    headers.and_then(Status::from_header_map).expect("a status")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_ends_with_its_deadline_whatever_aws_does() {
    let stack = aws_stack().await.unwrap();
    let gate = Gate::before(stack.endpoint()).await.unwrap();
    let mut command = Deployable::QueryService.command(&stack);
    command.env("AWS_ENDPOINT_URL", gate.url());
    let log = log_folder("deadlines").unwrap().join("query-service.log");
    let running = Process::start(command, &log).await.unwrap();
    gate.hold("DynamoDB_20120810");
    let queries = queries();
    assert!(queries.len() >= 14, "{:?}", queries.keys());
    let calls = queries.values().map(|case| async {
        // Without a deadline the SDK would give up after 6 s, and the edge after 30.
        let ended = answered(running.address(), &case.rpc, &case.message);
        let status = tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it ends");
        (&case.rpc, status)
    });
    for (rpc, status) in futures::future::join_all(calls).await {
        assert_eq!(status.code(), Code::DeadlineExceeded, "{rpc}: {status:?}");
        assert_eq!(reason(&status), "DEADLINE_EXCEEDED", "{rpc}");
    }
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_says_in_the_same_way_that_something_is_not_there() {
    let app = TestApp::new().await.unwrap();
    let mut missing: BTreeMap<String, Status> = BTreeMap::new();
    for (rpc, case) in queries() {
        if let Err(status) = send(&app.query, &rpc, case.message).await {
            missing.insert(rpc.rsplit('/').next().unwrap().to_owned(), status);
        }
    }
    let names: Vec<_> = missing.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "GetCustomerTotals",
            "GetHistory",
            "GetOrder",
            "GetOrderAsOf",
            "GetUserByEmail",
            "GetUserProfile",
            "GetUserProfileAsOf",
            "WatchOrder",
            "WatchUserProfile"
        ],
        "lists have nothing in them"
    );
    for (rpc, status) in missing {
        assert_eq!(status.code(), Code::NotFound, "{rpc}: {status:?}");
        let details = status.get_error_details();
        let resource = details.resource_info().unwrap_or_else(|| panic!("{rpc}: {status:?}"));
        let known: &[&str] = match rpc.as_str() {
            "GetHistory" => &["user", "order"],
            "GetCustomerTotals" => &["customer"],
            rpc if rpc.contains("Order") => &["order"],
            _ => &["user"],
        };
        assert!(known.contains(&resource.resource_type.as_str()), "{rpc}: {resource:?}");
        // An address is personal data.
        assert_eq!(resource.resource_name.is_empty(), rpc == "GetUserByEmail", "{rpc}: {resource:?}");
        assert_eq!(status.message(), format!("the {} does not exist", resource.resource_type), "{rpc}");
        assert_eq!(resource.description, status.message(), "{rpc}");
        assert!(details.error_info().is_none() && details.retry_info().is_none(), "{rpc}: {details:?}");
    }
    app.end().await.unwrap();
}
