//! The command service over the store in memory.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod commands;
mod refusals;
mod replicas;
mod several;
mod snapshots;
mod support;
mod traces;
