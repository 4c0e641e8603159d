//! The deployables, all of them in this one program: it starts itself once for each.

use std::{
    ffi::{OsStr, OsString},
    process::ExitCode,
};

/// A part of an application that runs as a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deployable {
    /// Takes commands, and relays their events.
    CommandService,
    /// Answers queries.
    QueryService,
    /// Writes the read models.
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
}

/// A deployable's `main`. The first of its arguments is its name.
pub(crate) type Main = fn(Vec<OsString>) -> ExitCode;

/// The `main` of each deployable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mains {
    pub(crate) command_service: Main,
    pub(crate) query_service: Main,
    pub(crate) projector: Main,
}

impl Mains {
    /// Runs a deployable in this process until its end is requested. `args` come after its name.
    pub(crate) fn run(self, deployable: Deployable, args: impl IntoIterator<Item = OsString>) -> ExitCode {
        let main = match deployable {
            Deployable::CommandService => self.command_service,
            Deployable::QueryService => self.query_service,
            Deployable::Projector => self.projector,
        };
        main(std::iter::once(deployable.name().into()).chain(args).collect())
    }
}
