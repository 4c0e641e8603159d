//! The parts of docs/measured.md and README.md about a run: written by it, so that nobody has to copy numbers.

use std::{fmt::Write as _, fs};

use anyhow::Context as _;

use super::{
    folder::{FOLDER, top},
    tables::short,
};
use crate::{
    contender::Kind,
    costs::{Bill, LENGTHS},
    judged::Judged,
    results::Results,
};

/// Part of a page that a run writes, between its two marks.
struct Part {
    page: &'static str,
    begin: &'static str,
    end: &'static str,
    text: String,
}

impl Part {
    /// All of them.
    fn all(results: &Judged) -> [Self; 2] {
        [
            Self {
                page: "docs/measured.md",
                begin: "<!-- Written by the command above: -->\n",
                end: "<!-- Until here. -->\n",
                text: measured(results),
            },
            Self {
                page: "README.md",
                begin: "![Dollars for a million commands, by events of the aggregate](",
                end: ")",
                text: format!("{FOLDER}/{}/dollars.svg", results.date),
            },
        ]
    }

    /// The page before the part, the part as it is there, and the page after it.
    fn apart<'a>(&self, page: &'a str) -> anyhow::Result<(&'a str, &'a str, &'a str)> {
        let name = self.page;
        let (before, rest) =
            page.split_once(self.begin).with_context(|| format!("{name} has no place for results"))?;
        let apart = rest.split_once(self.end);
        let (part, after) = apart.with_context(|| format!("the place for results in {name} has no end"))?;
        Ok((before, part, after))
    }
}

/// Puts a run's results into the pages, in place of those of an earlier one.
pub(crate) fn write(results: &Judged) -> anyhow::Result<()> {
    for part in Part::all(results) {
        let path = top().join(part.page);
        let page = fs::read_to_string(&path)?;
        let (before, _, after) = part.apart(&page)?;
        fs::write(&path, [before, part.begin, &part.text, part.end, after].concat())?;
    }
    Ok(())
}

/// The text of docs/measured.md about a run.
fn measured(results: &Judged) -> String {
    // From the page's own folder.
    let folder = format!("../{FOLDER}/{}", results.date);
    let mut text = format!("\n{}\n", short(results));
    let _ = writeln!(
        text,
        "Measured on {} in {:.0} minutes on {} cores ({}).\n",
        results.date,
        (results.took_seconds / 60.0).ceil(),
        results.machine.cores,
        results.machine.processor,
    );
    let _ = writeln!(
        text,
        "![Dollars for a million commands, by events of the aggregate]({folder}/dollars.svg)\n"
    );
    let _ = writeln!(text, "{} {}\n", cold(results), budgets(results));
    let _ = writeln!(
        text,
        "[The whole report]({folder}/results.md) has latencies, contention, the lag from a reply to a query, rebuilding, \
         each budget of the design with what was measured, and all that others are ahead in.\n"
    );
    text
}

/// Where others are ahead by far.
fn cold(results: &Results) -> String {
    let longer = &LENGTHS[1..];
    let units = |kind: Kind| {
        let bills = longer.iter().filter_map(move |length| results.bill(kind.name(), *length, true));
        bills.map(|bill: &Bill| bill.read_units)
    };
    let span = |units: Vec<f64>| {
        let least = units.iter().copied().fold(f64::INFINITY, f64::min);
        let most = units.iter().copied().fold(0.0, f64::max);
        if least < most { format!("{least} to {most}") } else { most.to_string() }
    };
    let ours = span(units(Kind::Millrace).collect());
    let snapshots = [Kind::CqrsSnapshots, Kind::CqrsAggregate, Kind::AdapterSnapshots, Kind::AdapterEvery];
    let theirs = span(snapshots.into_iter().flat_map(units).collect());
    format!(
        "**Cold commands are where others are ahead.** A cold load reads the newest events besides a snapshot, so that \
         snapshots may be late; a library with a fresh snapshot reads one or two items: {ours} RU against {theirs} on \
         aggregates of {} events and more.",
        longer[0]
    )
}

/// The budgets that were met, and the measurements of the others.
fn budgets(results: &Judged) -> String {
    let all = &results.budgets;
    let missed: Vec<_> = all.iter().filter(|budget| !budget.met).collect();
    if missed.is_empty() {
        return format!("All {} budgets of the design that this measures were met.", all.len());
    }
    let mut text = format!(
        "Of {} budgets of the design that this measures {} were met.",
        all.len(),
        all.len() - missed.len()
    );
    for budget in missed {
        let _ = write!(text, " Not met: {}, {} ({}).", budget.what, budget.measured, budget.budget);
    }
    text
}

/// Holds the pages against the newest results.
#[cfg(test)]
#[track_caller]
pub(super) fn assert_current(results: &Judged) {
    for part in Part::all(results) {
        let page = fs::read_to_string(top().join(part.page)).unwrap();
        assert_eq!(part.apart(&page).unwrap().1, part.text, "{} is not of the newest results", part.page);
    }
}
