//! Compressed replies and requests, as the bytes that a client in any language sends and sees.

use std::{
    fs,
    io::{Read as _, Write as _},
    time::Instant,
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http_body_util::BodyExt as _;
use hyper::{HeaderMap, Request, body::Bytes};
use millrace_tests::{
    Replied as _, Reply, TestApp, aws_stack, eventually,
    process::{Deployable, Process, health, log_folder},
};
use prost::Message;
use shop::contracts::{
    command::CreateOrderRequest,
    query::{
        GetOrderRequest, GetOrdersByUserRequest, GetOrdersByUserResponse, GetUserProfileRequest,
        WatchOrderRequest,
    },
    types::OrderItem,
};
use tonic::{Code, Status, body::Body, transport::Channel};
use tonic_types::StatusExt as _;
use tower::ServiceExt as _;
use zstd::stream::raw::CParameter;

use crate::calls::{At, create_user, laptop, user};

const CREATE_USER: &str = "/shop.command.v1.UserCommandService/CreateUser";
const CREATE_ORDER: &str = "/shop.command.v1.OrderCommandService/CreateOrder";
const GET_USER: &str = "/shop.query.v1.UserQueryService/GetUserProfile";
const GET_ORDER: &str = "/shop.query.v1.OrderQueryService/GetOrder";
const OF_USER: &str = "/shop.query.v1.OrderQueryService/GetOrdersByUser";
const WATCH: &str = "/shop.query.v1.OrderQueryService/WatchOrder";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const SEARCH: &str = "/millrace.query.v1.HistoryService/SearchEvents";

/// The encodings that are offered, in the order in which the servers name them.
const ENCODINGS: [&str; 2] = ["gzip", "zstd"];

fn compress(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    match encoding {
        "gzip" => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::encode_all(bytes, 3).unwrap(),
        other => panic!("no encoding {other}"),
    }
}

fn decompress(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    match encoding {
        "gzip" => GzDecoder::new(bytes).read_to_end(&mut whole).map(drop).unwrap(),
        "zstd" => whole = zstd::decode_all(bytes).unwrap(),
        other => panic!("no encoding {other}"),
    }
    whole
}

/// A reply as it came: the headers, and the first message with its flag.
struct Raw {
    headers: HeaderMap,
    flag: u8,
    message: Bytes,
}

/// Calls with a message that is already bytes, under some headers; reads the first message of the reply.
async fn call(
    channel: &Channel,
    path: &str,
    flag: u8,
    message: &[u8],
    headers: &[(&str, &str)],
) -> Result<Raw, Status> {
    let mut body = vec![flag];
    body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend_from_slice(message);
    let mut request = Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::new(http_body_util::Full::new(Bytes::from(body)))).unwrap();
    let (parts, mut body) = channel.clone().oneshot(request).await.unwrap().into_parts();
    if let Some(status) = Status::from_header_map(&parts.headers).filter(|status| status.code() != Code::Ok) {
        return Err(status);
    }
    let mut bytes = Vec::new();
    let length = |bytes: &[u8]| -> usize {
        let length = bytes.get(1..5).map(|length| u32::from_be_bytes(length.try_into().unwrap()));
        length.map_or(usize::MAX, |length| 5 + usize::try_from(length).unwrap())
    };
    while bytes.len() < length(&bytes) {
        let frame = body.frame().await.expect("a message").unwrap();
        bytes.extend_from_slice(&frame.into_data().expect("a message, and then trailers"));
    }
    let message = Bytes::copy_from_slice(&bytes[5..length(&bytes)]);
    Ok(Raw { headers: parts.headers, flag: bytes[0], message })
}

