//! What the query service can be told.

use std::{ffi::OsStr, fmt, net::SocketAddr, num::NonZeroU32, time::Duration};

use clap::{
    Arg, ArgAction, Command, Parser,
    builder::{TypedValueParser, ValueParserFactory},
    error::ErrorKind,
};
use millrace_runtime::{
    config::{Common, IndexShards, index_shards, on_off, table_name},
    process::Configured,
};

use crate::{
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

    /// What every deployable can be told.
    #[command(flatten)]
    pub common: Common,

    /// The table of users' profiles.
    #[arg(long, env = "USER_READ_MODEL_TABLE", value_parser = table_name)]
    pub user_read_model_table: String,

    /// The table of order summaries.
    #[arg(long, env = "ORDER_READ_MODEL_TABLE", value_parser = table_name)]
    pub order_read_model_table: String,

    /// The table of events, which is only read: for questions about the past.
    #[arg(long, env = "EVENT_STORE_TABLE", value_parser = table_name)]
    pub event_store_table: String,

    /// Whether the event store has the index by event type. Without it, SearchEvents is UNIMPLEMENTED.
    #[arg(long, env = "EVENT_TYPE_INDEX", default_value = "on", action = ArgAction::Set, value_parser = on_off)]
    pub event_type_index: bool,

    /// Into how many shards the indexes by status and by event type are spread. The projector must agree on it, and the
    /// command service.
    #[arg(long, env = "INDEX_SHARDS", default_value = "4", value_parser = index_shards)]
    pub index_shards: IndexShards,

    /// How many watches there can be at a time, of all callers together.
    #[arg(long, env = "MAX_WATCHERS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_watchers: u32,

    /// How many watches one tenant may have at a time, where callers are authenticated [default: half of all].
    #[arg(long, env = "MAX_WATCHERS_PER_TENANT", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_watchers_per_tenant: Option<u32>,

    /// How far apart the readings of a watched row lie at least, in milliseconds.
    #[arg(long, env = "WATCH_POLL_MS", default_value_t = 250, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub watch_poll_ms: u64,

    /// How far apart they come to lie while the row does not change, in milliseconds: the lag of the first change after
    /// a silence against the price of reads.
    #[arg(long, env = "WATCH_IDLE_POLL_MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub watch_idle_poll_ms: u64,

    /// The secret that page tokens are sealed with, at least 32 bytes, the same for all replicas [default: derived from
    /// the name of the table of order summaries].
    ///
    /// Without a secret of its own, whoever knows that name can make tokens. That gains nothing: a token only says where
    /// a list that its bearer may read goes on.
    #[arg(long, env = "PAGE_TOKEN_KEY", hide_env_values = true)]
    pub page_token_key: Option<PageTokenKey>,
}

impl Config {
    pub(crate) fn watching(&self) -> Watching {
        let pace = Pace {
            fastest: Duration::from_millis(self.watch_poll_ms),
            slowest: Duration::from_millis(self.watch_idle_poll_ms),
        };
        let most = self.max_watchers;
        // Where tenants are what callers say, a part for each keeps nobody from anything.
        let most_of_tenant = match self.common.security.authenticates() {
            true => self.max_watchers_per_tenant.unwrap_or((most / 2).max(1)),
            false => most,
        };
        Watching { pace, most, most_of_tenant }
    }

    /// How many shards the index by event type has; `None` where there is no such index.
    pub(crate) fn event_type_shards(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.index_shards.into()).filter(|_| self.event_type_index)
    }

    pub(crate) fn page_tokens(&self) -> PageTokens {
        match &self.page_token_key {
            Some(key) => PageTokens::new(key.0.as_bytes()),
            None => PageTokens::of_table(&self.order_read_model_table),
        }
    }
}

impl Configured for Config {
    fn common(&self) -> &Common {
        &self.common
    }
}

/// A secret of at least 32 bytes. Never shows, not even where it is refused.
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

    fn with(more: &[&str]) -> Result<Config, clap::Error> {
        let tables = [
            "query-service",
            "--user-read-model-table=users",
            "--order-read-model-table=orders",
            "--event-store-table=events",
        ];
        Config::try_parse_from(tables.iter().chain(more))
    }

    #[test]
    fn a_store_without_the_index_by_event_type_has_no_shards_of_it() {
        let shards = |more: &[&str]| with(more).unwrap().event_type_shards().map(NonZeroU32::get);
        assert_eq!(shards(&["--index-shards=8"]), Some(8));
        assert_eq!(shards(&["--index-shards=8", "--event-type-index=off"]), None);
    }

    #[test]
    fn a_tenant_may_have_half_of_the_watches_where_it_is_known_to_be_itself() {
        let share = |more: &[&str]| {
            let watching = with(more).unwrap().watching();
            (watching.most, watching.most_of_tenant)
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
