//! The command service's configuration.

use std::{
    net::SocketAddr,
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use clap::{ArgAction, Parser};
use millrace_core::{Application, names};
use millrace_event_store::Tables;
use millrace_relay::RelayConfig;
use millrace_server::{
    config::{Common, index_shards, non_empty, on_off, table_name},
    process::Configured,
};
use uuid::Uuid;

/// Takes commands by gRPC, stores their events, and relays them to the bus.
///
/// Access to AWS is configured as for every AWS SDK: AWS_REGION, AWS_ENDPOINT_URL, credentials.
#[derive(Debug, Clone, Parser)]
#[command(name = "command-service", version)]
pub struct Config {
    /// Where gRPC is served.
    #[arg(long, env = "GRPC_ADDR", default_value = "0.0.0.0:50051")]
    pub grpc_addr: SocketAddr,

    /// The settings of every deployable.
    #[command(flatten)]
    pub common: Common,

    /// The prefix of the names of all tables and of the bus [default: the application's name].
    #[arg(long, env = "MILLRACE_PREFIX", value_parser = names::prefix)]
    pub prefix: Option<String>,

    /// The table of events [default: <prefix>-events].
    #[arg(long, env = "EVENT_STORE_TABLE", value_parser = table_name)]
    pub event_store_table: Option<String>,

    /// The table of snapshots [default: <prefix>-snapshots].
    #[arg(long, env = "SNAPSHOT_TABLE", value_parser = table_name)]
    pub snapshot_table: Option<String>,

    /// The table of unique keys [default: <prefix>-unique-keys].
    #[arg(long, env = "UNIQUE_KEY_TABLE", value_parser = table_name)]
    pub unique_key_table: Option<String>,

    /// The table of the relay's leases and checkpoints [default: <prefix>-relay-leases].
    #[arg(long, env = "RELAY_LEASE_TABLE", value_parser = table_name)]
    pub relay_lease_table: Option<String>,

    /// The bus that events are published on [default: <prefix>-events].
    #[arg(long, env = "EVENT_BUS_NAME", value_parser = non_empty)]
    pub event_bus_name: Option<String>,

    /// The `Source` under which events are published [default: the application's name].
    #[arg(long, env = "EVENT_SOURCE", value_parser = non_empty)]
    pub event_source: Option<String>,

    /// Whether this replica takes part in relaying events to the bus.
    #[arg(long, env = "RELAY", default_value = "on", action = ArgAction::Set, value_parser = on_off)]
    pub relay: bool,

    /// How far apart the relay's reads of a shard lie at least, in milliseconds. AWS charges them, and allows 5 a second
    /// and shard.
    #[arg(long, env = "RELAY_POLL_MS", default_value_t = 250, value_parser = clap::value_parser!(u64).range(5..=10_000))]
    pub relay_poll_ms: u64,

    /// How far apart they come to lie while the shard brings nothing, in milliseconds: the lag of the first event after
    /// a silence against the price of reads.
    #[arg(long, env = "RELAY_IDLE_POLL_MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(5..=10_000))]
    pub relay_idle_poll_ms: u64,

    /// How often the relay looks for new shards, in milliseconds; for leases to take over it looks four times as often.
    #[arg(long, env = "RELAY_DISCOVERY_MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    pub relay_discovery_ms: u64,

    /// For how many seconds the stream can be trusted to keep unread records. DynamoDB keeps 24 hours; an emulator that
    /// restarts keeps nothing.
    #[arg(long, env = "RELAY_TRUST_SECONDS", default_value_t = 72_000, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub relay_trust_seconds: u64,

    /// Whether the event store has the index by event type; without it every append costs half.
    #[arg(long, env = "EVENT_TYPE_INDEX", default_value = "on", action = ArgAction::Set, value_parser = on_off)]
    pub event_type_index: bool,

    /// Over how many shards the index by event type is written. A rollout raises INDEX_SHARDS_READ of the query service
    /// first.
    #[arg(long, env = "INDEX_SHARDS_WRITE", default_value = "4", value_parser = index_shards)]
    pub index_shards_write: u16,

    /// How much memory the states of aggregates may take, in bytes. Each registered aggregate has the same part of it.
    #[arg(long, env = "STATE_CACHE_BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(65_536..))]
    pub state_cache_bytes: u64,

    /// After how many events of an aggregate a snapshot of its state is kept. Up to 24 events are read without one; a
    /// load that had to read more than these and a snapshot leaves one too.
    #[arg(long, env = "SNAPSHOT_EVERY", default_value_t = crate::snapshots::EVERY, value_parser = at_least_one)]
    pub snapshot_every: NonZeroU64,
}

impl Config {
    fn prefix<'a>(&'a self, app: &'a Application) -> &'a str {
        self.prefix.as_deref().unwrap_or_else(|| app.name())
    }

    /// The tables of the event store.
    pub(crate) fn tables(&self, app: &Application) -> Tables {
        let prefix = self.prefix(app);
        Tables {
            events: self.event_store_table.clone().unwrap_or_else(|| names::events(prefix)),
            unique_keys: self.unique_key_table.clone().unwrap_or_else(|| names::unique_keys(prefix)),
            snapshots: self.snapshot_table.clone().unwrap_or_else(|| names::snapshots(prefix)),
        }
    }

    /// The table of the relay's leases.
    pub(crate) fn leases(&self, app: &Application) -> String {
        self.relay_lease_table.clone().unwrap_or_else(|| names::relay_leases(self.prefix(app)))
    }

    /// The bus.
    pub(crate) fn bus(&self, app: &Application) -> String {
        self.event_bus_name.clone().unwrap_or_else(|| names::bus(self.prefix(app)))
    }

    /// How many shards of the index by event type are written; `None` where there is no such index.
    pub(crate) fn index_shards(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.index_shards_write.into()).filter(|_| self.event_type_index)
    }

    /// The settings of this replica's relay. Its name is new with every start, because the same owner name could take
    /// the lease.
    pub(crate) fn relay(&self, app: &Application) -> RelayConfig {
        let source = self.event_source.as_deref().unwrap_or_else(|| app.name());
        let discovery = Duration::from_millis(self.relay_discovery_ms);
        RelayConfig {
            poll_interval: Duration::from_millis(self.relay_poll_ms),
            idle_poll_interval: Duration::from_millis(self.relay_idle_poll_ms),
            discovery_interval: discovery,
            balance_interval: discovery / 4,
            trust_horizon: Duration::from_secs(self.relay_trust_seconds),
            ..RelayConfig::new(Uuid::new_v4().to_string(), source)
        }
    }
}

