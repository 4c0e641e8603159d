//! The relay's metrics.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const PUBLISHED: &str = "relay_published_total";
const ENTRIES_FAILED: &str = "relay_entries_failed_total";
const LAG: &str = "relay_lag_seconds";
const BEHIND: &str = "relay_behind_seconds";
const CALLS_FAILED: &str = "relay_calls_failed_total";
const TRIMMED: &str = "relay_trimmed_total";
const REFILLS: &str = "relay_refills_total";
const REFILLED: &str = "relay_refilled_total";
const UNDECODABLE: &str = "relay_undecodable_total";
const SKIPPED: &str = "relay_skipped_total";
const LEASES_HELD: &str = "relay_leases_held";
const LEASES_LOST: &str = "relay_leases_lost_total";
const OVERSIZED: &str = "relay_oversized_total";

/// Describes each metric and registers all counters: Prometheus misses the first count of a counter that it has not
/// seen at zero.
pub(super) fn begin() {
    describe();
    let counters =
        [PUBLISHED, ENTRIES_FAILED, TRIMMED, REFILLS, REFILLED, UNDECODABLE, SKIPPED, LEASES_LOST, OVERSIZED];
    for metric in counters {
        counter!(metric).absolute(0);
    }
    for called in [Called::Stream, Called::Leases, Called::Table] {
        counter!(CALLS_FAILED, "called" => called.label()).absolute(0);
    }
}

fn describe() {
    describe_counter!(PUBLISHED, "Events that the bus accepted, repeats included.");
    describe_counter!(
        ENTRIES_FAILED,
        "Entries that the bus did not accept at an attempt; each is tried again."
    );
    describe_histogram!(LAG, Unit::Seconds, "From an event's time to its acceptance by the bus.");
    describe_gauge!(
        BEHIND,
        Unit::Seconds,
        "How old the oldest event may be that this replica has still to relay. Alarm on this."
    );
    describe_counter!(CALLS_FAILED, "Calls to the stream, the lease table or the event table that failed.");
    describe_counter!(
        TRIMMED,
        "Times that the stream had dropped records, or a shard, not yet relayed. Alarm on this."
    );
    describe_counter!(REFILLS, "Refills from the table that this replica wrote down. Alarm on this.");
    describe_counter!(REFILLED, "Events published from the table because the stream had dropped records.");
    describe_counter!(UNDECODABLE, "Items that are not events, handed on as they are. Alarm on this.");
    describe_counter!(SKIPPED, "Records of changes other than new items, passed over.");
    describe_gauge!(LEASES_HELD, "Shards that this replica reads.");
    describe_counter!(LEASES_LOST, "Leases that went to another replica, or could not be renewed in time.");
    describe_counter!(OVERSIZED, "Events published without their data, which the bus would not take.");
}

pub(super) fn published(lag: Duration) {
    counter!(PUBLISHED).increment(1);
    histogram!(LAG).record(lag);
}

pub(super) fn behind(by: Duration) {
    gauge!(BEHIND).set(by);
}

/// The relay's ports other than the bus.
#[derive(Debug, Clone, Copy)]
pub(super) enum Called {
    Stream,
    Leases,
    Table,
}

impl Called {
    fn label(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Leases => "leases",
            Self::Table => "table",
        }
    }
}

pub(super) fn call_failed(called: Called) {
    counter!(CALLS_FAILED, "called" => called.label()).increment(1);
}

pub(super) fn entry_failed() {
    counter!(ENTRIES_FAILED).increment(1);
}

pub(super) fn trimmed() {
    counter!(TRIMMED).increment(1);
}

pub(super) fn refill() {
    counter!(REFILLS).increment(1);
}

pub(super) fn refilled() {
    counter!(REFILLED).increment(1);
}

pub(super) fn undecodable() {
    counter!(UNDECODABLE).increment(1);
}

pub(super) fn skipped() {
    counter!(SKIPPED).increment(1);
}

pub(super) fn leases_held(count: usize) {
    gauge!(LEASES_HELD).set(u32::try_from(count).unwrap_or(u32::MAX));
}

pub(super) fn lease_lost() {
    counter!(LEASES_LOST).increment(1);
}

pub(super) fn oversized() {
    counter!(OVERSIZED).increment(1);
}
