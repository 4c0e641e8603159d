//! Millrace's query service, as a library: an application registers its projections, writes an adapter for each of its
//! gRPC services, and gets a process.
//!
//! ```ignore
//! struct Orders(Rows<OrderSummary>);
//!
//! #[tonic::async_trait]
//! impl OrderQueryService for Orders {
//!     async fn get_order(&self, request: Request<GetOrderRequest>) -> Reply<GetOrderResponse> {
//!         let (call, GetOrderRequest { order_id, after }) = accept(request)?;
//!         let order = self.0.get(&call, ("order_id", &order_id), after).await?;
//!         reply(GetOrderResponse { order: Some(order.into()) })
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     millrace_query::main(shop(), contracts::DESCRIPTORS, std::env::args_os(), |service| {
//!         let orders = Orders(service.rows::<OrderSummary, _>()?);
//!         Ok(services![OrderQueryServiceServer::new(orders)])
//!     })
//! }
//! ```
//!
//! A query may carry a read-after token. It waits for its own projection, if that takes the events of the token's
//! aggregate; else for the first one that does ([`Rows`]). Where an index lags behind the awaited row, the row is
//! merged into the index's page. Lists come in pages with sealed tokens ([`token`]). Rows can be watched ([`watch`]),
//! and shown in past states, folded from the event store. `HistoryService` comes with every query service
//! ([`history`]).
//!
//! A registration whose projections have no queries is a whole query service, with `HistoryService` and no other:
//!
//! ```no_run
//! # fn counters() -> Result<millrace_core::Application, millrace_core::RegistrationError> { unimplemented!() }
//! fn main() -> std::process::ExitCode {
//!     let contracts = millrace_proto::DESCRIPTORS;
//!     millrace_query::main(counters(), contracts, std::env::args_os(), |_| Ok(Default::default()))
//! }
//! ```

mod attempts;
mod batch;
pub mod config;
pub mod history;
mod kinds;
mod list;
mod lookup;
mod models;
mod paging;
mod reply;
mod rows;
mod service;
mod services;
mod shared;
mod stores;
#[cfg(test)]
mod testing;
mod times;
pub mod token;
pub mod watch;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory as _, error::ErrorKind};
use futures::FutureExt as _;
use millrace_aws::Aws;
use millrace_core::{Application, RegistrationError};
use millrace_event_store::DynamoReader;
use millrace_proto::query::history_service_server::HistoryServiceServer;
use millrace_rows::DynamoRows;
use millrace_server::{
    QUERIES_READ,
    config::read,
    process::{self, Process},
    serve::{Listeners, Probe, Served},
};

pub use batch::Batch;
pub use config::Config;
pub use kinds::{Aggregating, AnyProjection, Blind, Fold, OfMany, OfOne};
pub use list::Page;
pub use millrace_server::Services;
pub use reply::{Messages, Reply, accept, reply};
pub use rows::{List, Rows};
pub use service::{NotRegistered, NotServed, QueryService};

// For macros that are expanded in other crates.
#[doc(hidden)]
pub mod __private {
    pub use millrace_server::bounded;
    pub use tonic::codec::CompressionEncoding::{Gzip, Zstd};
}

/// Runs the query service of an application as a process: its adapters' services, and `HistoryService`. `contracts` is the encoded `FileDescriptorSet` of the application's contracts.
pub fn main(
    application: Result<Application, RegistrationError>,
    contracts: &'static [u8],
    args: impl IntoIterator<Item = OsString>,
    adapters: impl FnOnce(&QueryService) -> anyhow::Result<Services>,
) -> ExitCode {
    let application = match application {
        Ok(application) => application,
        Err(error) => return refuse(&error.to_string()),
    };
    let args: Vec<OsString> = args.into_iter().collect();
    // Before anything is started, like every other check of the configuration. A clap error is reported below.
    if let Ok(config) = read::<Config>(args.iter().cloned())
        && let Err(problems) = config.tables(&application)
    {
        return refuse(&problems.join("\n\n"));
    }
    process::main(args, |config: Config, process| async move {
        let aws = config.common.aws.access().await?;
        let listeners = Listeners::bind(config.grpc_addr, &config.common).await?;
        run(&application, contracts, config, &aws, listeners, process, adapters).await
    })
}

fn refuse(problems: &str) -> ExitCode {
    let _ = Config::command().error(ErrorKind::ValueValidation, problems).print();
    ExitCode::from(2)
}

/// Serves queries from the configured tables, until the process is to end.
///
/// # Errors
/// If the configuration does not fit the application, or serving fails.
pub async fn run(
    application: &Application,
    contracts: &'static [u8],
    config: Config,
    aws: &Aws,
    listeners: Listeners,
    process: Process,
    adapters: impl FnOnce(&QueryService) -> anyhow::Result<Services>,
) -> anyhow::Result<()> {
    let tables = config.tables(application).map_err(|problems| anyhow::Error::msg(problems.join("; ")))?;
    let events = DynamoReader::new(aws.dynamodb(), config.events_table(application));
    let service = QueryService::new(
        application,
        |spec| DynamoRows::new(aws.dynamodb(), &*tables[&spec.name], spec, config.index_shards()),
        events.with_index(config.event_type_shards()),
        config.page_tokens(application),
        config.watching(),
        process.shutdown.clone(),
    )
    .settling(config.settling());
    let services = adapters(&service)?;
    serve(service, services, contracts, listeners, config.common.max_concurrent_calls, process).await
}

/// Serves queries from stores of any kind, until the process is to end.
///
/// # Errors
/// If no adapter reads a registered projection, or serving fails.
pub async fn serve(
    service: QueryService,
    services: Services,
    contracts: &'static [u8],
    listeners: Listeners,
    max_concurrent_calls: u32,
    process: Process,
) -> anyhow::Result<()> {
    // Without contracts no adapter is expected: the test kit reads the rows itself.
    if !contracts.is_empty() {
        service.all_served()?;
    }
    models::describe();
    let services = services.and(__compressing!(HistoryServiceServer::new(service.history())));
    let watched = service.clone();
    let probe: Probe = Box::new(move || {
        let service = service.clone();
        async move { service.probe().await }.boxed()
    });
    let served = Served {
        services,
        scope: QUERIES_READ,
        contracts,
        package_part: "query",
        probe,
        max_concurrent_calls,
        metrics: process.metrics,
    };
    let serving = millrace_server::serve::serve(listeners, served, process.shutdown);
    let (served, ()) = tokio::join!(serving, watched.watch());
    served
}
