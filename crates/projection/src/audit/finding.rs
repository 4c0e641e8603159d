//! The faults that an audit finds, and their form in a report.

use std::fmt;

use millrace_core::{StreamId, row::RowKey};
use millrace_event_store::ItemError;
use serde_json::{Map, Value, json};

use crate::ApplyError;

/// A fault of a row or of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// There are events, or parts, but no row.
    Missing,
    /// The row is older than its events.
    Behind,
    /// The row is not the fold of its history at its version, or of its parts.
    Different,
    /// The row is newer than the newest event.
    Ahead,
    /// There is a row, but no event, or no part.
    Orphaned,
    /// An event cannot be read by this release, or is missing though a newer one exists. The row cannot go past it.
    Unreadable,
    /// A row that sums up aggregates changed at each look and was never right. Audit it at a quieter time.
    Busy,
}

impl Kind {
    /// All kinds, in the order in which a summary counts them.
    pub(super) const ALL: [Self; 7] = [
        Self::Missing,
        Self::Behind,
        Self::Different,
        Self::Ahead,
        Self::Orphaned,
        Self::Unreadable,
        Self::Busy,
    ];

    /// Its name in a report.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "MISSING",
            Self::Behind => "BEHIND",
            Self::Different => "DIFFERENT",
            Self::Ahead => "AHEAD",
            Self::Orphaned => "ORPHANED",
            Self::Unreadable => "UNREADABLE",
            Self::Busy => "BUSY",
        }
    }
}

/// The owner of the row or event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// One aggregate.
    Stream(StreamId),
    /// A row of many aggregates.
    Row(RowKey),
    /// None: a key that names no aggregate, escaped for a line.
    Key(String),
}

/// Why an event cannot be folded. The text never holds the event's data.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Obstacle {
    /// The projection cannot read it.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The item in its place is no event.
    #[error(transparent)]
    NoEvent(#[from] ItemError),
}

impl Obstacle {
    /// The reason in a word, the same as in the metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Apply(error) => error.reason(),
            Self::NoEvent(_) => "no_event",
        }
    }
}

/// An action on a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The missing events were written into the row, as the projector would have done.
    Written,
    /// The row was replaced by the fold of its history.
    Replaced,
    /// The row was deleted.
    Deleted,
}

impl Step {
    fn as_str(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Replaced => "replaced",
            Self::Deleted => "deleted",
        }
    }
}

/// The result of a repair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Repair {
    /// The actions, in order. Empty where the row had become right by itself, or could not be repaired.
    pub(super) steps: Vec<Step>,
    /// Whether the row is right now.
    pub(super) healed: bool,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<_> = self.steps.iter().map(|step| step.as_str()).collect();
        match (self.healed, steps.as_slice()) {
            (false, _) => f.write_str("failed"),
            (true, []) => f.write_str("none-needed"),
            (true, steps) => f.write_str(&steps.join(",")),
        }
    }
}

impl Repair {
    /// Adds a step, unless it repeats the one before it.
    pub(super) fn add(&mut self, step: Option<Step>) {
        if step.is_some() && self.steps.last() != step.as_ref() {
            self.steps.extend(step);
        }
    }
}

/// One line of a report: ids, versions and attribute names, never attribute values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// The fault.
    pub(super) kind: Kind,
    /// The name of the row's projection; `None` where the row is no projection's.
    pub(super) projection: Option<&'static str>,
    /// The owner of the row or event.
    pub(super) place: Place,
    /// The row's version, if the row exists and has one.
    pub(super) row: Option<u64>,
    /// The newest version in the event store.
    pub(super) store: Option<u64>,
    /// The version of the event that cannot be read.
    pub(super) version: Option<u64>,
    /// The attributes in which the row differs.
    pub(super) attributes: Vec<String>,
    /// Why the event cannot be read: in a word, and in a sentence.
    pub(super) reason: Option<(&'static str, String)>,
    /// The result of the repair, where one was asked for.
    pub(super) repair: Option<Repair>,
}

impl Finding {
    /// A finding with no further details yet.
    pub(super) fn new(kind: Kind, projection: Option<&'static str>, place: Place) -> Self {
        Self {
            kind,
            projection,
            place,
            row: None,
            store: None,
            version: None,
            attributes: Vec::new(),
            reason: None,
            repair: None,
        }
    }

    /// Whether the fault still needs a person.
    pub(super) fn is_left(&self) -> bool {
        !self.repair.as_ref().is_some_and(|repair| repair.healed)
    }

