//! Queries over read models in memory.
#![allow(clippy::unwrap_used, reason = "an unwrap is how a test fails")]

mod batches;
mod filters;
mod lagging;
mod orders;
mod reading_after;
mod server;
mod support;
mod users;
