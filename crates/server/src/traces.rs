//! Traces: what is recorded of them, and how it leaves the process.
//!
//! What the work of Millrace is told as is `millrace-telemetry`' affair. Here ended spans are put into a queue of a bounded
//! length and sent by OTLP, by a task of its own. Whatever becomes of the collector, nobody waits for it: what does not
//! fit is counted and dropped, and at the end of the process what is left has a moment.

mod export;
mod settings;

pub use export::Exporting;
pub use settings::TraceSettings;
