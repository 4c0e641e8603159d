//! Relays: `crates/relay/src`.

use super::{
    Moves, Propagation, State,
    layout::{Events, SHARDS},
    steps::Step,
    trouble,
};

/// A replica's relay. One that dies is followed by one that knows nothing, under a new name: `RelayConfig::owner`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Relay {
    claim: Option<Claim>,
    /// The shards it reads: `Workers`.
    workers: [Option<Worker>; SHARDS],
}

/// A free lease that was seen and is about to be taken: `plan::Claim`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Claim {
    shard: usize,
    /// Whether the lease still has the fence and the expiry that were seen.
    is_as_seen: bool,
}

/// The reading of a shard under a lease: `relay_shard`, which runs a `Reader` and a `Keeper`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Worker {
    /// Whether somebody else has taken the lease since, so that this fence is old. It does not know.
    is_replaced: bool,
    /// How many records the bus has accepted, as far as it knows: `Progress`.
    progress: usize,
    /// How many it has read.
    read: usize,
    /// The records that the bus has yet to accept, as far as it knows: the queue of `Publisher::drain`.
    unsent: Events,
}

/// A lease as the table has it: `Lease`. Its owner is the relay with a worker that is not replaced. One that nobody has
/// created yet is as one that nobody owns: `Leases::create` has a condition just as `Leases::take` has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Lease {
    /// How many records the bus has accepted; one more at the end of the shard.
    pub(super) checkpoint: usize,
    /// Whether others think that its owner is gone, while it is there: `View::is_free`.
    is_expired: bool,
    /// The checkpoint of a write that its caller has given up, and that may yet come to the table.
    delayed: Option<usize>,
}

impl State {
    fn owner(&self, shard: usize) -> Option<usize> {
        let owns = |relay: &Relay| relay.workers[shard].is_some_and(|worker| !worker.is_replaced);
        self.relays.iter().position(owns)
    }

    /// Whether the relay reads the shard under an old fence.
    pub(super) fn is_replaced(&self, relay: usize, shard: usize) -> bool {
        self.relays[relay].workers[shard].is_some_and(|worker| worker.is_replaced)
    }

    /// The fence, the owner or the expiry of a lease changes: relays that saw it before have not seen it as it is.
    fn touch(&mut self, shard: usize) {
        for claim in self.relays.iter_mut().filter_map(|relay| relay.claim.as_mut()) {
            claim.is_as_seen &= claim.shard != shard;
        }
    }

    /// A relay no longer reads a shard.
    fn leave(&mut self, relay: usize, shard: usize) {
        self.relays[relay].workers[shard] = None;
        // A shard that nobody reads is free, expired or not.
        self.leases[shard].is_expired &= self.owner(shard).is_some();
    }
}

pub(super) fn moves(model: &Propagation, moves: &mut Moves) {
    for relay in 0..model.relays {
        take(relay, moves);
        crash(relay, moves);
        for shard in 0..SHARDS {
            look(model, relay, shard, moves);
            if let Some(worker) = moves.from.relays[relay].workers[shard] {
                let reading = Reading { model, relay, shard, worker };
                reading.read(moves);
                reading.publish(moves);
                reading.end(moves);
                reading.keep(moves);
                reading.give_up(moves);
            }
        }
    }
    for shard in 0..SHARDS {
        expire(shard, moves);
        come_late(shard, moves);
    }
}

/// `Relay::plan` sees a lease that can be taken, and wants it. A surplus of its own is no reason not to: here any share is
/// fair.
fn look(model: &Propagation, relay: usize, shard: usize, moves: &mut Moves) {
    let (state, lease) = (&moves.from, moves.from.leases[shard]);
    // `View::is_free`. A lease whose owner does not read, since it died or has not heard that it is the owner, is free
    // sooner or later.
    let is_free = state.owner(shard).is_none() || lease.is_expired;
    // `View::readable`.
    let parent_is_done = model
        .shards
        .parent(shard)
        .is_none_or(|parent| state.leases[parent].checkpoint == model.shards.end(parent));
    let is_readable =
        lease.checkpoint < model.shards.end(shard) && (parent_is_done || !model.guards.parents_first);
    let Relay { claim, workers } = &state.relays[relay];
    if claim.is_none() && workers[shard].is_none() && is_free && is_readable {
        moves.work(Step::Look { relay, shard }, |state| {
            state.relays[relay].claim = Some(Claim { shard, is_as_seen: true });
        });
    }
}

