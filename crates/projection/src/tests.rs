//! The projector on queues, rows and a store in memory.

mod app;
mod auditing;
mod configuration;
mod consuming;
mod convergence;
mod failing;
mod redriving;
mod requests;
mod telling;
mod traces;
mod waiting;
mod world;
