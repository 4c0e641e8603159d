//! Millrace's projector: events from the queues into the read models.
//!
//! An event's way is that of the modules: a [`queue`] hands out messages; the [`Consumer`] brings them to a
//! [`Projector`], which reads the [`bus`]'s JSON, lets a [`Projection`] say what each event changes, and brings every
//! row of the batch up to date in as few requests as can be.

mod apply;
mod audit;
mod backoff;
pub mod bus;
mod config;
mod consumer;
mod failure;
mod handler;
pub mod metrics;
mod pace;
pub mod projection;
mod projections;
pub mod queue;
mod redrive;
#[cfg(test)]
mod tests;
mod traced;

use std::{ffi::OsString, process::ExitCode, time::Duration};

pub use config::Config;
pub use consumer::{Condition, Consumer, Settings};
pub use failure::{About, Failed, Failure};
pub use handler::{Clock, Handle, Projector};
use millrace_aws::Aws;
use millrace_event_store::DynamoReader;
use millrace_read_models::{DynamoOrders, DynamoUsers};
use millrace_runtime::{
    process::{self, Process},
    serve::{Listeners, Served, serve},
};
pub use projection::{Projection, orders::Orders, users::Users};
use projections::Projections;
use tonic::service::RoutesBuilder;

/// How long batches in flight have from the signal on: less than the process has as a whole.
const DRAIN: Duration = Duration::from_secs(15);

/// Runs the projector until it is told to stop.
pub async fn run(config: Config, aws: &Aws, listeners: Listeners, process: Process) -> anyhow::Result<()> {
    metrics::describe();
    let wait = config.receive_wait();
    let dynamodb = aws.dynamodb();
    let events = DynamoReader::new(dynamodb.clone(), config.event_store_table);
    let users = DynamoUsers::new(dynamodb.clone(), config.user_read_model_table);
    let orders = DynamoOrders::new(dynamodb, config.order_read_model_table, config.index_shards);

    let settings = Settings {
        messages_at_once: config.messages_at_once,
        max_attempts: config.max_attempts,
        drain: DRAIN,
        chance: rand::random,
    };
    let projections = Projections::new(aws, wait, events, settings, process.shutdown.clone())
        .start::<Users, _>(config.user_queue_url, users)
        .start::<Orders, _>(config.order_queue_url, orders);

    let served = Served {
        routes: RoutesBuilder::default(),
        names: &[],
        probe: projections.probe(),
        max_concurrent_calls: config.common.max_concurrent_calls,
        metrics: process.metrics,
    };
    let (served, projected) =
        tokio::join!(serve(listeners, served, process.shutdown.clone()), projections.run());
    projected.and(served)
}

/// The projector as a process: configuration from `args`, of which the first is the program's name, and the environment.
/// Where the second is the name of a command for operators, that is run instead.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args: Vec<OsString> = args.into_iter().collect();
    match args.get(1).and_then(|command| command.to_str()) {
        Some("audit") => return audit::main(args.drain(1..)),
        Some("redrive") => return redrive::main(args.drain(1..)),
        Some(_) | None => {}
    }
    process::main(args, |config: Config, process| async move {
        let aws = Aws::from_env().await?;
        let listeners = Listeners::bind(config.grpc_addr, &config.common).await?;
        run(config, &aws, listeners, process).await
    })
}
