//! A proxy between a deployable and its AWS: it meters the traffic and injects network faults.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::pending,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Request, Response, Uri,
    body::{Body, Bytes},
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use millrace_aws::Aws;
use millrace_local::Account;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::{CancellationToken, DropGuard};

mod access;
mod batch;
mod call;
mod faults;
mod meter;
mod reply;

pub use access::Access;
use batch::Batch;
use call::Call;
pub use faults::{Answer, Entries, Fault, FaultKind, Faults, Throttling};
use meter::Bill;
pub use meter::Traffic;
use reply::Reply;

/// The time-out of one attempt of a call over a proxy. Longer than any attempt that does not hang, also on a busy
/// machine; short enough for tests to wait for hanging ones.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(6);

/// More than AWS takes or gives in one piece.
const LARGEST_BODY: usize = 32 << 20;

/// How many connections may wait to be taken.
const BACKLOG: u32 = 1024;

/// A proxy on loopback for HTTP/1.1. Dropping it ends it, with all exchanges under way.
///
/// A request that came in whole takes effect unless a fault says otherwise, even if its client has disconnected.
pub struct FaultProxy {
    address: SocketAddr,
    url: String,
    end: tokio::sync::Mutex<End>,
    shared: Arc<Shared>,
    _drop: DropGuard,
}

/// The clients' end of a wire.
enum End {
    /// Connections are taken, until this is cancelled.
    Open(CancellationToken, JoinHandle<()>),
    /// The port is bound, so that no other process gets it, and does not listen.
    Closed(TcpSocket),
    /// The port could not be held.
    Lost,
}

struct Shared {
    /// AWS, such as `127.0.0.1:4566`.
    authority: String,
    aws: Client<HttpConnector, Full<Bytes>>,
    state: Mutex<State>,
    end: CancellationToken,
}

#[derive(Default)]
struct State {
    faults: Option<Faults>,
    /// How many requests there were of an operation since these faults began.
    ordinals: BTreeMap<String, u64>,
    /// The faults of an operation's next requests, each for one with the text in its body.
    next: BTreeMap<String, VecDeque<(String, Fault)>>,
    /// The fault of every request of an operation, with the channel that reports the first.
    ambushes: BTreeMap<String, (Fault, watch::Sender<bool>)>,
    injected: BTreeMap<FaultKind, u64>,
    traffic: BTreeMap<String, Traffic>,
    accesses: BTreeSet<Access>,
}

/// A fault of every request of an operation, for as long as this lives.
pub struct Ambush {
    operation: String,
    shared: Arc<Shared>,
    met: watch::Receiver<bool>,
}

impl Ambush {
    /// Waits for a request with the fault.
    pub async fn met(&mut self) {
        if self.met.wait_for(|met| *met).await.is_err() {
            // Another ambush has taken its place.
            pending::<()>().await;
        }
    }
}

impl Drop for Ambush {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let is_this = |(_, met): &(Fault, watch::Sender<bool>)| met.subscribe().same_channel(&self.met);
        if state.ambushes.get(&self.operation).is_some_and(is_this) {
            state.ambushes.remove(&self.operation);
        }
    }
}

impl FaultProxy {
    /// A wire before an endpoint such as `http://127.0.0.1:4566`.
    pub async fn before(endpoint: &str) -> anyhow::Result<Self> {
        let authority = endpoint.strip_prefix("http://").context("a wire is for plain HTTP")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let aws = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            // Earlier than AWS would, so that no request is sent on a connection that is being closed.
            .pool_idle_timeout(Duration::from_secs(10))
            .build(connector);
        let end = CancellationToken::new();
        let shared = Arc::new(Shared {
            authority: authority.trim_end_matches('/').to_owned(),
            aws,
            state: Mutex::default(),
            end: end.clone(),
        });
        let url = format!("http://{address}");
        let open = tokio::sync::Mutex::new(open(listener, &shared));
        Ok(Self { address, url, end: open, shared, _drop: end.drop_guard() })
    }

