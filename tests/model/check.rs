//! Assertions of tests on models.

use std::fmt::Debug;

use crate::{explorer::explore, model::Model};

/// That all laws hold in every state, and that all comes to rest.
#[track_caller]
pub(crate) fn holds<M: Model + Debug>(model: M) {
    let found = explore(&model, |broken| !broken.is_empty());
    println!(
        "{model:?}\n{} states, {} moves, {} states at rest, {} steps to the farthest; {:?}",
        found.states, found.moves, found.at_rest, found.depth, found.took
    );
    let broken: Vec<_> = found.broken.iter().map(|(law, trace)| format!("not so: {law}\n{trace}")).collect();
    assert!(broken.is_empty(), "{}", broken.concat());
    assert_eq!(found.unmet, [""; 0], "these never happen");
    assert!(found.at_rest > 0 && found.comes_to_rest, "work goes on for ever");
}

/// That these laws are broken. Prints a shortest way to break each.
#[track_caller]
pub(crate) fn breaks<M: Model + Debug>(model: M, laws: &[&str]) {
    let found = explore(&model, |broken| laws.iter().all(|law| broken.iter().any(|(name, _)| name == law)));
    for (law, trace) in found.broken.iter().filter(|(law, _)| laws.contains(law)) {
        println!("{model:?}\nnot so: {law}\n{trace}");
    }
    let is_broken = |law: &str| found.broken.iter().any(|(broken, _)| *broken == law);
    let holding: Vec<_> = laws.iter().filter(|law| !is_broken(law)).collect();
    assert!(holding.is_empty(), "{holding:?}: so it is in all {} states", found.states);
}
