//! A whole application in one process, without gRPC: commands, their events, rows and queries.

use std::{iter::once, time::Duration};

use anyhow::Context as _;
use millrace_command::{AppendEvents, CommandEnvelope, CommandHandlerConfig, Commands, Snapshots, snapshots};
use millrace_core::{
    Aggregate, AggregateType, Application, CommandDigest, CommandId, EventCodec, StreamId, Versioned,
};
use millrace_event_store::{DynamoStore, MemoryStore};
use millrace_projection::{Handle as _, Projector};
use millrace_proto::query::ReadAfter;
use millrace_query::{
    AnyProjection, QueryService,
    token::PageTokens,
    watch::{Pace, Watching},
};
use millrace_rows::MemoryRows;
use millrace_server::{Call, Services, clock, config::read, process::Process, serve::Listeners};
use tokio::{
    net::TcpListener,
    sync::{Mutex, oneshot},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Request;
use uuid::Uuid;

use crate::{convergence::message, local::AwsStack};

const TIMEOUT: Duration = Duration::from_secs(60);
const CACHE_BYTES: u64 = 1 << 20;

/// An application in this process, until it is dropped.
#[derive(Debug)]
pub struct OneProcess<S = MemoryStore> {
    commands: Commands<S>,
    queries: QueryService,
    /// Between events and rows, where no bus is.
    delivery: Option<Delivery>,
    _ending: DropGuard,
}

/// Delivery of the events of a store in memory into rows in memory.
struct Delivery {
    store: MemoryStore,
    /// Each with the type of the aggregates whose events it takes.
    projectors: Vec<(AggregateType, Projector<MemoryRows, MemoryStore>)>,
    delivered: Mutex<usize>,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery").field("delivered", &self.delivered).finish_non_exhaustive()
    }
}

impl Delivery {
    /// Applies all new events to the rows.
    async fn deliver(&self) -> anyhow::Result<()> {
        let mut delivered = self.delivered.lock().await;
        let events = self.store.all();
        for (source, projector) in &self.projectors {
            let new = events.iter().skip(*delivered).map(|event| &event.envelope);
            let messages: Vec<_> = new
                .filter(|event| event.aggregate_type == *source)
                .map(|event| message(event, 0, false))
                .collect();
            for outcome in projector.handle(&messages).await {
                outcome.map_err(|error| anyhow::anyhow!("an event cannot be projected: {}", error.cause))?;
            }
        }
        *delivered = events.len();
        Ok(())
    }
}

impl OneProcess<MemoryStore> {
    /// An application in memory. Rows are up to date when a command is answered.
    #[must_use]
    pub fn in_memory(application: &Application) -> Self {
        let (store, ending) = (MemoryStore::default(), CancellationToken::new());
        let specs = application.projections();
        let rows: Vec<_> = specs.iter().map(|spec| (spec.name, MemoryRows::new(spec))).collect();
        let projectors = specs.iter().zip(&rows).map(|(spec, (_, rows))| {
            (spec.source.clone(), Projector::new(spec.clone(), rows.clone(), store.clone(), clock::now))
        });
        let delivery =
            Delivery { store: store.clone(), projectors: projectors.collect(), delivered: Mutex::default() };
        let pace = Pace { fastest: Duration::from_millis(10), slowest: Duration::from_millis(100) };
        let queries = QueryService::new(
            application,
            |spec| {
                rows.iter()
                    .find(|(name, _)| *name == spec.name)
                    .map_or_else(|| MemoryRows::new(spec), |found| found.1.clone())
            },
            store.clone(),
            PageTokens::of_table(application.name()),
            Watching { pace, max: 100, max_per_tenant: 100 },
            ending.clone(),
        );
        let handling = CommandHandlerConfig {
            clock: clock::now,
            jitter: rand::random::<f64>,
            snapshot_every: snapshots::EVERY,
        };
        let commands = Commands::new(application.clone(), store, CACHE_BYTES, handling);
        Self { commands, queries, delivery: Some(delivery), _ending: ending.drop_guard() }
    }
}

