//! Everything that is rendered, read back as YAML.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test, a panic is the report")]

mod access;
mod alarms;
mod applications;
mod consistency;
mod limits;
mod names;
mod projections;
mod reader;
mod shared;
