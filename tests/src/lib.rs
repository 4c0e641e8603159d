//! A whole Millrace for one test: an AWS account of its own on the local AWS, everything that production has in it,
//! and the three deployables' own code serving on free ports.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "this is test code: a panic is how it says what is wrong"
)]

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use millrace_aws::Aws;
use millrace_core::{AggregatingProjection as _, Application, Projection, ProjectionName};
use millrace_local::StackOptions;
use millrace_proto::query::history_service_client::HistoryServiceClient;
use millrace_server::{process::Process, serve::Listeners};
use shop::{
    CustomerTotals, OrderSummary, UserProfile,
    contracts::{
        command::{
            order_command_service_client::OrderCommandServiceClient,
            user_command_service_client::UserCommandServiceClient,
        },
        query::{
            customer_query_service_client::CustomerQueryServiceClient,
            order_query_service_client::OrderQueryServiceClient,
            user_query_service_client::UserQueryServiceClient,
        },
    },
};
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};

pub mod chaos_monkey;
pub mod collector;
pub mod disturbed;
pub mod fleet;
mod gate;
pub mod history;
pub mod lives;
pub mod load;
mod log_capture;
pub mod metrics;
pub mod oracle;
pub mod process;
pub mod queues;
mod reply;
pub mod scan;
pub mod workload;

pub use gate::Gate;
pub use millrace_testing::local::{
    ATTEMPT_TIMEOUT, Access, Ambush, Answer, AwsStack, Entries, Fault, FaultKind, FaultProxy, Faults,
    Throttling, Traffic,
};
pub use reply::{Replied, Reply};

/// The pages whose blocks of Rust are compiled. `.ci/docs.py` sees to it that none is left out.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Pages;

/// The longest wait of a test for an expected event. Generous: only a failing test waits it out.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The projection of users.
pub const USERS: ProjectionName = UserProfile::NAME;

/// The projection of orders.
pub const ORDERS: ProjectionName = OrderSummary::NAME;

/// The projection of customers' totals.
pub const TOTALS: ProjectionName = CustomerTotals::NAME;

/// All projections.
pub const PROJECTIONS: [ProjectionName; 3] = [USERS, ORDERS, TOTALS];

/// The registration.
pub fn shop() -> Application {
    shop::shop().expect("a sound registration")
}

/// A new account with everything in it that the shop needs.
pub async fn aws_stack() -> anyhow::Result<AwsStack> {
    aws_stack_with(&StackOptions::default()).await
}

/// A new account with a stack of these options.
pub async fn aws_stack_with(options: &StackOptions) -> anyhow::Result<AwsStack> {
    Ok(AwsStack::new(&shop(), options).await?)
}

/// The environment of a deployable on a stack. Relays look more often than in production.
pub fn env(stack: &AwsStack) -> BTreeMap<String, String> {
    let local = [
        ("RELAY_POLL_MS", "20"),
        ("RELAY_IDLE_POLL_MS", "20"),
        ("RELAY_DISCOVERY_MS", "400"),
        ("RECEIVE_WAIT_SECONDS", "1"),
    ];
    stack.env().into_iter().chain(local.map(|(name, value)| (name.to_owned(), value.to_owned()))).collect()
}

/// A deployable's configuration, of those variables of a stack that it knows.
fn config<C: Parser>(stack: &AwsStack) -> anyhow::Result<C> {
    let env = env(stack);
    let command = C::command();
    let flags = command.get_arguments().filter_map(|argument| {
        let value = env.get(argument.get_env()?.to_str()?)?;
        Some([format!("--{}", argument.get_long()?), value.clone()])
    });
    Ok(C::try_parse_from(std::iter::once(command.get_name().to_owned()).chain(flags.flatten()))?)
}

/// A running Millrace. Dropping it ends it.
pub struct TestApp {
    /// The account that it runs on.
    pub stack: AwsStack,
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

impl TestApp {
    /// Brings one replica of each deployable up.
    pub async fn new() -> anyhow::Result<Self> {
        Self::on(aws_stack().await?).await
    }

