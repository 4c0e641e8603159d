//! The local AWS that `cargo run` and the tests bring with them.
//!
//! * [`Emulator`] installs MiniStack on first use and runs it for as long as somebody uses it:
//!   [`shared`](Emulator::shared) by all test processes, [`private`](Emulator::private) to one program.
//! * [`Account`] is an AWS account of its own in an emulator, so that tests run side by side.
//! * [`Stack`] creates everything that production has there, from the same template.
//! * [`Logs`] is where the programs of one run write theirs.
//!
//! A test that needs all of it:
//!
//! ```no_run
//! # async fn example() -> Result<(), millrace_local::LocalError> {
//! use millrace_local::{Stack, StackOptions, test_account};
//!
//! let account = test_account().await?;
//! let config = account.sdk_config().await;
//! let stack = Stack::deploy(&config, &StackOptions::default()).await?;
//! let table = stack.output("EventStoreTable")?;
//! # Ok(()) }
//! ```
//!
//! Deliberately absent: Windows (the emulator's lifetime hangs on `flock`), and any use of real AWS.

mod account;
mod directory;
mod emulator;
mod error;
mod logs;
mod progress;
mod python;
mod stack;

pub use account::{Account, endpoint_from_env, test_account};
pub use emulator::{Emulator, PrivateOptions};
pub use error::LocalError;
pub use logs::Logs;
pub use progress::say;
pub use stack::{Stack, StackOptions};
