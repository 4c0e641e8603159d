//! The names that an application's parts have on AWS, by convention from a prefix.
//!
//! A deployable needs no configuration but the prefix, and not even that where it is the application's name. Where a part
//! is named otherwise, an [`Override`] says so for one projection. Templates call the same functions with the placeholder
//! `${Prefix}`.
//!
//! Choose prefixes so that none continues another with a hyphen: `shop` with the projection `eu-orders` and `shop-eu`
//! with the projection `orders` would both have a queue `shop-eu-orders-v1`.

use std::{collections::BTreeMap, str::FromStr};

use crate::{Application, Invalid, ProjectionName};

/// The table of events.
pub fn events(prefix: &str) -> String {
    format!("{prefix}-events")
}

/// The table of unique keys.
pub fn unique_keys(prefix: &str) -> String {
    format!("{prefix}-unique-keys")
}

/// The table of snapshots.
pub fn snapshots(prefix: &str) -> String {
    format!("{prefix}-snapshots")
}

/// The table of the relays' leases.
pub fn relay_leases(prefix: &str) -> String {
    format!("{prefix}-relay-leases")
}

/// The table of jobs: work through whole tables, such as an audit.
pub fn jobs(prefix: &str) -> String {
    format!("{prefix}-jobs")
}

/// The event bus.
pub fn bus(prefix: &str) -> String {
    format!("{prefix}-events")
}

/// The `DetailType` of an item of the event store that the relay hands on because it cannot read it as an event.
pub const UNDECODABLE: &str = "Undecodable";

/// The table of the rows of a projection, given by its [id](ProjectionName::id).
pub fn table(prefix: &str, id: &str) -> String {
    format!("{prefix}-{id}")
}

/// A projection's queue.
pub fn queue(prefix: &str, id: &str) -> String {
    format!("{prefix}-{id}")
}

/// The dead letters of a projection's queue.
pub fn dead_letter_queue(prefix: &str, id: &str) -> String {
    format!("{}-dead-letters", queue(prefix, id))
}

/// Reads a prefix: 1 to 40 of `a-z`, `0-9` and `-`, beginning with a letter.
///
/// # Errors
/// Where it is none.
pub fn prefix(text: &str) -> Result<String, Invalid> {
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let begins = text.starts_with(|first: char| first.is_ascii_lowercase());
    if begins && text.len() <= 40 && text.bytes().all(is_allowed) {
        Ok(text.to_owned())
    } else {
        Err(Invalid("must be 1 to 40 of a-z, 0-9 and -, beginning with a letter"))
    }
}

/// A value for one projection in place of the conventional one. Its text is `<name>@<version>=<value>`, such as
/// `order-summaries@1=my-table`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The projection's name and version, as [`ProjectionName`] shows itself.
    pub projection: String,
    /// The value.
    pub value: String,
}

impl FromStr for Override {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        const FORM: Invalid = Invalid("must be <projection>@<version>=<value>");
        let (projection, value) = text.split_once('=').ok_or(FORM)?;
        let (name, version) = projection.split_once('@').ok_or(FORM)?;
        if name.is_empty() || value.trim().is_empty() || !version.parse::<u32>().is_ok_and(|n| n > 0) {
            return Err(FORM);
        }
        Ok(Self { projection: projection.to_owned(), value: value.to_owned() })
    }
}

/// The overrides by projection.
///
/// # Errors
/// Each that names no registered projection, with those that there are, and each projection that is named twice.
pub fn overrides(
    application: &Application,
    given: &[Override],
) -> Result<BTreeMap<ProjectionName, String>, Vec<String>> {
    let (mut values, mut problems) = (BTreeMap::new(), Vec::new());
    for Override { projection, value } in given {
        let mut names = application.projections().iter().map(|spec| spec.name);
        match names.find(|name| name.to_string() == *projection) {
            Some(name) if values.insert(name, value.clone()).is_some() => {
                problems.push(format!("`{projection}` is given twice: leave one of them out"));
            }
            Some(_) => {}
            None => problems.push(unknown_projection(application, projection)),
        }
    }
    if problems.is_empty() { Ok(values) } else { Err(problems) }
}

/// Says that there is no such projection, and which there are.
pub fn unknown_projection(application: &Application, named: &str) -> String {
    let names: Vec<_> = application.projections().iter().map(|spec| spec.name.to_string()).collect();
    let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!("`{named}` is no projection of `{}`; registered are: {known}", application.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: ProjectionName = ProjectionName::new("order-summaries", 2);

    #[test]
    fn every_part_is_named_from_the_prefix() {
        assert_eq!(
            [events("p"), unique_keys("p"), snapshots("p"), relay_leases("p"), jobs("p"), bus("p")],
            ["p-events", "p-unique-keys", "p-snapshots", "p-relay-leases", "p-jobs", "p-events"]
        );
        assert_eq!(
            [table, queue, dead_letter_queue].map(|named| named("p", &ORDERS.id())),
            ["p-order-summaries-v2", "p-order-summaries-v2", "p-order-summaries-v2-dead-letters"]
        );
    }

    #[test]
    fn a_prefix_fits_every_name() {
        assert!(["p", "shop-eu-1", &"p".repeat(40)].iter().all(|text| prefix(text).is_ok()));
        assert!(["", "1p", "P", "a b", "a_b", &"p".repeat(41)].iter().all(|text| prefix(text).is_err()));
    }

    #[test]
    fn an_override_is_a_projection_with_its_version_and_a_value() {
        let read: Override = "order-summaries@2=https://sqs/q?a=b".parse().unwrap();
        assert_eq!(
            (read.projection.as_str(), read.value.as_str()),
            ("order-summaries@2", "https://sqs/q?a=b")
        );
        for text in ["", "order-summaries=t", "@1=t", "a@0=t", "a@x=t", "a@1=", "a@1"] {
            assert!(text.parse::<Override>().is_err(), "{text}");
        }
    }
}
