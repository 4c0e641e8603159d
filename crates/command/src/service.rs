//! The command service of an application, from its registration.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    ffi::OsString,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use clap::{CommandFactory as _, error::ErrorKind};
use millrace_aws::Aws;
use millrace_core::{
    Aggregate, AggregateType, Application, EventCodec, RegistrationError, StreamId, TenantId,
};
use millrace_event_store::{AppendEvents, DynamoStore, ReadEvents as _, Snapshots};
use millrace_relay::{
    Relay,
    aws::{DynamoLeases, DynamoRefill, DynamoStream, EventBridgeBus},
};
use millrace_server::{
    COMMANDS_WRITE, Services, clock,
    process::{self, Process},
    serve::{Listeners, Probe, Served, reachable, serve},
};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    Config, StateCache,
    handler::{CommandHandler, CommandHandlerConfig},
    meters,
};

/// A [`CommandHandler`] of whatever aggregate.
type AnyHandler = Box<dyn Any + Send + Sync>;

/// The handlers of an application's commands: its adapters get theirs here. Clones are the same.
#[derive(Debug, Clone)]
pub struct Commands<S = DynamoStore> {
    app: Application,
    store: S,
    cache_bytes: u64,
    config: CommandHandlerConfig,
    stored: watch::Sender<u64>,
    handlers: Arc<Mutex<HashMap<TypeId, (AggregateType, AnyHandler)>>>,
}

/// An adapter handles commands on an aggregate that the application did not register.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the command service handles commands on `{0}`, which is not registered: register it by `.aggregate`"
)]
pub struct NotRegistered(AggregateType);

/// No adapter handles commands on a registered aggregate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the aggregate `{0}` is registered, and no adapter of the command service handles its commands: add its gRPC service to \
     those that the service's `main` returns"
)]
pub struct NotServed(AggregateType);

impl<S: AppendEvents + Snapshots> Commands<S> {
    /// Handlers on a store. Each registered aggregate has the same part of `cache_bytes` for its states.
    pub fn new(app: Application, store: S, cache_bytes: u64, config: CommandHandlerConfig) -> Self {
        let stored = watch::Sender::default();
        Self { app, store, cache_bytes, config, stored, handlers: Arc::default() }
    }

    /// The handler of the commands on an aggregate. All adapters share one.
    ///
    /// # Errors
    /// Where the aggregate is not registered.
    pub fn of<A: Aggregate<Event: EventCodec>>(&self) -> Result<CommandHandler<A, S>, NotRegistered> {
        if self.app.aggregate(&A::TYPE).is_none() {
            return Err(NotRegistered(A::TYPE));
        }
        // No code under the lock panics half-way through a change.
        let mut handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || (A::TYPE, Box::new(self.handler::<A>()) as AnyHandler);
        let (_, known) = handlers.entry(TypeId::of::<A>()).or_insert_with(new);
        Ok(known.downcast_ref::<CommandHandler<A, S>>().expect("the handler of its own type").clone())
    }

    /// Changes with each commit of these handlers.
    pub fn stored(&self) -> watch::Receiver<u64> {
        self.stored.subscribe()
    }

    /// Fails if a registered aggregate has no handler: its commands would be unknown to callers.
    ///
    /// # Errors
    /// The first such aggregate.
    pub fn all_served(&self) -> Result<(), NotServed> {
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_served = |aggregate: &AggregateType| handlers.values().any(|(served, _)| served == aggregate);
        let mut types = self.app.aggregates().iter().map(|aggregate| &aggregate.aggregate_type);
        types.find(|each| !is_served(each)).map_or(Ok(()), |each| Err(NotServed(each.clone())))
    }

    fn handler<A: Aggregate<Event: EventCodec>>(&self) -> CommandHandler<A, S> {
        // A registration has at least one aggregate.
        let aggregates = u64::try_from(self.app.aggregates().len()).unwrap_or(u64::MAX).max(1);
        let cache = StateCache::new(self.cache_bytes / aggregates);
        CommandHandler::new(self.store.clone(), cache, self.config).noting(self.stored.clone())
    }
}

/// The command service of an application as a process: configuration from `args`, of which the first is the program's
/// name, and the environment; then [`run`] until SIGTERM.
///
/// Exits 2 where the registration is unsound.
pub fn main<R>(
    app: Result<Application, RegistrationError>,
    contracts: &'static [u8],
    args: impl IntoIterator<Item = OsString>,
    adapters: R,
) -> ExitCode
where
    R: FnOnce(&Commands) -> Result<Services, NotRegistered>,
{
    let app = match app {
        Ok(app) => app,
        Err(error) => {
            let _ = Config::command().error(ErrorKind::ValueValidation, error.to_string()).print();
            return ExitCode::from(2);
        }
    };
    process::main(args, async |config: Config, process| {
        let aws = config.common.aws.access().await?;
        let listeners = Listeners::bind(config.grpc_addr, &config.common).await?;
        run(&app, contracts, config, &aws, listeners, process, adapters).await
    })
}

