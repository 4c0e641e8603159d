//! Millrace end to end: the deployables' own code over gRPC on the local AWS. Every test has an AWS account of its own,
//! so all of them run side by side.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod audit;
mod audit_of_many;
mod backpressure;
mod calls;
mod commands;
mod contention;
mod costs;
mod edge;
mod encodings;
mod fault_proxy;
mod fault_proxy_services;
mod guarded;
mod health;
mod history;
mod history_costs;
mod interleavings;
mod kept_on_dynamodb;
mod leases;
mod lists;
mod metrics;
mod outcomes;
mod past;
mod permissions;
mod poison;
mod processes;
mod projection;
mod propagation;
mod queries;
mod query_costs;
mod read_after;
mod redrive;
mod refusals;
mod replica;
mod requests;
mod rows;
mod stored_forms;
mod streams;
mod third_aggregate;
mod traces;
mod validation;
mod watchers;
