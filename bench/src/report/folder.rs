//! Where reports are.

use std::path::{Path, PathBuf};

/// Where results are, within the repository.
pub(super) const FOLDER: &str = "bench/results";

/// The command that measures everything.
pub(crate) const COMMAND: &str = "cargo run --release --manifest-path bench/Cargo.toml";

/// The top of the repository.
pub(super) fn top() -> &'static Path {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    bench.parent().unwrap_or(bench)
}

/// The folder of all results.
pub(super) fn all() -> PathBuf {
    top().join(FOLDER)
}

/// The folder of a day's results.
pub(crate) fn of(date: &str) -> PathBuf {
    all().join(date)
}