    /// The finding's fields in a report, by name. A text needs no quotes, or is quoted in [`line`](Self::line).
    fn facts(&self) -> Vec<(&'static str, Value)> {
        let mut facts = Vec::new();
        facts.extend(self.projection.map(|projection| ("projection", json!(projection))));
        match &self.place {
            Place::Stream(stream) => {
                facts.push(("tenant", json!(stream.tenant.as_str())));
                facts.push(("aggregate", json!(stream.id)));
            }
            Place::Row(key) => {
                facts.push(("tenant", json!(key.tenant.as_str())));
                facts.push(("id", json!(key.id)));
            }
            Place::Key(key) => facts.push(("key", json!(key))),
        }
        facts.extend(self.row.map(|version| ("row", json!(version))));
        facts.extend(self.store.map(|version| ("store", json!(version))));
        facts.extend(self.version.map(|version| ("version", json!(version))));
        if !self.attributes.is_empty() {
            facts.push(("attributes", json!(self.attributes.join(","))));
        }
        if let Some((reason, detail)) = &self.reason {
            facts.push(("reason", json!(reason)));
            facts.push(("detail", json!(detail)));
        }
        facts.extend(self.repair.as_ref().map(|repair| ("repair", json!(repair.to_string()))));
        facts
    }

    /// The finding as a line: its kind, and its fields as `name=value`. Values are plain words, except that `id`, `key`
    /// and `detail` are JSON strings.
    pub(super) fn line(&self) -> String {
        let mut line = self.kind.as_str().to_owned();
        for (name, value) in self.facts() {
            let value = match value {
                Value::String(text) if !matches!(name, "id" | "key" | "detail") => text,
                quoted @ Value::String(_) => quoted.to_string(),
                other @ (Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::Array(_)
                | Value::Object(_)) => other.to_string(),
            };
            line += &format!(" {name}={value}");
        }
        line
    }

    /// The finding as a JSON object.
    pub(super) fn json(&self) -> Value {
        let facts = self.facts().into_iter().map(|(name, value)| (name.to_owned(), value));
        let kind = ("finding".to_owned(), json!(self.kind.as_str()));
        Value::Object([kind].into_iter().chain(facts).collect::<Map<_, _>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> StreamId {
        "acme#order#00000000-0000-0000-0000-000000000007".parse().unwrap()
    }

    #[test]
    fn a_finding_is_one_line_of_names_and_values() {
        let mut finding = Finding::new(Kind::Different, Some("order-summaries"), Place::Stream(stream()));
        finding.row = Some(3);
        finding.store = Some(4);
        finding.attributes = vec!["Status".to_owned(), "StatusKey".to_owned()];
        finding.repair = Some(Repair { steps: vec![Step::Written, Step::Replaced], healed: true });
        assert_eq!(
            finding.line(),
            "DIFFERENT projection=order-summaries tenant=acme aggregate=00000000-0000-0000-0000-000000000007 \
             row=3 store=4 attributes=Status,StatusKey repair=written,replaced"
        );
        assert_eq!(
            finding.json(),
            json!({
                "finding": "DIFFERENT", "projection": "order-summaries", "tenant": "acme",
                "aggregate": "00000000-0000-0000-0000-000000000007", "row": 3, "store": 4,
                "attributes": "Status,StatusKey", "repair": "written,replaced",
            })
        );
    }

    #[test]
    fn what_others_chose_stays_in_quotes() {
        let mut finding = Finding::new(Kind::Unreadable, None, Place::Key("a b\" version=7".to_owned()));
        finding.version = Some(2);
        finding.reason = Some(("no_event", "Timestamp is missing".to_owned()));
        assert_eq!(
            finding.line(),
            r#"UNREADABLE key="a b\" version=7" version=2 reason=no_event detail="Timestamp is missing""#
        );
    }

    #[test]
    fn only_what_is_healed_is_not_left() {
        let mut finding = Finding::new(Kind::Ahead, None, Place::Stream(stream()));
        assert!(finding.is_left());
        for (steps, healed, told) in [
            (vec![], true, "none-needed"),
            (vec![Step::Deleted], true, "deleted"),
            (vec![Step::Replaced], false, "failed"),
        ] {
            finding.repair = Some(Repair { steps, healed });
            assert_eq!(
                (finding.is_left(), finding.repair.as_ref().unwrap().to_string().as_str()),
                (!healed, told)
            );
        }
    }
}
