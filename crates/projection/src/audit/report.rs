//! The report of an audit, and its destinations.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::{
    finding::{Finding, Kind},
    screen::Screen,
};
use crate::pace::Halt;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// A word, and `name=value`.
    Plain,
    /// A JSON object a line.
    Json,
}

/// The counts so far. Only counts are kept.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    events: AtomicU64,
    aggregates: AtomicU64,
    others: AtomicU64,
    rows: AtomicU64,
    waiting: AtomicU64,
    healed: AtomicU64,
    left: AtomicU64,
    findings: [AtomicU64; Kind::ALL.len()],
    /// In thousandths.
    read_units: AtomicU64,
}

impl Tally {
    /// An item of the event store was read.
    pub(super) fn event(&self) {
        self.events.fetch_add(1, Relaxed);
    }

    /// An aggregate was compared with its row.
    pub(super) fn aggregate(&self) {
        self.aggregates.fetch_add(1, Relaxed);
    }

    /// The event read is of an aggregate type that no projection takes.
    pub(super) fn other(&self) {
        self.others.fetch_add(1, Relaxed);
    }

    /// Rows were listed.
    pub(super) fn rows(&self, rows: usize) {
        self.rows.fetch_add(u64::try_from(rows).unwrap_or(u64::MAX), Relaxed);
    }

    /// A suspicion is raised.
    pub(super) fn suspected(&self) {
        self.waiting.fetch_add(1, Relaxed);
    }

    /// A suspicion is settled.
    pub(super) fn settled(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// AWS reported the cost of a call.
    pub(super) fn took(&self, read_units: f64) {
        let thousandths = Duration::try_from_secs_f64(read_units).unwrap_or_default().as_millis();
        self.read_units.fetch_add(u64::try_from(thousandths).unwrap_or(u64::MAX), Relaxed);
    }

    /// How many events and rows were read, to compare with their total.
    pub(super) fn met(&self) -> u64 {
        self.events.load(Relaxed) + self.rows.load(Relaxed)
    }

    /// Whether the event store had no items.
    pub(super) fn has_no_events(&self) -> bool {
        self.events.load(Relaxed) == 0
    }

    /// Whether no finding needs a person.
    pub(crate) fn is_clean(&self) -> bool {
        self.left.load(Relaxed) == 0
    }

    /// The progress, for a person who watches.
    pub(crate) fn status(&self) -> String {
        let [events, rows, waiting] =
            [&self.events, &self.rows, &self.waiting].map(|count| count.load(Relaxed));
        let findings: u64 = self.findings.iter().map(|count| count.load(Relaxed)).sum();
        format!("{events} events, {rows} rows, {findings} findings, {waiting} in question")
    }

    fn facts(&self) -> Vec<(&'static str, Value)> {
        let count = |count: &AtomicU64| json!(count.load(Relaxed));
        let mut facts = vec![
            ("events", count(&self.events)),
            ("aggregates", count(&self.aggregates)),
            ("other_events", count(&self.others)),
            ("rows", count(&self.rows)),
        ];
        let names = ["missing", "behind", "different", "ahead", "orphaned", "unreadable", "busy"];
        facts.extend(names.into_iter().zip(self.findings.iter().map(count)));
        facts.extend([("healed", count(&self.healed)), ("left", count(&self.left))]);
        facts
    }
}

/// A report that is being written.
pub(crate) struct Report {
    pub(crate) tally: Tally,
    format: Format,
    pub(super) screen: Screen,
    out: Mutex<Box<dyn Write + Send>>,
}

impl Report {
    pub(crate) fn new(format: Format, screen: Screen, out: Box<dyn Write + Send>) -> Self {
        Self { tally: Tally::default(), format, screen, out: Mutex::new(out) }
    }

    /// Reports a finding.
    pub(super) fn finding(&self, finding: &Finding) -> Result<(), Halt> {
        let kind = Kind::ALL.iter().position(|kind| *kind == finding.kind);
        if let Some(count) = kind.and_then(|kind| self.tally.findings.get(kind)) {
            count.fetch_add(1, Relaxed);
        }
        let counted = if finding.is_left() { &self.tally.left } else { &self.tally.healed };
        counted.fetch_add(1, Relaxed);
        match self.format {
            Format::Plain => self.line(&finding.line()),
            Format::Json => self.line(&finding.json().to_string()),
        }
    }

    /// Ends the report with the totals. `complete` says whether the audit looked at everything.
    pub(crate) fn summary(
        &self,
        complete: bool,
        requests: &BTreeMap<String, u64>,
        time: Duration,
    ) -> Result<(), Halt> {
        let mut facts = vec![("complete", json!(if complete { "yes" } else { "no" }))];
        facts.extend(self.tally.facts());
        let read_units = Duration::from_millis(self.tally.read_units.load(Relaxed)).as_secs_f64();
        let total: u64 = requests.values().sum();
        facts.extend([
            ("requests", json!(total)),
            ("read_units", json!(read_units)),
            ("seconds", json!((time.as_secs_f64() * 10.0).round() / 10.0)),
        ]);
        match self.format {
            Format::Plain => {
                let mut line = "SUMMARY".to_owned();
                for (name, value) in &facts {
                    line += &format!(
                        " {name}={}",
                        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
                    );
                }
                let calls = requests.iter().map(|(name, count)| format!(" {name}={count}"));
                self.line(&line)?;
                self.line(&format!("REQUESTS{}", calls.collect::<String>()))
            }
            Format::Json => {
                let mut summary: Map<_, _> =
                    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                summary.insert("requests_by_operation".to_owned(), json!(requests));
                self.line(&json!({ "summary": summary }).to_string())
            }
        }
    }

    /// Writes a line at once and whole: a program may follow the output, and the process may be killed.
    fn line(&self, line: &str) -> Result<(), Halt> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let written =
            self.screen.aside(|| out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()));
        Ok(written?)
    }
}
