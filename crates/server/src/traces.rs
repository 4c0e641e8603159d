//! Traces: their recording and export.
//!
//! The spans of Millrace's work are made in `millrace-telemetry`. Here ended spans enter a queue of bounded length, and
//! a task of its own sends them by OTLP. No work waits for the collector: spans that do not fit are counted and
//! dropped, and at the end of the process the remaining ones have a moment.

mod export;
mod settings;

pub use export::Exporting;
pub use settings::TraceSettings;
