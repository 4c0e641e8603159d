//! As much of DynamoDB as commands need, behind the SDK's own client: with a network that loses and delays, and with
//! transactions that take their time.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt,
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_sdk_dynamodb::{
    Client,
    config::retry::{RetryConfig, RetryPartition},
};
use aws_smithy_runtime_api::{
    client::{
        http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
        runtime_components::RuntimeComponents,
    },
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;
use millrace_aws::Aws;
use millrace_event_store::{DynamoStore, Tables};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

const EVENTS: &str = "events";
const KEYS: &str = "keys";

/// The fate of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Fate {
    /// How long it is on its way. Its client may have gone before it arrives.
    pub(crate) travels: Duration,
    /// How long DynamoDB works on a transaction, whose items are locked meanwhile.
    pub(crate) takes: Duration,
    pub(crate) does: Does,
    pub(crate) reply: Reply,
    pub(crate) reasons: Reasons,
}

/// DynamoDB's treatment of a request that has arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) enum Does {
    /// The request's work.
    #[default]
    Work,
    /// Nothing, and says that calls come too fast.
    Throttle,
    /// Nothing, and says that it is out of order.
    Fail,
    /// The request's work, and says that it is out of order.
    WorkAndFail,
    /// Nothing, and says that another transaction is at work on the items.
    Contend,
    /// Nothing, and says that the token is another transaction's.
    Mismatch,
}

/// The reply to a request.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) enum Reply {
    /// The reply.
    #[default]
    Comes,
    /// The connection is cut while the request is on its way.
    CutAtOnce,
    /// DynamoDB says that it is out of order, and goes on all the same.
    FailsAtOnce,
    /// The connection is cut in place of the reply.
    CutAfter,
    /// Nothing, ever.
    Never,
}

/// How a cancelled transaction is explained.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) enum Reasons {
    /// By every condition that failed, in the order of the request.
    #[default]
    All,
    /// By the last condition that failed, alone.
    LastOnly,
    /// Without the item that was there.
    WithoutItem,
    /// In the reverse order.
    Reversed,
    /// Not at all.
    Missing,
}

/// A table of events and one of unique keys. Its clones share them.
#[derive(Clone, Default)]
pub(crate) struct Dynamo(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    events: BTreeMap<(String, u64), Value>,
    /// The holder of each key.
    keys: HashMap<String, String>,
    /// Transactions that are under way, and those that are done, by token.
    tokens: HashMap<String, Token>,
    /// The items of transactions under way.
    locked: HashSet<String>,
    /// How many requests have not come to their end.
    under_way: usize,
    /// The fates of the next writes whose request contains a text.
    next: VecDeque<(String, Fate)>,
    /// The fates of all other requests are drawn from this.
    chance: Option<StdRng>,
}

enum Token {
    InProgress,
    Done(Value),
}

/// The HTTP answer to a request.
struct Answer {
    status: u16,
    body: Value,
}

/// A request.
struct Call {
    operation: String,
    body: Value,
}

impl Dynamo {
    /// A store whose requests come here. With its retries the SDK tries a call three times.
    pub(crate) fn store(&self, config: &SdkConfig, retries: bool) -> DynamoStore {
        let aws =
            Aws::new(config.clone().into_builder().http_client(self.clone()).build(), Aws::ATTEMPT_TIMEOUT);
        // Its own: an SDK stops retrying where most calls fail.
        let partition = RetryPartition::new(Uuid::new_v4().to_string());
        let mut config = aws.dynamodb().config().to_builder().retry_partition(partition);
        if !retries {
            config = config.retry_config(RetryConfig::disabled());
        }
        let tables =
            Tables { events: EVENTS.into(), unique_keys: KEYS.into(), snapshots: "snapshots".into() };
        DynamoStore::new(Client::from_conf(config.build()), tables, None)
    }

    /// The next writes whose request contains this text have these fates.
    pub(crate) fn next(&self, about: &str, fates: impl IntoIterator<Item = Fate>) {
        self.look().next.extend(fates.into_iter().map(|fate| (about.to_owned(), fate)));
    }

    /// From now on all fates are drawn.
    pub(crate) fn disturb(&self, seed: u64) {
        self.look().chance = Some(StdRng::seed_from_u64(seed));
    }