impl Raw {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// An order that is as large as one can be: a hundred items, with names of two hundred characters of four bytes.
fn largest(user: &At) -> CreateOrderRequest {
    let mut order = laptop(&user.id);
    let item = OrderItem { product: "🜁".repeat(200), ..order.items[0].clone() };
    order.items = (0..100).map(|_| item.clone()).collect();
    order.total_amount = None;
    order
}

async fn place(app: &TestApp, order: CreateOrderRequest) -> At {
    let reply = app.orders().create_order(order).await.unwrap().reply();
    At::from(reply)
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_are_compressed_where_the_client_asks_and_it_saves_something() {
    let app = TestApp::new().await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    let mut last = place(&app, laptop(&john.id)).await;
    let small = last.clone();
    let jane = create_user(&app, "jane@example.com").await.unwrap();
    let large = place(&app, largest(&jane)).await;
    for _ in 1..20 {
        last = place(&app, laptop(&john.id)).await;
    }
    let of_user = |page_size| GetOrdersByUserRequest {
        user_id: john.id.clone(),
        page_size,
        after: last.after(),
        ..Default::default()
    };
    let page = of_user(20).encode_to_vec();
    let plain = eventually("all orders, of which the token names the last", async || {
        let plain = call(&app.query, OF_USER, 0, &page, &[]).await.unwrap();
        let orders = GetOrdersByUserResponse::decode(plain.message.clone()).unwrap().orders;
        (orders.len() == 20).then_some(plain)
    })
    .await;
    assert_eq!((plain.flag, plain.header("grpc-encoding")), (0, None), "nobody asked");

    for encoding in ENCODINGS {
        let asked = [("grpc-accept-encoding", encoding)];
        let reply = call(&app.query, OF_USER, 0, &page, &asked).await.unwrap();
        assert_eq!((reply.flag, reply.header("grpc-encoding")), (1, Some(encoding)));
        assert_eq!(decompress(encoding, &reply.message), plain.message);
        println!("{encoding}: a page of 20 orders, {} bytes of {}", reply.message.len(), plain.message.len());

        // One large one would keep all others waiting.
        let one = GetOrderRequest { order_id: large.id.clone(), after: large.after() }.encode_to_vec();
        let reply = call(&app.query, GET_ORDER, 0, &one, &asked).await.unwrap();
        assert!(reply.message.len() > 64 * 1024);
        assert_eq!(reply.flag, 0);

        // One small order would not become smaller, nor do a stream's messages.
        let one = GetOrderRequest { order_id: small.id.clone(), after: small.after() }.encode_to_vec();
        let reply = call(&app.query, GET_ORDER, 0, &one, &asked).await.unwrap();
        assert_eq!(reply.flag, 0);
        let watch = WatchOrderRequest { order_id: small.id.clone(), ..Default::default() }.encode_to_vec();
        let reply = call(&app.query, WATCH, 0, &watch, &asked).await.unwrap();
        assert_eq!((reply.flag, reply.header("grpc-encoding")), (0, None));
    }
    // The client's order counts; other encodings are passed over.
    for (asked, chosen) in
        [("deflate, zstd, gzip", Some("zstd")), ("identity,deflate,gzip", Some("gzip")), ("br", None)]
    {
        let reply = call(&app.query, OF_USER, 0, &page, &[("grpc-accept-encoding", asked)]).await.unwrap();
        assert_eq!(reply.header("grpc-encoding"), chosen, "{asked}");
    }
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_never_outgrows_what_clients_take() {
    /// The largest message that gRPC clients take by default ("Core concepts" of several languages): 4 MiB.
    const CLIENTS_TAKE: usize = 4 << 20;
    const ORDERS: usize = 60;
    let app = TestApp::new().await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    let order = largest(&john);
    let size = order.encoded_len();
    let mut last = place(&app, order.clone()).await;
    for _ in 1..ORDERS {
        last = place(&app, order.clone()).await;
    }
    assert!(ORDERS * size > CLIENTS_TAKE, "all of them would be too much: {ORDERS} of {size} bytes");
    let mut request = GetOrdersByUserRequest {
        user_id: john.id,
        page_size: 100,
        after: last.after(),
        ..Default::default()
    };
    let mut sizes = Vec::new();
    let mut seen = std::collections::HashSet::new();
    loop {
        let reply = call(&app.query, OF_USER, 0, &request.encode_to_vec(), &[]).await.unwrap();
        sizes.push(reply.message.len());
        let page = GetOrdersByUserResponse::decode(reply.message).unwrap();
        for order in page.orders {
            assert!(seen.insert(order.order_id), "an order comes once");
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    println!("{ORDERS} orders of {size} bytes come in pages of {sizes:?} bytes");
    assert_eq!(seen.len(), ORDERS);
    assert!(sizes.iter().all(|size| *size < CLIENTS_TAKE), "{sizes:?}");
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_may_be_compressed_at_every_service() {
    let app = TestApp::new().await.unwrap();
    for encoding in ENCODINGS {
        let sent = [("grpc-encoding", encoding)];
        let compressed = |message: &[u8]| compress(encoding, message);
        let create = user(&format!("{encoding}@example.com")).encode_to_vec();
        let reply = call(&app.command, CREATE_USER, 1, &compressed(&create), &sent).await.unwrap();
        let created = shop::contracts::command::CreateUserResponse::decode(reply.message).unwrap();
        let at = At::from(Reply::from(created));
        let order = largest(&at).encode_to_vec();
        let small = compressed(&order);
        assert!(small.len() < order.len() / 10);
        call(&app.command, CREATE_ORDER, 1, &small, &sent).await.unwrap();
        let get = GetUserProfileRequest { user_id: at.id.clone(), after: at.after() }.encode_to_vec();
        call(&app.query, GET_USER, 1, &compressed(&get), &sent).await.unwrap();
        // A message without the compressed flag is plain bytes under any encoding of the call.
        call(&app.query, GET_USER, 0, &get, &sent).await.unwrap();
        let search = millrace_proto::query::SearchEventsRequest {
            event_type: "UserCreated".into(),
            ..Default::default()
        };
        call(&app.query, SEARCH, 1, &compressed(&search.encode_to_vec()), &sent).await.unwrap();
        // A channel's compression covers health and reflection too.
        for channel in [&app.command, &app.query, &app.projector] {
            call(channel, HEALTH, 1, &compressed(b""), &sent).await.unwrap();
        }
    }
    app.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoding_that_is_not_offered_is_refused_with_those_that_are() {
    let app = TestApp::new().await.unwrap();
    for (channel, path) in [(&app.command, CREATE_USER), (&app.query, GET_ORDER), (&app.query, WATCH)] {
        for unknown in ["br", "deflate", "snappy", ""] {
            let refused = call(channel, path, 1, b"", &[("grpc-encoding", unknown)]).await.map(|_| ());
            let status = refused.unwrap_err();
            assert_eq!(status.code(), Code::Unimplemented, "{path} {unknown}");
            let offered = status.metadata().get("grpc-accept-encoding").unwrap().to_str().unwrap();
            assert_eq!(offered, "gzip,zstd,identity", "{path} {unknown}");
        }
    }
    app.end().await.unwrap();
}

/// Fails unless a status names the whole request as bad.
fn is_bad_input(status: &Status, what: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
    assert!(status.get_error_details().bad_request().is_some(), "{what}: {status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compressed_and_damaged_is_bad_input() {
    let app = TestApp::new().await.unwrap();
    for (channel, path) in [(&app.command, CREATE_USER), (&app.query, GET_ORDER), (&app.query, WATCH)] {
        for encoding in ENCODINGS {
            let whole = compress(encoding, &user("john@example.com").encode_to_vec());
            let mut damaged = whole.clone();
            damaged[0] ^= 0xff;
            for (what, bytes) in
                [("cut", &whole[..whole.len() / 2]), ("damaged", &damaged), ("no encoding of it", b"no")]
            {
                let refused = call(channel, path, 1, bytes, &[("grpc-encoding", encoding)]).await;
                is_bad_input(&refused.map(|_| ()).unwrap_err(), &format!("{path} {encoding}: {what}"));
            }
            let unnamed = call(channel, path, 1, &whole, &[]).await.map(|_| ()).unwrap_err();
            is_bad_input(&unnamed, &format!("{path} {encoding}: an encoding that is not named"));
        }
    }
    app.end().await.unwrap();
}

/// A byte more than a request may have.
fn just_too_large() -> Vec<u8> {
    vec![0; 256 * 1024 + 1]
}

/// Small messages that would become large.
fn bombs() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    const MIB: usize = 1 << 20;
    let zeros = vec![0; MIB];
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    let mut zstd = zstd::Encoder::new(Vec::new(), 3).unwrap();
    // The widest window that decoders grant by themselves: memory before the first byte.
    zstd.set_parameter(CParameter::WindowLog(27)).unwrap();
    zstd.include_contentsize(false).unwrap();
    for _ in 0..100 {
        gzip.write_all(&zeros).unwrap();
        zstd.write_all(&zeros).unwrap();
    }
    vec![
        ("gzip", "100 MiB", gzip.finish().unwrap()),
        ("zstd", "100 MiB", zstd.finish().unwrap()),
        ("gzip", "a byte too many", compress("gzip", &just_too_large())),
        ("zstd", "a byte too many", compress("zstd", &just_too_large())),
    ]
}

/// The most memory that a process has had at a time, in MiB.
fn peak(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_become_too_large_is_refused_and_takes_no_memory() {
    /// How often each is sent, all at once.
    const TIMES: usize = 32;
    let stack = aws_stack().await.unwrap();
    let (bombs, logs) = (bombs(), log_folder("bombs").unwrap());
    for (deployable, path) in [
        (Deployable::CommandService, CREATE_USER),
        (Deployable::QueryService, GET_ORDER),
        (Deployable::QueryService, WATCH),
        (Deployable::Projector, HEALTH),
    ] {
        let log = logs.join(format!("{}.log", deployable.name()));
        let running = Process::start(deployable.command(&stack), &log).await.unwrap();
        // A first call makes everything that is made once.
        let whole = compress("gzip", &just_too_large());
        let refused = call(running.channel(), path, 1, &whole, &[("grpc-encoding", "gzip")]).await;
        is_bad_input(&refused.map(|_| ()).unwrap_err(), path);
        let (before, began) = (peak(running.id()), Instant::now());
        for (encoding, what, bomb) in &bombs {
            assert!(bomb.len() < 256 * 1024, "{encoding} {what}: {} bytes are refused unread", bomb.len());
            let headers = [("grpc-encoding", *encoding)];
            let calls = (0..TIMES).map(|_| call(running.channel(), path, 1, bomb, &headers));
            for refused in futures::future::join_all(calls).await {
                is_bad_input(&refused.map(|_| ()).unwrap_err(), &format!("{path} {encoding}: {what}"));
            }
        }
        let grown = peak(running.id()) - before;
        println!("{path}: {} bombs, {grown} MiB more at the peak, {:?}", 4 * TIMES, began.elapsed());
        // Each would take a hundred.
        assert!(grown < 50, "{grown} MiB");
        assert!(health(running.channel(), "liveness").await.is_some(), "it goes on");
    }
}
