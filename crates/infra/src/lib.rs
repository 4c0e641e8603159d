#![doc = include_str!("../README.md")]

mod access;
mod alarms;
mod application;
mod arn;
mod check;
mod consumer;
mod data;
mod error;
mod keda;
pub mod names;
mod parameters;
mod policy;
mod projection;
mod queues;
mod relay;
mod stack;
mod tables;
mod template;
mod templates;
mod yaml;

pub use error::InfraError;
pub use stack::{Index, ProjectionResources, RowWrites, Stack};
pub use template::Template;
pub use templates::Templates;
