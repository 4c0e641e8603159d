//! The deployables, all of them in this one program: it starts itself once for each.

use std::{
    ffi::{OsStr, OsString},
    process::ExitCode,
};

/// A part of Millrace that runs as a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deployable {
    CommandService,
    QueryService,
    Projector,
}

impl Deployable {
    pub(crate) const ALL: [Self; 3] = [Self::CommandService, Self::QueryService, Self::Projector];

    /// Its name, which is also the hidden subcommand that runs it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CommandService => "command-service",
            Self::QueryService => "query-service",
            Self::Projector => "projector",
        }
    }

    pub(crate) fn named(name: &OsStr) -> Option<Self> {
        Self::ALL.into_iter().find(|deployable| name == deployable.name())
    }

    /// Runs it in this process until it is told to end. `args` come after its name.
    pub(crate) fn main(self, args: impl Iterator<Item = OsString>) -> ExitCode {
        let args = std::iter::once(self.name().into()).chain(args);
        match self {
            Self::CommandService => command_service::main(args),
            Self::QueryService => query_service::main(args),
            Self::Projector => projector::main(args),
        }
    }
}
