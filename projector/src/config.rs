//! What the projector can be told.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use millrace_runtime::{
    config::{Common, IndexShards, index_shards, non_empty, table_name},
    process::Configured,
};

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

    /// What every deployable can be told.
    #[command(flatten)]
    pub common: Common,

    /// The table of events, from which gaps are filled.
    #[arg(long, env = "EVENT_STORE_TABLE", value_parser = table_name)]
    pub event_store_table: String,

    /// The table of user profiles.
    #[arg(long, env = "USER_READ_MODEL_TABLE", value_parser = table_name)]
    pub user_read_model_table: String,

    /// The table of order summaries.
    #[arg(long, env = "ORDER_READ_MODEL_TABLE", value_parser = table_name)]
    pub order_read_model_table: String,

    /// The queue of users' events. It must have a dead-letter queue.
    #[arg(long, env = "USER_QUEUE_URL", value_parser = non_empty)]
    pub user_queue_url: String,

    /// The queue of orders' events. It must have a dead-letter queue.
    #[arg(long, env = "ORDER_QUEUE_URL", value_parser = non_empty)]
    pub order_queue_url: String,

    /// Into how many shards the index of orders by status is spread. The query service must agree on it.
    #[arg(long, env = "INDEX_SHARDS", default_value = "4", value_parser = index_shards)]
    pub index_shards: IndexShards,

    /// How many messages of a queue are worked on at a time.
    #[arg(long, env = "MESSAGES_AT_ONCE", default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    pub messages_at_once: u32,

    /// How often a message that fails by its own fault is tried before it is given up. A queue's own maxReceiveCount
    /// should be well above it: that counts deliveries to processes that were killed, too.
    #[arg(long, env = "MAX_ATTEMPTS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub max_attempts: u32,

    /// For how many seconds a receiving waits for messages. It is not cut off when the process is to end, so the end
    /// may take as long.
    #[arg(long, env = "RECEIVE_WAIT_SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10))]
    pub receive_wait_seconds: u64,
}

impl Config {
    /// For how long a receiving waits for messages.
    pub(crate) fn receive_wait(&self) -> Duration {
        Duration::from_secs(self.receive_wait_seconds)
    }
}

impl Configured for Config {
    fn common(&self) -> &Common {
        &self.common
    }
}
