//! How far an audit is, for somebody who watches: a bar on a terminal, a line now and then elsewhere.

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
    /// Standard error, whatever it is.
    pub(super) fn of_stderr() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines;
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        // The template is a valid one, and without it there would be another.
        if let Ok(style) = ProgressStyle::with_template("[{elapsed}] {wide_bar} {percent}%  {msg}") {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    /// Does something that may write to the terminal, with the bar out of its way.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match self {
            Self::Bar(bar) => bar.suspend(write),
            Self::Lines => write(),
        }
    }

    /// Shows where things stand, and how far they are of about `total`, for as long as it is polled.
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
                    // AWS counts late: what is there in all is no less than what was met.
                    let met = met();
                    bar.set_length(total.unwrap_or_default().max(met).max(1));
                    bar.set_position(met);
                    bar.set_message(status());
                }
            }
        }
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
