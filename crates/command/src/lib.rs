//! Millrace's command side, as a library: an application registers its aggregates, writes an adapter for each of its gRPC
//! services, and gets a process.
//!
//! ```ignore
//! // Beside the contracts:
//! millrace_proto::command_requests! {
//!     OpenAccountRequest creates ();
//!     DepositRequest updates account_id;
//! }
//!
//! struct Accounts<S>(CommandHandler<Account, S>);
//!
//! #[tonic::async_trait]
//! impl<S: AppendEvents + Snapshots> AccountCommandService for Accounts<S> {
//!     async fn deposit(&self, request: Request<DepositRequest>) -> Reply<DepositResponse> {
//!         let result = self.0.update(request, |message, violations| {
//!             violations.field("amount", message.amount.try_into()).map(AccountCommand::Deposit)
//!         });
//!         reply(DepositResponse { result: result.await? })
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     millrace_command::main(bank(), contracts::DESCRIPTORS, std::env::args_os(), |commands| {
//!         Ok(services![AccountCommandServiceServer::new(Accounts(commands.of::<Account>()?))])
//!     })
//! }
//! ```
//!
//! A [`CommandHandler`] decides a command on a state from the [`StateCache`] or from the store ([`loader`],
//! [`snapshots`]), and appends the events. The relay, a task of every replica, carries them to the bus.
//!
//! It needs no gRPC and no AWS:
//!
//! ```
//! use millrace_command::*;
//! use millrace_core::*;
//! use millrace_event_store::MemoryStore;
//! # use serde::{Deserialize, Serialize};
//! # #[derive(Clone, Serialize, Deserialize)]
//! # struct Counter(u64);
//! # #[derive(Clone)]
//! # enum CounterEvent { Increased(Increased) }
//! # #[derive(Clone, Serialize, Deserialize)]
//! # struct Increased { by: u64 }
//! # millrace_proto::json_event_codec! { CounterEvent { Increased = 1 } }
//! # struct Zero;
//! # impl From<Zero> for Rejection {
//! #     fn from(_: Zero) -> Self {
//! #         Self::Rule { kind: "ZERO", description: "nothing is counted".to_owned() }
//! #     }
//! # }
//! # impl Aggregate for Counter {
//! #     const TYPE: AggregateType = AggregateType::new("counter");
//! #     const STATE_SCHEMA: u32 = 1;
//! #     type Command = u64;
//! #     type Event = CounterEvent;
//! #     type Error = Zero;
//! #     fn decide(_: Option<&Self>, by: &u64, _: Timestamp) -> Result<Vec<CounterEvent>, Zero> {
//! #         if *by == 0 { Err(Zero) } else { Ok(vec![CounterEvent::Increased(Increased { by: *by })]) }
//! #     }
//! #     fn evolve(state: Option<Self>, event: &CounterEvent) -> Result<Self, EvolveError> {
//! #         let CounterEvent::Increased(Increased { by }) = event;
//! #         Ok(Self(state.map_or(0, |counter| counter.0) + by))
//! #     }
//! # }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = CommandHandlerConfig {
//!     clock: || Timestamp::from_unix_micros(0),
//!     jitter: || 1.0,
//!     snapshot_every: snapshots::EVERY,
//! };
//! let counters: CommandHandler<Counter, _> =
//!     CommandHandler::new(MemoryStore::default(), StateCache::new(1 << 20), config);
//! let command_id: CommandId = "add-three".parse()?;
//! let add_three = CommandEnvelope {
//!     stream: "acme#counter#00000000-0000-0000-0000-000000000001".parse()?,
//!     command: 3,
//!     creates: false,
//!     expected_version: None,
//!     correlation_id: command_id.clone(),
//!     command_id,
//!     digest: CommandDigest(3),
//!     trace: millrace_server::TraceParent::new_root(),
//! };
//! let first = counters.execute(&add_three).await?;
//! // Sent again, it changes nothing.
//! let again = counters.execute(&add_three).await?;
//! assert_eq!((first.receipt, again.replayed), (again.receipt, true));
//! # Ok(())
//! # }
//! ```

mod append_span;
mod commit;
mod config;
mod envelope;
mod handler;
pub mod loader;
pub mod meters;
mod recent;
mod request;
mod service;
pub mod snapshots;
mod state_cache;
#[cfg(test)]
mod testing;

pub use config::Config;
pub use envelope::{CommandEnvelope, CommandOutcome};
pub use handler::{CommandHandler, CommandHandlerConfig};
pub use millrace_event_store::{AppendEvents, Snapshots};
pub use millrace_server::{Services, Violations, services};
pub use request::{Reply, reply};
pub use service::{Commands, NotRegistered, NotServed, main, run};
pub use state_cache::StateCache;
