//! The contract of a contender.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::user::User;

/// The outcome of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is stored.
    Done,
    /// It lost against another one, and its caller would have to try again.
    Conflict,
}

/// A measured implementation of the commands.
pub(crate) trait Contender: Send + Sync {
    /// A new user.
    fn create(&self) -> BoxFuture<'_, anyhow::Result<User>>;

    /// Gives a user a name.
    fn rename<'a>(&'a self, user: &'a User) -> BoxFuture<'a, anyhow::Result<Outcome>>;
}

/// A contender that several clients share.
pub(crate) type Shared = Arc<dyn Contender>;
