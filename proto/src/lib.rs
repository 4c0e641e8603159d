//! Millrace's own contracts: the parts of commands and queries that all applications have in common.
//!
//! An application's contracts import them, and its generated code refers to the code here: see `millrace_build`.
//!
//! ```
//! use millrace_core::EventCodec;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Clone, Debug, PartialEq)]
//! enum CounterEvent {
//!     Increased(Increased),
//! }
//!
//! #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
//! struct Increased {
//!     by: u64,
//! }
//!
//! // Events as JSON, for an application that has no contract of its events; `event_codec!` is for those that have one.
//! millrace_proto::json_event_codec! {
//!     CounterEvent { Increased = 1 }
//! }
//!
//! let event = CounterEvent::Increased(Increased { by: 3 });
//! let stored = event.encode();
//! assert_eq!((stored.event_type, stored.schema_version), ("Increased", 1));
//! assert_eq!(CounterEvent::decode("Increased", 1, &stored.data), Ok(event));
//! ```

/// Generated; the nesting follows the packages, as the generated paths expect.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::wildcard_enum_match_arm)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/contracts.rs"));
}

mod codec;
mod request;
mod timestamp;

pub use generated::millrace;
pub use generated::millrace::{command::v1 as command, query::v1 as query};
pub use request::{CommandRequest, UpdateRequest};
pub use timestamp::{Timestamp, time_from_proto, time_to_proto};

/// The contracts as an encoded `FileDescriptorSet`, for reflection and for clients that read contracts at run time.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contracts.binpb"));

// For macros that are expanded in other crates.
#[doc(hidden)]
pub mod __private {
    pub use crate::codec::structure;
    pub use millrace_core as core;
    pub use prost;

    pub type Fields = serde_json::Map<String, serde_json::Value>;
}
