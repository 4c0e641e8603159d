//! Which run an audit goes on with, or begins.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use millrace_core::{TenantId, Timestamp};

use super::progress::{Progress, Run, Runs};
use crate::{
    jobs::{HeldJob, JobStore},
    pace::{Halt, Pace},
};

/// What an audit was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The audited projections, by name and version.
    pub(crate) projections: Vec<String>,
    /// The one that was chosen by a name, if any.
    pub(crate) choice: Option<String>,
    /// The segments of a new run.
    pub(crate) segments: NonZeroU32,
    /// Whether faults are repaired.
    pub(crate) repair: bool,
    /// Of an audit of recent changes: since when.
    pub(crate) recent: Option<Since>,
    /// Whether a new run begins even if an earlier one has not ended.
    pub(crate) anew: bool,
    /// A new run begins only where none was completed for so long.
    pub(crate) every: Option<Duration>,
    /// Tenants that an audit of recent changes covers from now on.
    pub(crate) tenants: Vec<TenantId>,
}

/// Since when changes are recent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// A while before the last complete audit began.
    Before(Duration),
    /// A time.
    Time(Timestamp),
}

/// The result of planning.
pub(crate) enum Planned {
    /// A run to go on with.
    Run(Box<Progress>),
    /// No run is due; the last complete one began then.
    NotDue(Timestamp),
}

impl Asked {
    /// The name of its job. Audits that do not do the same have jobs of their own, with leases of their own.
    fn job(&self) -> String {
        let kind = match self.recent {
            None => "audit",
            Some(Since::Before(_)) => "audit-recent",
            Some(Since::Time(_)) => "audit-since",
        };
        self.named(kind, self.repair)
    }

    fn named(&self, kind: &str, repair: bool) -> String {
        let choice = self.choice.as_ref().map(|name| format!("/{name}")).unwrap_or_default();
        format!("{kind}{}{choice}", if repair { "-repair" } else { "" })
    }

    /// When the last complete audit of the same projections began.
    async fn last_complete(&self, store: &dyn JobStore, pace: &Pace) -> Result<Option<Timestamp>, Halt> {
        let mut last = None;
        for kind in ["audit", "audit-recent"] {
            for repair in [false, true] {
                let job = self.named(kind, repair);
                let job = pace.unpaced("reading the last audits", || store.job(&job)).await?;
                let complete = job.and_then(|job| Runs::of(&job.state).complete);
                let complete = complete.filter(|run| run.projections == self.projections);
                last = last.max(complete.map(|run| run.began));
            }
        }
        Ok(last)
    }

    /// Whether a run that has not ended does what is asked for.
    fn can_go_on_with(&self, run: &Run) -> bool {
        let is_since = match self.recent {
            Some(Since::Time(time)) => run.since == Some(time),
            Some(Since::Before(_)) | None => true,
        };
        run.ended.is_none() && run.projections == self.projections && is_since && !self.anew
    }
}

/// Takes the job for what is asked, and its newest run if that has not ended, or a new one.
pub(crate) async fn plan(
    store: Arc<dyn JobStore>,
    asked: &Asked,
    owner: &str,
    now: Timestamp,
    pace: &Pace,
) -> Result<Planned, Halt> {
    let job = HeldJob::take(Arc::clone(&store), &asked.job(), owner, pace).await?;
    let runs = Runs::of(&job.state());
    for tenant in &asked.tenants {
        job.put_tenant(pace, tenant).await?;
    }
    if runs.run.as_ref().is_some_and(|run| asked.can_go_on_with(run)) {
        return Ok(Planned::Run(Box::new(Progress::begin(job, runs, None, pace).await?)));
    }
    if let (Some(every), Some(complete)) = (asked.every, &runs.complete)
        && before(now, every) < complete.began
        && complete.projections == asked.projections
        && !asked.anew
    {
        let began = complete.began;
        job.release(job.state(), []).await;
        return Ok(Planned::NotDue(began));
    }
    let since = match asked.recent {
        None => None,
        Some(Since::Time(time)) => {
            if pace.unpaced("reading the tenants", || store.tenants(None)).await?.is_empty() {
                job.release(job.state(), []).await;
                return Err(Halt::Lacking(
                    "no tenant is known, and the index has one for a key: name tenants with --tenant, or run one without \
                     --since first",
                ));
            }
            Some(time)
        }
        Some(Since::Before(overlap)) => match asked.last_complete(&*store, pace).await? {
            Some(last) => Some(before(last, overlap)),
            None => {
                job.release(job.state(), []).await;
                return Err(Halt::Lacking(
                    "no audit of these projections was completed yet: run one without --recent first",
                ));
            }
        },
    };
    let number = u64::try_from(now.unix_micros()).unwrap_or_default();
    let number = number.max(runs.run.as_ref().map_or(0, |run| run.number.saturating_add(1)));
    let run = Run {
        number,
        began: now,
        since,
        segments: asked.segments.get(),
        projections: asked.projections.clone(),
        ended: None,
        read_units: 0.0,
        counts: Default::default(),
    };
    Ok(Planned::Run(Box::new(Progress::begin(job, runs, Some(run), pace).await?)))
}

/// A while before a time.
fn before(time: Timestamp, while_before: Duration) -> Timestamp {
    let micros = i64::try_from(while_before.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_unix_micros(time.unix_micros().saturating_sub(micros))
}
