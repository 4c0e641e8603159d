//! Queries over read models in memory.
#![allow(clippy::unwrap_used, reason = "an unwrap is how a test fails")]

mod orders;
mod server;
mod support;
mod users;
mod watching;
