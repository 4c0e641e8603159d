//! How often memory is asked for by a command. The same on every machine, so a change of it is a change of the code.

use std::{sync::Arc, thread};

use allocation_counter::{AllocationInfo, measure};
use anyhow::anyhow;
use serde::{Deserialize, Serialize};

use crate::{
    contender::{Kind, Outcome},
    load::as_f64,
    site::Site,
};

/// Commands before it counts: connections are made, tables grow.
const BEFORE: u32 = 200;
/// Commands that are counted.
const COMMANDS: u32 = 400;

/// The allocations of one command.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Allocations {
    pub(crate) count: f64,
    pub(crate) bytes: f64,
}

/// Counts them on one thread that does all of a contender's work, against the null endpoint.
pub(crate) async fn count(site: &Arc<Site>, kind: Kind, url: &str) -> anyhow::Result<Allocations> {
    let (site, url) = (site.clone(), url.to_owned());
    let counted = tokio::task::spawn_blocking(move || {
        // A thread of its own, because allocations are counted by thread.
        thread::spawn(move || on_this_thread(&site, kind, &url)).join()
    });
    let info = counted.await?.map_err(|_| anyhow!("counting allocations panicked"))??;
    let each = |sum: u64| as_f64(sum) / f64::from(COMMANDS);
    Ok(Allocations { count: each(info.count_total), bytes: each(info.bytes_total) })
}

fn on_this_thread(site: &Site, kind: Kind, url: &str) -> anyhow::Result<AllocationInfo> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let access = site.access().by(url);
    let contender = runtime.block_on(kind.open(site, &access))?;
    let user = runtime.block_on(contender.create())?;
    let rename = |times: u32| -> anyhow::Result<()> {
        for _ in 0..times {
            let outcome = runtime.block_on(contender.rename(&user))?;
            anyhow::ensure!(outcome == Outcome::Done, "a command was not done");
        }
        Ok(())
    };
    rename(BEFORE)?;
    let mut done = Ok(());
    let info = measure(|| done = rename(COMMANDS));
    done.map(|()| info)
}
