//! One command's trace, from its caller to the read model; and a bad trace collector does no harm.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use millrace_tests::{
    Replied as _, aws_stack,
    collector::{Collector, Manner, ToldSpan, by_id},
    eventually,
    process::{Deployable, Process, log_folder},
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::Value;
use shop::{
    contracts::{
        command::{
            order_command_service_client::OrderCommandServiceClient,
            user_command_service_client::UserCommandServiceClient,
        },
        query::{GetUserProfileRequest, user_query_service_client::UserQueryServiceClient},
    },
    user::User,
};
use tokio::net::TcpListener;
use tonic::Request;

use crate::{
    calls::{after, laptop, user},
    processes::{end, ready},
};

/// The caller's own span.
const CALLER: &str = "b7ad6b7169203331";

/// A caller's `traceparent`, in a trace of this number.
fn traceparent(trace: u32, sampled: bool) -> String {
    format!("00-{}-{CALLER}-{:02x}", trace_id(trace), u8::from(sampled))
}

fn trace_id(trace: u32) -> String {
    format!("0af7651916cd43dd8448eb21{trace:08x}")
}

/// A request within a trace.
fn traced<T>(message: T, trace: u32, sampled: bool) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", traceparent(trace, sampled).parse().unwrap());
    request
}

/// The three deployables as processes, whose spans go to a collector.
struct Stage {
    logs: PathBuf,
    processes: BTreeMap<Deployable, Process>,
}

impl Stage {
    async fn new(test: &str, prepare: impl Fn(&mut std::process::Command)) -> Self {
        let (stack, logs) = (aws_stack().await.unwrap(), log_folder(test).unwrap());
        let mut processes = BTreeMap::new();
        for deployable in Deployable::ALL {
            let mut command = deployable.command(&stack);
            prepare(&mut command);
            let log = logs.join(format!("{}.log", deployable.name()));
            processes.insert(deployable, ready(command, &log).await);
        }
        Self { logs, processes }
    }

    async fn heard_by(test: &str, collector: &Collector) -> Self {
        Self::new(test, |command| collector.hears(command)).await
    }

    fn users(&self) -> UserCommandServiceClient<tonic::transport::Channel> {
        UserCommandServiceClient::new(self.processes[&Deployable::CommandService].channel().clone())
    }

    fn orders(&self) -> OrderCommandServiceClient<tonic::transport::Channel> {
        OrderCommandServiceClient::new(self.processes[&Deployable::CommandService].channel().clone())
    }

    fn queries(&self) -> UserQueryServiceClient<tonic::transport::Channel> {
        UserQueryServiceClient::new(self.processes[&Deployable::QueryService].channel().clone())
    }

    /// Ends all processes in order.
    async fn end(self) {
        for running in self.processes.values() {
            running.terminate().unwrap();
        }
        for running in self.processes.into_values() {
            let log = running.log().to_owned();
            assert_eq!(end(running).await, Some(0), "{}", log.display());
        }
    }

    fn log(&self, deployable: Deployable) -> Vec<Value> {
        let text = std::fs::read_to_string(self.logs.join(format!("{}.log", deployable.name()))).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The only span of a trace that has this name.
#[track_caller]
fn only<'a>(spans: &'a [&ToldSpan], name: &str) -> &'a ToldSpan {
    let found: Vec<_> = spans.iter().filter(|told| told.span.name == name).collect();
    assert_eq!(found.len(), 1, "{name} among {:?}", names(spans));
    found[0]
}