    /// Brings one replica of each deployable up on a stack.
    pub async fn on(stack: AwsStack) -> anyhow::Result<Self> {
        let command_aws = stack.aws().await;
        Self::with(stack, command_aws, shop()).await
    }

    /// Brings one replica of each deployable up, whose projector sees to these projections alone.
    pub async fn projecting(projections: Application) -> anyhow::Result<Self> {
        let stack = aws_stack().await?;
        let command_aws = stack.aws().await;
        Self::with(stack, command_aws, projections).await
    }

    /// Brings one replica of each deployable up on a stack, the command service behind a proxy.
    pub async fn behind(stack: AwsStack, proxy: &FaultProxy) -> anyhow::Result<Self> {
        let command_aws = proxy.aws(&stack.account).await;
        Self::with(stack, command_aws, shop()).await
    }

    async fn with(stack: AwsStack, command_aws: Aws, projections: Application) -> anyhow::Result<Self> {
        log_capture::listen();
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (projector_aws, query_aws) = (stack.aws().await, stack.aws().await);
        let (command, first_command_service) =
            command_service(&stack, &command_aws, &shutdown, &mut tasks).await?;
        let projector = projector(projections, &stack, &projector_aws, &shutdown, &mut tasks).await?;
        let query = query_service(&stack, &query_aws, &shutdown, &mut tasks).await?;
        let end = shutdown.clone().drop_guard();
        Ok(Self {
            first_command_service,
            stack,
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
        let aws = self.stack.aws().await;
        Ok(command_service(&self.stack, &aws, &self.shutdown, &mut self.tasks).await?.0)
    }

    /// Ends the first command service as a crash would: in the middle of its work, its relay with it.
    pub fn crash_first_command_service(&self) {
        self.first_command_service.abort();
    }

    /// A further replica of the projector.
    pub async fn another_projector(&mut self) -> anyhow::Result<Channel> {
        let aws = self.stack.aws().await;
        projector(shop(), &self.stack, &aws, &self.shutdown, &mut self.tasks).await
    }

    /// A projector that sees to these projections alone, by its requests to AWS.
    pub async fn another_projector_of(&mut self, projections: Application) -> anyhow::Result<Aws> {
        let aws = self.stack.aws().await;
        projector(projections, &self.stack, &aws, &self.shutdown, &mut self.tasks).await?;
        Ok(aws)
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

    /// Queries about customers.
    pub fn customer_queries(&self) -> CustomerQueryServiceClient<Channel> {
        CustomerQueryServiceClient::new(self.query.clone())
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

/// Scans the log at every end of a test that has not failed.
impl Drop for TestApp {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            log_capture::assert_discreet();
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

/// A process of its own: the end of one ends no other.
fn process(shutdown: &CancellationToken) -> Process {
    Process { shutdown: shutdown.child_token(), metrics: None }
}

async fn command_service(
    stack: &AwsStack,
    aws: &Aws,
    shutdown: &CancellationToken,
    tasks: &mut Tasks,
) -> anyhow::Result<(Channel, AbortHandle)> {
    let config = config::<command_service::Config>(stack)?;
    let (listeners, channel) = ports().await?;
    let (aws, process) = (aws.clone(), process(shutdown));
    let abort = tasks.spawn(async move {
        command_service::run(config, &aws, listeners, process).await.context("the command service")
    });
    Ok((channel, abort))
}

async fn projector(
    app: Application,
    stack: &AwsStack,
    aws: &Aws,
    shutdown: &CancellationToken,
    tasks: &mut Tasks,
) -> anyhow::Result<Channel> {
    let config = config::<projector::Config>(stack)?;
    let (listeners, channel) = ports().await?;
    let (aws, process) = (aws.clone(), process(shutdown));
    tasks.spawn(async move {
        millrace_projection::run(&app, config, &aws, listeners, process).await.context("the projector")
    });
    Ok(channel)
}

async fn query_service(
    stack: &AwsStack,
    aws: &Aws,
    shutdown: &CancellationToken,
    tasks: &mut Tasks,
) -> anyhow::Result<Channel> {
    let config = config::<query_service::Config>(stack)?;
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
