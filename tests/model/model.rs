//! Models: states, moves, laws.

use std::{fmt::Display, hash::Hash};

/// A small world and all that can happen in it.
pub(crate) trait Model: Sized {
    /// The world at a moment.
    type State: Copy + Eq + Hash;
    /// Something that happens. Printed, it is a sentence.
    type Step: Copy + Display;

    /// The world before anything has happened.
    fn initial(&self) -> Self::State;

    /// Adds the moves that are possible in a state.
    fn moves(&self, moves: &mut Moves<Self>);

    /// One state for all that differ from this one in nothing that matters, such as names.
    fn representative(&self, state: &Self::State) -> Self::State;

    /// The model's laws.
    fn laws(&self) -> Vec<Law<Self>>;
}

/// Something that can happen next.
pub(crate) struct Move<M: Model> {
    pub(crate) step: M::Step,
    /// The state that it leads to.
    pub(crate) after: M::State,
    /// Whether it may as well never happen. All else happens sooner or later.
    pub(crate) is_trouble: bool,
}

/// All that can happen next in a state.
pub(crate) struct Moves<M: Model> {
    pub(crate) from: M::State,
    pub(crate) found: Vec<Move<M>>,
}

impl<M: Model> Moves<M> {
    /// Adds something that happens sooner or later.
    pub(crate) fn work(&mut self, step: M::Step, change: impl FnOnce(&mut M::State)) {
        self.add(step, change, false);
    }

    /// Adds something that may happen or not.
    pub(crate) fn trouble(&mut self, step: M::Step, change: impl FnOnce(&mut M::State)) {
        self.add(step, change, true);
    }

    fn add(&mut self, step: M::Step, change: impl FnOnce(&mut M::State), is_trouble: bool) {
        let mut after = self.from;
        change(&mut after);
        self.found.push(Move { step, after, is_trouble });
    }
}

/// A statement about a model.
pub(crate) enum Law<M: Model> {
    /// Every move is so, made in a state.
    Always(&'static str, fn(&M, &M::State, &Move<M>) -> bool),
    /// Every state is so after which nothing but trouble can happen.
    AtRest(&'static str, fn(&M, &M::State) -> bool),
    /// Some move is so. If none is, the other laws say less than they seem to.
    Sometimes(&'static str, fn(&M, &M::State, &Move<M>) -> bool),
}
