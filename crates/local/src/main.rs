//! `cargo run`: Millrace on this machine, with an AWS of its own.

mod aws;
mod calls;
mod child;
mod cli;
mod demo;
mod deployable;
mod interrupt;
mod log_line;
mod stdout;
mod up;

use std::{env, ffi::OsString, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use millrace_local::say;

use crate::{
    cli::{Cli, Command, Passed},
    deployable::Deployable,
};

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    // Started by ourselves as one of the deployables, which have command lines of their own.
    if let Some(deployable) = args.next().as_deref().and_then(Deployable::named) {
        return deployable.main(args);
    }
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Audit(Passed { args })) => return projectors("audit", args),
        Some(Command::Redrive(Passed { args })) => return projectors("redrive", args),
        Some(Command::Demo | Command::Aws(_)) | None => {}
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("millrace: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs a command of the projector's, which has a command line of its own.
fn projectors(command: &str, args: Vec<OsString>) -> ExitCode {
    Deployable::Projector.main([command.into()].into_iter().chain(args))
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let result = runtime.block_on(async {
        match cli.command {
            None => up::run(cli.up).await,
            Some(Command::Demo) => demo::run().await,
            Some(Command::Aws(args)) => aws::run(args).await,
            // They are processes of their own.
            Some(Command::Audit(_) | Command::Redrive(_)) => Ok(()),
        }
    });
    // Interrupted while it starts, an emulator is not waited for: it ends because we do.
    runtime.shutdown_background();
    result
}
