//! What Millrace's deployables share.
//!
//! A deployable is a configuration ([`config`]), a set of gRPC services, and perhaps a task in the background.
//! [`process::main`] gives it telemetry and signals; [`serve::serve`] gives it a port, health, reflection, metrics and
//! an orderly end; [`failure::Failure`] is the one table of errors; [`call::Call`] is what a request says of its caller;
//! [`trouble::Trouble`] decides when a failure is worth a line in the log; [`turns::Turns`] keep the tasks of a process
//! from racing for one item.

pub mod call;
pub mod clock;
pub mod config;
mod edge;
pub mod failure;
mod files;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod guard;
mod health;
pub mod identity;
mod own_process;
pub mod places;
pub mod process;
pub mod serve;
pub mod telemetry;
mod tls;
pub mod traces;
pub mod trouble;
pub mod turns;

pub use call::Call;
pub use failure::{Failure, Violations};
pub use health::{LIVENESS, READINESS};
pub use millrace_traces::TraceParent;
pub use places::{Place, Places};
pub use trouble::Trouble;
pub use turns::Turns;
