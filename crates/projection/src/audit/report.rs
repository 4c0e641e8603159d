//! The report of an audit, and its destinations.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
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

/// Counts of an audit, or of a part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Counts {
    /// Items of the event store that were read.
    pub(super) events: u64,
    /// Aggregates that were compared with their rows.
    pub(super) aggregates: u64,
    /// Events of an aggregate type that no projection takes.
    pub(super) others: u64,
    /// Rows that were listed.
    pub(super) rows: u64,
    /// By kind.
    findings: [u64; Kind::ALL.len()],
    healed: u64,
    left: u64,
}

impl Counts {
    /// Counts a finding.
    pub(super) fn finding(&mut self, finding: &Finding) {
        let kind = Kind::ALL.iter().position(|kind| *kind == finding.kind);
        if let Some(count) = kind.and_then(|kind| self.findings.get_mut(kind)) {
            *count += 1;
        }
        *(if finding.is_left() { &mut self.left } else { &mut self.healed }) += 1;
    }

    /// Adds other counts.
    pub(super) fn add(&mut self, other: &Self) {
        let Self { events, aggregates, others, rows, findings, healed, left } = other;
        self.events += events;
        self.aggregates += aggregates;
        self.others += others;
        self.rows += rows;
        self.findings.iter_mut().zip(findings).for_each(|(sum, more)| *sum += more);
        self.healed += healed;
        self.left += left;
    }

    fn facts(&self) -> Vec<(&'static str, Value)> {
        let mut facts = vec![
            ("events", json!(self.events)),
            ("aggregates", json!(self.aggregates)),
            ("other_events", json!(self.others)),
            ("rows", json!(self.rows)),
        ];
        let names = ["missing", "behind", "different", "ahead", "orphaned", "unreadable", "busy"];
        facts.extend(names.into_iter().zip(self.findings.iter().map(|count| json!(count))));
        facts.extend([("healed", json!(self.healed)), ("left", json!(self.left))]);
        facts
    }
}

/// The counts of the whole run so far, and of what is held in memory.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: Mutex<Counts>,
    /// Suspects.
    waiting: AtomicU64,
    /// Folds and suspects.
    held: AtomicU64,
    most_held: AtomicU64,
    /// In thousandths.
    read_units: AtomicU64,
    /// Whether this process has met an item of the event store.
    has_met_events: AtomicBool,
}

impl Tally {
    /// The counts.
    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A suspicion is raised.
    pub(super) fn suspected(&self) {
        self.waiting.fetch_add(1, Relaxed);
        self.hold(1);
    }

    /// A suspicion is settled.
    pub(super) fn settled(&self) {
        self.waiting.fetch_sub(1, Relaxed);
        self.let_go(1);
    }

    /// Folds or suspects are in memory.
    pub(super) fn hold(&self, more: u64) {
        let held = self.held.fetch_add(more, Relaxed) + more;
        self.most_held.fetch_max(held, Relaxed);
    }

    /// They are no longer.
    pub(super) fn let_go(&self, fewer: u64) {
        self.held.fetch_sub(fewer, Relaxed);
    }

    /// The most folds and suspects that were in memory at a time.
    pub(crate) fn most_held(&self) -> u64 {
        self.most_held.load(Relaxed)
    }

    /// AWS reported the cost of a call, or an earlier process of the run did.
    pub(super) fn took(&self, read_units: f64) {
        let thousandths = Duration::try_from_secs_f64(read_units).unwrap_or_default().as_millis();
        self.read_units.fetch_add(u64::try_from(thousandths).unwrap_or(u64::MAX), Relaxed);
    }

    /// The cost so far.
    pub(super) fn read_units(&self) -> f64 {
        Duration::from_millis(self.read_units.load(Relaxed)).as_secs_f64()
    }

    /// How many events and rows were read, to compare with their total.
    pub(super) fn met(&self) -> u64 {
        let counts = self.counts();
        counts.events + counts.rows
    }

    /// This process has met an item of the event store.
    pub(super) fn meets_events(&self) {
        self.has_met_events.store(true, Relaxed);
    }

    /// Whether this process has met an item of the event store. An earlier process of the run may have read another one.
    pub(super) fn has_met_events(&self) -> bool {
        self.has_met_events.load(Relaxed)
    }

    /// Whether no finding needs a person.
    pub(crate) fn is_clean(&self) -> bool {
        self.counts().left == 0
    }

    /// The progress, for a person who watches.
    pub(crate) fn status(&self) -> String {
        let Counts { events, rows, findings, .. } = self.counts().clone();
        let (findings, waiting) = (findings.iter().sum::<u64>(), self.waiting.load(Relaxed));
        format!("{events} events, {rows} rows, {findings} findings, {waiting} in question")
    }
}

/// A report that is being written.
pub(crate) struct Report {
    pub(crate) tally: Arc<Tally>,
    format: Format,
    pub(super) screen: Screen,
    out: Mutex<Box<dyn Write + Send>>,
}

impl Report {
    pub(crate) fn new(format: Format, screen: Screen, out: Box<dyn Write + Send>) -> Self {
        Self { tally: Arc::default(), format, screen, out: Mutex::new(out) }
    }

    /// Writes a finding.
    pub(super) fn finding(&self, finding: &Finding) -> Result<(), Halt> {
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
        facts.extend(self.tally.counts().facts());
        let total: u64 = requests.values().sum();
        facts.extend([
            ("most_held", json!(self.tally.most_held())),
            ("requests", json!(total)),
            ("read_units", json!(self.tally.read_units())),
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
