//! The query service's configuration.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt,
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};

use clap::{
    Arg, ArgAction, Command, Parser,
    builder::{TypedValueParser, ValueParserFactory},
    error::ErrorKind,
};
use millrace_core::{
    Application, Invalid, ProjectionName,
    names::{self, Override},
};
use millrace_rows::IndexShards;
use millrace_server::{
    config::{Common, index_shards, on_off, table_name},
    process::Configured,
};

use crate::{
    history::Settling,
    token::PageTokens,
    watch::{Pace, Watching},
};

/// Answers queries by gRPC from the read models, and questions about the past from the event store.
///
/// Access to AWS is configured as for every AWS SDK: AWS_REGION, AWS_ENDPOINT_URL, credentials.
#[derive(Debug, Clone, Parser)]
#[command(name = "query-service", version)]
pub struct Config {
    /// Where gRPC is served.
    #[arg(long, env = "GRPC_ADDR", default_value = "0.0.0.0:50052")]
    pub grpc_addr: SocketAddr,

    /// The settings of every deployable.
    #[command(flatten)]
    pub common: Common,

    /// The prefix of all table names [default: the application's name].
    #[arg(long, env = "MILLRACE_PREFIX", value_parser = names::prefix)]
    pub prefix: Option<String>,

    /// The table of events, which is only read: for questions about the past [default: <prefix>-events].
    #[arg(long, env = "EVENT_STORE_TABLE", value_parser = table_name)]
    pub event_store_table: Option<String>,

    /// Tables of rows that are not named by convention, such as `order-summaries@1=my-table`, separated by commas
    /// [default: <prefix>-<projection>-v<version>].
    #[arg(long, env = "ROWS_TABLES", value_delimiter = ',', value_name = "PROJECTION@VERSION=TABLE", value_parser = rows_table)]
    pub rows_tables: Vec<Override>,

    /// Whether the event store has the index by event type. Without it, SearchEvents is UNIMPLEMENTED.
    #[arg(long, env = "EVENT_TYPE_INDEX", default_value = "on", action = ArgAction::Set, value_parser = on_off)]
    pub event_type_index: bool,

    /// How many shards of sharded lists, and of the index by event type, are read. At least as many as are written.
    #[arg(long, env = "INDEX_SHARDS_READ", default_value = "4", value_parser = index_shards)]
    pub index_shards_read: u16,

    /// How many seconds after its time an event is taken to be indexed, for searches that follow events: the clocks'
    /// difference, a command's time, and the index's lag together.
    #[arg(long, env = "SEARCH_SETTLE_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub search_settle_seconds: u32,

    /// How many watches there can be at a time, of all callers together.
    #[arg(long, env = "MAX_WATCHERS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_watchers: u32,

    /// How many watches one tenant may have at a time, where callers are authenticated [default: half of all].
    #[arg(long, env = "MAX_WATCHERS_PER_TENANT", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_watchers_per_tenant: Option<u32>,

    /// The shortest interval between reads of a watched row, in milliseconds.
    #[arg(long, env = "WATCH_POLL_MS", default_value_t = 250, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub watch_poll_ms: u64,

    /// The longest interval, while the row does not change, in milliseconds: the lag of the first change after a
    /// silence against the price of reads.
    #[arg(long, env = "WATCH_IDLE_POLL_MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub watch_idle_poll_ms: u64,

    /// The secret that page tokens are sealed with, at least 32 bytes, the same for all replicas [default: derived from
    /// the name of the table of events].
    ///
    /// Without a secret, anybody with that name can make tokens. That gains nothing: a token only says where a list
    /// that its bearer may read goes on.
    #[arg(long, env = "PAGE_TOKEN_KEY", hide_env_values = true)]
    pub page_token_key: Option<PageTokenKey>,
}

impl Config {
    /// The table of events.
    pub(crate) fn events_table(&self, application: &Application) -> String {
        self.event_store_table.clone().unwrap_or_else(|| names::events(self.prefix(application)))
    }

    /// The table of each registered projection.
    ///
    /// # Errors
    /// Each override that is repeated, or for an unregistered projection.
    pub(crate) fn tables(
        &self,
        application: &Application,
    ) -> Result<BTreeMap<ProjectionName, String>, Vec<String>> {
        let mut tables = names::overrides(application, &self.rows_tables)?;
        for spec in application.projections() {
            let conventional = || names::table(self.prefix(application), &spec.name.id());
            tables.entry(spec.name).or_insert_with(conventional);
        }
        Ok(tables)
    }

    fn prefix<'a>(&'a self, application: &'a Application) -> &'a str {
        self.prefix.as_deref().unwrap_or(application.name())
    }

    pub(crate) fn watching(&self) -> Watching {
        let pace = Pace {
            fastest: Duration::from_millis(self.watch_poll_ms),
            slowest: Duration::from_millis(self.watch_idle_poll_ms),
        };
        let max = self.max_watchers;
        // Where callers choose their tenants, a limit for each would not hold.
        let max_per_tenant = match self.common.security.authenticates() {
            true => self.max_watchers_per_tenant.unwrap_or((max / 2).max(1)),
            false => max,
        };
        Watching { pace, max, max_per_tenant }
    }