    /// Refuses connections from now on and cuts the open ones: AWS is out of reach. Requests that came in whole take
    /// effect all the same, and their replies are lost.
    pub async fn refuse(&self) -> anyhow::Result<()> {
        let mut end = self.end.lock().await;
        let End::Open(cut, taken) = std::mem::replace(&mut *end, End::Lost) else {
            anyhow::bail!("the wire at {} is not open", self.address)
        };
        cut.cancel();
        taken.await?;
        // A socket that is bound and does not listen keeps its port, and refuses connections.
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.address).with_context(|| format!("holding the port of {}", self.address))?;
        *end = End::Closed(socket);
        Ok(())
    }

    /// Connections are taken again, at the same port.
    pub async fn accept(&self) -> anyhow::Result<()> {
        let mut end = self.end.lock().await;
        let End::Closed(socket) = std::mem::replace(&mut *end, End::Lost) else {
            anyhow::bail!("the wire at {} is not closed", self.address)
        };
        *end = open(socket.listen(BACKLOG)?, &self.shared);
        Ok(())
    }

    /// Where the wire begins.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Access to an account over this wire, which must lead to the account's AWS.
    pub async fn aws(&self, account: &Account) -> Aws {
        self.aws_with(account, ATTEMPT_TIMEOUT).await
    }

    /// The same, where one attempt of a call may take `attempt`.
    pub async fn aws_with(&self, account: &Account, attempt: Duration) -> Aws {
        Aws::new(account.sdk_config().await.into_builder().endpoint_url(self.url()).build(), attempt)
    }

    /// The traffic since the start or the last [`take`](Self::take), by operation, such as `PutItem`.
    pub fn traffic(&self) -> BTreeMap<String, Traffic> {
        self.shared.state().traffic.clone()
    }

    /// The same, which then starts again from nothing.
    pub fn take(&self) -> BTreeMap<String, Traffic> {
        std::mem::take(&mut self.shared.state().traffic)
    }

    /// The permissions that all requests so far needed, as IAM would see them.
    pub fn accesses(&self) -> BTreeSet<Access> {
        self.shared.state().accesses.clone()
    }

    /// From now on requests meet these faults, and no earlier ones.
    pub fn disturb(&self, faults: Faults) {
        let mut state = self.shared.state();
        (state.faults, state.ordinals) = (Some(faults), BTreeMap::new());
    }

    /// From now on no request meets a fault, not even one [queued](Self::next) for it.
    pub fn calm(&self) {
        let mut state = self.shared.state();
        state.faults = None;
        state.next.clear();
    }

    /// The operation's next request meets this fault; several queue up. These precede random faults.
    pub fn next(&self, operation: &str, fault: Fault) {
        self.next_about(operation, "", fault);
    }

    /// The operation's next request with the text `about` in its body, such as a table's name, meets this fault.
    pub fn next_about(&self, operation: &str, about: &str, fault: Fault) {
        let mut state = self.shared.state();
        state.next.entry(operation.to_owned()).or_default().push_back((about.to_owned(), fault));
    }

    /// Every request of the operation meets this fault, until the returned value is dropped. It precedes random faults
    /// and replaces an earlier ambush.
    pub fn lie_in_wait(&self, operation: &str, fault: Fault) -> Ambush {
        let (meets, met) = watch::channel(false);
        self.shared.state().ambushes.insert(operation.to_owned(), (fault, meets));
        Ambush { operation: operation.to_owned(), shared: self.shared.clone(), met }
    }

    /// How many faults there were, in all the wire's life.
    pub fn injected(&self) -> BTreeMap<FaultKind, u64> {
        self.shared.state().injected.clone()
    }
}

impl State {
    /// The fault for a request that has come in.
    fn befalling(&mut self, operation: &str, body: &[u8]) -> Option<Fault> {
        let ordinal = self.ordinals.entry(operation.to_owned()).or_default();
        let by_chance = self.faults.as_ref().and_then(|faults| faults.befalling(operation, *ordinal));
        *ordinal += 1;
        let put_up = self.next.get_mut(operation).and_then(|next| {
            let body = String::from_utf8_lossy(body);
            let first = next.iter().position(|(about, _)| body.contains(about.as_str()))?;
            next.remove(first)
        });
        let put_up = put_up.map(|(_, fault)| fault);
        let in_wait = || {
            let (fault, met) = self.ambushes.get(operation)?;
            met.send_replace(true);
            Some(*fault)
        };
        let fault = put_up.or_else(in_wait).or(by_chance)?;
        *self.injected.entry(fault.kind()).or_default() += 1;
        Some(fault)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, operation: &str, traffic: Traffic) {
        *self.state().traffic.entry(operation.to_owned()).or_default() += traffic;
    }
}

/// Begins to take connections.
fn open(listener: TcpListener, shared: &Arc<Shared>) -> End {
    let cut = shared.end.child_token();
    End::Open(cut.clone(), tokio::spawn(take(listener, shared.clone(), cut)))
}

/// Takes connections until `cut`, and cuts them then. Returns when all are.
async fn take(listener: TcpListener, shared: Arc<Shared>, cut: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = cut.cancelled() => break,
            Some(_) = connections.join_next() => {}
            met = listener.accept() => match met {
                Ok((client, _)) => {
                    connections.spawn(serve(client, shared.clone()));
                }
                // The client closed the connection early, or no file descriptor was left: the next accept may succeed.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn serve(client: TcpStream, shared: Arc<Shared>) {
    let _ = client.set_nodelay(true);
    let service = service_fn(|request| carry(shared.clone(), request));
    // It ends with an error where the client or the proxy cuts the connection.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(client), service).await;
}

/// The connection ends without another byte.
#[derive(Debug, thiserror::Error)]
#[error("the wire is cut")]
struct Cut;

/// The client's view of its request.
enum Seen {
    Reply(Response<Bytes>),
    /// The head and half of the body.
    Half(Response<Bytes>),
    Nothing,
}

async fn carry<B: Body>(shared: Arc<Shared>, request: Request<B>) -> Result<Response<Reply>, Cut>
where
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let call = Call::new(head, collect(body).await?);
    let operation = call.operation.clone();
    let fault = {
        let mut state = shared.state();
        let traffic = state.traffic.entry(operation.clone()).or_default();
        traffic.requests += 1;
        traffic.request_bytes += length(&call.body);
        state.accesses.append(&mut access::asked(&call.service, &operation, &call.body));
        state.befalling(&operation, &call.body)
    };
    // A task of its own: this one ends when the client closes the connection.
    let exchange = suffer(shared.clone(), call, fault);
    let exchange = tokio::spawn(shared.end.clone().run_until_cancelled_owned(exchange));
    let reply = match exchange.await.map_err(|_| Cut)?.ok_or(Cut)?? {
        Seen::Reply(reply) => reply.map(Reply::whole),
        Seen::Half(reply) => reply.map(Reply::half),
        Seen::Nothing => pending().await,
    };
    let response_bytes = reply.body().given();
    shared.count(&operation, Traffic { response_bytes, ..Traffic::default() });
    Ok(reply)
}

