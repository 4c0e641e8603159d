//! The configuration of the projector and of its operator's commands.

use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroU16, time::Duration};

use clap::{Args, Parser};
use millrace_core::{
    Application, ProjectionName,
    names::{self, Override},
    projection::ProjectionSpec,
};
use millrace_rows::IndexShards;
use millrace_server::{
    config::{Common, index_shards, table_name},
    process::{Configured, Unfinished},
};

use crate::queue::QueueAddress;

/// The way out of a wrong configuration, for operators.
pub(crate) const HINT: &str = "\
Tables and queues are named from MILLRACE_PREFIX, or by the same variables as for the projector itself. On a developer's \
machine, `cargo run -- aws > aws.env` in one terminal brings up a local AWS and prints them; then, in another: \
`. ./aws.env`.";

/// Takes events from the queues and writes the read models.
///
/// Access to AWS is configured as for every AWS SDK: AWS_REGION, AWS_ENDPOINT_URL, credentials.
///
/// Commands for operators: `projector audit` holds the read models against the event store, `projector redrive` sends
/// dead letters back; each has a --help of its own.
#[derive(Debug, Clone, Parser)]
#[command(name = "projector", version)]
pub struct Config {
    /// Where gRPC is served: health and reflection.
    #[arg(long, env = "GRPC_ADDR", default_value = "0.0.0.0:50053")]
    pub grpc_addr: SocketAddr,

    /// The settings of every deployable.
    #[command(flatten)]
    pub common: Common,

    /// The prefix of all names.
    #[command(flatten)]
    pub prefix: Prefix,

    /// Where events and rows are.
    #[command(flatten)]
    pub tables: TableSettings,

    /// Where messages come from.
    #[command(flatten)]
    pub queues: QueueSettings,

    /// How many messages of a queue are worked on at a time.
    #[arg(long, env = "MESSAGES_AT_ONCE", default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    pub messages_at_once: u32,

    /// How often a message that fails by its own fault is tried before it is given up.
    #[arg(long, env = "MAX_ATTEMPTS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub max_attempts: u32,

    /// For how many days a message is tried that a newer release or a less busy row could take, before it is given up. A
    /// queue's own maxReceiveCount should be 1000: a lower one gives up sooner.
    #[arg(long, env = "MAX_WAIT_DAYS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=12))]
    pub max_wait_days: u32,

    /// For how many seconds a receiving waits for messages. It is not cut off when the process is to end, so the end
    /// may take as long.
    #[arg(long, env = "RECEIVE_WAIT_SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10))]
    pub receive_wait_seconds: u64,
}

/// The prefix of all names.
#[derive(Debug, Clone, Args)]
pub struct Prefix {
    /// The prefix of the names of tables and queues, which are `<prefix>-events` for the event store and
    /// `<prefix>-<projection>-v<version>` for a projection's table and queue [default: the application's name].
    #[arg(long, env = "MILLRACE_PREFIX", value_parser = names::prefix)]
    pub prefix: Option<String>,
}

/// Where events and rows are.
#[derive(Debug, Clone, Args)]
pub struct TableSettings {
    /// The table of events, where it is not named by the prefix.
    #[arg(long, env = "EVENT_STORE_TABLE", value_parser = table_name)]
    pub event_store_table: Option<String>,

    /// Tables of rows that are not named by the prefix, such as `order-summaries@1=my-table`; several with commas.
    #[arg(long, env = "ROWS_TABLES", value_delimiter = ',', value_name = "PROJECTION@VERSION=TABLE", value_parser = rows_table)]
    pub rows_tables: Vec<Override>,

    /// Over how many shards sharded lists are written. A rollout raises INDEX_SHARDS_READ of the query service first.
    #[arg(long, env = "INDEX_SHARDS_WRITE", default_value = "4", value_parser = index_shards)]
    pub index_shards_write: u16,

    /// How many shards the query service reads, if that is known here: checked to be no fewer than are written.
    #[arg(long, env = "INDEX_SHARDS_READ", value_parser = index_shards)]
    pub index_shards_read: Option<u16>,
}

/// Where messages come from.
#[derive(Debug, Clone, Args)]
pub struct QueueSettings {
    /// URLs of queues that are not named by the prefix, such as `order-summaries@1=https://…`; several with commas. Each
    /// must have a dead-letter queue.
    #[arg(long, env = "QUEUE_URLS", value_delimiter = ',', value_name = "PROJECTION@VERSION=URL")]
    pub queue_urls: Vec<Override>,
}

/// The projections that an operator's command is about.
#[derive(Debug, Clone, Args)]
pub(crate) struct Choice {
    /// Only this projection: its name, or `<name>@<version>` for one of several versions [default: all].
    #[arg(long, value_name = "NAME")]
    pub(crate) projection: Option<String>,
}

/// The tables by name.
#[derive(Debug, Clone)]
pub(crate) struct Tables {
    pub(crate) events: String,
    pub(crate) rows: BTreeMap<ProjectionName, String>,
    pub(crate) shards: IndexShards,
}

