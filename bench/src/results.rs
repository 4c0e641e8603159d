//! All that was measured in one run.

use serde::{Deserialize, Serialize};

use crate::{
    budgets::{self, Budget},
    contender::Kind,
    costs::{Bill, Cost, LENGTHS},
    machine::Machine,
    path::Lag,
    process::Started,
    rebuild::Rebuild,
    speeds::{Answered, Ceiling, Contention, Measured},
};

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) date: String,
    pub(crate) machine: Machine,
    pub(crate) command: String,
    pub(crate) took_seconds: f64,
    pub(crate) prices: String,
    pub(crate) costs: Vec<Cost>,
    /// Millrace's warm command where the stack has no index by event type.
    pub(crate) unindexed: Option<Bill>,
    pub(crate) speeds: Vec<Measured>,
    pub(crate) latencies: Vec<Answered>,
    pub(crate) contention: Vec<Contention>,
    pub(crate) ceilings: Vec<Ceiling>,
    pub(crate) queries: Vec<Measured>,
    pub(crate) queries_on_null: Vec<Measured>,
    pub(crate) idle: Lag,
    pub(crate) lags: Vec<Lag>,
    pub(crate) loaded: Lag,
    pub(crate) rebuild: Rebuild,
    pub(crate) started: Vec<Started>,
    /// The budgets, held against what was measured.
    #[serde(skip_deserializing)]
    pub(crate) budgets: Vec<Budget>,
    /// Where a peer is ahead of Millrace.
    #[serde(skip_deserializing)]
    pub(crate) ahead: Vec<String>,
}

impl Results {
    /// Draws conclusions from what was measured.
    pub(crate) fn judged(mut self) -> Self {
        self.budgets = budgets::all(&self);
        self.ahead = ahead(&self);
        self
    }

    /// What a contender's command costs, if it could be counted.
    pub(crate) fn bill(&self, contender: &str, length: u64, cold: bool) -> Option<&Bill> {
        let mut costs = self.costs.iter();
        let cost = costs.find(|c| c.contender == contender && c.length == length && c.cold == cold)?;
        cost.bill.as_ref().ok()
    }

    /// How fast a contender was with so many clients.
    pub(crate) fn speed(&self, contender: &str, clients: usize) -> Option<&Measured> {
        self.speeds.iter().find(|speed| speed.contender == contender && speed.clients == clients)
    }

    /// What a contender is capable of on the null endpoint.
    pub(crate) fn ceiling(&self, contender: &str) -> Option<&Ceiling> {
        self.ceilings.iter().find(|ceiling| ceiling.contender == contender)
    }
}

/// In what a peer is ahead of Millrace, in sentences.
fn ahead(results: &Results) -> Vec<String> {
    let mut ahead = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_peer()) {
        for cold in [true, false] {
            ahead.extend(cheaper(results, kind.name(), cold));
        }
    }
    let ours = Kind::Millrace.name();
    for speed in results.speeds.iter().filter(|speed| is_peer(&speed.contender)) {
        let Some(our) = results.speed(ours, speed.clients) else { continue };
        if speed.speed.per_second > our.speed.per_second {
            let (theirs, ours) = (speed.speed.per_second, our.speed.per_second);
            let (who, clients) = (&speed.contender, speed.clients);
            ahead.push(format!("{who} with {clients} clients: {theirs:.0} commands/s, Millrace {ours:.0}"));
        }
    }
    for ceiling in results.ceilings.iter().filter(|ceiling| is_peer(&ceiling.contender)) {
        let Some(our) = results.ceiling(ours) else { continue };
        let (who, theirs, ours) = (&ceiling.contender, ceiling.speed.per_core(), our.speed.per_core());
        if theirs > ours {
            ahead.push(format!(
                "{who} on the null endpoint: {theirs:.0} commands/s a core, Millrace {ours:.0}"
            ));
        }
        let allocations = ceiling.allocations.zip(our.allocations);
        if let Some((theirs, ours)) = allocations.map(|(theirs, ours)| (theirs.count, ours.count))
            && theirs < ours
        {
            ahead.push(format!("{who}: {theirs:.0} allocations a command, Millrace {ours:.0}"));
        }
    }
    ahead
}

/// What is measured of a bill, with its name.
type Measure = (&'static str, fn(&Bill) -> f64);

const MEASURES: [Measure; 5] = [
    ("requests", |bill| bill.requests),
    ("bytes read", |bill| bill.bytes_read),
    ("read units", |bill| bill.read_units),
    ("write units", |bill| bill.write_units),
    ("dollars a million", |bill| bill.dollars_a_million),
];

/// In what a peer's commands cost less, a sentence for each measure, with the lengths of streams at which they do.
fn cheaper(results: &Results, peer: &str, cold: bool) -> Vec<String> {
    let sentence = |(what, of): Measure| {
        let at = |length: u64| {
            let theirs = of(results.bill(peer, length, cold)?);
            let ours = of(results.bill(Kind::Millrace.name(), length, cold)?);
            (theirs < ours).then(|| format!("{} against {} at {length}", told(theirs), told(ours)))
        };
        let lengths: Vec<_> = LENGTHS.into_iter().filter_map(at).collect();
        let warmth = if cold { "cold" } else { "warm" };
        (!lengths.is_empty()).then(|| format!("{peer}, {warmth}: {what} {}", lengths.join(", ")))
    };
    MEASURES.into_iter().filter_map(sentence).collect()
}

/// Whether a contender is neither the floor nor Millrace.
pub(crate) fn is_peer(contender: &str) -> bool {
    Kind::ALL.iter().any(|kind| kind.is_peer() && kind.name() == contender)
}

/// A number with as many digits as it needs.
fn told(number: f64) -> String {
    if number >= 100.0 { format!("{number:.0}") } else { format!("{number:.2}") }
}
