//! How shards come to their first leases: `Relay::plan` and `Relay::balance` in the relay's `lib.rs`, and its
//! `plan.rs`.

use super::{
    DAY, FirstNote, MAX_SHARDS, Moves, Owed, Retention, State, Time, reading::Progress, steps::Step,
};

/// Some of the shards.
type Shards = [bool; MAX_SHARDS];

/// A replica that looks for new shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Lister {
    /// The last listing of the stream, which is used again for a while: for as long as a machine sleeps.
    listing: Option<Listing>,
    round: Round,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Listing {
    at: Time,
    shards: Shards,
}

/// How far a replica has come in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
enum Round {
    #[default]
    Idle,
    /// It has read the lease table.
    Read { at: Time, leased: Shards, complete_at: Option<Time>, renewed: Time },
    /// It has listed the stream, too, and notes that all shards had leases at a time.
    Notes { time: Time, missing: Shards },
    /// It creates the leases that are missing.
    Creates { missing: Shards, date: Time },
}

pub(super) fn moves(model: &Retention, moves: &mut Moves) {
    if model.is_all_leased(&moves.from) {
        return;
    }
    if !model.guards.dates_by_listing && moves.from.renewed < moves.from.now {
        moves.trouble(Step::Renew, |state| state.renewed = state.now);
    }
    for lister in 0..model.listers {
        let Lister { listing, round } = moves.from.listers[lister];
        match round {
            Round::Idle => read(lister, moves),
            Round::Read { .. } => list(model, lister, listing, moves),
            Round::Notes { time, missing } => note(model, lister, time, missing, moves),
            Round::Creates { missing, date } => create(lister, missing, date, moves),
        }
        if moves.from.listers[lister] != Lister::default() {
            moves.trouble(Step::Forget { lister }, |state| state.listers[lister] = Lister::default());
        }
    }
}

/// The leases are read first: `Leases::list`. Where a round could tell nothing new it is no move.
fn read(lister: usize, moves: &mut Moves) {
    let state = moves.from;
    let is_new = |shard: usize| state.leases[shard].is_none() && state.stream.is_listed(shard, state.now);
    if state.complete_at.is_none_or(|at| at < state.now) || (0..MAX_SHARDS).any(is_new) {
        let leased = state.leases.map(|lease| lease.is_some());
        let (at, complete_at, renewed) = (state.now, state.complete_at, state.renewed);
        let round = Round::Read { at, leased, complete_at, renewed };
        moves.work(Step::ReadLeases { lister }, |state| state.listers[lister].round = round);
    }
}

/// Then the stream is listed, or the last listing used once more: `Relay::listing`.
fn list(model: &Retention, lister: usize, last: Option<Listing>, moves: &mut Moves) {
    let (now, stream) = (moves.from.now, moves.from.stream);
    let listing = Listing { at: now, shards: std::array::from_fn(|shard| stream.is_listed(shard, now)) };
    moves.work(Step::List { lister }, |state| state.plan(model, lister, listing));
    if let Some(last) = last.filter(|last| *last != listing) {
        let step = Step::UseListing { lister, at: last.at };
        moves.trouble(step, |state| state.plan(model, lister, last));
    }
}

/// `Leases::note_complete`: an earlier time changes nothing.
fn note(model: &Retention, lister: usize, time: Time, missing: Shards, moves: &mut Moves) {
    let time = if model.guards.notes_time_of_listing { time } else { moves.from.now };
    moves.work(Step::Note { lister, time }, |state| {
        if state.complete_at.is_none() {
            state.pass_over(model.owed);
        }
        state.complete_at = state.complete_at.max(Some(time));
        state.create_next(lister, missing, time);
    });
}

/// `Leases::create`, of a shard that is claimed or one that is only noted.
fn create(lister: usize, missing: Shards, date: Time, moves: &mut Moves) {
    let Some(shard) = missing.iter().position(|missing| *missing) else { return };
    moves.work(Step::Create { lister, shard, date }, |state| {
        state.leases[shard].get_or_insert(Progress::unread(date));
        let mut missing = missing;
        missing[shard] = false;
        state.create_next(lister, missing, date);
    });
}

impl State {
    /// Decides on the table read and the shards listed: `plan::complete_at`, `View::first_lease`.
    fn plan(&mut self, model: &Retention, lister: usize, listing: Listing) {
        let Round::Read { at, leased, complete_at, renewed } = self.listers[lister].round else { return };
        self.listers[lister].listing = Some(listing);
        let missing: Shards = std::array::from_fn(|shard| listing.shards[shard] && !leased[shard]);
        let first = match model.guards.first_note {
            FirstNote::Listing => listing.at,
            FirstNote::Reading => at,
            FirstNote::NearlyADayBeforeReading => at - DAY + 1,
        };
        let is_complete = missing == [false; MAX_SHARDS] || !model.guards.notes_what_is_leased;
        match complete_at {
            None => self.listers[lister].round = Round::Notes { time: first, missing },
            Some(noted) if is_complete && listing.at > noted => {
                self.listers[lister].round = Round::Notes { time: listing.at, missing };
            }
            Some(noted) => {
                let date = if model.guards.dates_by_listing { noted } else { renewed };
                self.create_next(lister, missing, date);
            }
        }
    }

    /// There was nothing in the lease table until now: events that are not owed are out of account.
    fn pass_over(&mut self, owed: Owed) {
        for (event, record) in self.stream.events() {
            self.accepted[event] |= match owed {
                Owed::SinceFirstNote => record.at < self.now,
                Owed::SinceADayBefore => record.is_dropped(self.now),
            };
        }
    }

    fn create_next(&mut self, lister: usize, missing: Shards, date: Time) {
        let is_done = missing == [false; MAX_SHARDS];
        self.listers[lister].round = if is_done { Round::Idle } else { Round::Creates { missing, date } };
    }
}
