//! Texts for standard output.

use std::io::Write;

use anyhow::Context;

/// Prints all of it, at once. Fails where the reader has gone, as with `head`.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot print")
}
