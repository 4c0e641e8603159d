//! What a redrive can be told.

use clap::{Parser, ValueEnum};
use millrace_runtime::{config::non_empty, process::Commanded, telemetry::LogFormat};

use crate::{Orders, Projection as _, Users};

/// Sends dead letters back to the queues that they came from.
///
/// Each is sent, unchanged, and then deleted: a run that is killed in between leaves a letter in both places, which does
/// no harm, and none is lost. Letters that came after the run began are left where they are, so that it ends even where
/// they fail again.
///
/// What there was is told on standard output, by reason, and what became of it. Exits 0 where all that was asked for is
/// done, 1 where something is left that was to be sent, 2 where the configuration is wrong, 3 where AWS failed or it was
/// told to end.
///
/// Access to AWS is configured as for every AWS SDK: AWS_REGION, AWS_ENDPOINT_URL, credentials.
#[derive(Debug, Clone, Parser)]
#[command(name = "projector redrive", bin_name = "projector redrive", version)]
pub(super) struct Options {
    /// The queue of users' events.
    #[arg(long, env = "USER_QUEUE_URL", value_parser = non_empty)]
    pub(super) user_queue_url: String,

    /// The queue of orders' events.
    #[arg(long, env = "ORDER_QUEUE_URL", value_parser = non_empty)]
    pub(super) order_queue_url: String,

    /// Whose dead letters [default: those of both].
    #[arg(long, value_enum)]
    pub(super) projection: Option<Which>,

    /// Sends at most so many of each projection.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) max: Option<u64>,

    /// Sends only those whose reason contains this text.
    #[arg(long, value_name = "TEXT", value_parser = non_empty)]
    pub(super) reason: Option<String>,

    /// Sends nothing; tells what would be sent.
    #[arg(long)]
    pub(super) dry_run: bool,

    /// How log lines are written to standard error [default: text on a terminal, json elsewhere].
    #[arg(long, env = "LOG_FORMAT", value_enum)]
    pub(super) log_format: Option<LogFormat>,
}

/// A projection, as it is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Which {
    /// User profiles.
    #[value(name = Users::NAME)]
    Users,
    /// Order summaries.
    #[value(name = Orders::NAME)]
    Orders,
}

impl Options {
    /// The chosen queues, each with the name of its projection.
    pub(super) fn queues(&self) -> Vec<(&'static str, String)> {
        let all = [
            (Which::Users, Users::NAME, &self.user_queue_url),
            (Which::Orders, Orders::NAME, &self.order_queue_url),
        ];
        let chosen = all.into_iter().filter(|(which, ..)| self.projection.is_none_or(|only| only == *which));
        chosen.map(|(_, name, url)| (name, url.clone())).collect()
    }
}

impl Commanded for Options {
    fn log_format(&self) -> Option<LogFormat> {
        self.log_format
    }
}