    /// From now on nothing goes wrong. Returns when every request has come to its end.
    pub(crate) async fn calm(&self) {
        {
            let mut state = self.look();
            state.next.clear();
            state.chance = None;
        }
        while self.look().under_way > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The events that are stored.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.look().events.values().cloned().collect()
    }

    fn look(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn arrive(&self, call: &Call, fate: Fate) -> Answer {
        match fate.does {
            Does::Throttle => return Answer::error(400, "ThrottlingException"),
            Does::Fail => return Answer::error(500, "InternalServerError"),
            Does::Contend if call.operation == "TransactWriteItems" => {
                let conflict = |_| json!({ "Code": "TransactionConflict", "Message": "by chance" });
                return Answer::cancelled(call.actions().iter().map(conflict).collect());
            }
            Does::Contend => return Answer::error(400, "TransactionConflictException"),
            Does::Mismatch => return Answer::error(400, "IdempotentParameterMismatchException"),
            Does::Work | Does::WorkAndFail => {}
        }
        let answer = match call.operation.as_str() {
            "Query" => self.look().query(&call.body),
            "PutItem" => self.look().put(&call.body),
            "TransactWriteItems" => self.transact(call, fate).await,
            // Of snapshots there are none.
            _ => Answer::ok(),
        };
        if fate.does == Does::WorkAndFail { Answer::error(500, "InternalServerError") } else { answer }
    }

    async fn transact(&self, call: &Call, fate: Fate) -> Answer {
        let actions = call.actions();
        let mut asked = call.body.clone();
        asked["ClientRequestToken"].take();
        let token = text(&call.body["ClientRequestToken"]).to_owned();
        {
            let mut state = self.look();
            match state.tokens.get(&token) {
                Some(Token::InProgress) => return Answer::error(400, "TransactionInProgressException"),
                Some(Token::Done(done)) if *done == asked => return Answer::ok(),
                Some(Token::Done(_)) => return Answer::error(400, "IdempotentParameterMismatchException"),
                None => {}
            }
            let is_locked = |action: &Value| state.locked.contains(&name_of(action));
            if actions.iter().any(is_locked) {
                let code = |action| if is_locked(action) { "TransactionConflict" } else { "None" };
                return Answer::cancelled(
                    actions.iter().map(|action| json!({ "Code": code(action) })).collect(),
                );
            }
            state.locked.extend(actions.iter().map(name_of));
            state.tokens.insert(token.clone(), Token::InProgress);
        }
        if !fate.takes.is_zero() {
            sleep(fate.takes).await;
        }
        let mut state = self.look();
        for action in actions {
            state.locked.remove(&name_of(action));
        }
        let failed: Vec<_> = actions.iter().map(|action| state.failure(action)).collect();
        if failed.iter().any(Option::is_some) {
            state.tokens.remove(&token);
            return Answer::cancelled(explained(failed, fate.reasons));
        }
        actions.iter().for_each(|action| state.apply(action));
        state.tokens.insert(token, Token::Done(asked));
        Answer::ok()
    }
}

impl State {
    fn fate(&mut self, call: &Call) -> Fate {
        let puts_event = call.operation == "PutItem" && call.body["TableName"] == EVENTS;
        let is_write = puts_event || call.operation == "TransactWriteItems";
        if is_write {
            let body = call.body.to_string();
            let next = self.next.iter().position(|(about, _)| body.contains(about.as_str()));
            if let Some((_, fate)) = next.and_then(|next| self.next.remove(next)) {
                return fate;
            }
        }
        match &mut self.chance {
            Some(rng) if is_write => Fate::drawn(rng),
            Some(rng) => match rng.random_range(0..100) {
                0..4 => Fate { does: Does::Throttle, ..Fate::FINE },
                4..8 => Fate { does: Does::Fail, ..Fate::FINE },
                _ => Fate::FINE,
            },
            None => Fate::FINE,
        }
    }

