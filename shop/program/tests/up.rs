//! The program alone and its `demo`, with everything that they start, as a terminal or a supervisor sees them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test, a panic is the report")]

mod support;

use std::{collections::BTreeMap, net::TcpListener};

use millrace_local::test_account;
use prost::{
    Message,
    bytes::{Buf, BufMut},
};
use prost_reflect::{DescriptorPool, DynamicMessage};
use tempfile::TempDir;
use tonic::{
    Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{Ended, Program, TIMEOUT, kill};

const DEPLOYABLES: [&str; 3] = ["command-service", "query-service", "projector"];

/// The address of each deployable, from the output.
fn addresses(printed: &[String]) -> BTreeMap<&str, &str> {
    let address = |name| {
        let mut words = printed.iter().map(|line| line.split_whitespace());
        words.find_map(|mut words| (words.next()? == name).then(|| words.next()).flatten())
    };
    DEPLOYABLES.iter().map(|name| (*name, address(*name).unwrap_or_else(|| panic!("{printed:#?}")))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn up_it_answers_where_it_says_and_the_printed_calls_work_also_after_a_restart() {
    let data = TempDir::new().unwrap();
    for (signal, replayed) in [("-TERM", false), ("-INT", true)] {
        let mut program = Program::start(&["--data", data.path().to_str().unwrap()]);
        let printed = program.until_ready();
        for address in addresses(&printed).values() {
            let mut client = HealthClient::new(connect(address).await);
            let health = client.check(HealthCheckRequest::default()).await.unwrap().into_inner();
            assert_eq!(health.status(), ServingStatus::Serving, "{address}");
        }
        let replies = try_calls(&printed).await;
        let [user, _, _, profile, order, by_user, by_status, totals, as_of, history, found] =
            replies.as_slice()
        else {
            panic!("{printed:#?}")
        };
        assert_eq!(user["result"]["replayed"], replayed, "{replies:?}");
        assert_eq!(profile["userProfile"]["email"], "ada@example.com", "{replies:?}");
        assert_eq!(order["order"]["status"], "ORDER_STATUS_PROCESSING", "{replies:?}");
        assert_eq!(by_user["orders"][0], order["order"], "{replies:?}");
        assert_eq!(by_status["orders"][0], order["order"], "{replies:?}");
        assert_eq!(totals["totals"]["orders"], 1, "{replies:?}");
        assert_eq!(as_of["order"]["status"], "ORDER_STATUS_CREATED", "{replies:?}");
        assert_eq!(history["events"][0]["event"]["userId"], order["order"]["userId"], "{replies:?}");
        assert_eq!(found["events"][0], history["events"][1], "{replies:?}");

        assert_eq!(program.running().len(), 4, "the deployables and the emulator");
        program.signal(signal);
        let ended = program.end();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_shows_what_it_should_and_exits_0() {
    demo_succeeds(Program::start(&["demo"]).end());
    // The same in an AWS that runs already, which it leaves running.
    let account = test_account().await.unwrap();
    let endpoint = account.env()["AWS_ENDPOINT_URL"].clone();
    demo_succeeds(Program::start_with(&["demo"], &[("AWS_ENDPOINT_URL", &endpoint)]).end());
    let host = endpoint.strip_prefix("http://").unwrap();
    assert!(tokio::net::TcpStream::connect(host).await.is_ok());
}

#[track_caller]
fn demo_succeeds(ended: Ended) {
    assert_eq!(ended.status.code(), Some(0), "{}\n{}", ended.stdout, ended.stderr);
    for fact in [
        r#""commandId": "cmd-001""#,
        r#""EventType": "UserCreated""#,
        r#""status": "ORDER_STATUS_PROCESSING""#,
        "GetUserProfile  readable after ",
        "GetUserByEmail  readable after ",
        "GetOrder  readable after ",
        "GetOrdersByUser  readable after ",
        "GetOrdersByStatus  readable after ",
        "GetCustomerTotals  readable after ",
        r#""replayed": true"#,
        "ALREADY_EXISTS",
        "EMAIL_TAKEN",
        "FAILED_PRECONDITION",
        "items[0].quantity",
        "relay_published_total",
        r#"projector_events_applied_total{projection="#,
        "All of it was as it should be",
    ] {
        assert!(ended.stdout.contains(fact), "{fact} is missing:\n{}", ended.stdout);
    }
    assert!(!ended.stdout.contains('\u{1b}'), "colours off a terminal:\n{}", ended.stdout);
}

#[test]
fn killed_it_leaves_nothing_behind() {
    let mut program = Program::start(&[]);
    program.until_ready();
    assert_eq!(program.running().len(), 4);
    program.signal("-KILL");
    program.end();
}

#[test]
fn told_to_end_while_the_deployables_start_it_leaves_nothing_behind() {
    let mut program = Program::start(&[]);
    program.until_said("starting the deployables");
    program.signal("-TERM");
    let ended = program.end();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout, "");
}

#[test]
fn a_port_in_use_ends_it_with_a_sentence_that_says_whose() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let ended = Program::start(&["--query-port", &port.to_string()]).end();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("shop: the query-service ended by itself"), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("127.0.0.1:{port}")), "{}", ended.stderr);
    assert_eq!(ended.stdout, "");
}

#[test]
fn a_deployable_that_dies_ends_all_with_a_sentence_that_says_which() {
    let mut program = Program::start(&[]);
    program.until_ready();
    let projector =
        program.running().into_iter().find(|process| process.command.contains(" projector ")).unwrap();
    kill("-KILL", projector.pid);
    let ended = program.end();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("shop: the projector ended by itself (signal: 9"), "{}", ended.stderr);
}

