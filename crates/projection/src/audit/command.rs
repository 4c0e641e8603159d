//! The audit as a command.

use std::{collections::BTreeSet, ffi::OsString, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use futures::future::{Either, select};
use millrace_aws::Aws;
use millrace_core::{Application, projection::ProjectionSpec};
use millrace_event_store::DynamoReader;
use millrace_rows::DynamoRows;
use millrace_server::{
    clock,
    process::{self, Ended, Unfinished},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Audit, Settings,
    config::Options,
    plan::{Planned, plan},
    recent::Index,
    report::{Format, Report},
    screen::Screen,
};
use crate::{
    config::{HINT, Tables, misconfigured},
    jobs::DynamoJobs,
    labels,
    pace::{Halt, Pace},
};

/// Runs an audit with the report on `out`, until its end or until it is told to end.
async fn run(
    app: &Application,
    options: Options,
    aws: &Aws,
    stop: CancellationToken,
    screen: Screen,
    out: Box<dyn std::io::Write + Send>,
) -> Result<Ended, Unfinished> {
    let began = Instant::now();
    let chosen = options.choice.of(app)?;
    let tables = options.tables.resolve(app, &options.prefix).map_err(misconfigured)?;
    let format = if options.json { Format::Json } else { Format::Plain };
    // A token of its own, since one failure tells all parts to end.
    let pace = Pace::new(stop.child_token(), options.rate, rand::random);
    let dynamodb = aws.dynamodb_in_bulk();
    let jobs = Arc::new(DynamoJobs::new(dynamodb.clone(), options.job_table(app)));
    let asked = options.asked(&chosen);
    let planned = plan(jobs, &asked, &Uuid::new_v4().to_string(), clock::now(), &pace).await;
    let progress = match planned.context("the audit was not begun").map_err(Unfinished::Incomplete)? {
        Planned::Run(progress) => *progress,
        Planned::NotDue(began) => {
            tracing::info!(%began, "no audit is due: the last complete one is recent enough");
            return Ok(Ended::Well);
        }
    };
    let run = progress.run();
    tracing::info!(run = run.number, began = %run.began, since = ?run.since, "the audit's run");
    let settings = Settings {
        grace: options.grace(),
        repair: options.repair,
        index: run.since.map(|_| index(app, &chosen, &tables)),
        clock: Box::new(clock::now),
    };
    let events = DynamoReader::new(dynamodb.clone(), tables.events);
    let labels = labels(app);
    let mut audit = Audit::new(events, settings, pace, Report::new(format, screen, out), progress);
    for spec in chosen {
        let rows = DynamoRows::new(dynamodb.clone(), tables.rows[&spec.name].clone(), &spec, tables.shards);
        audit = audit.of(spec.clone(), labels[&spec.name], rows);
    }

    let (shared, report) = (&audit.shared, audit.report());
    // Nobody knows how much of it is recent.
    let total = if shared.settings.index.is_some() { None } else { audit.count().await };
    let watched = report.screen.show(|| shared.status(), || report.tally.met(), total);
    let outcome = match select(Box::pin(audit.run()), Box::pin(watched)).await {
        Either::Left((outcome, _)) => outcome,
        // Progress is shown until the audit ends.
        Either::Right(((), _)) => Err(Halt::Told),
    };
    report.screen.clear();
    let summary = report.summary(outcome.is_ok(), &aws.requests().counts(), began.elapsed());
    outcome.and(summary).context("the audit was not completed").map_err(Unfinished::Incomplete)?;
    Ok(if report.tally.is_clean() { Ended::Well } else { Ended::Left })
}

/// The index by type and time, for the events that projections take.
fn index(app: &Application, chosen: &[ProjectionSpec], tables: &Tables) -> Index {
    let sources: BTreeSet<_> = chosen.iter().map(|spec| &spec.source).collect();
    let event_types = sources.into_iter().filter_map(|source| app.aggregate(source));
    let event_types = event_types.flat_map(|aggregate| aggregate.event_types).copied().collect();
    Index { shards: tables.shards.read.into(), event_types }
}

/// The audit as a process: its options from `args`, of which the first is the program's name, and the environment.
pub(crate) fn main(app: Application, args: impl IntoIterator<Item = OsString>) -> ExitCode {
    process::command(args, HINT, |options: Options, stop| async move {
        let aws = options.aws.access().await.map_err(|error| Unfinished::Misconfigured(error.into()))?;
        run(&app, options, &aws, stop, Screen::of_stderr(), Box::new(std::io::stdout())).await
    })
}