/// Serves commands by the adapters' services, if there are contracts, and relays events where the configuration says so, until the shutdown.
///
/// # Errors
/// Where an adapter's aggregate is not registered, a registered aggregate has no adapter, or a port cannot be served.
pub async fn run<R>(
    app: &Application,
    contracts: &'static [u8],
    config: Config,
    aws: &Aws,
    listeners: Listeners,
    process: Process,
    adapters: R,
) -> anyhow::Result<()>
where
    R: FnOnce(&Commands) -> Result<Services, NotRegistered>,
{
    meters::begin();
    let store = DynamoStore::new(aws.dynamodb(), config.tables(app), config.index_shards());
    let handling = CommandHandlerConfig {
        clock: clock::now,
        jitter: rand::random::<f64>,
        snapshot_every: config.snapshot_every,
    };
    let commands = Commands::new(app.clone(), store.clone(), config.state_cache_bytes, handling);
    let services = adapters(&commands)?;
    // Without contracts no adapter is expected: the test kit calls the handlers themselves.
    if !contracts.is_empty() {
        commands.all_served()?;
    }
    let served = Served {
        services,
        scope: COMMANDS_WRITE,
        contracts,
        package_part: "command",
        probe: probe(store),
        max_concurrent_calls: config.common.max_concurrent_calls,
        metrics: process.metrics,
    };
    let relay = config.relay.then(|| relay(app, &config, aws).with_stored(commands.stored()));
    let relaying = async {
        if let Some(relay) = relay {
            // Boxed: its state is large, and no call goes through it.
            Box::pin(relay.run(process.shutdown.clone())).await;
        }
    };
    let (served, ()) = tokio::join!(serve(listeners, served, process.shutdown.clone()), relaying);
    served
}

fn relay(
    app: &Application,
    config: &Config,
    aws: &Aws,
) -> Relay<DynamoStream, DynamoLeases, EventBridgeBus, DynamoRefill> {
    let (dynamodb, events) = (aws.dynamodb(), config.tables(app).events);
    let stream = DynamoStream::new(dynamodb.clone(), aws.streams(), &events);
    let leases = DynamoLeases::new(dynamodb.clone(), config.leases(app));
    let refill = DynamoRefill::new(dynamodb, events);
    let bus = EventBridgeBus::new(aws.eventbridge(), config.bus(app));
    Relay::new(stream, leases, bus, refill, config.relay(app), clock::now)
}

/// Whether the event store can be read: reads a stream that does not exist.
fn probe(store: DynamoStore) -> Probe {
    let nobody = StreamId {
        tenant: TenantId::default(),
        aggregate_type: AggregateType::new("probe"),
        id: Uuid::nil(),
    };
    Box::new(move || {
        let (store, nobody) = (store.clone(), nobody.clone());
        Box::pin(async move { reachable(store.page(&nobody, 0, 1).await) })
    })
}

#[cfg(test)]
mod tests {
    use millrace_event_store::MemoryStore;

    use super::*;
    use crate::testing::{Note, Other, note, notes};

    fn commands(store: &MemoryStore) -> Commands<MemoryStore> {
        Commands::new(notes(), store.clone(), 1 << 20, crate::testing::CONFIG)
    }

    #[test]
    fn an_aggregate_that_is_not_registered_is_refused_by_name() {
        let refused = commands(&MemoryStore::default()).of::<Other>().unwrap_err();
        assert!(
            refused.to_string().contains("`other`") && refused.to_string().contains("register"),
            "{refused}"
        );
    }

    #[test]
    fn an_aggregate_that_no_adapter_handles_is_refused_by_name() {
        let commands = commands(&MemoryStore::default());
        let refused = commands.all_served().unwrap_err().to_string();
        assert!(refused.contains("`note` is registered, and no adapter"), "{refused}");
        commands.of::<Note>().unwrap();
        assert_eq!(commands.all_served(), Ok(()));
    }

    #[tokio::test]
    async fn adapters_share_the_handler_of_an_aggregate() {
        let store = MemoryStore::default();
        let commands = commands(&store);
        let (first, second) = (commands.of::<Note>().unwrap(), commands.of::<Note>().unwrap());
        first.execute(&note(1, "a", "one")).await.unwrap();
        let before = store.requests();
        let mut stored = commands.stored();
        assert!(!stored.has_changed().unwrap());
        second.execute(&note(1, "b", "two")).await.unwrap();
        assert_eq!(store.requests() - before, 1, "the state was in the cache");
        assert!(stored.has_changed().unwrap(), "the relay is to look");
        stored.mark_unchanged();
        second.execute(&note(1, "b", "two")).await.unwrap();
        assert!(!stored.has_changed().unwrap(), "a repeated command stores nothing");
    }
}