/// Carries a call to AWS and its reply back, as the fault allows.
async fn suffer(shared: Arc<Shared>, call: Call, fault: Option<Fault>) -> Result<Seen, Cut> {
    let forward = || shared.forward(&call);
    let Some(fault) = fault else { return forward().await.map(Seen::Reply) };
    let reply = match fault {
        Fault::Delay(by) => {
            tokio::time::sleep(by).await;
            forward().await?
        }
        Fault::DelayAfter(by) => {
            let reply = forward().await?;
            tokio::time::sleep(by).await;
            reply
        }
        Fault::Throttle(throttling) => call.throttled(throttling),
        Fault::ServerError => call.server_error(),
        Fault::ServerErrorAfter => {
            forward().await?;
            call.server_error()
        }
        Fault::Reset => return Err(Cut),
        Fault::ResetAfter => {
            forward().await?;
            return Err(Cut);
        }
        Fault::Duplicate(answer) => {
            let first = forward().await?;
            match answer {
                // It is clients that send a request again, and none does so after AWS has refused it.
                Answer::First if !first.status().is_success() => first,
                Answer::First => {
                    forward().await?;
                    first
                }
                Answer::Second => forward().await?,
            }
        }
        Fault::Hang => return Ok(Seen::Nothing),
        Fault::HangAfter => {
            forward().await?;
            return Ok(Seen::Nothing);
        }
        Fault::HangWithin => return Ok(Seen::Half(forward().await?)),
        Fault::RefuseEntries(entries) => match Batch::of(&call.operation, &call.body, entries) {
            Some(batch) => {
                let reply = match batch.rest() {
                    Some(rest) => shared.forward(&call.with(rest)).await?,
                    None => call.empty_reply(),
                };
                told(reply, |body| batch.told_of_rest(body))
            }
            None => forward().await?,
        },
        Fault::RefuseEntriesAfter(entries) => {
            let batch = Batch::of(&call.operation, &call.body, entries);
            told(forward().await?, |body| batch?.told_of_all(body))
        }
    };
    Ok(Seen::Reply(reply))
}

/// A reply with another body, where it is one of success and can be read.
fn told(mut reply: Response<Bytes>, tell: impl FnOnce(&[u8]) -> Option<Bytes>) -> Response<Bytes> {
    if reply.status().is_success()
        && let Some(body) = tell(reply.body())
    {
        *reply.body_mut() = body;
        // The checksum was that of another body.
        reply.headers_mut().remove("x-amz-crc32");
    }
    reply
}

impl Shared {
    /// Sends a call to AWS once, and counts its cost.
    async fn forward(&self, call: &Call) -> Result<Response<Bytes>, Cut> {
        let (bill, body) = match Bill::ask(&call.service, &call.operation, &call.body) {
            Some((bill, body)) => (Some(bill), body),
            None => (None, call.body.clone()),
        };
        let mut request = Request::new(Full::new(body));
        let path = call.head.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri = Uri::builder().scheme("http").authority(self.authority.as_str()).path_and_query(path);
        *request.uri_mut() = uri.build().map_err(|_| Cut)?;
        *request.method_mut() = call.head.method.clone();
        *request.headers_mut() = end_to_end(&call.head.headers);

        let (mut head, body) = self.aws.request(request).await.map_err(|_| Cut)?.into_parts();
        let mut body = collect(body).await?;
        head.headers = end_to_end(&head.headers);
        if let Some(bill) = bill {
            let (cost, rest) = bill.settle(head.status, body);
            self.count(&call.operation, cost);
            // The checksum was that of another body.
            head.headers.remove("x-amz-crc32");
            body = rest;
        }
        Ok(Response::from_parts(head, body))
    }
}

/// The headers without those of one connection or of the length of one body.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    const OF_ONE_CONNECTION: [HeaderName; 7] =
        [CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE];
    let mut headers = headers.clone();
    for name in OF_ONE_CONNECTION {
        headers.remove(name);
    }
    headers
}

async fn collect<B: Body>(body: B) -> Result<Bytes, Cut>
where
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = Limited::new(body, LARGEST_BODY).collect().await.map_err(|_| Cut)?;
    Ok(body.to_bytes())
}

fn length(body: &Bytes) -> u64 {
    body.len().try_into().unwrap_or(u64::MAX)
}
