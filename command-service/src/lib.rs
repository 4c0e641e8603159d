//! Millrace's command service.
//!
//! A command comes in by gRPC, is parsed into the domain's types ([`users`], [`orders`]), decided and stored
//! ([`handler`]) on a state from the cache ([`states`]) or from the store ([`loader`], [`snapshots`]). What is stored goes to the bus by the [`relay`], a task of every replica.

mod config;
pub mod handler;
pub mod loader;
mod meters;
pub mod orders;
mod parse;
pub mod relay;
mod reply;
pub mod snapshots;
pub mod states;
pub mod users;

use std::{ffi::OsString, process::ExitCode};

pub use config::Config;
use millrace_aws::Aws;
use millrace_domain::{AggregateType, StreamId, TenantId};
use millrace_event_store::{DynamoStore, ReadEvents as _, Tables};
use millrace_proto::command::{
    order_command_service_server::{OrderCommandServiceServer, SERVICE_NAME as ORDERS},
    user_command_service_server::{SERVICE_NAME as USERS, UserCommandServiceServer},
};
use millrace_runtime::{
    bounded, clock,
    process::{self, Process},
    serve::{Listeners, Probe, Served, reachable, serve},
};
use tonic::service::RoutesBuilder;
use uuid::Uuid;

use crate::{
    handler::{Handler, HandlerConfig},
    orders::Orders,
    relay::{
        Relay, RelayConfig,
        aws::{DynamoLeases, DynamoRefill, DynamoStream, EventBridgeBus},
    },
    states::States,
    users::Users,
};

/// The program: configuration from `args` and the environment, then [`run`] until SIGTERM.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    process::main(args, async |config: Config, process| {
        let aws = Aws::from_env().await?;
        let listeners = Listeners::bind(config.grpc_addr, &config.common).await?;
        run(config, &aws, listeners, process).await
    })
}

/// Serves commands, and relays events where the configuration says so, until the shutdown.
pub async fn run(config: Config, aws: &Aws, listeners: Listeners, process: Process) -> anyhow::Result<()> {
    meters::describe();
    let tables = Tables {
        events: config.event_store_table.clone(),
        unique_keys: config.unique_key_table.clone(),
        snapshots: config.snapshot_table.clone(),
    };
    let shards = config.event_type_index.then_some(config.index_shards);
    let relay = config.relay.then(|| relay(&config, aws));
    let store = DynamoStore::new(aws.dynamodb(), tables, shards.and_then(|n| u32::from(n).try_into().ok()));
    let half = config.state_cache_bytes / 2;
    let handling = HandlerConfig {
        clock: clock::now,
        chance: rand::random::<f64>,
        snapshot_every: config.snapshot_every,
    };
    let users = Handler::new(store.clone(), States::new(half), handling);
    let orders = Handler::new(store.clone(), States::new(half), handling);
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(bounded!(UserCommandServiceServer::new(Users::new(users.clone()))))
        .add_service(bounded!(OrderCommandServiceServer::new(Orders::new(orders, users))));
    let served = Served {
        routes,
        names: &[USERS, ORDERS],
        probe: probe(store),
        max_concurrent_calls: config.common.max_concurrent_calls,
        metrics: process.metrics,
    };
    let relaying = async {
        if let Some(relay) = relay {
            // Boxed: its state is large, and lies on the path of nothing that is fast.
            Box::pin(relay.run(process.shutdown.clone())).await;
        }
    };
    let (served, ()) = tokio::join!(serve(listeners, served, process.shutdown.clone()), relaying);
    served
}

/// This replica's relay. Its name is new with every start: whoever has the name of a lease's owner may take it.
fn relay(config: &Config, aws: &Aws) -> Relay<DynamoStream, DynamoLeases, EventBridgeBus, DynamoRefill> {
    let dynamodb = aws.dynamodb();
    let stream = DynamoStream::new(dynamodb.clone(), aws.streams(), &config.event_store_table);
    let leases = DynamoLeases::new(dynamodb.clone(), &config.relay_lease_table);
    let refill = DynamoRefill::new(dynamodb, &config.event_store_table);
    let bus = EventBridgeBus::new(aws.eventbridge(), &config.event_bus_name);
    let settings = RelayConfig {
        poll_interval: config.relay_poll(),
        idle_poll_interval: config.relay_idle_poll(),
        discovery_interval: config.relay_discovery(),
        balance_interval: config.relay_discovery() / 4,
        trust_horizon: config.relay_trust_horizon(),
        ..RelayConfig::new(Uuid::new_v4().to_string(), &config.event_source)
    };
    Relay::new(stream, leases, bus, refill, settings, clock::now)
}

/// Whether the event store can be read: by asking for a stream that nobody has.
fn probe(store: DynamoStore) -> Probe {
    let nobody =
        StreamId { tenant: TenantId::default(), aggregate_type: AggregateType::of("probe"), id: Uuid::nil() };
    Box::new(move || {
        let (store, nobody) = (store.clone(), nobody.clone());
        Box::pin(async move { reachable(store.page(&nobody, 0, 1).await) })
    })
}
