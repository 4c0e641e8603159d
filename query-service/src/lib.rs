//! The shop's query service: an adapter for each of its gRPC services.

mod customers;
mod orders;
mod users;

use std::{ffi::OsString, process::ExitCode};

use millrace_aws::Aws;
pub use millrace_query::Config;
use millrace_query::{QueryService, Services, services};
use millrace_server::{process::Process, serve::Listeners};
use shop::{
    CustomerTotals, OrderSummary, UserProfile,
    contracts::{
        DESCRIPTORS,
        query::{
            customer_query_service_server::CustomerQueryServiceServer,
            order_query_service_server::OrderQueryServiceServer,
            user_query_service_server::UserQueryServiceServer,
        },
    },
};

pub use customers::Customers;
pub use orders::Orders;
pub use users::Users;

/// Runs the query service as a process.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    millrace_query::main(shop::shop(), DESCRIPTORS, args, adapters)
}

/// Serves queries from the configured tables, until the process is to end.
///
/// # Errors
/// If the configuration does not fit the shop, or serving fails.
pub async fn run(config: Config, aws: &Aws, listeners: Listeners, process: Process) -> anyhow::Result<()> {
    millrace_query::run(&shop::shop()?, DESCRIPTORS, config, aws, listeners, process, adapters).await
}

/// The gRPC services.
///
/// # Errors
/// If one of their projections is not registered.
pub fn adapters(service: &QueryService) -> anyhow::Result<Services> {
    Ok(services![
        UserQueryServiceServer::new(Users(service.rows::<UserProfile, _>()?)),
        OrderQueryServiceServer::new(Orders(service.rows::<OrderSummary, _>()?)),
        CustomerQueryServiceServer::new(Customers(service.rows::<CustomerTotals, _>()?)),
    ])
}
