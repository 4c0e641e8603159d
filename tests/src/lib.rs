//! A whole Millrace for one test: an AWS account of its own on the local AWS, everything that production has in it,
//! and the three deployables' own code serving on free ports.

#![allow(clippy::panic, reason = "this is test code: a panic is how it says what is wrong")]

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;
use millrace_aws::Aws;
use millrace_local::{Account, Stack, StackOptions, test_account};
use millrace_proto::{
    command::{
        order_command_service_client::OrderCommandServiceClient,
        user_command_service_client::UserCommandServiceClient,
    },
    query::{
        history_service_client::HistoryServiceClient, order_query_service_client::OrderQueryServiceClient,
        user_query_service_client::UserQueryServiceClient,
    },
};
use millrace_runtime::{process::Process, serve::Listeners};
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};

pub mod collector;
pub mod disturbed;
pub mod fleet;
mod gate;
pub mod havoc;
pub mod history;
pub mod lives;
pub mod load;
pub mod metrics;
mod overheard;
pub mod process;
pub mod scan;
pub mod truth;
mod wire;
pub mod workload;

pub use gate::Gate;
pub use wire::{Access, Ambush, Answer, Entries, Fault, FaultKind, Faults, Throttling, Traffic, Wire};

/// How long a test waits for what must come about. Generous: it is only waited out by a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An AWS account with everything in it that the deployables need.
pub struct Ground {
    /// The account.
    pub account: Account,
    /// What was deployed there.
    pub stack: Stack,
}

impl Ground {
    /// A new account with the stack.
    pub async fn new() -> anyhow::Result<Self> {
        Self::with(&StackOptions::default()).await
    }

    /// A new account with a stack of these options.
    pub async fn with(options: &StackOptions) -> anyhow::Result<Self> {
        let account = test_account().await?;
        let stack = Stack::deploy(&account.sdk_config().await, options).await?;
        Ok(Self { account, stack })
    }

    /// Access to the account, with a count of requests of its own.
    pub async fn aws(&self) -> Aws {
        Aws::new(self.account.sdk_config().await)
    }

    /// Where the account's AWS is.
    pub fn endpoint(&self) -> &str {
        self.account.endpoint()
    }

    /// What was deployed under a name, such as `EventStoreTable`.
    pub fn output(&self, name: &str) -> &str {
        self.stack.output(name).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The environment of a deployable that runs as a process.
    pub fn env(&self) -> BTreeMap<String, String> {
        let local = [
            ("RELAY_POLL_MS", "20"),
            ("RELAY_IDLE_POLL_MS", "20"),
            ("RELAY_DISCOVERY_MS", "400"),
            ("RECEIVE_WAIT_SECONDS", "1"),
        ];
        let local = local.map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.account.env().into_iter().chain(self.stack.env()).chain(local).collect()
    }

    /// A deployable's arguments: a flag for each variable in `names`.
    fn args(&self, program: &str, names: &[&str]) -> Vec<String> {
        let env = self.env();
        let flags = names.iter().flat_map(|name| {
            let flag = format!("--{}", name.to_lowercase().replace('_', "-"));
            let value = env.get(*name).unwrap_or_else(|| panic!("the stack has no {name}"));
            [flag, value.clone()]
        });
        std::iter::once(program.to_owned()).chain(flags).collect()
    }
}

/// A running Millrace. Dropping it ends it.
pub struct World {
    /// What it runs on.
    pub ground: Ground,
    /// The command service's requests to AWS, the relay's among them.
    pub command_aws: Aws,
    /// The projector's requests to AWS.
    pub projector_aws: Aws,
    /// The query service's requests to AWS.
    pub query_aws: Aws,
    /// A connection to the command service.
    pub command: Channel,
    /// A connection to the query service.
    pub query: Channel,
    /// A connection to the projector.
    pub projector: Channel,
    first_command_service: AbortHandle,
    tasks: JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
    _end: DropGuard,
}

impl World {
    /// Brings one replica of each deployable up.
    pub async fn new() -> anyhow::Result<Self> {
        Self::on(Ground::new().await?).await
    }

    /// Brings one replica of each deployable up on a ground.
    pub async fn on(ground: Ground) -> anyhow::Result<Self> {
        let command_aws = ground.aws().await;
        Self::with(ground, command_aws).await
    }

    /// Brings one replica of each deployable up on a ground, the command service behind a wire.
    pub async fn behind(ground: Ground, wire: &Wire) -> anyhow::Result<Self> {
        let command_aws = wire.aws(&ground.account).await;
        Self::with(ground, command_aws).await
    }

    async fn with(ground: Ground, command_aws: Aws) -> anyhow::Result<Self> {
        overheard::listen();
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (projector_aws, query_aws) = (ground.aws().await, ground.aws().await);
        let (command, first_command_service) =
            command_service(&ground, &command_aws, &shutdown, &mut tasks).await?;
        let projector = projector(&ground, &projector_aws, &shutdown, &mut tasks).await?;
        let query = query_service(&ground, &query_aws, &shutdown, &mut tasks).await?;
        let end = shutdown.clone().drop_guard();
        Ok(Self {
            first_command_service,
            ground,
            command_aws,
            projector_aws,
            query_aws,
            command,
            query,
            projector,
            tasks,
            shutdown,
            _end: end,
        })
    }

