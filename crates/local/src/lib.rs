//! An AWS on this machine, for an application's tests and for trying it without an account.
//!
//! * [`Emulator`] installs MiniStack on first use and runs it for as long as somebody uses it:
//!   [`shared`](Emulator::shared) by all test processes, [`private`](Emulator::private) to one program.
//! * [`Account`] is an AWS account of its own in an emulator, so that tests run side by side.
//! * [`Stack`] creates everything that production has there, from the same templates.
//! * [`Logs`] is the folder for the logs of one run's programs.
//!
//! A test that needs all of it:
//!
//! ```no_run
//! # async fn example(application: millrace_core::Application) -> Result<(), millrace_local::LocalError> {
//! use millrace_local::{Stack, StackOptions, test_account};
//!
//! let account = test_account().await?;
//! let stack = Stack::deploy(&account, &application, &StackOptions::default()).await?;
//! let table = stack.output("EventStoreTable")?;
//! # Ok(()) }
//! ```
//!
//! Deliberately absent: Windows (the emulator's lifetime hangs on `flock`), and any use of real AWS.

mod account;
mod api;
mod description;
mod directory;
mod emulator;
mod error;
mod logs;
mod progress;
mod python;
mod stack;

pub use account::{ATTEMPT_TIMEOUT, Account, endpoint_from_env, test_account};
pub use description::description;
pub use emulator::{Emulator, PrivateOptions};
pub use error::LocalError;
pub use logs::Logs;
pub use progress::say;
pub use stack::{Stack, StackOptions};
