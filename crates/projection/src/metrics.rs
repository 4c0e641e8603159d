//! The projector's metrics. All are labelled `projection`: the projection's name, or, while several versions of it are
//! registered, `<name>@<version>`.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::{ApplyError, queue::Depth};

/// The calls to a queue.
const CALLS: [&str; 5] = ["receive", "delete", "hide", "dead_letter", "depth"];

/// Events that were written into their rows, whether a message or the event store brought them.
pub const EVENTS_APPLIED: &str = "projector_events_applied_total";
/// Messages whose event was already in the row.
pub const DUPLICATES: &str = "projector_duplicates_total";
/// Gaps between a row and its events, or among these, that were filled from the event store.
pub const GAPS_HEALED: &str = "projector_gaps_healed_total";
/// Attempts at a message that failed, labelled `reason`.
pub const FAILURES: &str = "projector_failures_total";
/// Messages that were sent to the dead-letter queue, labelled `reason`.
pub const DEAD_LETTERS: &str = "projector_dead_letters_total";
/// From the time of an event to the moment its row was written, in seconds.
pub const LAG: &str = "projector_lag_seconds";
/// Calls to the queue that failed, labelled `call`: `receive`, `delete`, `hide`, `dead_letter` or `depth`. A message that could
/// not be deleted comes again and is dropped as a duplicate.
pub const QUEUE_ERRORS: &str = "projector_queue_errors_total";

/// Messages of the queue, about, labelled `state`: `waiting` to be received, `hidden` since they are worked on or will be
/// tried again. Every replica tells the same.
pub const QUEUE_MESSAGES: &str = "projector_queue_messages";
/// Messages of the dead-letter queue, about.
pub const DEAD_LETTER_MESSAGES: &str = "projector_dead_letter_messages";

/// Describes each metric to the recorder.
pub fn describe() {
    describe_counter!(EVENTS_APPLIED, "Events written into their rows.");
    describe_counter!(DUPLICATES, "Messages whose event the row had already.");
    describe_counter!(GAPS_HEALED, "Gaps that were filled from the event store.");
    describe_counter!(FAILURES, "Attempts at a message that failed.");
    describe_counter!(DEAD_LETTERS, "Messages that were sent to the dead-letter queue.");
    describe_histogram!(LAG, Unit::Seconds, "From the time of an event to the moment its row was written.");
    describe_counter!(QUEUE_ERRORS, "Calls to the queue that failed.");
    describe_gauge!(QUEUE_MESSAGES, "Messages of the queue, about.");
    describe_gauge!(DEAD_LETTER_MESSAGES, "Messages of the dead-letter queue, about. Alarm on this.");
}

/// Registers a projection's counters: Prometheus sees no increase of a counter that begins with its first count.
pub(crate) fn begin(projection: &'static str) {
    for metric in [EVENTS_APPLIED, DUPLICATES, GAPS_HEALED] {
        counter!(metric, "projection" => projection).absolute(0);
    }
    for reason in ApplyError::REASONS {
        counter!(FAILURES, "projection" => projection, "reason" => reason).absolute(0);
        counter!(DEAD_LETTERS, "projection" => projection, "reason" => reason).absolute(0);
    }
    for call in CALLS {
        counter!(QUEUE_ERRORS, "projection" => projection, "call" => call).absolute(0);
    }
}

/// Adds to a counter of a projection.
pub(crate) fn count(metric: &'static str, projection: &'static str, more: u64) {
    if more > 0 {
        counter!(metric, "projection" => projection).increment(more);
    }
}

/// Counts a failure of a projection by its reason.
pub(crate) fn count_reason(metric: &'static str, projection: &'static str, reason: &'static str) {
    counter!(metric, "projection" => projection, "reason" => reason).increment(1);
}

/// Counts a failed call to the queue.
pub(crate) fn count_queue_error(projection: &'static str, call: &'static str) {
    counter!(QUEUE_ERRORS, "projection" => projection, "call" => call).increment(1);
}

/// Shows how many messages there are.
pub(crate) fn depth(projection: &'static str, depth: Depth) {
    // A gauge is a floating-point number: exact up to 2^53.
    let show = |n: u64| n as f64;
    gauge!(QUEUE_MESSAGES, "projection" => projection, "state" => "waiting").set(show(depth.waiting));
    gauge!(QUEUE_MESSAGES, "projection" => projection, "state" => "hidden").set(show(depth.hidden));
    gauge!(DEAD_LETTER_MESSAGES, "projection" => projection).set(show(depth.dead));
}

/// Records the time from an event to the write of its row.
pub(crate) fn lag(projection: &'static str, seconds: f64) {
    histogram!(LAG, "projection" => projection).record(seconds);
}
