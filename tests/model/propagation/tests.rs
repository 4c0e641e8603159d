//! That nothing is lost on the way, and the losses without each guard.

use super::{Guards, Propagation, layout::Shards};
use crate::check::{breaks, holds};

/// Relays, up to the bus. Anything goes wrong, any number of times.
const RELAYS: Propagation = Propagation {
    shards: Shards::ParentAndChild,
    relays: 2,
    projectors: 0,
    trouble: None,
    guards: Guards::ALL,
};

/// Projectors, from a bus that has accepted all. Anything goes wrong, any number of times.
const PROJECTORS: Propagation = Propagation { relays: 0, projectors: 2, ..RELAYS };

/// All of the way. One thing goes wrong: that is enough to miss each guard.
const WHOLE_WAY: Propagation = Propagation { projectors: 2, trouble: Some(1), ..RELAYS };

#[test]
fn relays_of_a_shard_and_its_child_publish_everything() {
    holds(RELAYS);
}

#[test]
fn relays_of_unrelated_shards_publish_everything() {
    holds(Propagation { shards: Shards::Unrelated, trouble: Some(2), ..RELAYS });
}

#[test]
fn projectors_bring_everything_into_rows() {
    holds(PROJECTORS);
    holds(Propagation { shards: Shards::Unrelated, ..PROJECTORS });
}

#[test]
fn nothing_is_lost_on_the_whole_way() {
    holds(WHOLE_WAY);
    holds(Propagation { projectors: 1, trouble: Some(2), ..WHOLE_WAY });
    holds(Propagation { projectors: 1, shards: Shards::Unrelated, ..WHOLE_WAY });
}

#[test]
#[ignore = "takes minutes and gigabytes"]
fn nothing_is_lost_on_the_whole_way_within_larger_bounds() {
    holds(Propagation { shards: Shards::Unrelated, ..RELAYS });
    holds(Propagation { relays: 1, projectors: 1, trouble: None, ..WHOLE_WAY });
    holds(Propagation { projectors: 1, trouble: Some(3), ..WHOLE_WAY });
    holds(Propagation { trouble: Some(2), ..WHOLE_WAY });
    holds(Propagation { shards: Shards::Unrelated, ..WHOLE_WAY });
}

/// That these laws are broken by part of the way and by all of it, where `guards` are all there is.
#[track_caller]
fn breaks_without(guards: Guards, part: Propagation, laws: &[&str]) {
    breaks(Propagation { guards, ..part }, laws);
    breaks(Propagation { guards, ..WHOLE_WAY }, laws);
}

#[test]
fn without_fencing_a_checkpoint_goes_back() {
    let guards = Guards { fencing: false, ..Guards::ALL };
    let back = "a checkpoint goes back only by a write that comes late";
    breaks_without(guards, RELAYS, &[back, "a checkpoint is moved by the newest fence only"]);
}

#[test]
fn with_a_checkpoint_before_acceptance_an_event_is_lost() {
    let guards = Guards { acceptance_first: false, ..Guards::ALL };
    let passes = "a checkpoint passes only what the bus has accepted";
    breaks_without(guards, RELAYS, &[passes, "every event is on the bus"]);
    breaks(Propagation { guards, ..WHOLE_WAY }, &["every event is in its row"]);
}

#[test]
fn with_a_child_before_its_parent_events_are_out_of_order() {
    let guards = Guards { parents_first: false, ..Guards::ALL };
    breaks_without(guards, RELAYS, &["events are first published in order, unless the bus fails"]);
}

#[test]
fn without_the_condition_on_its_version_a_row_goes_back() {
    let guards = Guards { row_condition: false, ..Guards::ALL };
    breaks_without(guards, PROJECTORS, &["a row never goes back", "a row is what the history once was"]);
}

#[test]
fn without_healing_a_row_is_stuck() {
    let guards = Guards { healing: false, ..Guards::ALL };
    breaks_without(guards, PROJECTORS, &["every event is in its row"]);
}

#[test]
fn with_a_message_deleted_before_its_row_is_written_an_event_is_lost() {
    let guards = Guards { write_first: false, ..Guards::ALL };
    breaks_without(guards, PROJECTORS, &["every event is in its row"]);
}