    /// A further replica of the command service.
    pub async fn another_command_service(&mut self) -> anyhow::Result<Channel> {
        let aws = self.ground.aws().await;
        Ok(command_service(&self.ground, &aws, &self.shutdown, &mut self.tasks).await?.0)
    }

    /// Ends the first command service as a crash would: in the middle of whatever it does, its relay with it.
    pub fn crash_first_command_service(&self) {
        self.first_command_service.abort();
    }

    /// A further replica of the projector.
    pub async fn another_projector(&mut self) -> anyhow::Result<Channel> {
        let aws = self.ground.aws().await;
        projector(&self.ground, &aws, &self.shutdown, &mut self.tasks).await
    }

    /// Commands on users.
    pub fn users(&self) -> UserCommandServiceClient<Channel> {
        UserCommandServiceClient::new(self.command.clone())
    }

    /// Commands on orders.
    pub fn orders(&self) -> OrderCommandServiceClient<Channel> {
        OrderCommandServiceClient::new(self.command.clone())
    }

    /// Queries about users.
    pub fn user_queries(&self) -> UserQueryServiceClient<Channel> {
        UserQueryServiceClient::new(self.query.clone())
    }

    /// Queries about orders.
    pub fn order_queries(&self) -> OrderQueryServiceClient<Channel> {
        OrderQueryServiceClient::new(self.query.clone())
    }

    /// Questions about the past.
    pub fn history(&self) -> HistoryServiceClient<Channel> {
        HistoryServiceClient::new(self.query.clone())
    }

    /// Ends everything in order, and fails where a deployable did.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok(ended) => ended?,
                Err(crashed) if crashed.is_cancelled() => {}
                Err(panicked) => return Err(panicked.into()),
            }
        }
        Ok(())
    }
}

/// However a test ends that has not failed, what was said until then is looked at.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            overheard::assert_discreet();
        }
    }
}

type Tasks = JoinSet<anyhow::Result<()>>;

/// Free ports, and a connection to the gRPC one that is made on first use.
async fn ports() -> anyhow::Result<(Listeners, Channel)> {
    let grpc = TcpListener::bind("127.0.0.1:0").await?;
    let channel = Endpoint::from_shared(format!("http://{}", grpc.local_addr()?))?.connect_lazy();
    Ok((Listeners::open(grpc), channel))
}

fn process(shutdown: &CancellationToken) -> Process {
    Process { shutdown: shutdown.clone(), metrics: None }
}

async fn command_service(
    ground: &Ground,
    aws: &Aws,
    shutdown: &CancellationToken,
    tasks: &mut Tasks,
) -> anyhow::Result<(Channel, AbortHandle)> {
    let names = [
        "EVENT_STORE_TABLE",
        "SNAPSHOT_TABLE",
        "UNIQUE_KEY_TABLE",
        "RELAY_LEASE_TABLE",
        "EVENT_BUS_NAME",
        "EVENT_SOURCE",
        "EVENT_TYPE_INDEX",
        "INDEX_SHARDS",
        "RELAY_POLL_MS",
        "RELAY_IDLE_POLL_MS",
        "RELAY_DISCOVERY_MS",
    ];
    let config = command_service::Config::try_parse_from(ground.args("command-service", &names))?;
    let (listeners, channel) = ports().await?;
    let (aws, process) = (aws.clone(), process(shutdown));
    let abort = tasks.spawn(async move {
        command_service::run(config, &aws, listeners, process).await.context("the command service")
    });
    Ok((channel, abort))
}

async fn projector(
    ground: &Ground,
    aws: &Aws,
    shutdown: &CancellationToken,
    tasks: &mut Tasks,
) -> anyhow::Result<Channel> {
    let names = [
        "EVENT_STORE_TABLE",
        "USER_READ_MODEL_TABLE",
        "ORDER_READ_MODEL_TABLE",
        "USER_QUEUE_URL",
        "ORDER_QUEUE_URL",
        "INDEX_SHARDS",
        "RECEIVE_WAIT_SECONDS",
    ];
    let config = projector::Config::try_parse_from(ground.args("projector", &names))?;
    let (listeners, channel) = ports().await?;
    let (aws, process) = (aws.clone(), process(shutdown));
    tasks.spawn(
        async move { projector::run(config, &aws, listeners, process).await.context("the projector") },
    );
    Ok(channel)
}

async fn query_service(
    ground: &Ground,
    aws: &Aws,
    shutdown: &CancellationToken,
    tasks: &mut Tasks,
) -> anyhow::Result<Channel> {
    let names = [
        "EVENT_STORE_TABLE",
        "EVENT_TYPE_INDEX",
        "USER_READ_MODEL_TABLE",
        "ORDER_READ_MODEL_TABLE",
        "INDEX_SHARDS",
    ];
    let config = query_service::Config::try_parse_from(ground.args("query-service", &names))?;
    let (listeners, channel) = ports().await?;
    let (aws, process) = (aws.clone(), process(shutdown));
    tasks.spawn(async move {
        query_service::run(config, &aws, listeners, process).await.context("the query service")
    });
    Ok(channel)
}

/// Asks again until the answer is there, or the patience is at its end.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
