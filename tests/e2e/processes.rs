//! The deployables as processes: their messages about a bad configuration or registration, and their end.

use std::{
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::QueueAttributeName;
use command_service::{Orders, Users};
use futures::future::join_all;
use millrace_command::{Commands, NotRegistered};
use millrace_core::{Application, RegistrationError};
use millrace_event_store::DynamoStore;
use millrace_query::QueryService;
use millrace_server::{LIVENESS, READINESS, Services, services};
use millrace_tests::{
    AwsStack, Gate, Replied as _, USERS, aws_stack, eventually,
    process::{Deployable, Process, health, log_folder},
};
use serde_json::Value;
use shop::{
    OrderSummary, UserProfile,
    contracts::{
        DESCRIPTORS,
        command::{
            order_command_service_server::OrderCommandServiceServer,
            user_command_service_client::UserCommandServiceClient,
            user_command_service_server::UserCommandServiceServer,
        },
        query::{
            GetUserProfileRequest, order_query_service_server::OrderQueryServiceServer,
            user_query_service_client::UserQueryServiceClient,
            user_query_service_server::UserQueryServiceServer,
        },
    },
    user::User,
};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::calls::{after, reason, user};

/// The deployables of one test.
struct Stage {
    stack: AwsStack,
    gate: Gate,
    logs: std::path::PathBuf,
}

impl Stage {
    async fn new(test: &str) -> Self {
        let stack = aws_stack().await.unwrap();
        let gate = Gate::before(stack.endpoint()).await.unwrap();
        Self { stack, gate, logs: log_folder(test).unwrap() }
    }

    /// Starts a deployable, and returns when it is ready.
    async fn start(&self, deployable: Deployable) -> Process {
        self.serve(deployable, self.stack.endpoint()).await
    }

    /// Starts a deployable behind the gate, and returns when it is ready.
    async fn start_behind(&self, deployable: Deployable) -> Process {
        self.serve(deployable, self.gate.url()).await
    }

    async fn serve(&self, deployable: Deployable, endpoint: &str) -> Process {
        let mut command = deployable.command(&self.stack);
        command.env("AWS_ENDPOINT_URL", endpoint);
        ready(command, &self.logs.join(format!("{}.log", deployable.name()))).await
    }
}

/// Starts a deployable that writes its log to a file, and returns when it is ready.
pub(crate) async fn ready(command: Command, log: &Path) -> Process {
    let process = Process::start(command, log).await.unwrap();
    let serving = async || (health(process.channel(), "").await? == ServingStatus::Serving).then_some(());
    eventually("SERVING", serving).await;
    process
}

/// Tells a process to end, and waits until it takes no more connections: by then it has begun to.
pub(crate) async fn begin_to_terminate(running: &Process) {
    running.terminate().unwrap();
    let refused = async || TcpStream::connect(running.address()).await.is_err().then_some(());
    eventually("a closed port", refused).await;
}

/// Waits for the end of a process, and returns its exit code. Checks the form of its whole log.
pub(crate) async fn end(running: Process) -> Option<i32> {
    let log = running.log().to_owned();
    let code = running.end().await.unwrap();
    for line in std::fs::read_to_string(log).unwrap().lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "a log line is JSON: {line}");
    }
    code
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sigterm_commands_in_flight_are_stored_and_answered_and_leases_given_up() {
    const CALLS: usize = 8;
    let stage = Stage::new("sigterm-commands").await;
    let (stack, gate) = (&stage.stack, &stage.gate);
    let running = stage.start_behind(Deployable::CommandService).await;
    let dynamodb = stack.aws().await.dynamodb();
    let leases = async || {
        let scan = dynamodb.scan().table_name(stack.relay_leases()).consistent_read(true);
        scan.send().await.unwrap().items.unwrap_or_default()
    };
    let held = async || leases().await.iter().any(|lease| lease.contains_key("Owner")).then_some(());
    eventually("a lease", held).await;

    gate.hold("TransactWriteItems");
    let calls = (0..CALLS).map(|n| {
        let mut client = UserCommandServiceClient::new(running.channel().clone());
        tokio::spawn(async move { client.create_user(user(&format!("u{n}@example.com"))).await })
    });
    let calls: Vec<_> = calls.collect();
    gate.until_held(CALLS).await;
    begin_to_terminate(&running).await;
    gate.open();

    for reply in join_all(calls).await {
        let created = reply.unwrap().expect("a call that was taken is answered").reply();
        let key = AttributeValue::S(format!("default#user#{}", created.aggregate_id));
        let get = dynamodb.get_item().table_name(stack.events()).key("AggregateId", key);
        let get = get.key("Version", AttributeValue::N("1".into())).consistent_read(true);
        assert!(get.send().await.unwrap().item.is_some(), "an acknowledged command is stored");
    }
    assert_eq!(end(running).await, Some(0));
    let leases = leases().await;
    assert!(!leases.is_empty() && leases.iter().all(|lease| !lease.contains_key("Owner")), "{leases:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sigterm_a_query_that_waits_is_answered_to_its_end() {
    let stage = Stage::new("sigterm-query").await;
    let running = stage.start_behind(Deployable::QueryService).await;
    let mut client = UserQueryServiceClient::new(running.channel().clone());
    let nobody = uuid::Uuid::new_v4().to_string();
    let after = after::<User>(&nobody, 9);
    let request = GetUserProfileRequest { user_id: nobody.clone(), after };
    let waiting = tokio::spawn(async move { client.get_user_profile(request).await });
    stage.gate.until_sent(&nobody).await;
    begin_to_terminate(&running).await;
    assert!(!waiting.is_finished(), "it is still in flight");
    let status = waiting.await.unwrap().unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "READ_MODEL_BEHIND"));
    assert_eq!(end(running).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sigterm_messages_in_flight_are_applied_and_deleted() {
    let stage = Stage::new("sigterm-messages").await;
    let (stack, gate) = (&stage.stack, &stage.gate);
    let running = stage.start_behind(Deployable::Projector).await;
    gate.hold("UpdateItem");
    let command_service = stage.start(Deployable::CommandService).await;
    let mut client = UserCommandServiceClient::new(command_service.channel().clone());
    let created = client.create_user(user("john@example.com")).await.unwrap().reply();
    gate.until_held(1).await;
    begin_to_terminate(&running).await;
    gate.open();
    assert_eq!(end(running).await, Some(0));

    let key = AttributeValue::S(format!("default#{}", created.aggregate_id));
    let aws = stack.aws().await;
    let get = aws.dynamodb().get_item().table_name(stack.rows(USERS)).key("Key", key);
    assert!(get.consistent_read(true).send().await.unwrap().item.is_some(), "the row is there");
    let names = [
        QueueAttributeName::ApproximateNumberOfMessages,
        QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
    ];
    let queue = aws.sqs(Duration::ZERO).get_queue_attributes().queue_url(stack.queue(USERS));
    let counts = queue.set_attribute_names(Some(names.into())).send().await.unwrap().attributes.unwrap();
    assert!(
        counts.len() == 2 && counts.values().all(|count| count == "0"),
        "the message was deleted: {counts:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_is_told_whole_before_a_port_is_bound() {
    let stack = aws_stack().await.unwrap();
    let run = |deployable: Deployable, variables: &[(&str, &str)]| {
        let output = deployable.command(&stack).envs(variables.iter().copied()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (deployable, shards) in [
        (Deployable::CommandService, &["--index-shards-write"][..]),
        (Deployable::Projector, &["--index-shards-write", "--index-shards-read"]),
        (Deployable::QueryService, &["--index-shards-read"]),
    ] {
        let name = deployable.name();
        let bad = [
            ("MILLRACE_PREFIX", "No Prefix"),
            ("INDEX_SHARDS_WRITE", "0"),
            ("INDEX_SHARDS_READ", "0"),
            ("METRICS_ADDR", "nowhere"),
            ("LOG_FORMAT", "xml"),
            ("RUST_LOG", "a=loud"),
        ];
        let (code, said) = run(deployable, &bad);
        assert_eq!(code, Some(2), "{name}: {said}");
        for option in [&["--prefix", "--metrics-addr", "--log-format", "RUST_LOG"][..], shards].concat() {
            assert!(said.contains(option), "{name} does not say that {option} is wrong: {said}");
        }
        let told = said.split("Usage").next().unwrap();
        assert!(!told.contains("--event-store-table") && !told.contains("--grpc-addr"), "{name}: {told}");
    }
    for deployable in [Deployable::Projector, Deployable::QueryService] {
        let (code, said) = run(deployable, &[("ROWS_TABLES", "nobody@1=a-table")]);
        assert_eq!(code, Some(2), "{}: {said}", deployable.name());
        for word in ["`nobody@1`", "customer-totals@1"] {
            assert!(said.contains(word), "{} does not say {word}: {said}", deployable.name());
        }
    }
}

/// A deployable of the shop with something left out, and words of its refusal.
type Incomplete = (&'static str, fn() -> ExitCode, &'static str);

const INCOMPLETE: [Incomplete; 5] = [
    (
        "commands-without-orders",
        || {
            commands(shop::shop(), |commands| {
                Ok(services![UserCommandServiceServer::new(Users(commands.of()?))])
            })
        },
        "the aggregate `order` is registered, and no adapter",
    ),
    (
        "commands-without-users",
        || {
            commands(shop::shop(), |commands| {
                let orders = Orders { orders: commands.of()?, users: commands.of()? };
                Ok(services![OrderCommandServiceServer::new(orders)])
            })
        },
        "`shop.command.v1.UserCommandService`, and it is not served",
    ),
    (
        "commands-unregistered",
        || {
            let users_alone = Application::new("shop").aggregate::<User>().projection::<UserProfile>();
            commands(users_alone.build(), command_service::services_of)
        },
        "commands on `order`, which is not registered",
    ),
    (
        "queries-without-customers",
        || {
            queries(shop::shop(), |queries| {
                let (users, orders) = (queries.rows::<UserProfile, _>()?, queries.rows::<OrderSummary, _>()?);
                Ok(services![
                    UserQueryServiceServer::new(query_service::Users(users)),
                    OrderQueryServiceServer::new(query_service::Orders(orders)),
                ])
            })
        },
        "the registered projection `customer-totals@1`",
    ),
    (
        "queries-unregistered",
        || {
            let users_alone = Application::new("shop").aggregate::<User>().projection::<UserProfile>();
            queries(users_alone.build(), query_service::adapters)
        },
        "the projection `order-summaries@1`, which is not registered",
    ),
];

fn commands(
    application: Result<Application, RegistrationError>,
    adapters: fn(&Commands<DynamoStore>) -> Result<Services, NotRegistered>,
) -> ExitCode {
    millrace_command::main(application, DESCRIPTORS, ["command-service".into()], adapters)
}

fn queries(
    application: Result<Application, RegistrationError>,
    adapters: fn(&QueryService) -> anyhow::Result<Services>,
) -> ExitCode {
    millrace_query::main(application, DESCRIPTORS, ["query-service".into()], adapters)
}

const WHICH: &str = "MILLRACE_TEST_INCOMPLETE";

/// The process of the test below; in other runs there is nothing to do.
#[test]
fn an_incomplete_deployable() {
    if let Ok(which) = std::env::var(WHICH) {
        let (_, main, _) = INCOMPLETE.iter().find(|(name, ..)| *name == which).unwrap();
        assert_eq!(main(), ExitCode::FAILURE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployable_that_something_is_left_out_of_ends_at_its_start_and_names_it() {
    let stack = aws_stack().await.unwrap();
    let logs = log_folder("incomplete").unwrap();
    for (name, _, words) in INCOMPLETE {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "processes::an_incomplete_deployable", "--nocapture"]).env(WHICH, name);
        command.envs(millrace_tests::env(&stack)).env("LOG_FORMAT", "json").env("GRPC_ADDR", "127.0.0.1:0");
        command.env("METRICS_ADDR", "127.0.0.1:0");
        let log = logs.join(name);
        let refused = Process::start(command, &log).await.unwrap_err();
        let said = std::fs::read_to_string(log).unwrap();
        assert!(format!("{refused:#}").contains("exit status: 0"), "{name}: {refused:#}: {said}");
        assert!(said.contains(words), "{name} does not say {words}: {said}");
    }
}

/// So a rollout stops before it replaces the release before.
#[tokio::test(flavor = "multi_thread")]
async fn readers_of_events_wait_for_the_infrastructure_of_their_release() {
    let (stack, logs) = (aws_stack().await.unwrap(), log_folder("infrastructure").unwrap());
    let mut projector = Deployable::Projector.command(&stack);
    projector.env("QUEUE_URLS", format!("{USERS}={}-of-the-next-release", stack.queue(USERS)));
    match Process::start(projector, &logs.join("projector.log")).await {
        Ok(process) => assert_eq!(end(process).await, Some(1)),
        Err(ended) => assert!(format!("{ended:#}").contains("ended before it served"), "{ended:#}"),
    }

    let mut query_service = Deployable::QueryService.command(&stack);
    query_service.env("ROWS_TABLES", format!("{USERS}=of-the-next-release"));
    let process = Process::start(query_service, &logs.join("query-service.log")).await.unwrap();
    let refused = async || {
        let log = std::fs::read_to_string(process.log()).unwrap();
        log.lines().any(|line| line.contains("\"not ready\"")).then_some(())
    };
    eventually("what is missing is logged", refused).await;
    assert_eq!(health(process.channel(), LIVENESS).await, Some(ServingStatus::Serving));
    assert_eq!(health(process.channel(), READINESS).await, Some(ServingStatus::NotServing));
}
