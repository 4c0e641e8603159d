//! Relays and projectors in an in-memory world: the real code from the stream to the rows, under a paused clock and
//! faults that follow from a seed. In every run each event reaches its row, and no row goes back.
//!
//! ```text
//! cargo test -p millrace-tests --test simulation                                    1,000 seeds
//! MILLRACE_TEST_SCALE=20 cargo test -p millrace-tests --test simulation             20,000
//! MILLRACE_TEST_SEED=4711 cargo test -p millrace-tests --test simulation            this one
//! ```

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod course;
mod ports;
mod processes;
mod trouble;
mod world;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use course::run;
use millrace_testing::random::{Seed, scaled};

/// The number of seeds by default.
const SEEDS: u32 = 1_000;

#[test]
fn whatever_happens_every_event_reaches_its_row_and_no_row_goes_back() {
    let (first, count) = match Seed::given() {
        Some(seed) => (seed, 1),
        None => (0, u64::from(scaled(SEEDS))),
    };
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let tally: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let again = Seed::of(seed, "cargo test -p millrace-tests --test simulation");
                    for (what, times) in run(seed).happened {
                        *tally.lock().unwrap().entry(what).or_default() += times;
                    }
                    drop(again);
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap();
    let took = began.elapsed();
    println!(
        "{count} seeds in {took:?}, {:.0} a minute: {tally:?}",
        count as f64 / took.as_secs_f64() * 60.0
    );
    if count >= u64::from(SEEDS) {
        // A run without faults would prove nothing.
        for what in course::WANTED {
            assert!(tally.get(what).copied().unwrap_or_default() > count / 50, "{what} is rare: {tally:?}");
        }
    }
}

#[test]
fn a_seed_takes_the_same_course_each_time() {
    for seed in [3, 1_000_003, 2_000_003] {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first.steps.len(), second.steps.len(), "seed {seed}");
        for (step, (one, other)) in first.steps.iter().zip(&second.steps).enumerate() {
            assert_eq!(one, other, "step {step} of seed {seed}");
        }
        assert_eq!(first.happened, second.happened);
    }
}
