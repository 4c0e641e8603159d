//! The shop's projector.

use std::{ffi::OsString, process::ExitCode};

use millrace_aws::Aws;
pub use millrace_projection::Config;
use millrace_server::{process::Process, serve::Listeners};

/// The projector as a process.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    millrace_projection::main(shop::shop(), args)
}

/// Runs the projector until it is told to stop.
///
/// # Errors
/// See [`millrace_projection::run`].
pub async fn run(config: Config, aws: &Aws, listeners: Listeners, process: Process) -> anyhow::Result<()> {
    millrace_projection::run(&shop::shop()?, config, aws, listeners, process).await
}
