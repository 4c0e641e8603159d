//! How fast read models are made anew from the events, against a bare parallel scan of the same table.
//!
//! There is no rebuilding beside live traffic yet. `projector audit --repair` makes rows from nothing but events, so it
//! is measured, on empty read models.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::ensure;
use futures::{StreamExt as _, TryStreamExt as _, future::try_join_all, stream};
use millrace_event_store::{AppendEvents as _, Commit};
use millrace_tests::process::Deployable;
use serde::{Deserialize, Serialize};

use crate::{
    contender::{history, program},
    load::as_f64,
    site::Site,
    user::User,
};

/// Readers side by side, as an audit has them by default.
const SEGMENTS: i32 = 4;

/// How fast it was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rebuild {
    pub(crate) events: u64,
    pub(crate) rows: u64,
    pub(crate) scan_seconds: f64,
    pub(crate) rebuild_seconds: f64,
}

impl Rebuild {
    /// Events a second.
    pub(crate) fn per_second(&self) -> f64 {
        as_f64(self.events) / self.rebuild_seconds
    }

    /// The scan's events a second.
    pub(crate) fn scanned_per_second(&self) -> f64 {
        as_f64(self.events) / self.scan_seconds
    }
}

/// Stores users of so many events each, and makes their rows.
pub(crate) async fn measure(users: u64, events_of_each: u64, step: &dyn Fn(&str)) -> anyhow::Result<Rebuild> {
    step("rebuilding: storing the events");
    let site = Site::new(true).await?;
    let store = site.store(&site.access());
    let commits = stream::iter(0..users).map(|_| {
        let events = history(&User::new(events_of_each).stream(), 1..=events_of_each);
        let (store, commit) = (store.clone(), Commit { events, claims: Vec::new(), releases: Vec::new() });
        async move { store.append(&commit).await }
    });
    commits.buffer_unordered(4).try_collect::<()>().await?;
    step("rebuilding: a bare scan");
    let began = Instant::now();
    let scanned = try_join_all((0..SEGMENTS).map(|segment| scan(&site, segment))).await?;
    let scan_seconds = began.elapsed().as_secs_f64();
    let events = users * events_of_each;
    ensure!(scanned.iter().sum::<u64>() == events, "the scan found {scanned:?} events, not {events}");
    step("rebuilding: projector audit --repair");
    let began = Instant::now();
    repair(&site).await?;
    Ok(Rebuild { events, rows: users, scan_seconds, rebuild_seconds: began.elapsed().as_secs_f64() })
}

/// Reads a part of the table, by the SDK as it comes; how many events there were.
async fn scan(site: &Site, segment: i32) -> anyhow::Result<u64> {
    let client = site.access().bare();
    let mut found = 0;
    let mut from = None;
    loop {
        let page = client
            .scan()
            .table_name(site.stack.events())
            .segment(segment)
            .total_segments(SEGMENTS)
            .set_exclusive_start_key(from)
            .send()
            .await?;
        found += u64::try_from(page.items().len())?;
        from = page.last_evaluated_key;
        if from.is_none() {
            return Ok(found);
        }
    }
}

async fn repair(site: &Site) -> anyhow::Result<()> {
    let mut child = Command::new(program()?)
        .args([Deployable::Projector.name(), "audit", "--repair", "--grace", "0"])
        .env_clear()
        .envs(millrace_tests::env(&site.stack))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    loop {
        if let Some(ended) = child.try_wait()? {
            ensure!(ended.success(), "the audit ended with {ended}");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
