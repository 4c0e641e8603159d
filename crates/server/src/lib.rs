//! The common parts of Millrace's deployables.
//!
//! A deployable is a configuration ([`config`]), a set of gRPC [`Services`], and perhaps a task in the background.
//! [`process::main`] gives it telemetry and signals; [`serve::serve`] gives it a port, health, reflection, metrics and
//! an orderly end; [`Failure`] is the one table of errors; [`Call`] holds the caller of a request;
//! [`FailureLogThrottle`] decides when a failure is logged; [`KeyedMutex`] keeps the tasks of a process from racing for
//! one item, and [`TenantLimiter`] one tenant from taking everything.
//!
//! ```
//! use millrace_core::TenantId;
//! use millrace_server::{Failure, TenantLimiter};
//!
//! let limiter = TenantLimiter::new(8, 1);
//! let (acme, other): (TenantId, TenantId) = ("acme".parse()?, "other".parse()?);
//! let call = limiter.acquire(&acme)?;
//! assert!(matches!(limiter.acquire(&acme), Err(Failure::TenantBusy)));
//! assert!(limiter.acquire(&other).is_ok());
//! drop(call);
//! assert!(limiter.acquire(&acme).is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod call;
pub mod clock;
pub mod config;
mod edge;
pub mod failure;
mod failure_log_throttle;
mod files;
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
pub mod identity;
mod keyed_mutex;
mod metrics_page;
mod own_process;
pub mod process;
mod readiness;
mod reflection;
pub mod security;
pub mod serve;
mod services;
pub mod telemetry;
mod tenant_limiter;
mod tls;
pub mod traces;
mod values;

pub use call::Call;
pub use failure::{Failure, Violations};
pub use failure_log_throttle::FailureLogThrottle;
pub use health::{LIVENESS, READINESS};
pub use identity::{COMMANDS_WRITE, QUERIES_READ};
pub use keyed_mutex::{KeyedMutex, KeyedMutexGuard};
pub use millrace_telemetry::TraceParent;
pub use reflection::Reflection;
pub use services::{MAX_REQUEST_BYTES, Services};
pub use tenant_limiter::{Permit, TenantLimiter};
