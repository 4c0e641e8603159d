//! The guard against getting worse: counts that do not depend on the machine, each with the most that it may be.

use std::sync::Arc;

use anyhow::{Context as _, bail};

use crate::{allocations, contender::Kind, costs, null::Null, site::Site};

/// The most allocations of a warm command of Millrace's for one of the floor's, and the most bytes in them: the counts,
/// and a little more. The floor's are the SDK's own, which change with its releases. Every sixteenth command has a second
/// request, with a snapshot.
const ALLOCATIONS: f64 = 1.2;
const BYTES: f64 = 1.25;

/// The limits of a command of Millrace's: events, cold or warm, requests, read units, write units. Warm ones have their
/// share of a snapshot every 16 events.
const MOST: [(u64, bool, f64, f64, f64); 6] = [
    (1, true, 2.0, 1.0, 2.0),
    (1, false, 1.0625, 0.0, 2.0625),
    (100, true, 3.0, 4.5, 2.0),
    (100, false, 1.0625, 0.0, 2.125),
    (1_000, true, 3.0, 4.5, 2.0),
    (1_000, false, 1.0625, 0.0, 2.125),
];

/// Counts, and fails where a count is higher than it may be.
pub(crate) async fn run() -> anyhow::Result<()> {
    let site = Arc::new(Site::new(true).await?);
    let mut violations = Vec::new();
    let mut tell = |what: String, counted: f64, most: f64| {
        let verdict = if counted <= most { "ok" } else { "TOO MUCH" };
        println!("{what:<60} {counted:>10.3}  at most {most:>10.3}  {verdict}");
        if counted > most {
            violations.push(format!("{what}: {counted:.3}, at most {most:.3}"));
        }
    };
    let mut costs = Vec::new();
    for length in [1, 100, 1_000] {
        costs.extend(costs::count(&site, Kind::Millrace, length).await?);
    }
    for (length, cold, most_requests, most_read, most_written) in MOST {
        let of = format!("{length} events, {}", if cold { "cold" } else { "warm" });
        let cost = costs.iter().find(|cost| (cost.length, cost.cold) == (length, cold));
        let cost = cost.with_context(|| format!("a command on {of} was not counted"))?;
        let bill = cost.bill.as_ref().map_err(|reason| anyhow::anyhow!("a command on {of}: {reason}"))?;
        tell(format!("requests of a command on {of}"), bill.requests, most_requests);
        tell(format!("read units of a command on {of}"), bill.read_units, most_read);
        tell(format!("write units of a command on {of}"), bill.write_units, most_written);
    }
    let null = Null::start()?;
    let floor = allocations::count(&site, Kind::Floor, null.url()).await?;
    let ours = allocations::count(&site, Kind::Millrace, null.url()).await?;
    for (whose, of) in [("Millrace's", &ours), ("the floor's", &floor)] {
        println!("{whose} warm command: {:.0} allocations, {:.0} bytes", of.count, of.bytes);
    }
    tell("allocations, as a multiple of the floor's".to_owned(), ours.count / floor.count, ALLOCATIONS);
    tell("bytes allocated, as a multiple of the floor's".to_owned(), ours.bytes / floor.bytes, BYTES);
    if !violations.is_empty() {
        bail!("commands cost more than they did:\n{}", violations.join("\n"));
    }
    Ok(())
}
