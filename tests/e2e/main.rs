//! Millrace end to end: the deployables' own code over gRPC on the local AWS. Every test has an AWS account of its own,
//! so all of them run side by side.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod backpressure;
mod calls;
mod commands;
mod contention;
mod costs;
mod health;
mod interleavings;
mod kept_on_dynamodb;
mod processes;
mod propagation;
mod queries;
mod replica;
mod requests;
mod validation;
mod wire;
mod wire_services;
