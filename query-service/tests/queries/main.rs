//! Queries over read models and an event store in memory.
#![allow(clippy::unwrap_used, reason = "an unwrap is how a test fails")]

mod as_of;
mod batches;
mod customers;
mod events;
mod filters;
mod following;
mod history;
mod hostile;
mod lagging;
mod orders;
mod page_tokens;
mod pages;
mod reading_after;
mod search;
mod server;
mod support;
mod users;
mod watching;
mod watching_connections;
