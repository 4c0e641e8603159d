//! Requests to end: Ctrl-C and SIGTERM.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C and SIGTERM.
pub(crate) struct Interrupt {
    int: Signal,
    term: Signal,
}

impl Interrupt {
    /// Catches the signals from now on.
    pub(crate) fn catch() -> anyhow::Result<Self> {
        let int = signal(SignalKind::interrupt()).context("cannot catch Ctrl-C")?;
        let term = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        Ok(Self { int, term })
    }

    /// Returns when the next of them has come.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}
