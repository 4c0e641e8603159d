//! Crates, as `cargo tree` prints them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context as _, ensure};

/// The format of a crate: name and version, then the licence.
pub(crate) const FORMAT: &str = "|{p}|{l}";

/// A crate's name and version.
pub(crate) type Id = (String, String);

/// Crates, and which of them each needs.
#[derive(Debug, Default)]
pub(crate) struct Crates {
    /// The licence of each.
    pub(crate) licences: BTreeMap<Id, String>,
    needs: BTreeMap<Id, BTreeSet<Id>>,
}

impl Crates {
    /// Parses the output of `cargo tree --prefix depth --format FORMAT`. It lists a crate's dependencies only at the
    /// first mention of the crate, whichever tree that is in.
    pub(crate) fn parse(tree: &str) -> anyhow::Result<Self> {
        let mut crates = Self::default();
        let mut above: Vec<Id> = Vec::new();
        for line in tree.lines().filter(|line| !line.is_empty()) {
            let bad = || format!("cargo tree says what is not understood: {line}");
            let mut parts = line.splitn(3, '|');
            let depth: usize = parts.next().and_then(|depth| depth.parse().ok()).with_context(bad)?;
            let mut named = parts.next().with_context(bad)?.split(' ');
            let name = named.next().with_context(bad)?.to_owned();
            let version =
                named.next().and_then(|version| version.strip_prefix('v')).with_context(bad)?.to_owned();
            let licence = parts.next().with_context(bad)?;
            let licence = licence.strip_suffix(" (*)").unwrap_or(licence);
            let id = (name, version);
            ensure!(!licence.is_empty(), "{} {} names no licence", id.0, id.1);
            ensure!(depth <= above.len(), bad());
            above.truncate(depth);
            if let Some(needing) = above.last() {
                crates.needs.entry(needing.clone()).or_default().insert(id.clone());
            }
            // Older crates write `/` for a choice, which is no licence expression of SPDX's.
            let licence = licence.replace(" / ", "/").replace('/', " OR ");
            crates.licences.insert(id.clone(), licence);
            above.push(id);
        }
        Ok(crates)
    }

    /// The direct dependencies of a crate.
    pub(crate) fn needed_by(&self, id: &Id) -> impl Iterator<Item = &Id> {
        self.needs.get(id).into_iter().flatten()
    }

    /// A crate and all of its dependencies.
    pub(crate) fn all_of(&self, root: &Id) -> BTreeSet<Id> {
        let mut all = BTreeSet::from([root.clone()]);
        let mut left = vec![root.clone()];
        while let Some(id) = left.pop() {
            for needed in self.needed_by(&id) {
                if all.insert(needed.clone()) {
                    left.push(needed.clone());
                }
            }
        }
        all
    }
}

/// The SHA-256 of each crate's package, from Cargo.lock; Millrace's own have none.
#[derive(Debug)]
pub(crate) struct Checksums(HashMap<Id, String>);

impl Checksums {
    /// Reads a Cargo.lock.
    pub(crate) fn parse(lock: &str) -> Self {
        let packages = lock.split("[[package]]").skip(1).filter_map(|package| {
            let value = |name: &str| {
                let line = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""))?;
                line.strip_suffix('"').map(str::to_owned)
            };
            Some(((value("name")?, value("version")?), value("checksum")?))
        });
        Self(packages.collect())
    }

    /// That of a crate.
    pub(crate) fn of(&self, id: &Id) -> Option<&str> {
        self.0.get(id).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> Id {
        (name.to_owned(), "1.0.0".to_owned())
    }

    #[test]
    fn what_a_crate_needs_is_found_in_whichever_tree_it_stands() {
        let tree = "0|one v1.0.0 (/src/one)|MIT\n1|both v1.0.0|MIT/Apache-2.0\n2|deep v1.0.0|MIT\n\n\
                    0|two v1.0.0 (/src/two)|MIT\n1|both v1.0.0|MIT/Apache-2.0 (*)\n1|other v1.0.0|MIT";
        let crates = Crates::parse(tree).unwrap();
        assert_eq!(crates.all_of(&id("one")), ["one", "both", "deep"].map(id).into());
        assert_eq!(crates.all_of(&id("two")), ["two", "both", "deep", "other"].map(id).into());
        assert_eq!(crates.licences[&id("both")], "MIT OR Apache-2.0");
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for tree in ["x", "0|one|MIT", "0|one v1.0.0|", "1|one v1.0.0|MIT", "0|one v1.0.0"] {
            assert!(Crates::parse(tree).is_err(), "{tree}");
        }
    }

    #[test]
    fn a_crate_has_its_checksum_and_ours_have_none() {
        let lock = "version = 4\n\n[[package]]\nname = \"one\"\nversion = \"1.0.0\"\nsource = \"s\"\nchecksum = \"ab\"\n\
                    dependencies = [\n \"two\",\n]\n\n[[package]]\nname = \"two\"\nversion = \"1.0.0\"\n";
        let checksums = Checksums::parse(lock);
        assert_eq!((checksums.of(&id("one")), checksums.of(&id("two"))), (Some("ab"), None));
    }
}