impl OneProcess<DynamoStore> {
    /// An application on a stack: the three deployables, as in production, on private ports.
    ///
    /// # Errors
    /// If one of them does not start.
    pub async fn on_aws(stack: &AwsStack) -> anyhow::Result<Self> {
        let (app, aws, ending) = (stack.application.clone(), stack.aws().await, CancellationToken::new());
        let prefix = ["--prefix", stack.stack.prefix()];
        let args = |more: &[&str]| {
            let all = once("").chain(prefix).chain(more.iter().copied());
            all.map(Into::into).collect::<Vec<_>>()
        };
        let relaying = ["--relay-poll-ms=20", "--relay-idle-poll-ms=20", "--relay-discovery-ms=500"];
        let command_config = read(args(&relaying))?;
        let query_config = read(args(&[]))?;
        let projector_config = read(args(&["--receive-wait-seconds=1"]))?;
        let (command_port, query_port, projector_port) = (port().await?, port().await?, port().await?);
        let process = || Process { shutdown: ending.clone(), metrics: None };
        let processes = [process(), process(), process()];
        let (commands_to, commands) = oneshot::channel();
        let (queries_to, queries) = oneshot::channel();
        let running = tokio::spawn(async move {
            let [command_process, query_process, projector_process] = processes;
            tokio::try_join!(
                Box::pin(millrace_command::run(
                    &app,
                    &[],
                    command_config,
                    &aws,
                    command_port,
                    command_process,
                    |all| {
                        let _ = commands_to.send(all.clone());
                        Ok(Services::default())
                    }
                )),
                Box::pin(millrace_query::run(
                    &app,
                    &[],
                    query_config,
                    &aws,
                    query_port,
                    query_process,
                    |all| {
                        let _ = queries_to.send(all.clone());
                        Ok(Services::default())
                    }
                )),
                Box::pin(millrace_projection::run(
                    &app,
                    projector_config,
                    &aws,
                    projector_port,
                    projector_process
                )),
            )
        });
        // A service that does not start drops its end.
        let (Ok(commands), Ok(queries)) = (commands.await, queries.await) else {
            running.await??;
            anyhow::bail!("the deployables ended");
        };
        Ok(Self { commands, queries, delivery: None, _ending: ending.drop_guard() })
    }
}

async fn port() -> anyhow::Result<Listeners> {
    Ok(Listeners::open(TcpListener::bind("127.0.0.1:0").await.context("no port is free")?))
}

impl<S: AppendEvents + Snapshots> OneProcess<S> {
    /// Sends a command to an aggregate of the default tenant, under a new command id. The result, passed into
    /// [`get`](Self::get), lets the query see the command.
    ///
    /// # Errors
    /// If the command is refused, or its event cannot be projected.
    pub async fn send<A: Aggregate<Event: EventCodec>>(
        &self,
        id: impl Into<Uuid>,
        command: A::Command,
    ) -> anyhow::Result<ReadAfter> {
        let Call { tenant, trace, .. } = call()?;
        let command_id: CommandId = Uuid::new_v4().to_string().parse()?;
        let envelope = CommandEnvelope::<A> {
            stream: StreamId { tenant, aggregate_type: A::TYPE, id: id.into() },
            command,
            creates: false,
            expected_version: None,
            correlation_id: command_id.clone(),
            command_id,
            digest: CommandDigest(0),
            trace,
        };
        let outcome = self.commands.of::<A>()?.execute(&envelope).await?;
        if let Some(delivery) = &self.delivery {
            delivery.deliver().await?;
        }
        Ok(ReadAfter {
            aggregate_type: A::TYPE.to_string(),
            aggregate_id: outcome.aggregate_id.to_string(),
            version: outcome.receipt.version,
        })
    }

    /// The row of an id, at least as new as `after`. `K` follows from `P`.
    ///
    /// # Errors
    /// If the row does not exist.
    pub async fn get<P: AnyProjection<K>, K>(
        &self,
        id: &str,
        after: Option<ReadAfter>,
    ) -> anyhow::Result<Versioned<P::Row>> {
        Ok(self.queries.rows::<P, K>()?.get(&call()?, ("id", id), after).await?)
    }
}

/// A call of the default tenant's.
fn call() -> anyhow::Result<Call> {
    Ok(Call { deadline: Some(Instant::now() + TIMEOUT), ..Call::of(&Request::new(()))? })
}
