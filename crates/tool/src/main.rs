//! `millrace`: makes applications, aggregates and projections to start from. It knows no application.

mod change;
mod name;
mod scaffold;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// Makes applications on Millrace, and parts of them.
#[derive(Debug, Parser)]
#[command(name = "millrace", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes something new to start from. Nothing that exists is overwritten.
    #[command(subcommand)]
    New(New),
}

#[derive(Debug, Subcommand)]
enum New {
    /// An application: a package with one aggregate, one projection, three deployables, contracts, manifests and tests.
    App {
        /// Its name, such as `gift-shop`: 2 to 24 of a-z and -. A folder of that name is made here.
        name: String,
        /// The name of its aggregate.
        #[arg(long, default_value = "task")]
        aggregate: String,
        /// The folder of a checkout of Millrace that it depends on. Without it, that is the checkout that `millrace` was
        /// built from, or, where that is gone, the version that is published.
        #[arg(long, value_name = "FOLDER")]
        millrace: Option<PathBuf>,
    },
    /// An aggregate, in the application that stands in this folder: domain, contracts, adapters, a projection.
    Aggregate {
        /// Its name, such as `gift-card`.
        name: String,
    },
    /// A projection of an aggregate, in the application that stands in this folder.
    Projection {
        /// Its name, such as `closed-tasks`.
        name: String,
        /// The aggregate whose events it takes.
        #[arg(long = "of")]
        aggregate: String,
    },
}

fn main() -> ExitCode {
    let Command::New(new) = Cli::parse().command;
    // Reports show paths as the reader would type them.
    let here = Path::new("");
    let written = match new {
        New::App { name, aggregate, millrace } => scaffold::app(here, &name, &aggregate, millrace.as_deref()),
        New::Aggregate { name } => scaffold::aggregate(here, &name),
        New::Projection { name, aggregate } => scaffold::projection(here, &name, &aggregate),
    };
    match written {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("millrace: {error:#}");
            ExitCode::FAILURE
        }
    }
}
