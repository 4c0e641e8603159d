//! The deployables as processes: what they say of a bad configuration, and how they end.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::QueueAttributeName;
use futures::future::join_all;
use millrace_proto::{
    command::user_command_service_client::UserCommandServiceClient,
    query::{GetUserProfileRequest, ReadAfter, user_query_service_client::UserQueryServiceClient},
};
use millrace_tests::{Gate, Ground, eventually};
use serde_json::Value;
use tokio::net::TcpStream;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::calls::{reason, user};

const PROGRAMS: [&str; 3] = ["command-service", "projector", "query-service"];

/// The path of a deployable's program, built the way this test was.
pub(crate) fn program(name: &str) -> PathBuf {
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
pub(crate) struct Running {
    child: Child,
    address: String,
    pub(crate) channel: Channel,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A deployable's process on a ground, about to be started.
pub(crate) fn command(ground: &Ground, name: &str) -> Command {
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
    serve(command(ground, name)).await
}

async fn start_behind(ground: &Ground, gate: &Gate, name: &str) -> Running {
    let mut command = command(ground, name);
    command.env("AWS_ENDPOINT_URL", gate.url());
    serve(command).await
}

/// Starts a deployable's process, and waits until it is SERVING.
pub(crate) async fn serve(mut command: Command) -> Running {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
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
    let address = address.await.expect("it says where it serves");
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    eventually("SERVING", async || serving(&channel).await.then_some(())).await;
    Running { child, address, channel }
}

async fn serving(channel: &Channel) -> bool {
    let reply = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await;
    reply.is_ok_and(|reply| reply.into_inner().status() == ServingStatus::Serving)
}

/// Tells a process to end, and waits until it takes no more connections: by then it has begun to.
pub(crate) async fn begin_to_terminate(running: &Running) {
    let id = running.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let refused = async || TcpStream::connect(&running.address).await.is_err().then_some(());
    eventually("a closed port", refused).await;
}

/// Waits for the end of a process, and hands back its exit code.
pub(crate) async fn end(mut running: Running) -> Option<i32> {
    eventually("the end of the process", async || running.child.try_wait().unwrap()).await.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sigterm_commands_in_flight_are_stored_and_answered_and_leases_given_up() {
    const CALLS: usize = 8;
    let ground = Ground::new().await.unwrap();
    let gate = Gate::before(ground.endpoint()).await.unwrap();
    let running = start_behind(&ground, &gate, "command-service").await;
    let dynamodb = ground.aws().await.dynamodb();
    let leases = async || {
        let scan = dynamodb.scan().table_name(ground.output("RelayLeaseTable")).consistent_read(true);
        scan.send().await.unwrap().items.unwrap_or_default()
    };
    let held = async || leases().await.iter().any(|lease| lease.contains_key("Owner")).then_some(());
    eventually("a lease", held).await;

    gate.hold("TransactWriteItems");
    let calls = (0..CALLS).map(|n| {
        let mut client = UserCommandServiceClient::new(running.channel.clone());
        tokio::spawn(async move { client.create_user(user(&format!("u{n}@example.com"))).await })
    });
    let calls: Vec<_> = calls.collect();
    gate.until_held(CALLS).await;
    begin_to_terminate(&running).await;
    gate.open();

    for reply in join_all(calls).await {
        let created = reply.unwrap().expect("a call that was taken is answered").into_inner();
        let key = AttributeValue::S(format!("default#user#{}", created.aggregate_id));
        let get = dynamodb.get_item().table_name(ground.output("EventStoreTable")).key("AggregateId", key);
        let get = get.key("Version", AttributeValue::N("1".into())).consistent_read(true);
        assert!(get.send().await.unwrap().item.is_some(), "an acknowledged command is stored");
    }
    assert_eq!(end(running).await, Some(0));
    let leases = leases().await;
    assert!(!leases.is_empty() && leases.iter().all(|lease| !lease.contains_key("Owner")), "{leases:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sigterm_a_query_that_waits_is_answered_to_its_end() {
    let ground = Ground::new().await.unwrap();
    let gate = Gate::before(ground.endpoint()).await.unwrap();
    let running = start_behind(&ground, &gate, "query-service").await;
    let mut client = UserQueryServiceClient::new(running.channel.clone());
    let nobody = uuid::Uuid::new_v4().to_string();
    let after = Some(ReadAfter { aggregate_id: nobody.clone(), version: 9 });
    let request = GetUserProfileRequest { user_id: nobody.clone(), after };
    let waiting = tokio::spawn(async move { client.get_user_profile(request).await });
    gate.until_sent(&nobody).await;
    begin_to_terminate(&running).await;
    assert!(!waiting.is_finished(), "it is still in flight");
    let status = waiting.await.unwrap().unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "READ_MODEL_BEHIND"));
    assert_eq!(end(running).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sigterm_messages_in_flight_are_applied_and_deleted() {
    let ground = Ground::new().await.unwrap();
    let gate = Gate::before(ground.endpoint()).await.unwrap();
    let running = start_behind(&ground, &gate, "projector").await;
    gate.hold("UpdateItem");
    let command_service = start(&ground, "command-service").await;
    let mut client = UserCommandServiceClient::new(command_service.channel.clone());
    let created = client.create_user(user("john@example.com")).await.unwrap().into_inner();
    gate.until_held(1).await;
    begin_to_terminate(&running).await;
    gate.open();
    assert_eq!(end(running).await, Some(0));

    let key = AttributeValue::S(format!("default#{}", created.aggregate_id));
    let aws = ground.aws().await;
    let get = aws.dynamodb().get_item().table_name(ground.output("UserReadModelTable")).key("UserId", key);
    assert!(get.consistent_read(true).send().await.unwrap().item.is_some(), "the row is there");
    let names = [
        QueueAttributeName::ApproximateNumberOfMessages,
        QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
    ];
    let queue = aws.sqs(Duration::ZERO).get_queue_attributes().queue_url(ground.output("UserQueueUrl"));
    let counts = queue.set_attribute_names(Some(names.into())).send().await.unwrap().attributes.unwrap();
    assert!(
        counts.len() == 2 && counts.values().all(|count| count == "0"),
        "the message was deleted: {counts:?}"
    );
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
        let bad = [
            ("INDEX_SHARDS", "0"),
            ("METRICS_ADDR", "nowhere"),
            ("LOG_FORMAT", "xml"),
            ("RUST_LOG", "a=loud"),
        ];
        let (code, said) = run(name, &bad);
        assert_eq!(code, Some(2), "{name}: {said}");
        let missing =
            if name == "command-service" { "--event-store-table" } else { "--order-read-model-table" };
        for wrong in
            [missing, "--event-store-table", "--index-shards", "--metrics-addr", "--log-format", "RUST_LOG"]
        {
            assert!(said.contains(wrong), "{name} does not say that {wrong} is wrong: {said}");
        }
        let told = said.split("Usage").next().unwrap();
        assert!(
            !told.contains("--user-read-model-table") && !told.contains("--event-bus-name"),
            "{name}: {told}"
        );
    }
}