/// `Relay::claim`: the lease is taken, unless it has changed since it was seen (`Leases::take`).
fn take(relay: usize, moves: &mut Moves) {
    let Some(Claim { shard, is_as_seen }) = moves.from.relays[relay].claim else { return };
    if !is_as_seen {
        return moves.work(Step::TooLate { relay, shard }, |state| state.relays[relay].claim = None);
    }
    let take = |state: &mut State| {
        for worker in state.relays.iter_mut().filter_map(|relay| relay.workers[shard].as_mut()) {
            worker.is_replaced = true;
        }
        let lease = &mut state.leases[shard];
        (lease.is_expired, lease.delayed) = (false, None);
        state.touch(shard);
        state.relays[relay].claim = None;
    };
    moves.work(Step::Take { relay, shard, heard: true }, |state| {
        take(state);
        let progress = state.leases[shard].checkpoint;
        let worker = Worker { is_replaced: false, progress, read: progress, unsent: Events::NONE };
        state.relays[relay].workers[shard] = Some(worker);
    });
    trouble(moves, Step::Take { relay, shard, heard: false }, take);
}

/// The process dies, and another is started in its place.
fn crash(relay: usize, moves: &mut Moves) {
    if moves.from.relays[relay] != Relay::default() {
        trouble(moves, Step::Crash { relay }, |state| {
            (0..SHARDS).for_each(|shard| state.leave(relay, shard));
            state.relays[relay] = Relay::default();
        });
    }
}

/// The owner is there, but has not renewed its lease for so long, or clocks differ by so much, that others think it gone.
fn expire(shard: usize, moves: &mut Moves) {
    if moves.from.owner(shard).is_some() && !moves.from.leases[shard].is_expired {
        trouble(moves, Step::Expire { shard }, |state| state.leases[shard].is_expired = true);
    }
}

/// A write comes to the table after its caller has given it up. Its condition holds until the lease is taken or given up.
fn come_late(shard: usize, moves: &mut Moves) {
    if let Some(checkpoint) = moves.from.leases[shard].delayed {
        moves.trouble(Step::ComesLate { shard }, |state| {
            let lease = &mut state.leases[shard];
            (lease.checkpoint, lease.delayed) = (checkpoint, None);
            state.touch(shard);
        });
    }
}

/// A worker at its work.
struct Reading<'a> {
    model: &'a Propagation,
    relay: usize,
    shard: usize,
    worker: Worker,
}

