//! The parts of a walk through an application: calls that are checked and shown.
//!
//! A walk opens a [`Screen`] with the application's contracts, and then goes through its steps: it makes
//! [calls](calling) and shows request and reply, [asks](ask) queries concurrently and shows their latency, shows stored
//! events and refusals. [`event_flow`] is the last step of every walk.

mod calling;
mod metrics;
mod screen;
mod shown;

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use millrace_core::Application;
use millrace_local::Account;
use tokio::time::sleep;

pub use self::{
    calling::{Asked, accepted, answered, ask, calling, connect, refused},
    screen::Screen,
};
use crate::{Running, cli::UpArgs, demo::calling::TIMEOUT, running::Walk, stdout::print, up};

const POLL: Duration = Duration::from_millis(20);

pub(crate) async fn run(application: &Application, walk: &Walk) -> anyhow::Result<()> {
    let walk = async |running: &Running| {
        let start = Instant::now();
        print(&running.places())?;
        walk(running).await?;
        screen::end(&format!("All of it was as it should be, in {:.1} s.", start.elapsed().as_secs_f64()))
    };
    // In the AWS of the caller, an account that is new, and so without data, too.
    match up::with(application, UpArgs::default(), Account::unique, walk).await? {
        Some(()) => Ok(()),
        None => bail!("the demo was interrupted"),
    }
}

/// The events that a walk has caused.
#[derive(Debug, Clone, Copy)]
pub struct Events {
    /// How many were stored.
    pub stored: u32,
    /// How many were applied, over all projections.
    pub applied: u32,
}

/// Shows, as the last step, that the events went from the store over the bus to the read models: by the counters of the
/// relay and of the projector.
///
/// # Errors
/// If they do not, or cannot be shown.
pub async fn event_flow(screen: &mut Screen, running: &Running, events: Events) -> anyhow::Result<()> {
    screen.step("The events went from the store over the bus to the read models")?;
    let deadline = Instant::now() + TIMEOUT;
    let (relay, projector) = loop {
        let relay = metrics::read(&running.command_service.metrics).await?;
        let projector = metrics::read(&running.projector.metrics).await?;
        let published = metrics::sum(&relay, "relay_published_total");
        let applied = metrics::sum(&projector, "projector_events_applied_total");
        // Events are counted after the fact, which may have been seen before.
        if published >= f64::from(events.stored) && applied >= f64::from(events.applied) {
            break (relay, projector);
        }
        ensure!(
            Instant::now() < deadline,
            "{published} events were counted as published instead of {}, and {applied} as applied instead of {}",
            events.stored,
            events.applied
        );
        sleep(POLL).await;
    };
    let mut rows = Vec::new();
    for (samples, part) in [(&relay, "relay_"), (&projector, "projector_")] {
        // Counters at zero exist as well, and are of no interest here.
        let is_told = |name: &str, value| name.starts_with(part) && name.ends_with("_total") && value > 0.0;
        for sample in samples.iter().filter(|sample| is_told(&sample.name, sample.value)) {
            rows.push((format!("{}{}", sample.name, sample.labels), sample.value.to_string()));
        }
        let lag = format!("{part}lag_seconds");
        let count = metrics::sum(samples, &format!("{lag}_count"));
        let sum = metrics::sum(samples, &format!("{lag}_sum"));
        if count > 0.0 {
            rows.push((lag, format!("{:.3} on average", sum / count)));
        }
    }
    screen.table(&rows)?;
    let dead = metrics::sum(&projector, "projector_dead_letters_total");
    ensure!(dead == 0.0, "{dead} events went to a dead-letter queue");
    Ok(())
}
