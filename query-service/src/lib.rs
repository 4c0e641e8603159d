//! Millrace's query service.
//!
//! A query is parsed into the domain's types and answered from the read models ([`users`], [`orders`]). What it must
//! not be older than is waited for first ([`models`]); where an index lags behind what was waited for, the awaited row
//! is laid over what the index shows. Lists come in pages, whose tokens are sealed ([`token`]).

mod attempts;
mod batch;
pub mod config;
mod list;
pub mod models;
pub mod orders;
mod times;
pub mod token;
pub mod users;
mod view;

use std::{ffi::OsString, process::ExitCode};

use futures::FutureExt as _;
use millrace_aws::Aws;
use millrace_domain::{OrderId, TenantId, UserId};
use millrace_proto::query::{
    order_query_service_server::{self, OrderQueryServiceServer},
    user_query_service_server::{self, UserQueryServiceServer},
};
use millrace_read_models::{DynamoOrders, DynamoUsers, ReadOrders, ReadUsers};
use millrace_runtime::{
    process::{self, Process},
    serve::{Listeners, MAX_REQUEST_BYTES, Probe, Served, reachable, serve},
};
use tonic::service::RoutesBuilder;
use uuid::Uuid;

pub use config::Config;
use models::Models;
use orders::Orders;
use token::PageTokens;
use users::Users;

/// The gRPC services of this deployable.
const SERVICES: &[&str] =
    &[user_query_service_server::SERVICE_NAME, order_query_service_server::SERVICE_NAME];

/// Runs the query service as a process.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    process::main(args, |config: Config, process| async move {
        let aws = Aws::from_env().await?;
        let listeners = Listeners::bind(config.grpc_addr, config.common.metrics_addr).await?;
        run(config, &aws, listeners, process).await
    })
}

/// Serves queries from the tables that the configuration names, until the process is to end.
pub async fn run(config: Config, aws: &Aws, listeners: Listeners, process: Process) -> anyhow::Result<()> {
    let tokens = config.page_tokens();
    let users = DynamoUsers::new(aws.dynamodb(), config.user_read_model_table);
    let orders = DynamoOrders::new(aws.dynamodb(), config.order_read_model_table, config.index_shards);
    answer(Models::new(users, orders), tokens, listeners, config.common.max_concurrent_calls, process).await
}

/// Serves queries from read models of any kind, until the process is to end.
pub async fn answer<U: ReadUsers, O: ReadOrders>(
    models: Models<U, O>,
    tokens: PageTokens,
    listeners: Listeners,
    max_concurrent_calls: u32,
    process: Process,
) -> anyhow::Result<()> {
    let served = Served {
        routes: routes(&models, tokens),
        names: SERVICES,
        probe: probe(models),
        max_concurrent_calls,
        metrics: process.metrics,
    };
    serve(listeners, served, process.shutdown).await
}

/// The services over the read models.
fn routes<U: ReadUsers, O: ReadOrders>(models: &Models<U, O>, tokens: PageTokens) -> RoutesBuilder {
    let users = UserQueryServiceServer::new(Users::new(models.clone()));
    let orders = OrderQueryServiceServer::new(Orders::new(models.clone(), tokens));
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(users.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(orders.max_decoding_message_size(MAX_REQUEST_BYTES));
    routes
}

/// Looks whether both tables can be read, by rows that nobody has.
fn probe<U: ReadUsers, O: ReadOrders>(models: Models<U, O>) -> Probe {
    Box::new(move || {
        let models = models.clone();
        async move {
            let nobody = TenantId::default();
            let user = models.users.get(&nobody, UserId(Uuid::nil()));
            let order = models.orders.get(&nobody, OrderId(Uuid::nil()));
            let (user, order) = futures::join!(user, order);
            reachable(user).and(reachable(order))
        }
        .boxed()
    })
}
