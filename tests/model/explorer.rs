//! Visits every state that a model can reach, those first that the fewest steps lead to.

use std::{
    collections::HashMap,
    fmt,
    hash::BuildHasherDefault,
    time::{Duration, Instant},
};

use crate::{
    fold::Fold,
    model::{Law, Model, Move, Moves},
};

/// The result of a walk through a model.
pub(crate) struct Findings<M: Model> {
    pub(crate) states: usize,
    pub(crate) moves: usize,
    /// States after which nothing but trouble can happen.
    pub(crate) at_rest: usize,
    /// Steps to the farthest state.
    pub(crate) depth: usize,
    pub(crate) took: Duration,
    /// Laws that do not hold, each with a shortest way to break it.
    pub(crate) broken: Vec<(&'static str, Trace<M>)>,
    /// Laws of the kind [`Law::Sometimes`] that no move met.
    pub(crate) unmet: Vec<&'static str>,
    /// Whether every visited state can come to rest once there is no more trouble.
    pub(crate) comes_to_rest: bool,
}

/// Steps, one after the other.
pub(crate) struct Trace<M: Model>(Vec<M::Step>);

impl<M: Model> fmt::Display for Trace<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(n, step)| writeln!(f, "{:>4}. {step}", n + 1))
    }
}

/// Walks through all of a model, or until enough of its laws are broken.
pub(crate) fn explore<M: Model>(model: &M, enough: impl Fn(&[(&str, Trace<M>)]) -> bool) -> Findings<M> {
    let begun = Instant::now();
    let mut walk = Walk::<M> { known: HashMap::default(), visits: Vec::new(), work: Vec::new() };
    walk.visit(model, model.initial(), None);
    let (mut laws, mut broken, mut moves, mut at_rest) = (model.laws(), Vec::new(), 0, 0);
    // Visits lie in the order of their distance, so the first way that breaks a law is a shortest one.
    while walk.work.len() < walk.visits.len() && !enough(&broken) {
        let here = walk.work.len();
        let state = walk.visits[here].state;
        let mut next = Moves { from: state, found: Vec::new() };
        model.moves(&mut next);
        let rests = next.found.iter().all(|next| next.is_trouble);
        laws.retain(|law| {
            let breaks = match law {
                Law::Always(name, holds) => {
                    let breaks = next.found.iter().find(|next| !holds(model, &state, next));
                    breaks.map(|next| (*name, Some(next.step)))
                }
                Law::AtRest(name, holds) => (rests && !holds(model, &state)).then_some((*name, None)),
                Law::Sometimes(_, is_so) => return !next.found.iter().any(|next| is_so(model, &state, next)),
            };
            broken.extend(breaks.map(|(name, last)| (name, walk.trace(here, last))));
            breaks.is_none()
        });
        at_rest += usize::from(rests);
        moves += next.found.len();
        walk.go_on(model, here, next.found);
    }
    let (states, depth) = (walk.visits.len(), walk.visits.last().map_or(0, |visit| visit.depth));
    let unmet =
        laws.iter().filter_map(|law| if let Law::Sometimes(name, _) = law { Some(*name) } else { None });
    let (unmet, comes_to_rest) = (unmet.collect(), walk.work_ends());
    Findings { states, moves, at_rest, depth, took: begun.elapsed(), broken, unmet, comes_to_rest }
}

struct Walk<M: Model> {
    known: HashMap<M::State, usize, BuildHasherDefault<Fold>>,
    visits: Vec<Visit<M>>,
    /// For each visit that was gone on from: the visits that work leads to.
    work: Vec<Vec<usize>>,
}

struct Visit<M: Model> {
    state: M::State,
    /// From which visit, and how.
    came: Option<(usize, M::Step)>,
    depth: usize,
}

impl<M: Model> Walk<M> {
    fn visit(&mut self, model: &M, state: M::State, came: Option<(usize, M::Step)>) -> usize {
        let next = self.visits.len();
        let visit = *self.known.entry(model.representative(&state)).or_insert(next);
        if visit == next {
            let depth = came.map_or(0, |(from, _)| self.visits[from].depth + 1);
            self.visits.push(Visit { state, came, depth });
        }
        visit
    }

    fn go_on(&mut self, model: &M, here: usize, moves: Vec<Move<M>>) {
        let mut work = Vec::new();
        for Move { step, after, is_trouble } in moves {
            let visit = self.visit(model, after, Some((here, step)));
            if !is_trouble {
                work.push(visit);
            }
        }
        self.work.push(work);
    }

    /// The way to a visit, and one more step.
    fn trace(&self, mut visit: usize, last: Option<M::Step>) -> Trace<M> {
        let mut steps = Vec::from_iter(last);
        while let Some((from, step)) = self.visits[visit].came {
            steps.push(step);
            visit = from;
        }
        steps.reverse();
        Trace(steps)
    }

    /// Whether the visits can be put in an order that all work follows, so that it never leads back.
    fn work_ends(&self) -> bool {
        let mut ways_in = vec![0_u32; self.visits.len()];
        self.work.iter().flatten().for_each(|visit| ways_in[*visit] += 1);
        let mut free: Vec<usize> = (0..ways_in.len()).filter(|visit| ways_in[*visit] == 0).collect();
        let mut ordered = 0;
        while let Some(visit) = free.pop() {
            ordered += 1;
            for next in self.work.get(visit).into_iter().flatten() {
                ways_in[*next] -= 1;
                if ways_in[*next] == 0 {
                    free.push(*next);
                }
            }
        }
        ordered == self.visits.len()
    }
}
