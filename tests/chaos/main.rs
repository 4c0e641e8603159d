//! Millrace as processes that die, on an AWS that fails: whatever happens, every promise is kept, and all comes right.
//!
//! As part of all tests these are short. In full length, with all figures:
//!
//! ```text
//! MILLRACE_TEST_SCALE=10 cargo test -p millrace-tests --test chaos -- --nocapture
//! ```
//!
//! All chance is in a seed, which each test prints, and which `MILLRACE_TEST_SEED` gives again: the replicas struck,
//! when and how, the request that meets each fault, the wishes of each client. Processes' timing is not in the seed, so
//! it brings a failure back as a rule, and not always.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod forward;
mod loss;
mod outage;
mod shards;
mod stage;
mod trimmed;
mod upgrade;
mod verdict;
mod watch;
