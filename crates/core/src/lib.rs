//! Millrace's core: the types and rules that every part of an event-sourced application shares.
//!
//! Everything here is a pure function of its arguments: no I/O, no clock, no randomness, no async. [`aggregate`] has the
//! trait of an aggregate and its state as the fold of its events, [`ids`] the names of tenants, streams, commands and
//! events, [`codec`] how an event is stored and read back, [`row`] and [`projection`] how events become rows,
//! [`application`] the one registration of it all, and [`names`] the names of its parts on AWS.
//!
//! ```
//! use millrace_core::{Aggregate, AggregateType, EvolveError, Rejection, Timestamp};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Clone, Serialize, Deserialize)]
//! struct Counter(u64);
//!
//! #[derive(Clone)]
//! struct Increased(u64);
//!
//! impl Aggregate for Counter {
//!     const TYPE: AggregateType = AggregateType::new("counter");
//!     const STATE_SCHEMA: u32 = 1;
//!     type Command = u64;
//!     type Event = Increased;
//!     type Error = Rejection;
//!
//!     fn decide(_: Option<&Self>, by: &u64, _: Timestamp) -> Result<Vec<Increased>, Rejection> {
//!         Ok(vec![Increased(*by)])
//!     }
//!
//!     fn evolve(state: Option<Self>, event: &Increased) -> Result<Self, EvolveError> {
//!         Ok(Self(state.map_or(0, |counter| counter.0) + event.0))
//!     }
//! }
//!
//! let events = Counter::decide(None, &3, Timestamp::from_unix_micros(0)).unwrap();
//! let counter = Counter::evolve(None, &events[0]).unwrap();
//! assert_eq!(counter.0, 3);
//! ```

pub mod aggregate;
pub mod application;
mod backoff;
pub mod codec;
mod envelope;
pub mod ids;
mod index_value;
pub mod names;
pub mod projection;
pub mod row;
pub mod time;

pub use aggregate::{
    Aggregate, AggregateState, CommitReceipt, CommittedEvent, DecideError, EvolveError, Rejection, UniqueKey,
};
pub use application::{Application, ApplicationBuilder, HistoryError, RegistrationError};
pub use backoff::Backoff;
pub use codec::{DecodeError, Encoded, EventCodec, EventMessage};
pub use envelope::Envelope;
pub use ids::{AggregateType, CommandDigest, CommandId, EventId, StreamId, TenantId};
pub use index_value::IndexValue;
pub use projection::{AggregatingProjection, Change, FoldProjection, Projection, ProjectionName, Recorded};
pub use row::{Field, Patch, Row, Versioned};
pub use time::Timestamp;

/// Makes a struct a [`Row`](trait@Row).
pub use millrace_macros::Row;

/// Why a value from outside is refused, in words for its sender. Never holds the value itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub &'static str);

// For macros that are expanded in other crates.
#[doc(hidden)]
pub use {serde as __serde, uuid as __uuid};
