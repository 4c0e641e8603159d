//! The explorer's own tests, on a world of one number.

use std::fmt;

use crate::{
    explorer::{Findings, explore},
    model::{Law, Model, Move, Moves},
};

/// A number that grows by one or two up to a limit. FailureLogThrottle sets it back to zero.
#[derive(Clone, Copy)]
struct Counter {
    limit: u8,
    /// Whether it begins again at the limit, by itself.
    goes_round: bool,
}

#[derive(Clone, Copy)]
enum Step {
    Add(u8),
    Reset,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(number) => write!(f, "adds {number}"),
            Self::Reset => f.write_str("begins again"),
        }
    }
}

impl Model for Counter {
    type State = u8;
    type Step = Step;

    fn initial(&self) -> u8 {
        0
    }

    fn moves(&self, moves: &mut Moves<Self>) {
        let number = moves.from;
        for more in (1..=2).filter(|more| number + more <= self.limit) {
            moves.work(Step::Add(more), |number| *number += more);
        }
        if self.goes_round && number == self.limit {
            moves.work(Step::Reset, |number| *number = 0);
        }
        moves.trouble(Step::Reset, |number| *number = 0);
    }

    fn representative(&self, state: &u8) -> u8 {
        *state
    }

    fn laws(&self) -> Vec<Law<Self>> {
        vec![
            Law::Always("stays below seven", |_, _: &u8, next: &Move<Self>| next.after < 7),
            Law::AtRest("rests at an even number", |_, number| number % 2 == 0),
            Law::Sometimes("comes to eleven", |_, _, next| next.after == 11),
        ]
    }
}

/// The laws that are broken, with the steps that break them.
fn broken(findings: &Findings<Counter>) -> Vec<(&'static str, String)> {
    findings.broken.iter().map(|(law, trace)| (*law, trace.to_string())).collect()
}

#[test]
fn the_explorer_visits_every_state_once() {
    let found = explore(&Counter { limit: 6, goes_round: false }, |_| false);
    assert_eq!((found.states, found.moves, found.at_rest, found.depth), (7, 18, 1, 3));
    assert_eq!(broken(&found), []);
    assert_eq!(found.unmet, ["comes to eleven"]);
    assert!(found.comes_to_rest);
}

#[test]
fn the_explorer_finds_a_shortest_way_to_break_each_law() {
    let found = explore(&Counter { limit: 11, goes_round: false }, |_| false);
    let [above, odd] = ["stays below seven", "rests at an even number"];
    let steps = |count| {
        (1..=count).map(|n| format!("{n:>4}. adds {}\n", if n == 1 { 1 } else { 2 })).collect::<String>()
    };
    assert_eq!(broken(&found), [(above, steps(4)), (odd, steps(6))]);
    assert_eq!(found.unmet, [""; 0]);
}

#[test]
fn the_explorer_stops_when_enough_is_broken() {
    let found = explore(&Counter { limit: 200, goes_round: false }, |broken| !broken.is_empty());
    assert_eq!(broken(&found).len(), 1);
    assert!(found.states < 20);
}

#[test]
fn the_explorer_tells_work_that_never_ends() {
    let found = explore(&Counter { limit: 4, goes_round: true }, |_| false);
    assert_eq!((found.at_rest, found.comes_to_rest), (0, false));
}
