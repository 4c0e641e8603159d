//! The cost of a command: Millrace against the least that could work, and against its peers.
//!
//! `cargo run --release --manifest-path bench/Cargo.toml` measures everything on the local AWS, prints tables, and writes
//! them with charts under `bench/results`. `--quick` only counts, for continuous integration.

mod allocations;
mod budgets;
mod cli;
mod contender;
mod costs;
mod guard;
mod judged;
mod load;
mod machine;
mod null;
mod path;
mod prices;
mod process;
mod rebuild;
mod report;
mod results;
mod run;
mod site;
mod speeds;
mod user;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // The null endpoint of a run is this program under another name.
    match measured(std::env::args_os().nth(1).is_some_and(|role| role == null::ROLE)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measured(is_null: bool) -> anyhow::Result<()> {
    if is_null {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(null::serve());
    }
    let options = cli::Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async move {
        match () {
            () if options.quick => guard::run().await,
            () if options.again => report::again(),
            () if options.ceiling => Box::pin(run::ceiling(&options)).await,
            () => Box::pin(run::all(&options)).await,
        }
    })
}
