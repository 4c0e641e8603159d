//! The table of inputs in `tests/cases`, row by row over the wire: the bad ones are refused, each bad field named once,
//! and nothing is stored. Clients in other languages hold the same table against the contracts' annotations.

use std::{collections::BTreeSet, str::FromStr as _};

use futures::{StreamExt as _, stream};
use millrace_tests::TestApp;
use prost::{Message as _, bytes::Bytes};
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use serde_json::Value;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};
use tonic_types::StatusExt as _;

const TABLE: &str = include_str!("../cases/validation.json");

pub(crate) struct Case {
    name: String,
    pub(crate) rpc: String,
    pub(crate) message: Bytes,
    pub(crate) violations: BTreeSet<String>,
    /// Whether it carries a read-after token.
    pub(crate) waits: bool,
}

/// Writes out what the table abbreviates: `{"$repeat": [value, n]}`, a text, a list or a
/// list of one value n times over, and
/// `{"$join": [value, …]}`, texts or lists one after the other.
fn expand(value: &Value) -> Value {
    match value {
        Value::Object(fields) => match (fields.get("$repeat"), fields.get("$join")) {
            (Some(repeat), _) => {
                let times = usize::try_from(repeat[1].as_u64().unwrap()).unwrap();
                let value = expand(&repeat[0]);
                match &value {
                    Value::String(text) => text.repeat(times).into(),
                    Value::Array(values) => vec![values.clone(); times].concat().into(),
                    Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
                        vec![value; times].into()
                    }
                }
            }
            (_, Some(parts)) => {
                let parts: Vec<Value> = parts.as_array().unwrap().iter().map(expand).collect();
                let texts: Option<String> = parts.iter().map(Value::as_str).collect();
                texts.map_or_else(
                    || parts.iter().flat_map(|part| part.as_array().unwrap()).cloned().collect(),
                    Value::from,
                )
            }
            (None, None) => fields.iter().map(|(name, value)| (name.clone(), expand(value))).collect(),
        },
        Value::Array(items) => items.iter().map(expand).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// The library's contracts and the shop's.
fn contracts() -> DescriptorPool {
    let mut pool = DescriptorPool::decode(millrace_proto::DESCRIPTORS).unwrap();
    pool.decode_file_descriptor_set(shop::contracts::DESCRIPTORS).unwrap();
    pool
}

fn method(pool: &DescriptorPool, rpc: &str) -> MethodDescriptor {
    let (service, name) = rpc.split_once('/').unwrap();
    let service = pool.get_service_by_name(service).unwrap_or_else(|| panic!("{rpc}"));
    service.methods().find(|method| method.name() == name).unwrap_or_else(|| panic!("{rpc}"))
}

fn all_rpcs() -> BTreeSet<String> {
    let pool = contracts();
    let is_served = |name: &str| name.starts_with("millrace.") || name.starts_with("shop.");
    let services = pool.services().filter(|service| is_served(service.full_name()));
    services
        .flat_map(|service| {
            service.methods().map(|rpc| format!("{}/{}", service.full_name(), rpc.name())).collect::<Vec<_>>()
        })
        .collect()
}

pub(crate) fn cases() -> Vec<Case> {
    let pool = contracts();
    let rows: Vec<Value> = serde_json::from_str(TABLE).unwrap();
    let case = |row: &Value| {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        let request = expand(&row["request"]);
        let message = DynamicMessage::deserialize(method(&pool, &text("rpc")).input(), request)
            .unwrap_or_else(|error| panic!("{}: {error}", text("name")));
        let violations = row["violations"].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned());
        Case {
            name: format!("{}: {}", text("rpc"), text("name")),
            rpc: text("rpc"),
            message: message.encode_to_vec().into(),
            violations: violations.collect(),
            waits: row["request"].get("after").is_some(),
        }
    };
    rows.iter().map(case).collect()
}

