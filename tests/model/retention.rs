//! The stream's losses: trimmed records, shards that vanish, first leases, refills, and processes that sleep.
//!
//! Time goes by in half days; a record is dropped when it is a day old. Any time may pass between any two moves, which
//! covers a machine that sleeps, a bus that refuses and a parent that is slow. How often processes die and cursors
//! expire is not bounded; time, shards and events are.
//!
//! A shard has one reader here, the one whose fence is the newest: others only add to the accepted events, and cannot
//! write the lease, which `propagation.rs` shows. A call that fails without effect is no move. Left out are margins and
//! differences between clocks; shards that continue none that was known, which are only dated further back
//! (`View::continues`); refills that shards share, which begin after all of them have asked (`Refills`); and that a refill is done beside its shard, by leases of its own
//! (`RefillJob`): what it owes is written down before the shard goes on, so it counts as done from then on.

mod discovery;
mod reading;
mod steps;
mod stream;
mod tests;

use self::{
    discovery::Lister,
    reading::{Progress, Reader},
    steps::Step,
    stream::Stream,
};
use crate::model::{self, Model};

type Law = model::Law<Retention>;
type Moves = model::Moves<Retention>;

/// A time, in half days.
type Time = i8;

/// How long the stream keeps a record (`RETENTION`), and how old the time of an unread shard may get before its losses
/// are in doubt (`RelayConfig::trust_horizon`, which is shorter, but not by half a day).
const DAY: Time = 2;

const MAX_SHARDS: usize = 2;
const MAX_EVENTS: usize = 3;
const MAX_LISTERS: usize = 2;

/// The bounds and the guards of a model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    pub(crate) before: Before,
    /// How many shards there will be, one after the other, each continuing the one before it.
    pub(crate) shards: usize,
    pub(crate) events: usize,
    /// How many replicas look for new shards.
    pub(crate) listers: usize,
    /// The events that may not be lost, where no relay was there before.
    pub(crate) owed: Owed,
    /// When time ends.
    pub(crate) end: Time,
    pub(crate) guards: Guards,
}

/// The state before the model begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// No relay, ever.
    NoRelay,
    /// A relay that has seen all shards, none of which matters any more.
    Relay,
    /// A relay that has given the first shard its lease, and read nothing.
    RelayAndShard,
}

/// The events that the first relay of all owes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owed {
    /// Events stored after it has written anything to the lease table.
    SinceFirstNote,
    /// Events that the stream still held then, too.
    SinceADayBefore,
}

/// The code's guards against loss. Each can be left out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guards {
    /// When the reader asks whether the trim horizon is in doubt: `Reader::horizon_is_doubtful` in the relay's
    /// `shard.rs`.
    pub(crate) doubt: Doubt,
    /// After a refill, the horizon is as good as it was when the refill began: `Reader::refill`.
    pub(crate) dates_refill_by_its_beginning: bool,
    /// A shard that is first seen is dated by the last listing for which all shards had leases (`LeaseTable::complete_at`),
    /// not by the last sign of life of any relay: `View::first_lease` in the relay's `plan.rs`.
    pub(crate) dates_by_listing: bool,
    /// A listing is noted as such once all that it lists is leased: `plan::complete_at`.
    pub(crate) notes_what_is_leased: bool,
    /// And with the time when it was made, not with that of the note: `Relay::listing`.
    pub(crate) notes_time_of_listing: bool,
    /// The first note in an empty table: `plan::complete_at`.
    pub(crate) first_note: FirstNote,
}

/// When a reader asks. Only the first will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    AfterEachOpening,
    /// After each but the one that follows a refill.
    NotAfterRefill,
    /// After each but those that follow a failure, such as a cursor's expiry.
    NotAfterFailure,
    BeforeEachOpening,
    BeforeTheFirstOpening,
}

/// The time that the first relay of all notes, which finds the lease table empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstNote {
    /// That of its listing, as with any other note.
    Listing,
    /// The time before it read the table. Others may have noted something since then.
    Reading,
    /// Nearly a day before that: the stream may have held its records for so long. So the code does
    /// (`RelayConfig::age_of_first`).
    NearlyADayBeforeReading,
}

impl Guards {
    /// All of them.
    pub(crate) const ALL: Self = Self {
        doubt: Doubt::AfterEachOpening,
        dates_refill_by_its_beginning: true,
        dates_by_listing: true,
        notes_what_is_leased: true,
        notes_time_of_listing: true,
        first_note: FirstNote::NearlyADayBeforeReading,
    };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    now: Time,
    stream: Stream,
    /// The events that the bus has accepted, and those that no relay can know of.
    accepted: [bool; MAX_EVENTS],
    leases: [Option<Progress>; MAX_SHARDS],
    readers: [Option<Reader>; MAX_SHARDS],
    /// The latest time at which all shards had leases, as the lease table has it.
    complete_at: Option<Time>,
    /// When a lease was last renewed. Used only without `Guards::dates_by_listing`.
    renewed: Time,
    listers: [Lister; MAX_LISTERS],
}

impl Retention {
    /// Whether no shard is left to be seen for the first time.
    fn is_all_leased(&self, state: &State) -> bool {
        state.leases.iter().take(self.shards).all(Option::is_some)
    }
}

impl Model for Retention {
    type State = State;
    type Step = Step;

    fn initial(&self) -> State {
        let has_shard = self.before == Before::RelayAndShard;
        State {
            now: 0,
            stream: Stream::new(has_shard),
            accepted: [false; MAX_EVENTS],
            leases: [has_shard.then_some(Progress::unread(0)), None],
            readers: [None; MAX_SHARDS],
            complete_at: (self.before != Before::NoRelay).then_some(0),
            renewed: 0,
            listers: Default::default(),
        }
    }

    fn moves(&self, moves: &mut Moves) {
        stream::moves(self, moves);
        discovery::moves(self, moves);
        reading::moves(self, moves);
    }

    fn representative(&self, state: &State) -> State {
        let mut same = *state;
        same.stream.forget_places(&state.accepted);
        same.listers.sort();
        if self.is_all_leased(state) {
            (same.complete_at, same.renewed, same.listers) = (None, 0, Default::default());
        }
        same
    }

    fn laws(&self) -> Vec<Law> {
        let mut laws = vec![
            Law::AtRest("every event is on the bus", |_, state| {
                state.stream.events().all(|(event, _)| state.accepted[event])
            }),
            Law::Sometimes("the trim horizon is in doubt", |_, _, next| {
                matches!(next.step, Step::Doubt { .. })
            }),
            Law::Sometimes("the stream says that a record is gone", |_, _, next| {
                matches!(next.step, Step::IsTrimmed { .. })
            }),
            Law::Sometimes("a shard is gone that was not read to its end", |_, _, next| {
                matches!(next.step, Step::IsGone { .. })
            }),
            Law::Sometimes("an event is stored behind a scan", |_, state, next| {
                let is_behind = |page| state.readers.iter().flatten().any(|reader| reader.has_scanned(page));
                matches!(next.step, Step::Store { page, .. } if is_behind(page))
            }),
        ];
        if self.shards > 1 && self.before == Before::Relay {
            laws.push(Law::Sometimes("a shard comes and goes before a relay sees it", |_, state, next| {
                let was_listed = |shard| state.stream.is_listed(shard, state.now);
                let is_missed = |shard| {
                    !next.after.stream.is_listed(shard, next.after.now) && state.leases[shard].is_none()
                };
                (0..MAX_SHARDS).any(|shard| was_listed(shard) && is_missed(shard))
            }));
        }
        laws
    }
}