    fn query(&self, body: &Value) -> Answer {
        let values = &body["ExpressionAttributeValues"];
        let version = |name: &str| values[name]["N"].as_str().map(|n| n.parse::<u64>().unwrap());
        let first = version(":first").or(version(":after").map(|after| after.saturating_add(1))).unwrap();
        let (stream, last) = (text(&values[":stream"]["S"]), version(":last").unwrap_or(u64::MAX));
        let range = (stream.to_owned(), first)..=(stream.to_owned(), last.max(first));
        let mut items: Vec<_> = self.events.range(range).map(|(_, item)| item.clone()).collect();
        if body["ScanIndexForward"] == false {
            items.reverse();
        }
        let limit = body["Limit"].as_u64().map_or(usize::MAX, |limit| limit.try_into().unwrap());
        let more = items.len() >= limit;
        items.truncate(limit);
        let mut page = json!({ "Items": items });
        if more {
            page["LastEvaluatedKey"] = json!({ "AggregateId": { "S": stream }, "Version": { "N": "1" } });
        }
        Answer { status: 200, body: page }
    }

    fn put(&mut self, body: &Value) -> Answer {
        let action = json!({ "Put": body });
        if body["TableName"] != EVENTS {
            return Answer::ok();
        }
        if self.locked.contains(&name_of(&action)) {
            return Answer::error(400, "TransactionConflictException");
        }
        match self.failure(&action) {
            Some(there) => {
                let mut answer = Answer::error(400, "ConditionalCheckFailedException");
                answer.body["Item"] = there;
                answer
            }
            None => {
                self.apply(&action);
                Answer::ok()
            }
        }
    }

    /// Whether the condition of an action does not hold, and the item on which it fails.
    fn failure(&self, action: &Value) -> Option<Value> {
        let (_, action) = the(action);
        let condition = text(&action["ConditionExpression"]);
        if action["TableName"] == EVENTS {
            assert_eq!(condition, "attribute_not_exists(AggregateId)");
            return self.events.get(&event_key(&action["Item"])).cloned();
        }
        assert_eq!(condition, "attribute_not_exists(#key) OR #holder = :me");
        let holder = self.keys.get(key_of(action))?;
        let me = text(&action["ExpressionAttributeValues"][":me"]["S"]);
        (holder != me).then_some(Value::Null)
    }

    fn apply(&mut self, action: &Value) {
        match the(action) {
            ("Put", action) if action["TableName"] == EVENTS => {
                self.events.insert(event_key(&action["Item"]), action["Item"].clone());
            }
            ("Put", action) => {
                let holder = text(&action["Item"]["AggregateId"]["S"]).to_owned();
                self.keys.insert(key_of(action).to_owned(), holder);
            }
            (_, action) => {
                self.keys.remove(key_of(action));
            }
        }
    }
}

impl Fate {
    /// The request never arrives.
    pub(crate) const LOST: Self = Self { does: Does::Fail, reply: Reply::CutAtOnce, ..Self::FINE };
    /// Nothing is wrong with it.
    pub(crate) const FINE: Self = Self {
        travels: Duration::ZERO,
        takes: Duration::ZERO,
        does: Does::Work,
        reply: Reply::Comes,
        reasons: Reasons::All,
    };

    /// It is done, and the reply is lost.
    pub(crate) const REPLY_LOST: Self = Self { reply: Reply::CutAfter, ..Self::FINE };

    /// Any fate: half of them are fine.
    fn drawn(rng: &mut StdRng) -> Self {
        let mut fate = Self::FINE;
        let mut comes = |percent: u32| rng.random_range(0..100) < percent;
        if comes(40) {
            return fate;
        }
        let (slow, long, late, swapped) = (comes(30), comes(25), comes(12), comes(70));
        fate.does = match rng.random_range(0..100) {
            0..10 => Does::Throttle,
            10..16 => Does::Fail,
            16..26 => Does::WorkAndFail,
            26..34 => Does::Contend,
            _ => Does::Work,
        };
        fate.reply = match rng.random_range(0..100) {
            0..8 => Reply::CutAtOnce,
            8..18 => Reply::CutAfter,
            18..22 => Reply::Never,
            _ => Reply::Comes,
        };
        if swapped {
            fate.reasons = if rng.random() { Reasons::LastOnly } else { Reasons::WithoutItem };
        }
        let millis = |most: u64, rng: &mut StdRng| Duration::from_millis(rng.random_range(0..most));
        if slow {
            fate.travels = millis(30, rng);
        }
        if long {
            fate.takes = millis(30, rng);
        }
        if late {
            fate.travels = millis(15_000, rng);
            fate.reply = match rng.random_range(0..3) {
                0 => Reply::CutAtOnce,
                1 => Reply::FailsAtOnce,
                _ => Reply::Comes,
            };
        }
        fate
    }
}

impl Answer {
    fn ok() -> Self {
        Self { status: 200, body: json!({}) }
    }

