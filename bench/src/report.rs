//! The report of a run: tables, which are Markdown and can be read in a terminal; charts; and everything as JSON.

mod chart;
mod charts;
pub(crate) mod folder;
mod markdown;
mod measured;
mod table;
pub(crate) mod tables;

use std::{fs, path::Path};

use anyhow::Context as _;
pub(crate) use markdown::markdown;
pub(crate) use measured::write as write_pages;

use crate::{judged::Judged, results::Results};

/// The newest results that were written, judged anew.
fn newest() -> anyhow::Result<Judged> {
    let folders = fs::read_dir(folder::all())?.map(|folder| anyhow::Ok(folder?.path()));
    let newest =
        folders.collect::<anyhow::Result<Vec<_>>>()?.into_iter().max().context("there are no results")?;
    let json = fs::read_to_string(newest.join("results.json"))?;
    Ok(serde_json::from_str::<Results>(&json)?.into())
}

/// Writes the report of the newest results again, after a change of its form.
pub(crate) fn again() -> anyhow::Result<()> {
    let results = newest()?;
    tell(&results, &folder::of(&results.date))?;
    write_pages(&results)
}

/// Writes the whole report into a folder.
pub(crate) fn write(results: &Judged, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    fs::write(folder.join("results.json"), serde_json::to_string_pretty(results)? + "\n")?;
    tell(results, folder)
}

/// Writes the report of results.
fn tell(results: &Judged, folder: &Path) -> anyhow::Result<()> {
    fs::write(folder.join("results.md"), markdown(results))?;
    fs::write(folder.join("dollars.svg"), charts::dollars(results).svg())?;
    fs::write(folder.join("per-core.svg"), charts::per_core(results).svg())?;
    fs::write(folder.join("lag.svg"), charts::lag(results).svg())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        contender::Kind,
        costs::{Bill, LENGTHS},
        results::is_peer,
        speeds::OVER_GRPC,
    };

    #[test]
    fn what_is_told_of_a_run_is_what_it_measured() {
        let results = newest().unwrap();
        let told = fs::read_to_string(folder::of(&results.date).join("results.md")).unwrap();
        assert_eq!(told, markdown(&results), "results.md is not of results.json");
        measured::assert_current(&results);
    }

    /// The sentences of docs/measured.md that have no numbers.
    #[test]
    fn what_the_page_claims_was_measured() {
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
                    Kind::Recipe => assert!(cents(ours) <= cents(theirs) * 1.02, "dollars of {about}"),
                    _ => assert!(cents(ours) < cents(theirs), "dollars of {about}"),
                }
            }
        }
    }
}
