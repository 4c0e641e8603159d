//! How Millrace's work is told as OpenTelemetry spans.
//!
//! A [`TraceParent`] says where in which trace something happens. It comes with a call, goes with the call's events into
//! the event store, and from there over the bus to whoever works on them. A [`Span`] is a piece of work as it is told to
//! an OpenTelemetry collector. It costs nothing where its trace is not sampled, or where nothing [listens](listen).
//!
//! Work that an event goes through in other processes has ids that follow from the event's own ([`Hop`]): so each process
//! knows the span of the one before it, though nothing of it is on the way, and though an event may be sent twice.
//!
//! This is a small part of what OpenTelemetry's own SDK does, which makes the ids of spans by chance, decides by itself
//! what is sampled, and keeps contexts that cost something when nothing is sampled. What leaves the process is the SDK's.
//!
//! ```
//! use millrace_telemetry::TraceParent;
//!
//! let caller: TraceParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?;
//! let own = caller.child();
//! assert!(own.is_sampled());
//! assert_eq!(own.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
//! # Ok::<(), millrace_telemetry::NotATraceParent>(())
//! ```

mod context;
mod parent;
mod span;
#[cfg(feature = "testing")]
pub mod testing;

pub use context::{current, enter, within};
pub use parent::{Hop, NotATraceParent, TraceParent};
pub use span::{Kind, Listener, Recording, Span, is_on, listen};
