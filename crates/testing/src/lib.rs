//! A test kit for applications on Millrace.
//!
//!  tested | with |
//! |---|---|
//! | an aggregate's rules | [`given`]`(history).`[`when`](aggregate::Given::when)`(command).`[`then`](aggregate::Outcome::then)`(events)` |
//! | a projection of any kind | [`project`]`(events).`[`then`](projection::Projected::then)`(row)` |
//! | how events are stored | [`assert_codec`] |
//! | rows after any deliveries | [`assert_converges`](convergence::assert_converges), feature `stores` |
//! | a store of one's own | [`event_store_contract`], [`rows_contract`], feature `stores` |
//! | the whole application | [`AwsStack`](local::AwsStack) and [`FaultProxy`](local::FaultProxy), feature `local` |
//! | the same without gRPC, in memory too | [`OneProcess`], feature `one-process` |
//! | everything that it has left behind | [`Oracle`] |
//! | random cases | [`Seed`](random::Seed), [`scaled`](random::scaled) |
//!
//! ```
//! use millrace_core::*;
//! use millrace_testing::{aggregate_id, assert_codec, given, project};
//! # use serde::{Deserialize, Serialize};
//!
//! uuid_id! {
//!     /// A counter.
//!     pub struct CounterId;
//! }
//!
//! #[derive(Clone, Serialize, Deserialize)]
//! struct Counter(u64);
//!
//! #[derive(Debug, Clone, PartialEq)]
//! enum CounterEvent {
//!     Increased(Increased),
//! }
//!
//! #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
//! struct Increased {
//!     by: u64,
//! }
//!
//! millrace_proto::json_event_codec! {
//!     CounterEvent { Increased = 1 }
//! }
//!
//! #[derive(Debug, PartialEq)]
//! struct TooMany;
//!
//! impl Aggregate for Counter {
//!     const TYPE: AggregateType = AggregateType::new("counter");
//!     const STATE_SCHEMA: u32 = 1;
//!     type Command = u64;
//!     type Event = CounterEvent;
//!     type Error = TooMany;
//!
//!     fn decide(state: Option<&Self>, by: &u64, _: Timestamp) -> Result<Vec<CounterEvent>, TooMany> {
//!         let count = state.map_or(0, |counter| counter.0);
//!         if count + by > 9 { Err(TooMany) } else { Ok(vec![CounterEvent::Increased(Increased { by: *by })]) }
//!     }
//!
//!     fn evolve(state: Option<Self>, CounterEvent::Increased(event): &CounterEvent) -> Result<Self, EvolveError> {
//!         Ok(Self(state.map_or(0, |counter| counter.0) + event.by))
//!     }
//! }
//! # impl From<TooMany> for Rejection {
//! #     fn from(_: TooMany) -> Self {
//! #         Self::Rule { kind: "TOO_MANY", description: String::new() }
//! #     }
//! # }
//!
//! #[derive(Debug, Clone, PartialEq, Row)]
//! #[row(resource = "counter", key = counter_id)]
//! struct Total {
//!     counter_id: CounterId,
//!     sum: u64,
//! }
//!
//! impl FoldProjection for Total {
//!     const NAME: ProjectionName = ProjectionName::new("totals", 1);
//!     type Aggregate = Counter;
//!     type Row = Self;
//!
//!     fn fold(row: Option<Self>, recorded: &Recorded<CounterEvent>) -> Option<Self> {
//!         let CounterEvent::Increased(event) = &recorded.event;
//!         let sum = row.map_or(0, |row| row.sum) + event.by;
//!         Some(Self { counter_id: recorded.aggregate_id(), sum })
//!     }
//! }
//!
//! let increased = |by| CounterEvent::Increased(Increased { by });
//! given::<Counter>(&[]).when(3).then(&[increased(3)]);
//! given::<Counter>(&[increased(3)]).when(7).then_error(TooMany);
//! let row = Total { counter_id: aggregate_id(1), sum: 7 };
//! project::<Total, _>(&[increased(3), increased(4)]).then(Some(row));
//! assert_codec(&[increased(3)]);
//! ```
//!
//! No deployable contains this crate. Assertions panic with the place of the test that called them.

#![allow(clippy::panic, reason = "a test kit says by a panic what is wrong")]

pub mod aggregate;
mod codec;
#[cfg(feature = "stores")]
pub mod convergence;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "one-process")]
mod one_process;
pub mod oracle;
pub mod projection;
pub mod random;
mod recording;

pub use aggregate::given;
pub use codec::assert_codec;
#[cfg(feature = "stores")]
pub use millrace_event_store::contract as event_store_contract;
#[cfg(feature = "one-process")]
pub use millrace_event_store::{AppendEvents, Snapshots};
#[cfg(feature = "stores")]
pub use millrace_rows::contract as rows_contract;
#[cfg(feature = "one-process")]
pub use one_process::OneProcess;
pub use oracle::Oracle;
pub use projection::project;
pub use recording::{aggregate_id, history, noon, recorded, stream_of, time_of};