impl Reading<'_> {
    /// `Reader::follow` reads on once the records it has read are published. It may get fewer records than there are
    /// here, since the rest may not have been stored yet.
    fn read(&self, moves: &mut Moves) {
        let &Self { model, relay, shard, worker } = self;
        let records = model.shards.records(shard);
        if worker.unsent != Events::NONE {
            return;
        }
        for to in worker.read + 1..=records.len() {
            moves.work(Step::Read { relay, shard, to }, |state| {
                let unsent = records.clone().take(to).skip(worker.read).collect();
                let progress = if model.guards.acceptance_first { worker.progress } else { to };
                state.relays[relay].workers[shard] = Some(Worker { read: to, unsent, progress, ..worker });
            });
        }
    }

    /// `Publisher::drain` sends unsent records, until the bus has accepted all of them; then `Reader::advance` moves
    /// the progress.
    fn publish(&self, moves: &mut Moves) {
        let &Self { model, relay, shard, worker } = self;
        let entries = worker.unsent;
        if entries == Events::NONE {
            return;
        }
        let put = |accepted, heard| Step::Put { relay, shard, entries, accepted, heard };
        moves.work(put(entries, true), |state| {
            model.accept(state, entries);
            let done = Worker { unsent: Events::NONE, progress: worker.read, ..worker };
            state.relays[relay].workers[shard] = Some(done);
        });
        for accepted in entries.choices() {
            // Some entries fail, by throttling or other failures, and remain: `Publisher::judge`.
            if accepted != entries {
                trouble(moves, put(accepted, true), |state| {
                    model.accept(state, accepted);
                    let unsent = entries.without(accepted);
                    state.relays[relay].workers[shard] = Some(Worker { unsent, ..worker });
                    state.bus_failed = true;
                });
            }
            // The whole call fails, as far as the relay knows, and all entries remain: `Publisher::put`.
            if accepted != Events::NONE {
                trouble(moves, put(accepted, false), |state| {
                    model.accept(state, accepted);
                    state.bus_failed = true;
                });
            }
        }
    }

    /// `Reader::follow` comes to the end of a closed shard, and `Keeper::give_up` writes that to the lease.
    fn end(&self, moves: &mut Moves) {
        let &Self { model, relay, shard, worker } = self;
        let is_all_done = worker.read == model.shards.records(shard).len() && worker.unsent == Events::NONE;
        if is_all_done && model.shards.is_closed(shard) {
            let step = Step::End { relay, shard, fenced: self.is_fenced() };
            moves.work(step, |state| self.write(state, model.shards.end(shard), Then::Leave));
        }
    }

    /// `Keeper::keep` writes the progress and renews the lease. Where neither would change the lease it is no move. A
    /// reply that is lost is none either: the write is repeated as it was.
    fn keep(&self, moves: &mut Moves) {
        let &Self { relay, shard, worker, .. } = self;
        let lease = moves.from.leases[shard];
        let fenced = self.is_fenced();
        if worker.progress != lease.checkpoint || lease.is_expired || fenced {
            let step = Step::Keep { relay, shard, fenced };
            moves.work(step, |state| self.write(state, worker.progress, Then::Stay));
        }
        // Nobody hears of this write any more, but it is on its way.
        if !worker.is_replaced && lease.delayed.is_none() {
            let step = Step::Delay { relay, shard };
            trouble(moves, step, |state| state.leases[shard].delayed = Some(worker.progress));
        }
    }

    /// Told to stop, by a surplus of shards or a shutdown, the relay gives the lease up (`Keeper::give_up`); an owner that
    /// could not renew its lease in time leaves without a word (`Keeper::write`).
    fn give_up(&self, moves: &mut Moves) {
        let &Self { relay, shard, worker, .. } = self;
        let step = Step::Release { relay, shard, fenced: self.is_fenced() };
        trouble(moves, step, |state| self.write(state, worker.progress, Then::Leave));
        if worker.is_replaced || moves.from.leases[shard].is_expired {
            moves.trouble(Step::Leave { relay, shard }, |state| state.leave(relay, shard));
        }
    }

    /// Whether a write of the lease is refused: `Leases::keep`, `Leases::release`.
    fn is_fenced(&self) -> bool {
        self.worker.is_replaced && self.model.guards.fencing
    }

    /// `Keeper::write`. One that is fenced out leaves: `Lost`.
    fn write(&self, state: &mut State, checkpoint: usize, then: Then) {
        let &Self { relay, shard, .. } = self;
        if !self.is_fenced() {
            let lease = &mut state.leases[shard];
            (lease.checkpoint, lease.is_expired) = (checkpoint, false);
            if then == Then::Leave {
                lease.delayed = None;
            }
            state.touch(shard);
        }
        if then == Then::Leave || self.is_fenced() {
            state.leave(relay, shard);
        }
    }
}

/// A worker's next step after a write that succeeded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Stay,
    Leave,
}