impl Configured for Config {
    fn common(&self) -> &Common {
        &self.common
    }
}

fn at_least_one(text: &str) -> Result<NonZeroU64, String> {
    text.parse().map_err(|_| "must be a whole number, at least 1".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// The default, whatever the environment of the test says.
    fn default_of(variable: &str) -> u64 {
        let command = Config::command();
        let argument =
            command.get_arguments().find(|argument| argument.get_env().is_some_and(|env| env == variable));
        argument.unwrap().get_default_values()[0].to_str().unwrap().parse().unwrap()
    }

    #[test]
    fn the_relay_does_by_default_what_it_is_documented_to_do() {
        let relay = RelayConfig::new("a", "millrace");
        let told = ["RELAY_POLL_MS", "RELAY_IDLE_POLL_MS", "RELAY_DISCOVERY_MS"].map(default_of);
        let documented = [relay.poll_interval, relay.idle_poll_interval, relay.discovery_interval];
        assert_eq!(told.map(Duration::from_millis), documented);
        assert_eq!(relay.balance_interval, relay.discovery_interval / 4);
        assert_eq!(Duration::from_secs(default_of("RELAY_TRUST_SECONDS")), relay.trust_horizon);
    }

    #[test]
    fn a_shard_is_read_four_times_a_second_at_most() {
        // DynamoDB takes five, and one of them may be a repeated attempt.
        assert!(default_of("RELAY_POLL_MS") >= 250);
    }

    /// The configuration of these arguments. A variable of the environment counts for none that is given.
    fn read(args: &[&str]) -> Config {
        Config::try_parse_from(std::iter::once("command-service").chain(args.iter().copied())).unwrap()
    }

    #[test]
    fn a_prefix_names_everything_and_each_name_can_be_overridden() {
        let app = crate::testing::notes();
        let named = |args: &[&str]| {
            let config = read(args);
            let Tables { events, unique_keys, snapshots } = config.tables(&app);
            let source = config.relay(&app).source;
            [events, unique_keys, snapshots, config.leases(&app), config.bus(&app), source]
        };
        let of = |prefix: &str| {
            ["events", "unique-keys", "snapshots", "relay-leases", "events"]
                .map(|part| format!("{prefix}-{part}"))
        };
        assert_eq!(named(&[])[..5], of("notes"));
        assert_eq!(named(&[])[5], "notes");
        assert_eq!(named(&["--prefix=acme"])[..5], of("acme"));
        assert_eq!(named(&["--prefix=acme"])[5], "notes", "the source is the application");
        let overridden = named(&[
            "--prefix=acme",
            "--event-store-table=the.events",
            "--unique-key-table=the.keys",
            "--snapshot-table=the.snapshots",
            "--relay-lease-table=the.leases",
            "--event-bus-name=bus",
            "--event-source=source",
        ]);
        assert_eq!(overridden, ["the.events", "the.keys", "the.snapshots", "the.leases", "bus", "source"]);
    }

    #[test]
    fn a_bad_prefix_is_refused() {
        for bad in ["--prefix=", "--prefix=ACME", "--prefix=1a", "--prefix=a_b"] {
            assert!(Config::try_parse_from(["command-service", bad]).is_err(), "{bad}");
        }
    }
}
