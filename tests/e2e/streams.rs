//! DynamoDB's streams as the emulator does not have them: of many shards, listed in pages, with a memory that ends.

use std::{convert::Infallible, sync::Arc};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use millrace_aws::{Aws, AwsError};
use millrace_local::Account;
use millrace_relay::{
    ShardStream as _,
    aws::DynamoStream,
    stream::{Position, Sequence, Shard, ShardId, StreamError},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// A scripted reply, status and body, to an operation's request.
type Answers = dyn Fn(&str, &Value) -> (u16, Value) + Send + Sync;

/// An AWS that answers as a test says.
struct Stand {
    stream: DynamoStream,
    _serving: AbortOnDropHandle<()>,
}

impl Stand {
    async fn with(answers: impl Fn(&str, &Value) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers: Arc<Answers> = Arc::new(answers);
        let serving = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let answers = answers.clone();
                let service = service_fn(move |request| answer(answers.clone(), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), service));
            }
        }));
        let aws = Aws::new(Account::unique(&url).sdk_config().await, Aws::ATTEMPT_TIMEOUT);
        let stream = DynamoStream::new(aws.dynamodb(), aws.streams(), "events");
        Self { stream, _serving: serving }
    }
}

async fn answer(
    answers: Arc<Answers>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let target = request.headers()["x-amz-target"].to_str().unwrap().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let operation = target.rsplit('.').next().unwrap();
    let (status, body) = answers(operation, &serde_json::from_slice(&body).unwrap());
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status.try_into().unwrap();
    Ok(response)
}

fn table() -> (u16, Value) {
    let arn = "arn:aws:dynamodb:us-east-1:1:table/events/stream/2026-11-25T00:00:00.000";
    (200, json!({"Table": {"LatestStreamArn": arn}}))
}

fn refusal(code: &str) -> (u16, Value) {
    (400, json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": "so it is"}))
}

fn id(shard: usize) -> ShardId {
    ShardId::from(format!("2026-11-25T00:00:00.000/shard-{shard:03}"))
}

/// A page of a stream of 250 shards, of which each but the first continues the one before.
fn page(body: &Value) -> (u16, Value) {
    const SHARDS: usize = 250;
    const PAGE: usize = 100;
    let after = body.get("ExclusiveStartShardId").and_then(Value::as_str);
    let first = after.map_or(0, |shard| shard.trim_start_matches("shard-").parse::<usize>().unwrap() + 1);
    let last = (first + PAGE).min(SHARDS);
    let name = |shard: usize| format!("shard-{shard:03}");
    let shard = |shard: usize| match shard.checked_sub(1) {
        Some(parent) => json!({"ShardId": name(shard), "ParentShardId": name(parent)}),
        None => json!({"ShardId": name(shard)}),
    };
    let mut description = json!({"Shards": (first..last).map(shard).collect::<Vec<_>>()});
    if last < SHARDS {
        description["LastEvaluatedShardId"] = name(last - 1).into();
    }
    (200, json!({"StreamDescription": description}))
}

#[tokio::test]
async fn every_page_of_shards_is_read() {
    let stand = Stand::with(|operation, body| match operation {
        "DescribeTable" => table(),
        "DescribeStream" => page(body),
        other => panic!("{other} is not asked for"),
    })
    .await;
    let (mut shards, mut from, mut pages) = (Vec::new(), None, 0);
    while pages == 0 || from.is_some() {
        let page = stand.stream.shards(from.as_ref()).await.unwrap();
        shards.extend(page.shards);
        (from, pages) = (page.next, pages + 1);
    }
    assert_eq!(pages, 3);
    let expected = |n: usize| Shard { id: id(n), parent: n.checked_sub(1).map(id) };
    assert_eq!(shards, (0..250).map(expected).collect::<Vec<_>>());
}

/// An emulator lists all shards, as if there were no filter.
#[tokio::test]
async fn the_children_of_a_shard_are_found_in_one_call_whether_the_filter_is_known_or_not() {
    for knows in [true, false] {
        let stand = Stand::with(move |operation, body| match operation {
            "DescribeTable" => table(),
            "DescribeStream" if knows => {
                assert_eq!(body["ShardFilter"], json!({"Type": "CHILD_SHARDS", "ShardId": "shard-041"}));
                let child = json!({"ShardId": "shard-042", "ParentShardId": "shard-041"});
                (200, json!({"StreamDescription": {"Shards": [child]}}))
            }
            "DescribeStream" => page(body),
            other => panic!("{other} is not asked for"),
        })
        .await;
        let children = stand.stream.children(&id(41)).await.unwrap();
        assert_eq!(children, [Shard { id: id(42), parent: Some(id(41)) }]);
    }
}

#[tokio::test]
async fn a_reply_without_anything_is_not_the_end_of_a_shard() {
    let stand = Stand::with(|_, _| (200, json!({}))).await;
    let error = stand.stream.read(&"iterator".to_owned()).await.unwrap_err();
    assert!(matches!(error, StreamError::Failed(AwsError::InvalidResponse(_))), "{error}");
    let stand = Stand::with(|_, _| (200, json!({"Records": []}))).await;
    assert!(stand.stream.read(&"iterator".to_owned()).await.unwrap().next.is_none());
}

#[tokio::test]
async fn what_the_stream_says_is_told_apart() {
    type Check = fn(&StreamError) -> bool;
    let table_of: [(&str, Check); 5] = [
        ("TrimmedDataAccessException", |error| matches!(error, StreamError::Trimmed)),
        ("ExpiredIteratorException", |error| matches!(error, StreamError::Expired)),
        ("ResourceNotFoundException", |error| matches!(error, StreamError::Gone)),
        ("ProvisionedThroughputExceededException", |error| {
            matches!(error, StreamError::Failed(AwsError::Throttled(_)))
        }),
        ("AccessDeniedException", |error| matches!(error, StreamError::Failed(AwsError::Refused(_)))),
    ];
    for (code, is_it) in table_of {
        let stand = Stand::with(move |operation, _| match operation {
            "DescribeTable" => table(),
            _ => refusal(code),
        })
        .await;
        let error = stand.stream.read(&"iterator".to_owned()).await.unwrap_err();
        assert!(is_it(&error), "reading, {code}: {error}");
        // An iterator that is being made cannot have expired.
        if code != "ExpiredIteratorException" {
            let position = Position::After(Sequence("7".to_owned()));
            let error = stand.stream.open(&id(1), &position).await.unwrap_err();
            assert!(is_it(&error), "opening, {code}: {error}");
        }
    }
}

#[tokio::test]
async fn a_shard_is_opened_in_its_own_stream_where_it_was_left() {
    let stand = Stand::with(|operation, body| match operation {
        "DescribeTable" => table(),
        // The table has another stream by now.
        _ if body["StreamArn"]
            != "arn:aws:dynamodb:us-east-1:1:table/events/stream/2026-01-01T00:00:00.000" =>
        {
            refusal("ResourceNotFoundException")
        }
        _ => (
            200,
            json!({"ShardIterator": format!("{} {}", body["ShardIteratorType"], body["SequenceNumber"])}),
        ),
    })
    .await;
    let shard = ShardId::from("2026-01-01T00:00:00.000/shard-1");
    for (position, iterator) in [
        (Position::TrimHorizon, "\"TRIM_HORIZON\" null"),
        (Position::After(Sequence("7".to_owned())), "\"AFTER_SEQUENCE_NUMBER\" \"7\""),
    ] {
        assert_eq!(stand.stream.open(&shard, &position).await.unwrap(), iterator);
    }
}
