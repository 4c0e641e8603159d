//! Millrace's projector: events from the queues into the rows of the registered projections.
//!
//! An event's way is that of the modules: a [`queue`] hands out messages; the [`Consumer`] brings them to a
//! [`Projector`], which reads the [`bus`]'s JSON, asks the projection for the update that each event makes, and brings
//! every row of the batch up to date in as few requests as can be.
//!
//! The library knows no application. [`main`] and [`run`] work from the registration:
//!
//! ```no_run
//! # fn registration() -> Result<millrace_core::Application, millrace_core::RegistrationError> { unimplemented!() }
//! fn main() -> std::process::ExitCode {
//!     millrace_projection::main(registration(), std::env::args_os())
//! }
//! ```

mod apply;
mod audit;
pub mod bus;
pub mod config;
mod consumer;
mod error;
mod handler;
mod jobs;
pub mod metrics;
mod pace;
mod projections;
pub mod queue;
mod redrive;
#[cfg(test)]
mod tests;
mod traced;

use std::{ffi::OsString, process::ExitCode, time::Duration};

use clap::{CommandFactory as _, error::ErrorKind};
pub use config::Config;
pub use consumer::{Condition, Consumer, Settings};
pub use error::{ApplyError, EventRef, MessageError};
pub use handler::{Clock, Handle, Projector};
use millrace_aws::Aws;
use millrace_core::{Application, RegistrationError};
use millrace_event_store::DynamoReader;
use millrace_rows::DynamoRows;
use millrace_server::{
    QUERIES_READ, Services, clock,
    config::read,
    process::{self, Process},
    serve::{Listeners, Served, serve},
};
use projections::{Projections, labels};

/// The time that batches in flight have after the signal: less than the whole process has.
const DRAIN: Duration = Duration::from_secs(15);

/// Runs every registered projection until the process is told to stop.
///
/// # Errors
/// Where a setting does not fit the registration, a queue cannot be used, or a port cannot be served.
pub async fn run(
    app: &Application,
    config: Config,
    aws: &Aws,
    listeners: Listeners,
    process: Process,
) -> anyhow::Result<()> {
    metrics::describe();
    let (tables, queues) = config.resolve(app).map_err(|problems| anyhow::Error::msg(problems.join("; ")))?;
    let settings = Settings {
        messages_at_once: config.messages_at_once,
        max_attempts: config.max_attempts,
        max_wait: config.max_wait(),
        drain: DRAIN,
        jitter: rand::random,
    };
    let dynamodb = aws.dynamodb();
    let events = DynamoReader::new(dynamodb.clone(), tables.events);
    let labels = labels(app);
    let mut projections = Projections::new(aws, config.receive_wait(), settings, process.shutdown.clone());
    for spec in app.projections() {
        let table = tables.rows[&spec.name].clone();
        let rows = DynamoRows::new(dynamodb.clone(), table, spec, tables.shards);
        let projector = Projector::new(spec.clone(), rows, events.clone(), clock::now);
        projections.start(queues[&spec.name].clone(), labels[&spec.name], projector);
    }

    let served = Served {
        services: Services::default(),
        // The projector has no calls of its own.
        scope: QUERIES_READ,
        contracts: &[],
        package_part: "projector",
        probe: projections.probe(),
        max_concurrent_calls: config.common.max_concurrent_calls,
        metrics: process.metrics,
    };
    let (served, projected) =
        tokio::join!(serve(listeners, served, process.shutdown.clone()), projections.run());
    projected.and(served)
}

/// Runs an application's projector as a process: configuration from the environment and `args`, of which the first is
/// the program's name. If the second names an operator's command, that command runs instead.
///
/// Exits 2 where the registration is unsound, or the configuration does not fit it.
pub fn main(
    app: Result<Application, RegistrationError>,
    args: impl IntoIterator<Item = OsString>,
) -> ExitCode {
    let app = match app {
        Ok(app) => app,
        Err(error) => return refuse(&error.to_string()),
    };
    let mut args: Vec<OsString> = args.into_iter().collect();
    match args.get(1).and_then(|command| command.to_str()) {
        Some("audit") => return audit::main(app, args.drain(1..)),
        Some("redrive") => return redrive::main(app, args.drain(1..)),
        Some(_) | None => {}
    }
    // Before anything is started, like every other check of the configuration. A clap error is reported below.
    if let Ok(config) = read::<Config>(args.iter().cloned())
        && let Err(problems) = config.resolve(&app)
    {
        return refuse(&problems.join("\n\n"));
    }
    process::main(args, |config: Config, process| async move {
        let aws = config.common.aws.access().await?;
        let listeners = Listeners::bind(config.grpc_addr, &config.common).await?;
        run(&app, config, &aws, listeners, process).await
    })
}

fn refuse(problems: &str) -> ExitCode {
    let _ = Config::command().error(ErrorKind::ValueValidation, problems).print();
    ExitCode::from(2)
}