fn names(spans: &[&ToldSpan]) -> Vec<String> {
    spans.iter().map(|told| format!("{} {}", told.service, told.span.name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_commands_trace_is_whole_from_its_caller_to_the_read_model() {
    let collector = Collector::start(Manner::Takes).await.unwrap();
    let stage = Stage::heard_by("traces-whole", &collector).await;
    let created = stage.users().create_user(traced(user("john.doe@example.com"), 1, true)).await.unwrap();
    let user_id = created.reply().aggregate_id;
    let ordered = stage.orders().create_order(traced(laptop(&user_id), 2, true)).await.unwrap().reply();
    let seen = GetUserProfileRequest { user_id: user_id.clone(), after: after::<User>(&user_id, 1) };
    stage.queries().get_user_profile(traced(seen, 3, true)).await.unwrap();
    let all = async || {
        let spans = collector.spans();
        let is_there = |name: &str| spans.iter().any(|told| told.span.name == name);
        let awaited =
            ["write user-profiles", "write order-summaries", "shop.query.v1.UserQueryService/GetUserProfile"];
        awaited.into_iter().all(is_there).then_some(())
    };
    eventually("the traces", all).await;
    stage.end().await;

    let spans = by_id(collector.spans());
    for (trace, call, kind, projection, write, aggregate) in [
        (
            1,
            "UserCommandService/CreateUser",
            "user",
            "user-profiles",
            "DynamoDB.TransactWriteItems",
            &user_id,
        ),
        (
            2,
            "OrderCommandService/CreateOrder",
            "order",
            "order-summaries",
            "DynamoDB.PutItem",
            &ordered.aggregate_id,
        ),
    ] {
        let of_trace: Vec<_> = spans.values().filter(|told| told.trace_id() == trace_id(trace)).collect();
        let mut parent = CALLER.to_owned();
        for (name, service, kind) in [
            (format!("shop.command.v1.{call}"), "command-service", SpanKind::Server),
            (format!("append {kind}"), "command-service", SpanKind::Internal),
            ("relay".to_owned(), "command-service", SpanKind::Internal),
            ("publish".to_owned(), "command-service", SpanKind::Producer),
            (format!("process {projection}"), "projector", SpanKind::Consumer),
            (format!("write {projection}"), "projector", SpanKind::Internal),
            ("DynamoDB.UpdateItem".to_owned(), "projector", SpanKind::Client),
        ] {
            let told = only(&of_trace, &name);
            assert_eq!((told.service.as_str(), told.span.kind()), (service, kind), "{name}");
            assert_eq!(told.parent(), parent, "the parent of {name}");
            assert!(
                !told.failed() && told.span.end_time_unix_nano >= told.span.start_time_unix_nano,
                "{told:?}"
            );
            parent = told.id();
        }
        let append = only(&of_trace, &format!("append {kind}"));
        let write = only(&of_trace, write);
        assert_eq!((write.parent(), write.span.kind()), (append.id(), SpanKind::Client));
        assert_eq!(append.text("millrace.aggregate.id").as_ref(), Some(aggregate));
        let call = only(&of_trace, &format!("shop.command.v1.{call}"));
        assert_eq!(call.text("rpc.response.status_code").as_deref(), Some("OK"));
        for told in &of_trace {
            let parent = told.parent();
            assert!(parent == CALLER || spans.contains_key(&parent), "{} is nobody's", told.span.name);
        }
    }
    let of_query: Vec<_> = spans.values().filter(|told| told.trace_id() == trace_id(3)).collect();
    let query = only(&of_query, "shop.query.v1.UserQueryService/GetUserProfile");
    assert_eq!((query.service.as_str(), query.parent().as_str()), ("query-service", CALLER));
    let reads: Vec<_> = of_query.iter().filter(|told| told.span.name == "DynamoDB.GetItem").collect();
    assert!(
        !reads.is_empty() && reads.iter().all(|read| read.parent() == query.id()),
        "{:?}",
        names(&of_query)
    );
    let strays: Vec<_> =
        spans.values().filter(|told| ![1, 2, 3].map(trace_id).contains(&told.trace_id())).collect();
    assert!(strays.is_empty(), "health, leases and polls are no traces: {:?}", names(&strays));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_trace_that_its_caller_does_not_record_nothing_is_told() {
    let collector = Collector::start(Manner::Takes).await.unwrap();
    let stage = Stage::heard_by("traces-unsampled", &collector).await;
    let first =
        stage.users().create_user(traced(user("john.doe@example.com"), 1, false)).await.unwrap().reply();
    let second =
        stage.users().create_user(traced(user("jane.doe@example.com"), 2, true)).await.unwrap().reply();
    for id in [first.aggregate_id, second.aggregate_id] {
        let after = after::<User>(&id, 1);
        let seen = GetUserProfileRequest { user_id: id, after };
        stage.queries().get_user_profile(traced(seen, 1, false)).await.unwrap();
    }
    let written = async || {
        let spans = collector.spans();
        spans.iter().any(|told| told.span.name == "write user-profiles").then_some(())
    };
    eventually("the trace that is recorded", written).await;
    stage.end().await;
    let traces: std::collections::BTreeSet<_> = collector.spans().iter().map(ToldSpan::trace_id).collect();
    assert_eq!(traces, [trace_id(2)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_span_holds_what_is_personal_or_secret() {
    const SECRETS: [&str; 6] =
        ["john.doe", "example.com", "John Doe", "laptop", "Bearer", "the-collectors-secret"];
    let collector = Collector::start(Manner::Takes).await.unwrap();
    let stage = Stage::new("traces-private", |command| {
        collector.hears(command);
        command.env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20the-collectors-secret");
        command.env("RUST_LOG", "trace");
    })
    .await;
    // Each fails once as well: refused input and errors are no less private.
    for n in 0..2 {
        let created = stage.users().create_user(traced(user("john.doe@example.com"), n, true)).await;
        assert_eq!(created.is_ok(), n == 0);
        if let Ok(created) = created {
            let id = created.reply().aggregate_id;
            stage.orders().create_order(traced(laptop(&id), 2, true)).await.unwrap();
            let mut odd = laptop(&id);
            odd.items[0].product = String::new();
            stage.orders().create_order(traced(odd, 3, true)).await.unwrap_err();
        }
    }
    let by_email =
        shop::contracts::query::GetUserByEmailRequest { email: "john.doe@example.com".into(), after: None };
    let _ = stage.queries().get_user_by_email(traced(by_email, 4, true)).await;
    let awaited = async || {
        let spans = collector.spans();
        let is_there = |name: &str| spans.iter().any(|told| told.span.name == name);
        ["write order-summaries", "write user-profiles", "DynamoDB.Query"]
            .into_iter()
            .all(is_there)
            .then_some(())
    };
    eventually("the spans", awaited).await;
    let logs: Vec<_> =
        Deployable::ALL.map(|deployable| stage.logs.join(format!("{}.log", deployable.name()))).into();
    stage.end().await;

    let sent = collector.bytes();
    for secret in SECRETS {
        let found = sent.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "{secret} is in a span");
    }
    let authorizations = collector.authorizations();
    assert!(authorizations.iter().all(|sent| sent.as_deref() == Some("Bearer the-collectors-secret")));
    for log in logs {
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(!text.contains("the-collectors-secret"), "{}", log.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_refuses_hangs_or_is_not_there_changes_no_answer_and_no_end() {
    const COMMANDS: u32 = 40;
    // Nobody listens at a port that was free a moment ago.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (manner, name) in [
        (Some(Manner::Refuses), "traces-refused"),
        (Some(Manner::Hangs), "traces-hanging"),
        (None, "traces-nowhere"),
    ] {
        let collector = match manner {
            Some(manner) => Some(Collector::start(manner).await.unwrap()),
            None => None,
        };
        let stage = Stage::new(name, |command| match &collector {
            Some(collector) => {
                collector.hears(command);
                // Longer than a process has for its end, which therefore must not wait for it.
                command.env("OTEL_EXPORTER_OTLP_TIMEOUT", "60000");
            }
            None => {
                command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{gone}"));
                command.env("OTEL_TRACES_SAMPLER", "parentbased_always_on");
            }
        })
        .await;
        for n in 0..COMMANDS {
            let email = format!("u{n}@example.com");
            let created = stage.users().create_user(traced(user(&email), n, true)).await.unwrap().reply();
            if n == COMMANDS - 1 {
                let after = created.after();
                let seen = GetUserProfileRequest { user_id: created.aggregate_id, after };
                stage.queries().get_user_profile(traced(seen, n, true)).await.unwrap();
            }
        }
        if let Some(collector) = &collector {
            let asked = async || (collector.requests() > 0).then_some(());
            eventually("something is sent", asked).await;
        }
        let said = stage.log(Deployable::CommandService);
        let loud: Vec<_> =
            said.iter().filter(|line| line["level"] == "WARN" || line["level"] == "ERROR").collect();
        assert!(loud.is_empty(), "what may pass is worth no word: {loud:?}");
        // In order and with 0, within a process's time to stop.
        tokio::time::timeout(Duration::from_secs(20), stage.end()).await.expect("an end in time");
    }
}

/// The processor time that a process has had so far, in ticks of 10 ms (proc_pid_stat(5)).
fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

/// The cost of a warm command for its process: without a trace, in an unrecorded one, and in a recorded one.
#[ignore = "it measures"]
#[tokio::test(flavor = "multi_thread")]
async fn cost_of_traces() {
    const COMMANDS: u32 = 3_000;
    let collector = Collector::start(Manner::Takes).await.unwrap();
    let (stack, logs) = (aws_stack().await.unwrap(), log_folder("traces-cost").unwrap());
    for round in 0..3 {
        for (name, is_on, sampled) in
            [("off", false, false), ("not recorded", true, false), ("recorded", true, true)]
        {
            let mut command = Deployable::CommandService.command(&stack);
            command.env("RELAY", "off");
            if is_on {
                collector.hears(&mut command);
            }
            let running = ready(command, &logs.join("command-service.log")).await;
            let mut users = UserCommandServiceClient::new(running.channel().clone());
            let email = format!("{}@example.com", uuid::Uuid::new_v4());
            let id = users.create_user(user(&email)).await.unwrap().reply().aggregate_id;
            let mut spent = Vec::new();
            for n in 0..COMMANDS + 500 {
                if n == 500 {
                    spent.push(ticks(running.id()));
                }
                let change = shop::contracts::command::UpdateUserProfileRequest {
                    user_id: id.clone(),
                    name: Some(format!("name {n}")),
                    ..Default::default()
                };
                users.update_user_profile(traced(change, n, sampled)).await.unwrap();
            }
            spent.push(ticks(running.id()));
            let each = (spent[1] - spent[0]) * 10_000 / u64::from(COMMANDS);
            println!("round {round}, {name}: {each} µs of the processor a command");
            running.terminate().unwrap();
            assert_eq!(end(running).await, Some(0));
        }
    }
}
