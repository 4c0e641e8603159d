//! That nothing is lost by the stream's losses, and the losses without each guard.

use super::{Before, Doubt, FirstNote, Guards, Owed, Retention};
use crate::check::{breaks, holds};

/// A shard that is known before the model begins.
const KNOWN: Retention = Retention {
    before: Before::RelayAndShard,
    shards: 1,
    events: 3,
    listers: 0,
    owed: Owed::SinceFirstNote,
    end: 4,
    guards: Guards::ALL,
};

/// A shard that two replicas come to see.
const COMING: Retention = Retention { before: Before::Relay, events: 2, listers: 2, ..KNOWN };

/// One that the first relay of all comes to see.
const FIRST: Retention =
    Retention { before: Before::NoRelay, listers: 1, owed: Owed::SinceADayBefore, ..COMING };

/// One that the first two relays of all come to see.
const FIRST_TWO: Retention = Retention { events: 1, listers: 2, ..FIRST };

/// Two shards, the second of which continues the first.
const TWO: Retention = Retention { shards: 2, events: 1, listers: 1, end: 3, ..COMING };

#[test]
fn nothing_is_lost_of_a_shard() {
    holds(KNOWN);
    holds(COMING);
    holds(FIRST);
}

#[test]
fn nothing_is_lost_of_shards_that_come_and_go() {
    holds(TWO);
    holds(Retention { before: Before::RelayAndShard, ..TWO });
}

#[test]
#[ignore = "takes minutes and gigabytes"]
fn nothing_is_lost_of_shards_within_larger_bounds() {
    holds(Retention { end: 7, ..KNOWN });
    holds(Retention { events: 3, end: 6, ..COMING });
    holds(Retention { events: 3, end: 6, ..FIRST });
    holds(Retention { end: 5, ..TWO });
    holds(Retention { events: 2, end: 4, ..TWO });
    holds(Retention { before: Before::RelayAndShard, events: 2, end: 4, ..TWO });
    holds(Retention { before: Before::NoRelay, end: 4, ..TWO });
    holds(Retention { end: 6, ..FIRST_TWO });
}

#[track_caller]
fn loses(model: Retention, guards: Guards) {
    breaks(Retention { guards, ..model }, &["every event is on the bus"]);
}

#[test]
fn with_doubt_at_any_other_time_than_after_each_opening_an_event_is_lost() {
    let others = [
        Doubt::NotAfterRefill,
        Doubt::NotAfterFailure,
        Doubt::BeforeEachOpening,
        Doubt::BeforeTheFirstOpening,
    ];
    for doubt in others {
        loses(KNOWN, Guards { doubt, ..Guards::ALL });
    }
}

#[test]
fn with_a_refill_dated_by_its_end_an_event_behind_its_scan_is_lost() {
    loses(KNOWN, Guards { dates_refill_by_its_beginning: false, ..Guards::ALL });
}

#[test]
fn with_a_new_shard_dated_by_a_sign_of_life_an_event_is_lost() {
    loses(COMING, Guards { dates_by_listing: false, ..Guards::ALL });
}

#[test]
fn with_a_listing_noted_before_all_of_it_is_leased_an_event_is_lost() {
    loses(COMING, Guards { notes_what_is_leased: false, ..Guards::ALL });
}

#[test]
fn with_a_listing_noted_as_of_the_time_of_the_note_an_event_is_lost() {
    loses(COMING, Guards { notes_time_of_listing: false, ..Guards::ALL });
}

#[test]
fn with_a_first_note_of_the_listing_two_first_relays_that_sleep_lose_an_event() {
    let later = Retention { owed: Owed::SinceFirstNote, ..FIRST_TWO };
    loses(later, Guards { first_note: FirstNote::Listing, ..Guards::ALL });
    holds(Retention { guards: Guards { first_note: FirstNote::Reading, ..Guards::ALL }, ..later });
}

#[test]
fn without_a_first_note_of_nearly_a_day_before_an_event_of_that_day_is_lost() {
    holds(FIRST_TWO);
    loses(FIRST_TWO, Guards { first_note: FirstNote::Reading, ..Guards::ALL });
    loses(FIRST, Guards { first_note: FirstNote::Listing, ..Guards::ALL });
}
