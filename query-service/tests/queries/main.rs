//! Queries over read models and an event store in memory.
#![allow(clippy::unwrap_used, reason = "an unwrap is how a test fails")]

mod as_of;
mod events;
mod history;
mod orders;
mod search;
mod server;
mod support;
mod users;
mod watching;
mod watching_connections;
