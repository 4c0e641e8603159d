//! What the command service can be told.

use std::{net::SocketAddr, num::NonZeroU64, time::Duration};

use clap::{ArgAction, Parser};
use millrace_runtime::{
    config::{Common, IndexShards, index_shards, non_empty, on_off, table_name},
    process::Configured,
};

/// Takes commands by gRPC, stores their events, and relays them to the bus.
///
/// Access to AWS is configured as for every AWS SDK: AWS_REGION, AWS_ENDPOINT_URL, credentials.
#[derive(Debug, Clone, Parser)]
#[command(name = "command-service", version)]
pub struct Config {
    /// Where gRPC is served.
    #[arg(long, env = "GRPC_ADDR", default_value = "0.0.0.0:50051")]
    pub grpc_addr: SocketAddr,

    /// What every deployable can be told.
    #[command(flatten)]
    pub common: Common,

    /// The table of events.
    #[arg(long, env = "EVENT_STORE_TABLE", value_parser = table_name)]
    pub event_store_table: String,

    /// The table of snapshots.
    #[arg(long, env = "SNAPSHOT_TABLE", value_parser = table_name)]
    pub snapshot_table: String,

    /// The table of unique keys, such as users' e-mail addresses.
    #[arg(long, env = "UNIQUE_KEY_TABLE", value_parser = table_name)]
    pub unique_key_table: String,

    /// The table of the relay's leases and checkpoints.
    #[arg(long, env = "RELAY_LEASE_TABLE", value_parser = table_name)]
    pub relay_lease_table: String,

    /// The bus that events are published on.
    #[arg(long, env = "EVENT_BUS_NAME", value_parser = non_empty)]
    pub event_bus_name: String,

    /// The `Source` under which events are published.
    #[arg(long, env = "EVENT_SOURCE", default_value = "millrace", value_parser = non_empty)]
    pub event_source: String,

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

    /// For how many seconds the stream can be trusted to keep what was not read yet. DynamoDB keeps 24 hours; an
    /// emulator that restarts keeps nothing.
    #[arg(long, env = "RELAY_TRUST_SECONDS", default_value_t = 72_000, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub relay_trust_seconds: u64,

    /// Whether the event store has the index by event type; without it every append costs half.
    #[arg(long, env = "EVENT_TYPE_INDEX", default_value = "on", action = ArgAction::Set, value_parser = on_off)]
    pub event_type_index: bool,

    /// Into how many shards the index by event type is spread. Everybody who uses the index must agree on it.
    #[arg(long, env = "INDEX_SHARDS", default_value = "4", value_parser = index_shards)]
    pub index_shards: IndexShards,

    /// How much memory the states of aggregates may take, in bytes.
    #[arg(long, env = "STATE_CACHE_BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(65_536..))]
    pub state_cache_bytes: u64,

    /// After how many events of an aggregate a snapshot of its state is kept. Up to 100 events are read without one; a
    /// load that had to read more than these and a snapshot leaves one too.
    #[arg(long, env = "SNAPSHOT_EVERY", default_value_t = crate::snapshots::EVERY, value_parser = at_least_one)]
    pub snapshot_every: NonZeroU64,
}

impl Config {
    /// How far apart the relay's reads of a shard lie at least.
    pub fn relay_poll(&self) -> Duration {
        Duration::from_millis(self.relay_poll_ms)
    }

    /// How far apart they come to lie while the shard brings nothing.
    pub fn relay_idle_poll(&self) -> Duration {
        Duration::from_millis(self.relay_idle_poll_ms)
    }

    /// For how long the stream can be trusted to keep what was not read yet.
    pub fn relay_trust_horizon(&self) -> Duration {
        Duration::from_secs(self.relay_trust_seconds)
    }

    /// How often the relay looks for new shards.
    pub fn relay_discovery(&self) -> Duration {
        Duration::from_millis(self.relay_discovery_ms)
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
    use crate::relay::RelayConfig;

    /// What is told where nothing is said, whatever the environment of the test says.
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
}
