//! The command line.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand};

/// Runs the application on this machine, without an AWS account.
///
/// Without a subcommand: starts the local AWS, the three deployables on free loopback ports, prints where they are
/// with calls to try, and stays until Ctrl-C or SIGTERM.
///
/// With AWS_ENDPOINT_URL set, the AWS there is used instead of a local one.
#[derive(Debug, Parser)]
#[command(name = "application", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) up: UpArgs,
}

const AWS: &str = "\
Starts the local AWS with everything that the deployables need, and prints their environment.

Standard output is a shell script of export lines, everything else goes to standard error:

    cargo run -- aws > aws.env &      then, once it has been written:      source aws.env

Ctrl-C or SIGTERM ends it.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Starts everything, walks through it with real calls, shows them, and ends.
    ///
    /// Exits 0 if all of it was as it should be, and 1 at the first step that was not. Always begins without data.
    Demo,

    /// Starts the local AWS with everything that the deployables need, and prints their environment.
    #[command(long_about = AWS)]
    Aws(AwsArgs),

    /// Renders the CloudFormation templates that the application is deployed with, and the triggers of KEDA.
    ///
    /// Into the folder, where templates of projections that are gone are removed, else to standard output.
    Infra(InfraArgs),

    /// Holds the read models against the event store, as `projector audit` does: `audit --help` says how.
    ///
    /// The environment says which ones, as for the projector itself.
    #[command(disable_help_flag = true)]
    Audit(Passed),

    /// Sends dead letters back to their queues, as `projector redrive` does: `redrive --help` says how.
    ///
    /// The environment says which ones, as for the projector itself.
    #[command(disable_help_flag = true)]
    Redrive(Passed),
}

/// Arguments that are somebody else's to read.
#[derive(Debug, Args)]
pub(crate) struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub(crate) args: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct InfraArgs {
    /// The folder of the templates; `keda` in it is a component of kustomize
    pub(crate) folder: Option<PathBuf>,

    /// Changes nothing, but fails and says which where a template in the folder is not as it is rendered
    #[arg(long, requires = "folder")]
    pub(crate) check: bool,
}

#[derive(Debug, Default, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) aws: AwsArgs,

    /// The loopback port of the command service [default: any free one]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) command_port: Option<u16>,

    /// The loopback port of the query service [default: any free one]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) query_port: Option<u16>,

    /// The loopback port of the projector [default: any free one]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) projector_port: Option<u16>,
}

#[derive(Debug, Default, Args)]
pub(crate) struct AwsArgs {
    /// The loopback port of the local AWS [default: any free one]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,

    /// Keeps all data in this directory from one run to the next; it is made if it does not exist
    ///
    /// The data are written when the local AWS ends. Events that the relay had not yet published are not
    /// kept in the stream, only in the event store.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_a_command_of_the_projectors_is_told_is_not_read_here() {
        for passed in [&["--repair", "--grace=0"][..], &["--help"], &["--", "x"], &[]] {
            let cli = Cli::try_parse_from(["application", "audit"].iter().chain(passed)).unwrap();
            let Some(Command::Audit(Passed { args })) = cli.command else { panic!("{cli:?}") };
            assert_eq!(
                args,
                passed.iter().filter(|arg| **arg != "--").map(OsString::from).collect::<Vec<_>>()
            );
        }
    }
}
