//! The logs, at every level, and the metrics of deployables that run within the test's own process. Each line is
//! scanned as it is written.

use std::{
    io,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use millrace_server::telemetry::{self, PrometheusHandle};

use crate::scan::{Finding, assert_clean, scan};

/// The number of lines written.
static LINES: AtomicU64 = AtomicU64::new(0);

/// Personal data and secrets in them.
static FOUND: Mutex<Vec<Finding>> = Mutex::new(Vec::new());

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

/// Listens to this process from now on.
pub(crate) fn listen() {
    METRICS.get_or_init(|| {
        let metrics = telemetry::overhear(|| Ear).expect("a process that can be listened to");
        metrics.expect("nobody else collects metrics in this process")
    });
}

/// Fails where any test of this process logged personal data or a secret, or where nothing was logged.
#[track_caller]
pub(crate) fn assert_discreet() {
    assert!(LINES.load(Ordering::Relaxed) > 0, "nothing was logged, so nothing was looked at");
    let found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let shown: Vec<_> = found.iter().take(5).map(ToString::to_string).collect();
    assert!(
        found.is_empty(),
        "what was logged must not be: {} lines, such as\n{}",
        found.len(),
        shown.join("\n")
    );
    drop(found);
    if let Some(metrics) = METRICS.get() {
        assert_clean("the metrics", &metrics.render());
    }
}

/// Looks at each line.
struct Ear;

impl io::Write for Ear {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LINES.fetch_add(1, Ordering::Relaxed);
        let found = scan(&String::from_utf8_lossy(line));
        if !found.is_empty() {
            FOUND.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
