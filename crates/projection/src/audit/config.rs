//! The options of an audit.

use std::{num::NonZeroU32, time::Duration};

use clap::Parser;
use millrace_core::{Application, TenantId, Timestamp, names, projection::ProjectionSpec};
use millrace_server::{
    config::{AwsSettings, table_name},
    process::Commanded,
    telemetry::LogFormat,
};

use super::plan::{Asked, Since};
use crate::config::{Choice, Prefix, TableSettings};

/// Holds the read models against the event store, and reports every row that is missing, behind or wrong.
///
/// Each finding is a line on standard output: the fault and its place, as name=value; after them a summary. Progress
/// goes to standard error. It can run beside everything else; rows that are only late are given time.
///
/// An audit that was ended or killed goes on where it was when the same command runs again.
///
/// Exits 0 where no fault is left, 1 where one is, 2 where the configuration is wrong, 3 where AWS failed or it was
/// told to end.
///
/// Access to AWS is configured as for every AWS SDK: AWS_REGION, AWS_ENDPOINT_URL, credentials.
#[derive(Debug, Clone, Parser)]
#[command(name = "projector audit", bin_name = "projector audit", version)]
pub(super) struct Options {
    #[command(flatten)]
    pub(super) choice: Choice,

    #[command(flatten)]
    pub(super) prefix: Prefix,

    #[command(flatten)]
    pub(super) aws: AwsSettings,

    #[command(flatten)]
    pub(super) tables: TableSettings,

    /// The table of jobs, which has the progress, where it is not named by the prefix.
    #[arg(long, env = "JOB_TABLE", value_parser = table_name)]
    pub(super) job_table: Option<String>,

    /// Only aggregates with events since the last complete audit, by the index by type and time. Rows without events are
    /// not looked at.
    #[arg(long)]
    pub(super) recent: bool,

    /// Only aggregates with events since this time, by RFC 3339.
    #[arg(long, value_name = "TIME", conflicts_with = "recent")]
    pub(super) since: Option<Timestamp>,

    /// How many seconds before the last complete audit recent changes begin. More than clocks differ and the index lags.
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600, value_parser = clap::value_parser!(u64).range(0..=604_800))]
    pub(super) overlap: u64,

    /// A tenant that began after the last complete audit of everything: audits of recent changes cover it from now on.
    #[arg(long = "tenant", value_name = "TENANT")]
    pub(super) tenants: Vec<TenantId>,

    /// Begins anew, even if an earlier audit has not ended.
    #[arg(long)]
    pub(super) anew: bool,

    /// Does nothing if the last complete audit of this kind began within so many days. One that has not ended goes on in
    /// any case.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3_650))]
    pub(super) every: Option<u32>,

    /// Repairs the findings: writes missing events, replaces wrong rows, deletes rows without events.
    #[arg(long)]
    pub(super) repair: bool,

    /// Into how many parts each table is divided, which are read side by side: 1 to 256. An audit that goes on keeps its
    /// number.
    #[arg(long, default_value = "4", value_parser = segments)]
    pub(super) segments: NonZeroU32,

    /// For how many seconds after its newest event a row may be late, up to an hour. A row that sums up aggregates may
    /// differ from its parts for as long.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    pub(super) grace: u64,

    /// How many read units a second the audit may take on average, so that it leaves production its share [default:
    /// as many as it can get].
    #[arg(long, value_name = "READ_UNITS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rate: Option<u32>,

    /// Writes each line as a JSON object.
    #[arg(long)]
    pub(super) json: bool,

    /// How log lines are written to standard error [default: text on a terminal, json elsewhere].
    #[arg(long, env = "LOG_FORMAT", value_enum)]
    pub(super) log_format: Option<LogFormat>,
}

fn segments(text: &str) -> Result<NonZeroU32, String> {
    match text.parse() {
        Ok(segments @ 1..=256) => NonZeroU32::new(segments).ok_or_else(String::new),
        _ => Err("must be a whole number from 1 to 256".to_owned()),
    }
}

impl Options {
    /// The table of jobs.
    pub(super) fn job_table(&self, app: &Application) -> String {
        self.job_table.clone().unwrap_or_else(|| names::jobs(self.prefix.of(app)))
    }

    /// What is asked for.
    pub(super) fn asked(&self, chosen: &[ProjectionSpec]) -> Asked {
        let recent = match (self.since, self.recent) {
            (Some(since), _) => Some(Since::Time(since)),
            (None, true) => Some(Since::Before(Duration::from_secs(self.overlap))),
            (None, false) => None,
        };
        Asked {
            projections: chosen.iter().map(|spec| spec.name.to_string()).collect(),
            choice: self.choice.projection.clone(),
            segments: self.segments,
            repair: self.repair,
            recent,
            anew: self.anew,
            every: self.every.map(|days| Duration::from_secs(24 * 60 * 60) * days),
            tenants: self.tenants.clone(),
        }
    }

    /// How long a row may be late.
    pub(super) fn grace(&self) -> Duration {
        Duration::from_secs(self.grace)
    }
}

impl Commanded for Options {
    fn log_format(&self) -> Option<LogFormat> {
        self.log_format
    }
}
