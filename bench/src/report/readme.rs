//! The part of README.md that tells of a run: written by it, so that nobody has to copy numbers.

use std::{fmt::Write as _, fs};

use anyhow::Context as _;

use super::{FOLDER, short, top};
use crate::{
    contender::Kind,
    costs::{Bill, LENGTHS},
    results::Results,
};

/// What stands before the part and after it.
const BEGIN: &str = "<!-- Written by the command above: -->\n";
const END: &str = "<!-- Until here. -->\n";

/// Puts a run's results into README.md, in place of those of an earlier one.
pub(crate) fn write(results: &Results) -> anyhow::Result<()> {
    let path = top().join("README.md");
    let readme = fs::read_to_string(&path)?;
    let (before, _, after) = apart(&readme)?;
    fs::write(&path, [before, BEGIN, &part(results), END, after].concat())?;
    Ok(())
}

/// README.md before the part, the part, and what comes after it.
fn apart(readme: &str) -> anyhow::Result<(&str, &str, &str)> {
    let (before, rest) = readme.split_once(BEGIN).context("README.md has no place for results")?;
    let (part, after) = rest.split_once(END).context("the place for results in README.md has no end")?;
    Ok((before, part, after))
}

/// What README.md says of a run.
fn part(results: &Results) -> String {
    let folder = format!("{FOLDER}/{}", results.date);
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
        format!("{least} to {most}")
    };
    let ours = span(units(Kind::Millrace).collect());
    let snapshots = [Kind::CqrsSnapshots, Kind::CqrsAggregate, Kind::AdapterSnapshots, Kind::AdapterEvery];
    let theirs = span(snapshots.into_iter().flat_map(units).collect());
    format!(
        "**Cold commands are where others are ahead:** a load reads the newest events, for the commands in them, where a \
         library with a fresh snapshot reads one item or two: {ours} RU against {theirs} on aggregates of {} events and \
         more.",
        longer[0]
    )
}

/// Which budgets were met, and what was measured of those that were not.
fn budgets(results: &Results) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::{folder, markdown, newest},
        results::is_peer,
        speeds::OVER_GRPC,
    };

    #[test]
    fn what_is_told_of_a_run_is_what_it_measured() {
        let results = newest().unwrap();
        let told = fs::read_to_string(folder(&results).join("results.md")).unwrap();
        assert_eq!(told, markdown(&results), "results.md is not of results.json");
        let readme = fs::read_to_string(top().join("README.md")).unwrap();
        assert_eq!(apart(&readme).unwrap().1, part(&results), "README.md is not of the newest results");
    }

    /// The sentences of README.md that have no numbers.
    #[test]
    fn what_readme_claims_was_measured() {
        let results = newest().unwrap();
        let ours = results.ceiling(Kind::Millrace.name()).unwrap().speed.per_core();
        let over_grpc = results.ceiling(OVER_GRPC).unwrap().speed.per_core();
        for peer in results.ceilings.iter().filter(|ceiling| is_peer(&ceiling.contender)) {
            let theirs = peer.speed.per_core();
            assert!(ours > theirs && over_grpc > theirs, "a core carries out more of {}", peer.contender);
        }
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_peer()) {
            for length in LENGTHS {
                let Some(theirs) = results.bill(kind.name(), length, false) else { continue };
                let ours = results.bill(Kind::Millrace.name(), length, false).unwrap();
                let about = format!("{} at {length}", kind.name());
                assert!(ours.requests < theirs.requests, "requests of {about}");
                let cents = |bill: &Bill| (bill.dollars_a_million * 100.0).round();
                match kind {
                    Kind::Recipe => assert!(cents(ours) <= cents(theirs), "dollars of {about}"),
                    _ => assert!(cents(ours) < cents(theirs), "dollars of {about}"),
                }
            }
        }
    }
}
