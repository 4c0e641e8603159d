//! The progress of an audit: a bar on a terminal, a line every ten seconds elsewhere.

use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{MissedTickBehavior, interval};

/// How often the bar is drawn anew.
const REDRAW: Duration = Duration::from_millis(200);

/// How often a line is written where there is no terminal.
const LINE: Duration = Duration::from_secs(10);

/// Where progress is shown.
pub(crate) enum Screen {
    /// On standard error, as lines.
    Lines,
    /// On the terminal that standard error is.
    Bar(ProgressBar),
}

impl Screen {
    /// The screen for standard error, terminal or not.
    pub(super) fn of_stderr() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines;
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        // The template is valid; otherwise the default style stays.
        if let Ok(style) = ProgressStyle::with_template("[{elapsed}] {wide_bar} {percent}%  {msg}") {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    /// Writes with the bar out of the way.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match self {
            Self::Bar(bar) => bar.suspend(write),
            Self::Lines => write(),
        }
    }

    /// Shows the status and the share of about `total`, for as long as it is polled.
    pub(super) async fn show(&self, status: impl Fn() -> String, met: impl Fn() -> u64, total: Option<u64>) {
        let every = if matches!(self, Self::Bar(_)) { REDRAW } else { LINE };
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            match self {
                Self::Lines => {
                    let of = total.map(|total| format!(" of about {total} in all")).unwrap_or_default();
                    let _ = writeln!(std::io::stderr(), "audit: {}{of}", status());
                }
                Self::Bar(bar) => {
                    // AWS's total lags; it is at least the number read.
                    let met = met();
                    bar.set_length(total.unwrap_or_default().max(met).max(1));
                    bar.set_position(met);
                    bar.set_message(status());
                }
            }
        }
    }

    /// Removes the bar.
    pub(super) fn clear(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
