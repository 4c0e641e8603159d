//! The laws of propagation: facts that always hold, and moves that must be possible.

use super::{
    Law, Move, Propagation, State,
    layout::{Events, SHARDS},
    steps::Step,
};

pub(super) fn of(model: &Propagation) -> Vec<Law> {
    let mut laws = Vec::new();
    if model.relays > 0 {
        laws.extend(of_relays());
    }
    if model.relays > 1 {
        laws.extend(of_rivals());
    }
    if model.projectors > 0 {
        laws.extend(of_projectors());
    }
    laws
}

fn of_relays() -> Vec<Law> {
    vec![
        Law::Always("a checkpoint passes only what the bus has accepted", passes_only_what_is_accepted),
        Law::Always("a checkpoint goes back only by a write that comes late", goes_back_only_late),
        Law::Always("a checkpoint is moved by the newest fence only", is_moved_by_newest_fence),
        Law::Always("events are first published in order, unless the bus fails", are_published_in_order),
        Law::AtRest("every event is on the bus", |_, state| state.accepted == Events::ALL),
        Law::AtRest("every lease is at its end", are_read_to_the_end),
        Law::Sometimes(
            "an event is published again",
            |_, state, next| matches!(next.step, Step::Put { entries, .. } if entries.are_within(state.accepted)),
        ),
        Law::Sometimes("a newer event is published first, since the bus fails", |model, state, next| {
            !are_in_order(model, state, &next.after)
        }),
        Law::Sometimes("a write of a lease comes late", |_, _, next| {
            matches!(next.step, Step::ComesLate { .. })
        }),
    ]
}

fn of_rivals() -> Vec<Law> {
    vec![
        Law::Sometimes(
            "an owner publishes that was replaced",
            |_, state, next| matches!(next.step, Step::Put { relay, shard, .. } if state.is_replaced(relay, shard)),
        ),
        Law::Sometimes("an owner that was replaced is fenced out", |_, _, next| {
            matches!(next.step, Step::Keep { fenced: true, .. })
        }),
        Law::Sometimes("a lease changes between look and take", |_, _, next| {
            matches!(next.step, Step::TooLate { .. })
        }),
    ]
}

fn of_projectors() -> Vec<Law> {
    vec![
        Law::Always("a row never goes back", never_goes_back),
        Law::Always("a row is what the history once was", is_of_the_history),
        Law::AtRest("every event is in its row", is_in_its_row),
        Law::Sometimes("a gap is healed", |_, _, next| matches!(next.step, Step::Write { healed: true, .. })),
        Law::Sometimes("a row is newer than what is brought", |_, _, next| {
            matches!(next.step, Step::Drop { .. })
        }),
        Law::Sometimes("a row is older than what is brought", |_, _, next| {
            matches!(next.step, Step::Learn { .. })
        }),
    ]
}

fn passes_only_what_is_accepted(model: &Propagation, _: &State, next: &Move) -> bool {
    let passed = |shard: usize| model.shards.records(shard).take(next.after.leases[shard].checkpoint);
    (0..SHARDS).flat_map(passed).collect::<Events>().are_within(next.after.accepted)
}

/// The checkpoints that a move changes: shard, before, after.
fn moved(before: &State, next: &Move) -> impl Iterator<Item = (usize, usize, usize)> {
    let checkpoints = before.leases.into_iter().zip(next.after.leases);
    let checkpoints = checkpoints.map(|(before, after)| (before.checkpoint, after.checkpoint)).enumerate();
    checkpoints
        .filter(|(_, (before, after))| before != after)
        .map(|(shard, (before, after))| (shard, before, after))
}

fn goes_back_only_late(_: &Propagation, state: &State, next: &Move) -> bool {
    matches!(next.step, Step::ComesLate { .. }) || moved(state, next).all(|(_, before, after)| before < after)
}

fn is_moved_by_newest_fence(_: &Propagation, state: &State, next: &Move) -> bool {
    let is_by_newest = |moved| {
        if let Step::Keep { relay, shard, .. }
        | Step::End { relay, shard, .. }
        | Step::Release { relay, shard, .. } = next.step
        {
            shard == moved && !state.is_replaced(relay, shard)
        } else {
            // The condition of one that comes late fails once the lease is taken: then it is not there any more.
            matches!(next.step, Step::ComesLate { shard } if shard == moved)
        }
    };
    moved(state, next).all(|(shard, ..)| is_by_newest(shard))
}

/// Whether every event that comes to the bus for the first time comes after the older ones of its aggregate.
fn are_in_order(model: &Propagation, before: &State, after: &State) -> bool {
    after.accepted.without(before.accepted).iter().all(|event| {
        let history = model.shards.history(model.shards.aggregate(event));
        (history.start..event).collect::<Events>().are_within(after.accepted)
    })
}

fn are_published_in_order(model: &Propagation, state: &State, next: &Move) -> bool {
    next.after.bus_failed || are_in_order(model, state, &next.after)
}

fn are_read_to_the_end(model: &Propagation, state: &State) -> bool {
    (0..SHARDS).all(|shard| {
        let missing = usize::from(!model.shards.is_closed(shard));
        state.leases[shard].checkpoint == model.shards.end(shard) - missing
    })
}

fn never_goes_back(_: &Propagation, state: &State, next: &Move) -> bool {
    state.rows.iter().zip(next.after.rows).all(|(before, after)| before.version <= after.version)
}

fn is_of_the_history(model: &Propagation, _: &State, next: &Move) -> bool {
    next.after
        .rows
        .iter()
        .enumerate()
        .all(|(row, after)| after.made_of == model.shards.between(row, 0, after.version))
}

fn is_in_its_row(model: &Propagation, state: &State) -> bool {
    state.rows.iter().enumerate().all(|(row, now)| now.version == model.shards.history(row).len())
}
