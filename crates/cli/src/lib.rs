//! The program of a Millrace application.
//!
//! It brings the application up on this machine, with an AWS of its own, renders its infrastructure, and runs its
//! operators' jobs. An application gets it in a few lines, from its registration and its three deployables:
//!
//! ```no_run
//! # mod invoices {
//! #     use millrace_core::{Application, RegistrationError};
//! #     pub fn invoices() -> Result<Application, RegistrationError> { Application::new("invoices").build() }
//! # }
//! # mod command_service { pub fn main(_: Vec<std::ffi::OsString>) -> std::process::ExitCode { todo!() } }
//! # mod query_service { pub fn main(_: Vec<std::ffi::OsString>) -> std::process::ExitCode { todo!() } }
//! # mod projector { pub fn main(_: Vec<std::ffi::OsString>) -> std::process::ExitCode { todo!() } }
//! use std::process::ExitCode;
//!
//! use millrace_cli::Program;
//!
//! fn main() -> ExitCode {
//!     Program::new(invoices::invoices(), command_service::main, query_service::main, projector::main).main()
//! }
//! ```
//!
//! The program has these subcommands; its `--help` says more:
//!
//! | | |
//! |---|---|
//! | (none) | the local AWS and the deployables, until Ctrl-C |
//! | `demo` | the same, and a walk through it that the application brings with it (see [`demo`]) |
//! | `aws` | the local AWS alone, for deployables that are started by hand |
//! | `infra` | the CloudFormation templates, and the triggers of KEDA |
//! | `audit`, `redrive` | the projector's commands for operators |

mod aws;
mod child;
mod cli;
pub mod demo;
mod deployable;
#[cfg(test)]
mod example;
mod infra;
mod interrupt;
mod log_line;
mod program;
mod running;
mod stdout;
mod up;

pub use deployable::Deployable;
pub use log_line::Addresses;
pub use program::Program;
pub use running::{Call, Running};
