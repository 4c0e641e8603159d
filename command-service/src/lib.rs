//! The shop's command service: an adapter for each of its gRPC services.

mod orders;
mod users;

use std::{ffi::OsString, process::ExitCode};

use millrace_aws::Aws;
pub use millrace_command::Config;
use millrace_command::{AppendEvents, Commands, NotRegistered, Snapshots};
use millrace_server::{Services, process::Process, serve::Listeners, services};
use shop::contracts::{
    DESCRIPTORS,
    command::{
        order_command_service_server::OrderCommandServiceServer,
        user_command_service_server::UserCommandServiceServer,
    },
};

pub use orders::Orders;
pub use users::Users;

/// Runs the command service as a process.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    millrace_command::main(shop::shop(), DESCRIPTORS, args, services_of)
}

/// Serves commands and relays their events, until the process is to end.
///
/// # Errors
/// Where the configuration does not fit the shop, or serving fails.
pub async fn run(config: Config, aws: &Aws, listeners: Listeners, process: Process) -> anyhow::Result<()> {
    millrace_command::run(&shop::shop()?, DESCRIPTORS, config, aws, listeners, process, services_of).await
}

/// The shop's services.
///
/// # Errors
/// Where one handles an aggregate that is not registered.
pub fn services_of<S: AppendEvents + Snapshots>(commands: &Commands<S>) -> Result<Services, NotRegistered> {
    Ok(services![
        UserCommandServiceServer::new(Users(commands.of()?)),
        OrderCommandServiceServer::new(Orders { orders: commands.of()?, users: commands.of()? }),
    ])
}