    pub(crate) fn settling(&self) -> Settling {
        Settling { after: Duration::from_secs(self.search_settle_seconds.into()), ..Settling::default() }
    }

    /// How many shards of a sharded list are read. None is written.
    pub(crate) fn index_shards(&self) -> IndexShards {
        let read = NonZeroU16::new(self.index_shards_read).unwrap_or(NonZeroU16::MIN);
        IndexShards { read, ..IndexShards::default() }
    }

    /// How many shards the index by event type has; `None` where there is no such index.
    pub(crate) fn event_type_shards(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.index_shards_read.into()).filter(|_| self.event_type_index)
    }

    pub(crate) fn page_tokens(&self, application: &Application) -> PageTokens {
        match &self.page_token_key {
            Some(key) => PageTokens::new(key.0.as_bytes()),
            None => PageTokens::of_table(&self.events_table(application)),
        }
    }
}

fn rows_table(text: &str) -> Result<Override, String> {
    let table: Override = text.parse().map_err(|invalid: Invalid| invalid.to_string())?;
    table_name(&table.value)?;
    Ok(table)
}

impl Configured for Config {
    fn common(&self) -> &Common {
        &self.common
    }
}

/// A secret of at least 32 bytes. Never printed, not even when it is refused.
#[derive(Clone)]
pub struct PageTokenKey(String);

impl fmt::Debug for PageTokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PageTokenKey(…)")
    }
}

impl ValueParserFactory for PageTokenKey {
    type Parser = PageTokenKeyParser;

    fn value_parser() -> PageTokenKeyParser {
        PageTokenKeyParser
    }
}

/// Reads a [`PageTokenKey`]. A parser of its own, since clap's error for a plain function quotes the value.
#[derive(Debug, Clone)]
pub struct PageTokenKeyParser;

impl TypedValueParser for PageTokenKeyParser {
    type Value = PageTokenKey;

    fn parse_ref(
        &self,
        command: &Command,
        _: Option<&Arg>,
        value: &OsStr,
    ) -> Result<PageTokenKey, clap::Error> {
        match value.to_str() {
            Some(text) if text.len() >= 32 => Ok(PageTokenKey(text.to_owned())),
            _ => Err(command.clone().error(
                ErrorKind::ValueValidation,
                "invalid value for '--page-token-key': must be at least 32 bytes of UTF-8",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::application;

    fn with(more: &[&str]) -> Result<Config, clap::Error> {
        Config::try_parse_from(["query-service"].iter().chain(more))
    }

    #[test]
    fn tables_are_named_by_convention_unless_one_is_overridden() {
        let names = |more: &[&str]| {
            let (config, application) = (with(more).unwrap(), application());
            let tables = config.tables(&application).map(|tables| tables.into_values().collect::<Vec<_>>());
            tables.map(|tables| (config.events_table(&application), tables))
        };
        let named = |events: &str, rows: &str| (events.to_owned(), vec![rows.to_owned()]);
        assert_eq!(names(&[]).unwrap(), named("library-events", "library-books-v1"));
        assert_eq!(names(&["--prefix=eu"]).unwrap(), named("eu-events", "eu-books-v1"));
        let overridden = ["--event-store-table=old", "--rows-tables=books@1=mine"];
        assert_eq!(names(&overridden).unwrap(), named("old", "mine"));
        let unknown = names(&["--rows-tables=books@2=mine,films@1=xyz"]).unwrap_err().join(" ");
        assert!(["books@2", "films@1", "books@1"].iter().all(|name| unknown.contains(name)), "{unknown}");
        assert!(
            with(&["--rows-tables=books=mine"]).is_err()
                && with(&["--rows-tables=books@1=a b"]).is_err()
                && with(&["--prefix=A"]).is_err()
        );
    }

    #[test]
    fn a_store_without_the_index_by_event_type_has_no_shards_of_it() {
        let shards = |more: &[&str]| with(more).unwrap().event_type_shards().map(NonZeroU32::get);
        assert_eq!(shards(&["--index-shards-read=8"]), Some(8));
        assert_eq!(shards(&["--index-shards-read=8", "--event-type-index=off"]), None);
    }

    #[test]
    fn a_tenant_may_have_half_of_the_watches_where_it_is_known_to_be_itself() {
        let share = |more: &[&str]| {
            let watching = with(more).unwrap().watching();
            (watching.max, watching.max_per_tenant)
        };
        assert_eq!(share(&["--max-watchers=7"]), (7, 7));
        assert_eq!(share(&["--max-watchers=7", "--jwt-issuer=i"]), (7, 3));
        assert_eq!(share(&["--max-watchers=1", "--jwt-issuer=i"]), (1, 1));
        assert_eq!(share(&["--max-watchers=7", "--jwt-issuer=i", "--max-watchers-per-tenant=5"]), (7, 5));
        assert_eq!(share(&["--max-watchers=7", "--max-watchers-per-tenant=5"]), (7, 7), "calls are no other");
    }

    #[test]
    fn the_key_never_shows() {
        let config = with(&["--page-token-key=hush-hush-hush-hush-hush-hush-hush"]).unwrap();
        assert!(!format!("{config:?}").contains("hush"));
        let error = with(&["--page-token-key=hush-hush"]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
        assert!(error.to_string().contains("at least 32 bytes"), "{error}");
    }
}
