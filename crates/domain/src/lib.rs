//! Millrace's domain: users and orders.
//!
//! Everything here is a pure function of its arguments: no I/O, no clock, no randomness, no async. An aggregate is one
//! file, read from top to bottom: commands, events, state, `decide`, `evolve`, refusals, tests. What all aggregates
//! share stands in [`aggregate`]; the values they are made of are valid once they exist.

pub mod aggregate;
pub mod ids;
pub mod money;
pub mod order;
pub mod text;
pub mod time;
pub mod user;

pub use aggregate::{Aggregate, Decision, Misfit, Receipt, Recorded, Refused, Root, UniqueKey};
pub use ids::{AggregateType, CommandDigest, CommandId, EventId, OrderId, StreamId, TenantId, UserId};
pub use money::{Currency, Money};
pub use text::{Email, Label};
pub use time::Timestamp;

/// Why a value from outside is refused, in words for the one who sent it. Never holds the value itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub &'static str);
