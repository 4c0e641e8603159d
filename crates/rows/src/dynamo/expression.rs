//! Expressions of updates.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem, Update, builders::UpdateBuilder};
use millrace_aws::{
    AwsError,
    item::{Item, attribute, json, number},
};
use millrace_core::projection::RowUpdate;

use super::incomplete;
use crate::{
    layout::{ABSENT, Assignments, KEY, VERSION},
    provenance,
};

/// The change that an update makes in an item, and its condition.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) update: String,
    pub(super) condition: String,
    pub(super) names: HashMap<String, String>,
    pub(super) values: HashMap<String, AttributeValue>,
}

impl Change {
    /// Sets or removes attributes, if the item has the version `from`, or if there is none and that is 0.
    pub(super) fn new(assignments: Assignments, from: u64) -> Self {
        let (mut names, mut values) = (HashMap::new(), HashMap::new());
        let (mut set, mut removed) = (Vec::new(), Vec::new());
        for (n, (name, value)) in assignments.into_iter().enumerate() {
            // Placeholders for names, since many of them are words that DynamoDB reserves.
            names.insert(format!("#n{n}"), name);
            match value {
                Some(value) => {
                    values.insert(format!(":v{n}"), attribute(&value));
                    set.push(format!("#n{n} = :v{n}"));
                }
                None => removed.push(format!("#n{n}")),
            }
        }
        let clauses = [("SET", set), ("REMOVE", removed)];
        let clauses = clauses.iter().filter(|(_, parts)| !parts.is_empty());
        let clauses: Vec<_> = clauses.map(|(verb, parts)| format!("{verb} {}", parts.join(", "))).collect();
        let condition = if from == 0 {
            names.insert("#key".to_owned(), KEY.to_owned());
            "attribute_not_exists(#key)"
        } else {
            names.insert("#version".to_owned(), VERSION.to_owned());
            values.insert(":from".to_owned(), number(from));
            "#version = :from"
        };
        Self { update: clauses.join(" "), condition: condition.to_owned(), names, values }
    }

    /// There must be a row, and not only a version in its place.
    pub(super) fn of_a_row(mut self) -> Self {
        self.condition += " AND attribute_not_exists(#absent)";
        self.names.insert("#absent".to_owned(), ABSENT.to_owned());
        self
    }

    /// The change of the item under a key, as part of a transaction.
    pub(super) fn in_transaction(self, table: &str, key: Item) -> Result<TransactWriteItem, AwsError> {
        let update: UpdateBuilder = Update::builder().table_name(table).set_key(Some(key));
        let update = update
            .update_expression(self.update)
            .condition_expression(self.condition)
            .set_expression_attribute_names(Some(self.names))
            .set_expression_attribute_values(Some(self.values));
        Ok(TransactWriteItem::builder().update(update.build().map_err(incomplete)?).build())
    }
}

/// The assignments with the version and the provenance that an update leaves.
pub(super) fn stamped(mut assignments: Assignments, version: u64, update: &RowUpdate) -> Assignments {
    assignments.insert(VERSION.to_owned(), Some(version.into()));
    assignments.extend(provenance::assignments(&update.provenance));
    assignments
}

/// Those of the assignments that change an item.
pub(super) fn changed(mut assignments: Assignments, item: Option<&Item>) -> Assignments {
    assignments.retain(|name, value| match (item.and_then(|item| item.get(name)), value) {
        (Some(found), Some(value)) => json(found).as_ref() != Some(value),
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
    });
    assignments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_made_to_the_version_that_it_starts_from_and_no_other() {
        let of = |from| Change::new(Assignments::new(), from);
        assert_eq!(of(0).condition, "attribute_not_exists(#key)");
        assert_eq!((of(3).condition.as_str(), &of(3).values[":from"]), ("#version = :from", &number(3)));
    }
}
