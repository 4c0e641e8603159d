//! The deployables as processes: what they say of a bad configuration, and how they end.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use futures::future::join_all;
use millrace_proto::{
    command::{CreateUserRequest, user_command_service_client::UserCommandServiceClient},
    query::{GetUserProfileRequest, user_query_service_client::UserQueryServiceClient},
};
use millrace_tests::{Ground, eventually};
use serde_json::Value;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::calls::user;

const PROGRAMS: [&str; 3] = ["command-service", "projector", "query-service"];

/// The path of a deployable's program, built the way this test was.
fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        // This test is <target>/<profile>/deps/e2e-…
        let test = std::env::current_exe().unwrap();
        let folder = test.ancestors().nth(2).unwrap().to_owned();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--bins"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        build.args(PROGRAMS.iter().flat_map(|name| ["--package", name]));
        build.arg("--target-dir").arg(folder.parent().unwrap());
        if folder.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "the programs are built");
        folder
    });
    folder.join(name)
}

/// A deployable as a process; killed when it is dropped.
struct Running {
    child: Child,
    channel: Channel,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(ground: &Ground, name: &str) -> Command {
    let mut command = Command::new(program(name));
    command
        .env_clear()
        .envs(ground.env())
        .env("GRPC_ADDR", "127.0.0.1:0")
        .env("METRICS_ADDR", "127.0.0.1:0")
        .env("LOG_FORMAT", "json")
        .stdin(Stdio::null());
    command
}

async fn start(ground: &Ground, name: &str) -> Running {
    let mut child = command(ground, name).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    let (found, address) = tokio::sync::oneshot::channel();
    // Reads on for as long as the process writes, so that it never waits for a reader.
    std::thread::spawn(move || {
        let mut found = Some(found);
        for line in lines.lines().map_while(Result::ok) {
            let line: Value =
                serde_json::from_str(&line).unwrap_or_else(|_| panic!("a log line is JSON: {line}"));
            if let (Some(address), "serving") =
                (line["grpc_addr"].as_str(), line["message"].as_str().unwrap_or(""))
            {
                found.take().map(|found| found.send(address.to_owned()));
            }
        }
    });
    let address = address.await.unwrap_or_else(|_| panic!("{name} says where it serves"));
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    eventually("SERVING", async || serving(&channel).await.then_some(())).await;
    Running { child, channel }
}

async fn serving(channel: &Channel) -> bool {
    let reply = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await;
    reply.is_ok_and(|reply| reply.into_inner().status() == ServingStatus::Serving)
}

/// Ends a process as Kubernetes does, and hands back its exit code.
async fn terminate(running: &mut Running) -> Option<i32> {
    let id = running.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    eventually("the end of the process", async || running.child.try_wait().unwrap()).await.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sigterm_calls_in_flight_end_and_the_process_exits_with_0() {
    let ground = Ground::new().await.unwrap();
    let (mut command, mut projector, mut query) = (
        start(&ground, "command-service").await,
        start(&ground, "projector").await,
        start(&ground, "query-service").await,
    );

    // Calls keep coming while the signal arrives. Each of them gets a whole answer, or was never taken: an
    // acknowledged command is in the store.
    let commands = (0..200).map(|n| {
        let mut client = UserCommandServiceClient::new(command.channel.clone());
        async move {
            client
                .create_user(CreateUserRequest {
                    command_id: Some(n.to_string()),
                    ..user(&format!("u{n}@example.com"))
                })
                .await
        }
    });
    let commands = tokio::spawn(join_all(commands.collect::<Vec<_>>()));
    let table = ground.output("EventStoreTable").to_owned();
    let client = ground.aws().await.dynamodb();
    let stored = async || {
        let scan = client.scan().table_name(&table).consistent_read(true).into_paginator().items().send();
        scan.collect::<Result<Vec<_>, _>>().await.unwrap().len()
    };
    eventually("a first event", async || (stored().await > 0).then_some(())).await;
    assert_eq!(terminate(&mut command).await, Some(0), "command-service");
    let replies = commands.await.unwrap();
    let acknowledged = replies.iter().filter(|reply| reply.is_ok()).count();
    assert!(acknowledged > 0);
    assert!(stored().await >= acknowledged, "an acknowledged command is stored");
    for status in replies.into_iter().filter_map(Result::err) {
        assert_ne!(status.code(), Code::Internal, "{status:?}");
    }

    // A query that waits for a version that does not come is in flight for its whole patience.
    let waiting = {
        let mut client = UserQueryServiceClient::new(query.channel.clone());
        let id = uuid::Uuid::nil().to_string();
        let after = Some(millrace_proto::query::ReadAfter { aggregate_id: id.clone(), version: 9 });
        tokio::spawn(
            async move { client.get_user_profile(GetUserProfileRequest { user_id: id, after }).await },
        )
    };
    // It is under way once the service has sent a request for it; health answers on the same connection after it.
    assert!(serving(&query.channel).await);
    assert_eq!(terminate(&mut query).await, Some(0), "query-service");
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), Code::Unavailable, "it was answered to its end");
    assert_eq!(terminate(&mut projector).await, Some(0), "projector");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_is_told_whole_before_a_port_is_bound() {
    let ground = Ground::new().await.unwrap();
    let run = |name: &str, variables: &[(&str, &str)]| {
        let mut command = command(&ground, name);
        command.env_remove("EVENT_STORE_TABLE").env_remove("ORDER_READ_MODEL_TABLE");
        let output = command.envs(variables.iter().copied()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for name in PROGRAMS {
        let (code, said) =
            run(name, &[("INDEX_SHARDS", "0"), ("METRICS_ADDR", "nowhere"), ("LOG_FORMAT", "xml")]);
        assert_eq!(code, Some(2), "{name}: {said}");
        let missing =
            if name == "query-service" { "--order-read-model-table" } else { "--event-store-table" };
        for wrong in [missing, "--index-shards", "--metrics-addr", "--log-format"] {
            assert!(said.contains(wrong), "{name} does not say that {wrong} is wrong: {said}");
        }
    }
}
