//! Errors before the local AWS is up, each in a sentence with a remedy.

use std::{io, path::PathBuf};

/// Why the local AWS could not be brought up or ended.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// No interpreter of the needed version is on the `PATH`.
    #[error(
        "the local AWS needs Python 3.10 or newer on the PATH{}: install it, or set AWS_ENDPOINT_URL to an \
         AWS emulator that already runs",
        found.as_ref().map(|found| format!(" (found {found})")).unwrap_or_default()
    )]
    NoPython {
        /// The newest interpreter that was found, if any was.
        found: Option<String>,
    },
    /// The interpreter cannot make virtual environments, as Debian ships it.
    #[error(
        "{python} cannot make a virtual environment: install its venv module (on Debian and Ubuntu: \
         apt install python3-venv). It said: {output}"
    )]
    NoVenv {
        /// The interpreter that was used.
        python: String,
        /// The end of its output.
        output: String,
    },
    /// The emulator's packages could not be installed.
    #[error("the local AWS could not be installed; its first start needs the network. pip said: {output}")]
    Install {
        /// The end of pip's output.
        output: String,
    },
    /// The requested port is in use.
    #[error("port {port} is in use: choose another one or leave it out")]
    PortTaken {
        /// The requested port.
        port: u16,
    },
    /// The data directory belongs to an emulator that still runs.
    #[error("{} is in use by another local AWS: stop that one first", directory.display())]
    DataInUse {
        /// The requested directory.
        directory: PathBuf,
    },
    /// The emulator ended or stayed silent instead of coming up.
    #[error("the local AWS did not come up: {reason}")]
    Start {
        /// Its exit status and last output, or the time-out that passed.
        reason: String,
    },
    /// The emulator did not end in order; data kept in a directory may lack the last changes.
    #[error("the local AWS did not end in order: {reason}")]
    Stop {
        /// How it ended, or how long it was waited for.
        reason: String,
    },
    /// AWS would not accept the application's infrastructure.
    #[error(transparent)]
    Infrastructure(#[from] millrace_infra::InfraError),
    /// CloudFormation could not create or update the stack.
    #[error("the stack {stack} could not be deployed: {reason}")]
    Deploy {
        /// The stack's name.
        stack: String,
        /// The failed resources with their reasons.
        reason: String,
    },
    /// The stack has no such output.
    #[error("the stack {stack} has no output {output}")]
    NoOutput {
        /// The stack's name.
        stack: String,
        /// The requested output.
        output: String,
    },
    /// An AWS request failed.
    #[error("{request} failed: {reason}")]
    Aws {
        /// The request's name.
        request: &'static str,
        /// The error with its causes.
        reason: String,
    },
    /// A file or directory under the target directory is not usable.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The step that failed.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A program could not be run.
    #[error("cannot run {program}: {source}")]
    Run {
        /// The program.
        program: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl LocalError {
    /// For `map_err`: names the action and the file.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
