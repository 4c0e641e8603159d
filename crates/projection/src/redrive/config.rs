//! The options of a redrive.

use clap::Parser;
use millrace_server::{
    config::{AwsSettings, non_empty},
    process::Commanded,
    telemetry::LogFormat,
};

use crate::config::{Choice, Prefix, QueueSettings};

/// Sends dead letters back to the queues that they came from.
///
/// Each is sent, unchanged, and then deleted: a run that is killed in between leaves a letter in both places, which
/// does no harm, and none is lost. Letters that came after the run began are left, so that it ends even where they fail
/// again.
///
/// The report on standard output has a line for each reason, and one for each projection. Exits 0 where all selected
/// letters were sent, 1 where some are left, 2 where the configuration is wrong, 3 where AWS failed or it was told to
/// end.
///
/// Access to AWS is configured as for every AWS SDK: AWS_REGION, AWS_ENDPOINT_URL, credentials.
#[derive(Debug, Clone, Parser)]
#[command(name = "projector redrive", bin_name = "projector redrive", version)]
pub(super) struct Options {
    #[command(flatten)]
    pub(super) choice: Choice,

    #[command(flatten)]
    pub(super) prefix: Prefix,

    #[command(flatten)]
    pub(super) aws: AwsSettings,

    #[command(flatten)]
    pub(super) queues: QueueSettings,

    /// Sends at most this many letters of each projection.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) max: Option<u64>,

    /// Sends only letters with this text in their reason.
    #[arg(long, value_name = "TEXT", value_parser = non_empty)]
    pub(super) reason: Option<String>,

    /// Sends nothing, and reports the letters that would be sent.
    #[arg(long)]
    pub(super) dry_run: bool,

    /// How log lines are written to standard error [default: text on a terminal, json elsewhere].
    #[arg(long, env = "LOG_FORMAT", value_enum)]
    pub(super) log_format: Option<LogFormat>,
}

impl Commanded for Options {
    fn log_format(&self) -> Option<LogFormat> {
        self.log_format
    }
}
