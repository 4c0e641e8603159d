//! A gate between a deployable and its AWS: it lets everything through but the requests that a test holds in flight.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::eventually;

/// A proxy on loopback. It ends when it is dropped.
pub struct Gate {
    url: String,
    state: Arc<Mutex<State>>,
    open: watch::Sender<bool>,
    _connections: JoinSet<()>,
}

#[derive(Default)]
struct State {
    /// Requests with this word in their first bytes are held.
    word: Option<String>,
    /// The calls that are held, by the SDK's name for them: a retry is the same call.
    held: HashSet<String>,
    /// All that was sent, for a test to look into.
    sent: Vec<u8>,
}

impl Gate {
    /// A gate before an endpoint such as `http://127.0.0.1:4566`.
    pub async fn before(endpoint: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let target = endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let (open, opened) = watch::channel(true);
        let state = Arc::new(Mutex::new(State::default()));
        let mut connections = JoinSet::new();
        let shared = state.clone();
        connections.spawn(async move {
            let mut tasks = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (target, state, opened) = (target.clone(), shared.clone(), opened.clone());
                tasks.spawn(async move {
                    if let Ok(server) = TcpStream::connect(target).await {
                        carry(client, server, &state, opened).await;
                    }
                });
            }
        });
        Ok(Self { url, state, open, _connections: connections })
    }

    /// Where the gate is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on holds requests in which the word stands, such as the name of an operation.
    pub fn hold(&self, word: &str) {
        let mut state = look(&self.state);
        (state.word, state.held) = (Some(word.to_owned()), HashSet::new());
        self.open.send_replace(false);
    }

    /// Lets everything through again, the held requests first.
    pub fn open(&self) {
        look(&self.state).word = None;
        self.open.send_replace(true);
    }

    /// Waits until so many calls are held.
    pub async fn until_held(&self, calls: usize) {
        eventually("calls at the gate", async || (look(&self.state).held.len() >= calls).then_some(())).await;
    }

    /// Waits until a request with this text has gone through.
    pub async fn until_sent(&self, text: &str) {
        let there = |sent: &[u8]| sent.windows(text.len()).any(|window| window == text.as_bytes());
        eventually("a request through the gate", async || there(&look(&self.state).sent).then_some(())).await;
    }
}

fn look(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn carry(
    client: TcpStream,
    server: TcpStream,
    state: &Mutex<State>,
    mut opened: watch::Receiver<bool>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from_client.read(&mut bytes).await {
            let held = {
                let mut state = look(state);
                state.sent.extend_from_slice(&bytes[..read]);
                let text = String::from_utf8_lossy(&bytes[..read]);
                let held = state.word.as_ref().is_some_and(|word| text.contains(word.as_str()));
                if held {
                    let call =
                        text.split("amz-sdk-invocation-id: ").nth(1).and_then(|rest| rest.lines().next());
                    state.held.insert(call.unwrap_or("unnamed").to_owned());
                }
                held
            };
            if held && opened.wait_for(|open| *open).await.is_err() {
                return;
            }
            if to_server.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}
