//! The conclusions from the measurements.

use std::ops::Deref;

use serde::Serialize;

use crate::{
    budgets::{self, Budget},
    contender::Kind,
    costs::{Bill, LENGTHS},
    results::{Results, is_peer},
};

/// A run with its conclusions. They are derived anew whenever a report is written.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Judged {
    #[serde(flatten)]
    results: Results,
    /// The budgets, held against the measurements.
    pub(crate) budgets: Vec<Budget>,
    /// Where a peer is ahead of Millrace.
    pub(crate) ahead: Vec<String>,
}

impl From<Results> for Judged {
    fn from(results: Results) -> Self {
        Self { budgets: budgets::all(&results), ahead: ahead(&results), results }
    }
}

impl Deref for Judged {
    type Target = Results;

    fn deref(&self) -> &Results {
        &self.results
    }
}

/// The measures in which a peer is ahead of Millrace, in sentences.
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

/// A measure of a bill, with its name.
type Measure = (&'static str, fn(&Bill) -> f64);

const MEASURES: [Measure; 5] = [
    ("requests", |bill| bill.requests),
    ("bytes read", |bill| bill.bytes_read),
    ("read units", |bill| bill.read_units),
    ("write units", |bill| bill.write_units),
    ("dollars a million", |bill| bill.dollars_a_million),
];

/// The measures in which a peer's commands cost less, a sentence each, with the lengths of streams at which they do.
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

/// A number with as many digits as it needs.
fn told(number: f64) -> String {
    if number >= 100.0 { format!("{number:.0}") } else { format!("{number:.2}") }
}
