//! Millrace's query service.
//!
//! A query is parsed into the domain's types and answered from the read models ([`users`], [`orders`]). What it must
//! not be older than is waited for first ([`models`]); where an index lags behind what was waited for, the awaited row
//! is laid over what the index shows. Lists come in pages, whose tokens are sealed ([`token`]). Rows can be watched
//! ([`watch`]).
//!
//! Questions about the past are answered from the event store ([`history`]), of which nothing but its reading half is
//! within reach.

mod attempts;
mod batch;
pub mod config;
pub mod history;
mod list;
pub mod models;
pub mod orders;
mod paging;
mod reply;
mod times;
pub mod token;
pub mod users;
mod view;
pub mod watch;

use std::{ffi::OsString, process::ExitCode};

use futures::FutureExt as _;
use millrace_aws::Aws;
use millrace_domain::{AggregateType, OrderId, StreamId, TenantId, UserId};
use millrace_event_store::{Direction, DynamoReader, ReadHistory};
use millrace_proto::query::{
    history_service_server::{self, HistoryServiceServer},
    order_query_service_server::{self, OrderQueryServiceServer},
    user_query_service_server::{self, UserQueryServiceServer},
};
use millrace_read_models::{DynamoOrders, DynamoUsers, ReadOrders, ReadUsers};
use millrace_runtime::{
    Places, bounded,
    process::{self, Process},
    serve::{Listeners, Probe, Served, reachable, serve},
};
use tonic::{
    codec::CompressionEncoding::{Gzip, Zstd},
    service::RoutesBuilder,
};
use uuid::Uuid;

pub use config::Config;
use history::History;
use models::Models;
use orders::Orders;
use token::PageTokens;
use users::Users;
use watch::{Hub, OrderRows, UserRows, Watching};

/// The gRPC services of this deployable.
const SERVICES: &[&str] = &[
    user_query_service_server::SERVICE_NAME,
    order_query_service_server::SERVICE_NAME,
    history_service_server::SERVICE_NAME,
];

/// Runs the query service as a process.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    process::main(args, |config: Config, process| async move {
        let aws = Aws::from_env().await?;
        let listeners = Listeners::bind(config.grpc_addr, &config.common).await?;
        run(config, &aws, listeners, process).await
    })
}

/// Serves queries from the tables that the configuration names, until the process is to end.
pub async fn run(config: Config, aws: &Aws, listeners: Listeners, process: Process) -> anyhow::Result<()> {
    let (tokens, watching) = (config.page_tokens(), config.watching());
    let shards = config.event_type_shards();
    let events = DynamoReader::new(aws.dynamodb(), config.event_store_table).with_index(shards);
    let users = DynamoUsers::new(aws.dynamodb(), config.user_read_model_table);
    let orders = DynamoOrders::new(aws.dynamodb(), config.order_read_model_table, config.index_shards);
    let (models, most) = (Models::new(users, orders), config.common.max_concurrent_calls);
    answer(models, events, tokens, watching, listeners, most, process).await
}

/// Serves queries from read models and an event store of any kind, until the process is to end.
pub async fn answer<U: ReadUsers, O: ReadOrders, E: ReadHistory>(
    models: Models<U, O>,
    events: E,
    tokens: PageTokens,
    watching: Watching,
    listeners: Listeners,
    max_concurrent_calls: u32,
    process: Process,
) -> anyhow::Result<()> {
    models::describe();
    let Watching { pace, most, most_of_tenant } = watching;
    let (places, ending) = (Places::new(most, most_of_tenant), &process.shutdown);
    let user_hub = Hub::new(UserRows(models.users.clone()), pace, places.clone(), ending.clone());
    let order_hub = Hub::new(OrderRows(models.orders.clone()), pace, places.clone(), ending.clone());
    let served = Served {
        routes: routes(&models, &events, tokens, user_hub.clone(), order_hub.clone()),
        names: SERVICES,
        probe: probe(models, events),
        max_concurrent_calls,
        metrics: process.metrics,
    };
    let (users, orders) = (user_hub.clone(), order_hub.clone());
    let watched_rows = move || users.watched_rows() + orders.watched_rows();
    let watched = watch::show(places, watched_rows, process.shutdown.clone());
    let (served, ..) = tokio::join!(
        serve(listeners, served, process.shutdown.clone()),
        user_hub.run(),
        order_hub.run(),
        watched
    );
    served
}

/// A service whose replies are compressed where their caller asks for it, and they are [worth it](reply).
macro_rules! compressing {
    ($service:expr) => {
        bounded!($service).send_compressed(Gzip).send_compressed(Zstd)
    };
}

/// The services over the read models and the event store.
fn routes<U: ReadUsers, O: ReadOrders, E: ReadHistory>(
    models: &Models<U, O>,
    events: &E,
    tokens: PageTokens,
    watched_users: Hub<UserRows<U>>,
    watched_orders: Hub<OrderRows<O>>,
) -> RoutesBuilder {
    let users = UserQueryServiceServer::new(Users::new(models.clone(), watched_users));
    let orders = OrderQueryServiceServer::new(Orders::new(models.clone(), tokens.clone(), watched_orders));
    let history = HistoryServiceServer::new(History::new(events.clone(), tokens));
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(compressing!(users))
        .add_service(compressing!(orders))
        .add_service(compressing!(history));
    routes
}

/// Looks whether all three tables can be read, by rows and a stream that nobody has.
fn probe<U: ReadUsers, O: ReadOrders, E: ReadHistory>(models: Models<U, O>, events: E) -> Probe {
    Box::new(move || {
        let (models, events) = (models.clone(), events.clone());
        async move {
            let nobody = TenantId::default();
            let kind = AggregateType::of("probe");
            let stream = StreamId { tenant: nobody.clone(), aggregate_type: kind, id: Uuid::nil() };
            let user = models.users.get(&nobody, UserId(Uuid::nil()));
            let order = models.orders.get(&nobody, OrderId(Uuid::nil()));
            let events = events.part(&stream, 1..=1, Direction::OldestFirst, 1);
            let (user, order, events) = futures::join!(user, order, events);
            reachable(user).and(reachable(order)).and(reachable(events))
        }
        .boxed()
    })
}
