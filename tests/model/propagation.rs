//! From the event store's stream to rows: leases, checkpoints, publishing, delivery, applying, healing.
//!
//! A move is a call to the world with its reply. One that fails without effect is no move, since it is made again; one
//! that takes effect while its reply is lost is a move of its own. A process may die between any two. How often things go
//! wrong is bounded by [`Propagation::trouble`], or, where that is `None`, by nothing: fences and expiries are kept as
//! the decisions they lead to ("is the newest", "counts as expired"), so there are finitely many states all the same.
//!
//! Left out, since `retention.rs` has it: records that the stream drops, and refills. Left out altogether: which of
//! several free leases a replica prefers (here it may want any); several rows in one batch (each is handled by itself);
//! copies of one message in one batch (they become one); counted attempts, and messages that fail by their own fault.

mod laws;
mod layout;
mod projectors;
mod relays;
mod steps;
mod tests;

use self::{
    layout::{EVENTS, Events, SHARDS, Shards},
    projectors::{Projector, Row},
    relays::{Lease, Relay},
    steps::Step,
};
use crate::model::{self, Model};

type Law = model::Law<Propagation>;
type Move = model::Move<Propagation>;
type Moves = model::Moves<Propagation>;

/// How many relays, and how many projectors, there are at most.
const PROCESSES: usize = 2;

/// How many copies of a message wait in the queue at most. One more would be handed out as the second is.
const COPIES: u8 = 2;

/// The bounds and the guards of a model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Propagation {
    pub(crate) shards: Shards,
    /// Without relays, the bus has accepted everything at the beginning.
    pub(crate) relays: usize,
    /// Without projectors, nothing is looked at beyond the bus.
    pub(crate) projectors: usize,
    /// How often anything of any kind goes wrong. `None`: any number of times.
    pub(crate) trouble: Option<u8>,
    pub(crate) guards: Guards,
}

/// The code's guards against loss. Each can be left out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guards {
    /// A lease is written on the condition that its fence is still the writer's: `Leases::keep`, `Leases::release`.
    pub(crate) fencing: bool,
    /// A shard is read after its parent's end: `View::readable` in the relay's `plan.rs`.
    pub(crate) parents_first: bool,
    /// Progress moves when the bus has accepted the records read: `Reader::relay` in the relay's `shard.rs`.
    pub(crate) acceptance_first: bool,
    /// A row is written on the condition that it is where the change starts: `WriteRows::write`.
    pub(crate) row_condition: bool,
    /// A batch's missing events come from the event store: `RowUpdater::fetch` in the projector's `apply.rs`.
    pub(crate) healing: bool,
    /// A message is deleted after its row was written: `Consumer::settle_all`.
    pub(crate) write_first: bool,
}

impl Guards {
    pub(crate) const ALL: Self = Self {
        fencing: true,
        parents_first: true,
        acceptance_first: true,
        row_condition: true,
        healing: true,
        write_first: true,
    };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    relays: [Relay; PROCESSES],
    leases: [Lease; SHARDS],
    /// The events that the bus has accepted.
    accepted: Events,
    /// Whether the bus has ever refused an entry, or its reply was lost.
    bus_failed: bool,
    /// How many messages wait for each event.
    queue: [u8; EVENTS],
    projectors: [Projector; PROCESSES],
    rows: [Row; SHARDS],
    /// How often something may still go wrong.
    trouble: Option<u8>,
}

impl State {
    /// Puts messages into the queue.
    fn deliver(&mut self, events: Events) {
        for event in events.iter() {
            self.queue[event] = (self.queue[event] + 1).min(COPIES);
        }
    }
}

impl Propagation {
    /// The bus accepts entries: `EventBus::put`.
    fn accept(&self, state: &mut State, events: Events) {
        state.accepted = state.accepted.and(events);
        if self.projectors > 0 {
            state.deliver(events);
        }
    }
}

/// Adds something that goes wrong, if more may go wrong. Mere consequences of such a thing are not counted.
fn trouble(moves: &mut Moves, step: Step, change: impl FnOnce(&mut State)) {
    if moves.from.trouble != Some(0) {
        moves.trouble(step, |state| {
            state.trouble = state.trouble.map(|left| left - 1);
            change(state);
        });
    }
}

impl Model for Propagation {
    type State = State;
    type Step = Step;

    fn initial(&self) -> State {
        let mut state = State {
            relays: Default::default(),
            leases: Default::default(),
            accepted: Events::NONE,
            bus_failed: false,
            queue: [0; EVENTS],
            projectors: Default::default(),
            rows: Default::default(),
            trouble: self.trouble,
        };
        if self.relays == 0 {
            self.accept(&mut state, Events::ALL);
        }
        state
    }

    fn moves(&self, moves: &mut Moves) {
        relays::moves(self, moves);
        projectors::moves(self, moves);
    }

    fn representative(&self, state: &State) -> State {
        let mut same = *state;
        same.relays.sort();
        same.projectors.sort();
        same
    }

    fn laws(&self) -> Vec<Law> {
        laws::of(self)
    }
}