/// Sends bytes as they are, and takes the reply's bytes unread.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put(buffer, item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        let rest = prost::bytes::Buf::remaining(buffer);
        prost::bytes::Buf::advance(buffer, rest);
        Ok(Some(()))
    }
}

pub(crate) async fn send(channel: &Channel, rpc: &str, message: Bytes) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = tonic::codegen::http::uri::PathAndQuery::from_str(&format!("/{rpc}")).unwrap();
    grpc.unary(Request::new(message), path, Raw).await.map(|_| ())
}

fn channel<'a>(app: &'a TestApp, rpc: &str) -> &'a Channel {
    if rpc.starts_with("shop.command.") { &app.command } else { &app.query }
}

async fn stored(app: &TestApp) -> usize {
    let client = app.stack.aws().await.dynamodb();
    let mut items = 0;
    for table in [app.stack.events(), app.stack.unique_keys()] {
        let scan = client.scan().table_name(table).consistent_read(true);
        items += scan.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await.unwrap().len();
    }
    items
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_input_is_refused_with_all_its_bad_fields_and_stores_nothing() {
    let app = TestApp::new().await.unwrap();
    let bad: Vec<Case> = cases().into_iter().filter(|case| !case.violations.is_empty()).collect();
    let rpcs: BTreeSet<_> = bad.iter().map(|case| case.rpc.as_str()).collect();
    assert_eq!(
        rpcs,
        all_rpcs().iter().map(String::as_str).collect(),
        "the table has bad inputs of every call"
    );
    let violations: Vec<String> = stream::iter(&bad)
        .map(|case| async {
            let Err(status) = send(channel(&app, &case.rpc), &case.rpc, case.message.clone()).await else {
                return Some(format!("{}: accepted", case.name));
            };
            let details = status.get_error_details();
            let named = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
            let fields: BTreeSet<_> = named.iter().map(|violation| violation.field.clone()).collect();
            let right = status.code() == Code::InvalidArgument
                && fields == case.violations
                && fields.len() == named.len()
                && named.iter().all(|violation| !violation.description.is_empty());
            (!right)
                .then(|| format!("{}: {:?} {fields:?}, not {:?}", case.name, status.code(), case.violations))
        })
        .buffer_unordered(32)
        .filter_map(|violations| async { violations })
        .collect()
        .await;
    assert!(violations.is_empty(), "{} of {}:\n{}", violations.len(), bad.len(), violations.join("\n"));
    assert_eq!(stored(&app).await, 0);
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_good_input_is_called_bad() {
    let app = TestApp::new().await.unwrap();
    let good: Vec<Case> = cases().into_iter().filter(|case| case.violations.is_empty()).collect();
    let rpcs: BTreeSet<_> = good.iter().map(|case| case.rpc.clone()).collect();
    assert_eq!(rpcs, all_rpcs(), "the table has good inputs of every call");
    for case in good {
        let code =
            send(channel(&app, &case.rpc), &case.rpc, case.message).await.err().map(|status| status.code());
        let fine = [
            None,
            Some(Code::NotFound),
            Some(Code::AlreadyExists),
            Some(Code::FailedPrecondition),
            Some(Code::Unavailable),
        ];
        assert!(fine.contains(&code), "{}: {code:?}", case.name);
    }
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message_are_bad_input() {
    let app = TestApp::new().await.unwrap();
    let rpcs = all_rpcs();
    let garbage: [&[u8]; 5] = [
        // A field that ends before its length; a tag without a value; a wire type that does not exist; text that is no
        // UTF-8; more than may be sent.
        &[0x0a, 0x7f, b'x'],
        &[0x0a],
        &[0x0f, 0x01],
        &[0x0a, 0x02, 0xff, 0xfe],
        &[0x0a; 300 * 1024],
    ];
    for rpc in &rpcs {
        for bytes in garbage {
            let status = send(channel(&app, rpc), rpc, Bytes::copy_from_slice(bytes)).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{rpc}: {status:?}");
        }
    }
    assert_eq!(stored(&app).await, 0);
    app.end().await.unwrap();
}