fn rows_table(text: &str) -> Result<Override, String> {
    let table: Override = text.parse().map_err(|invalid: millrace_core::Invalid| invalid.to_string())?;
    table_name(&table.value)?;
    Ok(table)
}

impl Prefix {
    pub(crate) fn of<'a>(&'a self, app: &'a Application) -> &'a str {
        self.prefix.as_deref().unwrap_or_else(|| app.name())
    }
}

impl TableSettings {
    /// The tables of all projections, or each setting that does not fit.
    pub(crate) fn resolve(&self, app: &Application, prefix: &Prefix) -> Result<Tables, Vec<String>> {
        let prefix = prefix.of(app);
        let mut problems = Vec::new();
        let write = NonZeroU16::new(self.index_shards_write).unwrap_or(NonZeroU16::MIN);
        let read = self.index_shards_read.and_then(NonZeroU16::new).unwrap_or(write);
        if read < write {
            problems.push(format!(
                "INDEX_SHARDS_READ is {read} and INDEX_SHARDS_WRITE is {write}: rows in the shards that are not read \
                 would be missing from lists. Raise INDEX_SHARDS_READ first"
            ));
        }
        let overrides = names::overrides(app, &self.rows_tables).unwrap_or_else(|wrong| {
            problems.extend(wrong.into_iter().map(|wrong| format!("ROWS_TABLES: {wrong}")));
            BTreeMap::new()
        });
        if !problems.is_empty() {
            return Err(problems);
        }
        let rows = by_projection(app, overrides, |name| names::table(prefix, &name.id()));
        let events = self.event_store_table.clone().unwrap_or_else(|| names::events(prefix));
        Ok(Tables { events, rows, shards: IndexShards { read, write } })
    }
}

impl QueueSettings {
    /// The queues of all projections, or each setting that does not fit.
    pub(crate) fn resolve(
        &self,
        app: &Application,
        prefix: &Prefix,
    ) -> Result<BTreeMap<ProjectionName, QueueAddress>, Vec<String>> {
        let prefix = prefix.of(app);
        let wrong =
            |wrong: Vec<String>| wrong.into_iter().map(|wrong| format!("QUEUE_URLS: {wrong}")).collect();
        let urls =
            names::overrides(app, &self.queue_urls).map_err(|problems| -> Vec<String> { wrong(problems) })?;
        let urls = urls.into_iter().map(|(name, url)| (name, QueueAddress::Url(url))).collect();
        Ok(by_projection(app, urls, |name| QueueAddress::Name(names::queue(prefix, &name.id()))))
    }
}

/// A value for each registered projection: the given one, or that by convention.
fn by_projection<T>(
    app: &Application,
    mut given: BTreeMap<ProjectionName, T>,
    convention: impl Fn(ProjectionName) -> T,
) -> BTreeMap<ProjectionName, T> {
    for spec in app.projections() {
        given.entry(spec.name).or_insert_with(|| convention(spec.name));
    }
    given
}

impl Choice {
    /// The chosen projections.
    pub(crate) fn of(&self, app: &Application) -> Result<Vec<ProjectionSpec>, Unfinished> {
        let Some(named) = &self.projection else { return Ok(app.projections().to_vec()) };
        let is_named =
            |spec: &&ProjectionSpec| spec.name.name == named.as_str() || spec.name.to_string() == *named;
        let chosen: Vec<_> = app.projections().iter().filter(is_named).cloned().collect();
        if chosen.is_empty() {
            return Err(misconfigured(vec![format!(
                "--projection: {}",
                names::unknown_projection(app, named)
            )]));
        }
        Ok(chosen)
    }
}

/// Settings that do not fit the registration.
pub(crate) fn misconfigured(problems: Vec<String>) -> Unfinished {
    Unfinished::Misconfigured(anyhow::Error::msg(problems.join("\n\n")))
}

impl Config {
    /// How long a message waits for a newer release or a less busy row.
    pub(crate) fn max_wait(&self) -> Duration {
        Duration::from_secs(24 * 60 * 60) * self.max_wait_days
    }

    /// How long a receiving waits for messages.
    pub(crate) fn receive_wait(&self) -> Duration {
        Duration::from_secs(self.receive_wait_seconds)
    }

    /// The tables and queues of all projections, or each setting that does not fit the registration.
    pub(crate) fn resolve(
        &self,
        app: &Application,
    ) -> Result<(Tables, BTreeMap<ProjectionName, QueueAddress>), Vec<String>> {
        match (self.tables.resolve(app, &self.prefix), self.queues.resolve(app, &self.prefix)) {
            (Ok(tables), Ok(queues)) => Ok((tables, queues)),
            (tables, queues) => Err(tables.err().into_iter().chain(queues.err()).flatten().collect()),
        }
    }
}

impl Configured for Config {
    fn common(&self) -> &Common {
        &self.common
    }
}
