//! Random tests: the environment sets their length and their seed, and a failure prints the command that repeats it.

use std::{
    env,
    hash::{BuildHasher as _, RandomState},
    str::FromStr,
    thread,
};

/// The seed of a random test. If the test panics while this lives, the command that repeats it is printed.
#[derive(Debug)]
pub struct Seed {
    value: u64,
    command: &'static str,
}

impl Seed {
    /// `MILLRACE_TEST_SEED`, else another number each time. `command` runs the test, such as `cargo test --test life`.
    ///
    /// # Panics
    /// If the variable is no whole number.
    pub fn draw(command: &'static str) -> Self {
        Self::of(Self::given().unwrap_or_else(|| RandomState::new().hash_one(command)), command)
    }

    /// This one of a test that tries many.
    pub fn of(value: u64, command: &'static str) -> Self {
        Self { value, command }
    }

    /// `MILLRACE_TEST_SEED`.
    ///
    /// # Panics
    /// If the variable is no whole number.
    pub fn given() -> Option<u64> {
        variable("MILLRACE_TEST_SEED")
    }

    /// The number to begin with.
    pub fn value(&self) -> u64 {
        self.value
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("again: MILLRACE_TEST_SEED={} {}", self.value, self.command);
        }
    }
}

/// The number by which random tests are longer, or shorter, than by default: `MILLRACE_TEST_SCALE`, 1 unless set.
///
/// # Panics
/// If the variable is no number above 0.
pub fn scale() -> f64 {
    let scale = variable("MILLRACE_TEST_SCALE").unwrap_or(1.0);
    assert!(scale > 0.0 && scale <= 1e6, "MILLRACE_TEST_SCALE is above 0, and at most a million: {scale}");
    scale
}

/// So many cases by [`scale`], at least one.
///
/// # Panics
/// As [`scale`] does.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
pub fn scaled(cases: u32) -> u32 {
    (f64::from(cases) * scale()).round().max(1.0) as u32
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_differ_unless_one_is_given() {
        let drawn = [(); 2].map(|()| Seed::draw("cargo test").value());
        assert_eq!(drawn[0] == drawn[1], Seed::given().is_some());
    }
}