    fn error(status: u16, code: &str) -> Self {
        let kind = format!("com.amazonaws.dynamodb.v20120810#{code}");
        Self { status, body: json!({ "__type": kind, "message": "by a test" }) }
    }

    fn sent(self) -> Result<HttpResponse, ConnectorError> {
        let status = StatusCode::try_from(self.status).expect("a status");
        Ok(HttpResponse::new(status, SdkBody::from(self.body.to_string())))
    }

    fn cancelled(reasons: Vec<Value>) -> Self {
        let mut answer = Self::error(400, "TransactionCanceledException");
        answer.body["CancellationReasons"] = reasons.into();
        answer
    }
}

impl Call {
    fn of(request: &HttpRequest) -> Self {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let body = request.body().bytes().unwrap_or_default();
        Self { operation, body: serde_json::from_slice(body).expect("requests to DynamoDB are JSON") }
    }

    fn actions(&self) -> &[Value] {
        self.body["TransactItems"].as_array().map_or(&[], Vec::as_slice)
    }
}

impl HttpConnector for Dynamo {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let call = Call::of(&request);
        let fate = self.look().fate(&call);
        self.look().under_way += 1;
        let dynamo = self.clone();
        // A task of its own: it goes on where the client does not wait.
        let exchange = tokio::spawn(async move {
            sleep(fate.travels).await;
            let answer = dynamo.arrive(&call, fate).await;
            dynamo.look().under_way -= 1;
            answer
        });
        HttpConnectorFuture::new(async move {
            let cut = || ConnectorError::io("the connection was cut".into());
            match fate.reply {
                Reply::CutAtOnce => Err(cut()),
                Reply::FailsAtOnce => Answer::error(500, "InternalServerError").sent(),
                Reply::Never => pending().await,
                Reply::CutAfter => exchange.await.map_or_else(|_| Err(cut()), |_| Err(cut())),
                Reply::Comes => exchange.await.expect("a request comes to its end").sent(),
            }
        })
    }
}

impl HttpClient for Dynamo {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl fmt::Debug for Dynamo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dynamo")
    }
}

/// The SDK's settings, but for the endpoint of the store.
pub(crate) async fn sdk_config() -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url("http://localhost:1")
        .load()
        .await
}

/// The reasons of a cancelled transaction; each failed condition with the item that was there.
fn explained(failed: Vec<Option<Value>>, reasons: Reasons) -> Vec<Value> {
    let last = failed.iter().rposition(Option::is_some);
    let explain = |(place, failed): (usize, Option<Value>)| match failed {
        Some(_) if reasons == Reasons::LastOnly && Some(place) != last => json!({ "Code": "None" }),
        Some(item) if reasons != Reasons::WithoutItem && !item.is_null() => {
            json!({ "Code": "ConditionalCheckFailed", "Message": "it failed", "Item": item })
        }
        Some(_) => json!({ "Code": "ConditionalCheckFailed", "Message": "it failed" }),
        None => json!({ "Code": "None" }),
    };
    let mut explained: Vec<_> = failed.into_iter().enumerate().map(explain).collect();
    match reasons {
        Reasons::Reversed => explained.reverse(),
        Reasons::Missing => explained.clear(),
        Reasons::All | Reasons::LastOnly | Reasons::WithoutItem => {}
    }
    explained
}

/// The kind of an action, and its body.
fn the(action: &Value) -> (&str, &Value) {
    let action = action.as_object().and_then(|action| action.iter().next()).expect("an action");
    (action.0, action.1)
}

/// The key of an action's item.
fn name_of(action: &Value) -> String {
    let (_, action) = the(action);
    if action["TableName"] == EVENTS {
        format!("{:?}", event_key(&action["Item"]))
    } else {
        key_of(action).to_owned()
    }
}

fn event_key(item: &Value) -> (String, u64) {
    (text(&item["AggregateId"]["S"]).to_owned(), text(&item["Version"]["N"]).parse().expect("a version"))
}

fn key_of(action: &Value) -> &str {
    let key = if action["Item"].is_null() { &action["Key"]["Key"] } else { &action["Item"]["Key"] };
    text(&key["S"])
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
