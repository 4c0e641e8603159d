//! Projectors and their queue: `crates/projection/src`.

use super::{
    Moves, Propagation, State,
    layout::{Events, SHARDS},
    steps::Step,
    trouble,
};

/// A batch of one row's messages, being worked on: `Consumer::work`. Of several in one process each is one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Projector {
    /// The events to be brought into the row.
    pub(super) brought: Events,
    /// The events whose messages are to be deleted.
    done: Events,
    /// The version that the row is thought to have: `RowUpdater::bring_up_to_date`.
    version: usize,
}

/// A row of the read model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Row {
    pub(super) version: usize,
    /// The events folded into it.
    pub(super) made_of: Events,
}

pub(super) fn moves(model: &Propagation, moves: &mut Moves) {
    if model.projectors > 0 {
        duplicate(moves);
    }
    for projector in 0..model.projectors {
        let batch = moves.from.projectors[projector];
        if batch == Projector::default() {
            receive(model, projector, moves);
        } else if batch.done != Events::NONE {
            delete(model, projector, moves);
        } else {
            Bringing::new(model, projector, batch).write(moves);
        }
        if batch != Projector::default() {
            die(model, projector, moves);
        }
    }
}

/// The bus and the queue deliver at least once: any message may come again, at any time.
fn duplicate(moves: &mut Moves) {
    for event in moves.from.accepted.iter() {
        trouble(moves, Step::Duplicate { event }, |state| state.deliver(Events::from_iter([event])));
    }
}

/// `Consumer::receive_until` gets some of the messages that wait, in no order.
fn receive(model: &Propagation, projector: usize, moves: &mut Moves) {
    let waiting: Events =
        (0..).zip(moves.from.queue).filter(|(_, copies)| *copies > 0).map(|(event, _)| event).collect();
    for row in 0..SHARDS {
        let history: Events = model.shards.history(row).collect();
        let some = waiting.choices().filter(|choice| *choice != Events::NONE && choice.are_within(history));
        for events in some {
            moves.work(Step::Receive { projector, events }, |state| {
                events.iter().for_each(|event| state.queue[event] -= 1);
                state.projectors[projector] = model.begin(events);
            });
        }
    }
}

/// The process dies, or its messages' time is up: they come again. SQS's count, and its giving up, are left out.
fn die(model: &Propagation, projector: usize, moves: &mut Moves) {
    trouble(moves, Step::Die { projector }, |state| {
        let Projector { brought, done, .. } = state.projectors[projector];
        if model.guards.write_first {
            state.deliver(brought.and(done));
        }
        state.projectors[projector] = Projector::default();
    });
}

/// `Consumer::delete`, which tries three times; messages not deleted come again. Then the events that could not be
/// brought are tried again.
fn delete(model: &Propagation, projector: usize, moves: &mut Moves) {
    let Projector { brought, done, .. } = moves.from.projectors[projector];
    moves.work(Step::Delete { projector }, |state| state.projectors[projector] = model.begin(brought));
    for left in done.choices().filter(|left| *left != Events::NONE) {
        trouble(moves, Step::DeleteInPart { projector, left }, |state| {
            state.projectors[projector] = model.begin(brought);
            if model.guards.write_first {
                state.deliver(left);
            }
        });
    }
}

impl Propagation {
    /// A batch at the beginning: the row is thought to be where the oldest event starts from.
    fn begin(&self, brought: Events) -> Projector {
        let oldest = brought.iter().next().map_or(0, |event| self.shards.version(event) - 1);
        Projector { brought, done: Events::NONE, version: oldest }
    }
}

/// `RowUpdater::bring_up_to_date`.
struct Bringing<'a> {
    model: &'a Propagation,
    projector: usize,
    batch: Projector,
    aggregate: usize,
    newest: usize,
}

impl<'a> Bringing<'a> {
    fn new(model: &'a Propagation, projector: usize, batch: Projector) -> Self {
        let last = batch.brought.iter().last().unwrap_or_default();
        let (aggregate, newest) = (model.shards.aggregate(last), model.shards.version(last));
        Self { model, projector, batch, aggregate, newest }
    }

    /// `RowUpdater::build`, and `WriteRows::write` on the condition that the row is where the change starts.
    fn write(&self, moves: &mut Moves) {
        let &Self { model, projector, batch, aggregate, newest } = self;
        let row = moves.from.rows[aggregate];
        let gap = self.first_gap();
        let end = if model.guards.healing { newest } else { gap };
        if end == batch.version {
            // Only without healing: a message that cannot be applied is given up, sooner or later.
            let given_up = Projector { brought: Events::NONE, done: batch.brought, ..batch };
            let step = Step::GiveUp { projector, events: batch.brought };
            return moves.work(step, |state| state.projectors[projector] = given_up);
        }
        if row.version == batch.version || !model.guards.row_condition {
            let step =
                |to, heard| Step::Write { projector, from: batch.version, to, healed: gap < to, heard };
            moves.work(step(end, true), |state| self.apply(state, end));
            // The reply is lost. The batch is kept, and handled anew: `Consumer::settle`.
            trouble(moves, step(end, false), |state| {
                self.apply(state, end);
                state.projectors[projector] = model.begin(batch.brought);
            });
            // The event store cannot be read. Events before the gap are written, the rest is kept.
            if batch.version < gap && gap < end {
                trouble(moves, step(gap, true), |state| self.apply(state, gap));
            }
        } else if row.version < newest {
            // `WriteOutcome::VersionMismatch`.
            moves.work(Step::Learn { projector, version: row.version }, |state| {
                state.projectors[projector].version = row.version;
            });
        } else {
            moves.work(Step::Drop { projector, version: row.version }, |state| self.done(state, newest));
        }
    }

    /// The version before the first event that was not brought.
    fn first_gap(&self) -> usize {
        let is_brought = |version: &usize| {
            self.model.shards.between(self.aggregate, *version, *version + 1).are_within(self.batch.brought)
        };
        (self.batch.version..self.newest).find(|version| !is_brought(version)).unwrap_or(self.newest)
    }

    fn apply(&self, state: &mut State, to: usize) {
        let change = self.model.shards.between(self.aggregate, self.batch.version, to);
        let row = &mut state.rows[self.aggregate];
        *row = Row { version: to, made_of: row.made_of.and(change) };
        self.done(state, to);
    }

    /// Messages of events in the row can be deleted, the rest is brought again: `InFlightMessage::settle`.
    fn done(&self, state: &mut State, version: usize) {
        let brought = self.batch.brought;
        let rest = brought.without(self.model.shards.between(self.aggregate, 0, version));
        state.projectors[self.projector] =
            Projector { brought: rest, done: brought.without(rest), ..self.batch };
    }
}
