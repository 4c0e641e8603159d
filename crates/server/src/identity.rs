//! The caller of a request, and its permissions.
//!
//! [`token`] reads a token and verifies it with a key of [`keys`]; [`rules`] decides on its claims; [`jwks_cache`]
//! keeps the keys up to date by [`fetch`]; the [`authenticator`] combines them, once a call.

mod auth_error;
pub(crate) mod authenticator;
pub(crate) mod fetch;
pub(crate) mod jwks_cache;
pub(crate) mod keys;
pub(crate) mod rules;
pub(crate) mod tenant;
#[cfg(test)]
mod tests;
pub(crate) mod token;

pub use auth_error::AuthError;

/// The scope that a caller of commands must have.
pub const COMMANDS_WRITE: &str = "commands:write";

/// The scope that a caller of queries must have.
pub const QUERIES_READ: &str = "queries:read";
