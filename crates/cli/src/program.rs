//! The program of an application.

use std::{env, ffi::OsString, fmt, process::ExitCode};

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _};
use millrace_core::{Application, RegistrationError};
use millrace_local::say;

use crate::{
    Call, Running, aws,
    cli::{Cli, Command, Passed},
    demo,
    deployable::{Deployable, Mains},
    infra,
    running::Walk,
    up,
};

/// An application's program.
pub struct Program {
    application: Result<Application, RegistrationError>,
    mains: Mains,
    calls: Vec<Call>,
    walk: Option<Walk>,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("application", &self.application).finish_non_exhaustive()
    }
}

impl Program {
    /// The program of a registered application. Each `main` is that of a deployable, and takes its arguments with its
    /// name as the first.
    #[must_use]
    pub fn new(
        application: Result<Application, RegistrationError>,
        command_service: fn(Vec<OsString>) -> ExitCode,
        query_service: fn(Vec<OsString>) -> ExitCode,
        projector: fn(Vec<OsString>) -> ExitCode,
    ) -> Self {
        let mains = Mains { command_service, query_service, projector };
        Self { application, mains, calls: Vec::new(), walk: None }
    }

    /// Adds calls to try, which are printed when the application is up.
    #[must_use]
    pub fn calls(mut self, calls: impl IntoIterator<Item = Call>) -> Self {
        self.calls.extend(calls);
        self
    }

    /// Adds the walk that the subcommand `demo` takes: it makes calls, shows them, and fails at the first that is not as
    /// it should be.
    #[must_use]
    pub fn demo(mut self, walk: impl AsyncFn(&Running) -> anyhow::Result<()> + Copy + 'static) -> Self {
        self.walk = Some(Box::new(move |running| Box::pin(async move { walk(running).await })));
        self
    }

    /// Runs the command line's subcommand.
    #[must_use]
    pub fn main(self) -> ExitCode {
        let mut args = env::args_os().skip(1);
        // Started by this program as one of the deployables, which have command lines of their own.
        if let Some(deployable) = args.next().as_deref().and_then(Deployable::named) {
            return self.mains.run(deployable, args);
        }
        let Self { application, mains, calls, walk } = self;
        let application = match application {
            Ok(application) => application,
            Err(error) => return failed("millrace", &error.into()),
        };
        let cli = parse(application.name(), walk.is_some());
        match run(cli, &application, mains, calls, walk) {
            Ok(code) => code,
            Err(error) => failed(application.name(), &error),
        }
    }
}

fn failed(program: &str, error: &anyhow::Error) -> ExitCode {
    say(&format!("{program}: {error:#}"));
    ExitCode::FAILURE
}

/// The command line, whose errors and whose help end the process.
fn parse(name: &'static str, has_demo: bool) -> Cli {
    let command = Cli::command().name(name).mut_subcommand("demo", |demo| demo.hide(!has_demo));
    Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
}

fn run(
    cli: Cli,
    application: &Application,
    mains: Mains,
    calls: Vec<Call>,
    walk: Option<Walk>,
) -> anyhow::Result<ExitCode> {
    // Each has a command line of its own, and is a process of its own.
    let projectors = |command: &str, Passed { args }: Passed| {
        Ok(mains.run(Deployable::Projector, [command.into()].into_iter().chain(args)))
    };
    match cli.command {
        Some(Command::Audit(passed)) => projectors("audit", passed),
        Some(Command::Redrive(passed)) => projectors("redrive", passed),
        Some(Command::Infra(args)) => infra::run(application, &args),
        Some(Command::Aws(args)) => waiting(aws::run(application, args)),
        Some(Command::Demo) => {
            let walk = walk.with_context(|| format!("{} has no demo", application.name()))?;
            waiting(demo::run(application, &walk))
        }
        None => waiting(up::run(application, cli.up, calls)),
    }
}

/// Runs asynchronous work to its end.
fn waiting(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let result = runtime.block_on(work);
    // Interrupted while it starts, an emulator is not waited for: it ends because we do.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}
