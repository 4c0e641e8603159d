//! The metrics of commands.

use metrics::{counter, describe_counter};

/// States that were asked of the cache, labelled `outcome`: `hit` or `miss`.
const STATE_CACHE: &str = "state_cache_total";
const CONFLICTS: &str = "command_conflicts_total";
const SNAPSHOT_READS: &str = "snapshot_reads_total";
const SNAPSHOT_WRITES: &str = "snapshot_writes_total";

/// Describes the metrics and starts them at zero: Prometheus sees no increase of a counter that begins with its first
/// count.
pub fn begin() {
    describe();
    counter!(CONFLICTS).absolute(0);
    let outcomes: [(&str, &[&'static str]); 3] = [
        (STATE_CACHE, &["hit", "miss"]),
        (SNAPSHOT_READS, &["read", "missing", "passed_over", "failed"]),
        (SNAPSHOT_WRITES, &["written", "outrun", "left_out", "failed"]),
    ];
    for (metric, outcomes) in outcomes {
        for outcome in outcomes {
            counter!(metric, "outcome" => *outcome).absolute(0);
        }
    }
}

fn describe() {
    describe_counter!(STATE_CACHE, "States that were asked of the cache.");
    describe_counter!(CONFLICTS, "Appends that met an event of their version, one's own included.");
    describe_counter!(SNAPSHOT_READS, "Snapshots that were asked for.");
    describe_counter!(SNAPSHOT_WRITES, "Snapshots that were due.");
}

pub(crate) fn state_asked(hit: bool) {
    counter!(STATE_CACHE, "outcome" => if hit { "hit" } else { "miss" }).increment(1);
}

pub(crate) fn conflict() {
    counter!(CONFLICTS).increment(1);
}

pub(crate) fn snapshot_read(outcome: &'static str) {
    counter!(SNAPSHOT_READS, "outcome" => outcome).increment(1);
}

pub(crate) fn snapshot_due(outcome: &'static str) {
    counter!(SNAPSHOT_WRITES, "outcome" => outcome).increment(1);
}