#[test]
fn two_at_a_time_do_not_meet() {
    let mut first = Program::start(&[]);
    let mut second = Program::start(&[]);
    let (printed, others) = (first.until_ready(), second.until_ready());
    let logs = |printed: &[String]| printed.iter().find(|line| line.starts_with("logs")).cloned().unwrap();
    assert_ne!(logs(&printed), logs(&others));
    for (name, address) in addresses(&printed) {
        assert_ne!(address, addresses(&others)[name]);
    }
    for program in [first, second] {
        program.signal("-TERM");
        assert_eq!(program.end().status.code(), Some(0));
    }
}

async fn connect(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// Makes the printed calls like grpcurl, and returns the replies to those with a request, as JSON.
async fn try_calls(printed: &[String]) -> Vec<serde_json::Value> {
    let mut pool = DescriptorPool::decode(shop::contracts::DESCRIPTORS).unwrap();
    pool.decode_file_descriptor_set(millrace_proto::DESCRIPTORS).unwrap();
    let mut replies = Vec::new();
    for call in printed.iter().filter_map(|line| line.strip_prefix("grpcurl -plaintext -d '")) {
        let (request, target) = call.split_once("' ").unwrap();
        let (address, name) = target.split_once(' ').unwrap();
        let (service, method) = name.split_once('/').unwrap();
        let service = pool.get_service_by_name(service).unwrap();
        let method = service.methods().find(|found| found.name() == method).unwrap();
        let mut json = serde_json::Deserializer::from_str(request);
        let request = DynamicMessage::deserialize(method.input(), &mut json).unwrap().encode_to_vec();
        let mut client = tonic::client::Grpc::new(connect(address).await);
        client.ready().await.unwrap();
        let mut request = Request::new(request);
        request.set_timeout(TIMEOUT);
        let path = format!("/{name}").parse().unwrap();
        let reply =
            client.unary(request, path, Untyped).await.unwrap_or_else(|error| panic!("{call}: {error}"));
        let reply = DynamicMessage::decode(method.output(), reply.into_inner().as_slice()).unwrap();
        let options = prost_reflect::SerializeOptions::new().skip_default_fields(false);
        replies.push(reply.serialize_with_options(serde_json::value::Serializer, &options).unwrap());
    }
    replies
}

/// Messages as bytes.
#[derive(Default)]
struct Untyped;

impl Codec for Untyped {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Untyped {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Untyped {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).into()))
    }
}
