//! Millrace's work as OpenTelemetry spans.
//!
//! A [`TraceParent`] is a position in a trace. It comes with a call, goes with the call's events into the event store,
//! and from there over the bus to the projectors. A [`Span`] is a piece of work as exported to an OpenTelemetry
//! collector. It costs nothing where its trace is not sampled, or where nothing [listens](listen).
//!
//! The span ids of an event's work in other processes follow from the event's own id ([`Hop`]): so each process knows
//! the span of the one before it, though no message carries it, and though an event may be sent twice.
//!
//! This is a small part of OpenTelemetry's own SDK, which makes the ids of spans by chance, decides sampling by itself,
//! and keeps contexts that cost something when nothing is sampled. The export to the collector is the SDK's.
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
