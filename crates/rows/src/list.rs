//! Lists of rows.

use std::cmp::Reverse;

use millrace_aws::item::{attribute, json};
use millrace_core::{
    Field, TenantId, Timestamp,
    row::{Attributes, IndexedAttribute, ListSchema, Position, StoredRow},
};
use serde::Serialize;
use serde_json::Value;

/// The most index entries that one page looks at for those that pass a filter. AWS charges each of them, whether it
/// passes or not.
pub const MAX_EXAMINED: u16 = 500;

/// A list of rows of one tenant, newest first by [`Position`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// The list.
    pub list: &'static ListSchema,
    /// The tenant of the rows.
    pub tenant: TenantId,
    /// The value that they share, as the index has it.
    pub value: String,
    /// The further condition on them.
    pub filter: Option<Filter>,
    /// The times that the list's order is limited to.
    pub times: TimeRange,
}

/// Only rows with this value in an attribute. Other rows are read and charged all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The attribute.
    pub attribute: &'static str,
    /// Its value as stored, which may differ from its text in an index.
    pub value: Value,
}

impl Filter {
    /// Only rows with this value in a field: a text in its case. `None` for a value that no row stores, such as an
    /// absent one.
    pub fn by<R, V: Serialize>(field: Field<R, V>, value: &V) -> Option<Self> {
        let value = serde_json::to_value(value).ok().filter(|value| !value.is_null())?;
        Some(Self { attribute: field.name(), value })
    }

    /// Whether an attribute has the value. DynamoDB makes no difference between 1 and 1.0.
    fn passes(&self, found: &Value) -> bool {
        let kept = |value| json(&attribute(value));
        kept(found).is_some_and(|found| Some(found) == kept(&self.value))
    }
}

/// A range of times, without bounds where none are given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeRange {
    /// Its start, inclusive.
    pub since: Option<Timestamp>,
    /// Its end, exclusive.
    pub before: Option<Timestamp>,
}

impl TimeRange {
    /// Whether a time belongs to the range.
    pub fn contains(&self, time: Timestamp) -> bool {
        self.since.is_none_or(|since| since <= time) && self.before.is_none_or(|before| time < before)
    }
}

impl ListQuery {
    /// Whether a row is on the list.
    pub fn holds(&self, row: &StoredRow) -> bool {
        let passes =
            |filter: &Filter| row.attributes.get(filter.attribute).is_some_and(|found| filter.passes(found));
        row.key.tenant == self.tenant
            && text(&row.attributes, &self.list.by).as_ref() == Some(&self.value)
            && self.filter.as_ref().is_none_or(passes)
            && row.position(self.list).is_some_and(|position| self.times.contains(position.at))
    }
}

/// The range of an index's texts below a place of a list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// It begins here.
    pub(crate) from: Option<String>,
    /// It ends before this text. Only the place itself can have it.
    pub(crate) to: Option<String>,
}

impl Bounds {
    /// `None` where nothing can lie within them.
    pub(crate) fn of(times: TimeRange, before: Option<&Position>) -> Option<Self> {
        // No position's text is a time alone, and all positions of that time come after it.
        let from = times.since.map(|since| since.to_string());
        let ends = [times.before.map(|end| end.to_string()), before.map(Position::to_string)];
        let to = ends.into_iter().flatten().min();
        let is_empty = matches!((&from, &to), (Some(from), Some(to)) if from >= to);
        (!is_empty).then_some(Self { from, to })
    }
}

/// Rows by the time in an attribute, the newest first; of rows of one time, the one of the greatest id.
pub(crate) fn newest_first(mut rows: Vec<StoredRow>, order_by: Option<&IndexedAttribute>) -> Vec<StoredRow> {
    if let Some(order_by) = order_by {
        rows.sort_by_cached_key(|row| Reverse((text(&row.attributes, order_by), row.key.clone())));
    }
    rows
}

/// An attribute's text in an index.
pub(crate) fn text(attributes: &Attributes, attribute: &IndexedAttribute) -> Option<String> {
    (attribute.text)(attributes.get(attribute.name)?)
}

/// Part of a list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ListPage {
    /// Its rows, newest first: all that the index showed between the place from which the list was read and `end`.
    pub rows: Vec<StoredRow>,
    /// The place that the list was read to, inclusive. `None` at the end of the list.
    pub end: Option<Position>,
}

#[cfg(test)]
mod tests {
    use millrace_core::row::RowKey;
    use proptest::{option, prelude::*, sample::select};

    use super::*;

    static LIST: ListSchema = ListSchema {
        name: "by-status",
        by: IndexedAttribute::of::<String>("Status"),
        order_by: IndexedAttribute::of::<Timestamp>("CreatedAt"),
        sharded: false,
    };

    /// A narrow range of times, so that many are equal, and ids that are each other's beginnings.
    fn any_position() -> impl Strategy<Value = Position> {
        let ids = select(vec!["\0", "#", "a", "a\0", "aa", "b", "𒀀", "\u{10ffff}"]);
        (0..4_i64, ids).prop_map(|(time, id)| Position { at: at(time), id: id.to_owned() })
    }

    fn at(microseconds: i64) -> Timestamp {
        Timestamp::from_unix_micros(1_767_225_600_000_000 + microseconds)
    }

    fn row(position: &Position) -> StoredRow {
        let attributes = [("Status", "OPEN".to_owned()), ("CreatedAt", position.at.to_string())];
        StoredRow {
            key: RowKey { tenant: TenantId::default(), id: position.id.clone() },
            version: 1,
            attributes: attributes.map(|(name, text)| (name.to_owned(), text.into())).into_iter().collect(),
            provenance: None,
        }
    }

    proptest! {
        #[test]
        fn the_bounds_of_a_list_are_those_of_its_rows(
            position in any_position(),
            since in option::of(0..5_i64),
            end in option::of(0..5_i64),
            before in option::of(any_position()),
        ) {
            let times = TimeRange { since: since.map(at), before: end.map(at) };
            let list = ListQuery {
                list: &LIST,
                tenant: TenantId::default(),
                value: "OPEN".to_owned(),
                filter: None,
                times,
            };
            let held = list.holds(&row(&position)) && before.as_ref().is_none_or(|before| position < *before);
            let text = position.to_string();
            let within = Bounds::of(times, before.as_ref()).is_some_and(|bounds| {
                bounds.from.is_none_or(|from| from <= text) && bounds.to.as_ref().is_none_or(|to| text < *to)
            });
            prop_assert_eq!(within, held);
            let of_another = ListQuery { tenant: "acme".parse().unwrap(), ..list };
            prop_assert!(!of_another.holds(&row(&position)));
        }

        #[test]
        fn only_the_place_itself_is_at_the_end(
            position in any_position(),
            end in option::of(0..5_i64),
            before in option::of(any_position()),
        ) {
            let times = TimeRange { since: None, before: end.map(at) };
            let bounds = Bounds::of(times, before.as_ref()).unwrap();
            if bounds.to == Some(position.to_string()) {
                prop_assert_eq!(Some(position), before);
            }
        }
    }
}
