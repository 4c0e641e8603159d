//! Rows: the result of projecting events, in the form that queries read.
//!
//! A row type is declared once, by `#[derive(Row)]`. Stores, lists, look-ups, audits and the generated infrastructure
//! follow from its [`RowSchema`]. Stores know rows as [`Attributes`] alone; typed rows begin and end at the edges.

use std::{collections::BTreeMap, fmt, hash::Hash, marker::PhantomData, str::FromStr};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{CommandId, EventId, IndexValue, Invalid, TenantId, Timestamp};

/// The attributes of a row, by name, each as JSON. An attribute that is `null` is an attribute that is not there.
pub type Attributes = Map<String, Value>;

/// A row of a read model. Derive it: the derived code keeps names, types and schema in step.
pub trait Row: Clone + fmt::Debug + PartialEq + Send + Sync + Sized + 'static {
    /// The type of the row's id.
    type Id: RowId;

    /// The schema that stores work from.
    const SCHEMA: &'static RowSchema;

    /// The row's id, unique within a tenant.
    fn id(&self) -> &Self::Id;

    /// The row as a store keeps it, its id among the attributes, as text.
    fn to_attributes(&self) -> Result<Attributes, UnusableAttribute>;

    /// The row that a store kept.
    fn from_attributes(attributes: &Attributes) -> Result<Self, UnusableAttribute>;
}

/// A type that can be the id of a row.
pub trait RowId:
    Clone + Eq + Ord + Hash + fmt::Debug + fmt::Display + FromStr<Err = Invalid> + Send + Sync + 'static
{
}

impl<I> RowId for I where
    I: Clone + Eq + Ord + Hash + fmt::Debug + fmt::Display + FromStr<Err = Invalid> + Send + Sync + 'static
{
}

/// An attribute that is missing, or not of its type. Names the attribute and never its value, which may be personal
/// data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the attribute {0} of a row is missing or cannot be read")]
pub struct UnusableAttribute(pub &'static str);

/// The attributes that stores give every row.
const OF_STORE: [&str; 7] =
    ["Key", "Version", "Absent", "EventId", "CorrelationId", "CausationId", "TraceParent"];

/// Those of the tables of rows that sum up aggregates.
const OF_SUMS: [&str; 2] = ["Parts", "Target"];

/// A type of rows as stores know it.
#[derive(Debug, PartialEq, Eq)]
pub struct RowSchema {
    /// The name of a row in the error for a missing one, such as `order`.
    pub resource: &'static str,
    /// The attribute that is the row's id. It is stored as the row's key.
    pub id: &'static str,
    /// All other attributes.
    pub attributes: &'static [&'static str],
    /// The lists that rows can be read by.
    pub lists: &'static [ListSchema],
    /// The look-ups that rows can be found by.
    pub lookups: &'static [LookupSchema],
}

impl RowSchema {
    /// The list of this name.
    pub fn list(&self, name: &str) -> Option<&'static ListSchema> {
        self.lists.iter().find(|list| list.name == name)
    }

    /// The look-up of this name.
    pub fn lookup(&self, name: &str) -> Option<&'static LookupSchema> {
        self.lookups.iter().find(|lookup| lookup.name == name)
    }

    /// The names of all attributes.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        [self.id].into_iter().chain(self.attributes.iter().copied())
    }

    /// An index by an attribute that rows do not have, and that attribute.
    pub(crate) fn index_of_nothing(&self) -> Option<(&'static str, &'static str)> {
        let lists = self.lists.iter().flat_map(|list| [(list.name, list.by), (list.name, list.order_by)]);
        let lookups = self.lookups.iter().flat_map(|lookup| {
            [Some(lookup.by), lookup.order_by].into_iter().flatten().map(|by| (lookup.name, by))
        });
        let mut used = lists.chain(lookups).map(|(index, by)| (index, by.name));
        used.find(|(_, attribute)| self.names().all(|name| name != *attribute))
    }

    /// An attribute that is two things at once, and which two: a field, part of an index, or the store's own.
    pub(crate) fn contested_attribute(&self, is_sum: bool) -> Option<(String, [String; 2])> {
        let fields = self.names().map(|name| (name.to_owned(), format!("the field `{name}`")));
        let of_sums = if is_sum { OF_SUMS.as_slice() } else { &[] };
        let of_store = OF_STORE
            .iter()
            .chain(of_sums)
            .map(|name| ((*name).to_owned(), "one of the store's own".to_owned()));
        let lists = self.lists.iter().map(|list| (list.name, list.hash_attribute()));
        let lookups = self.lookups.iter().map(|lookup| (lookup.name, lookup.hash_attribute()));
        let hashes = lists.chain(lookups).map(|(index, hash)| (hash, format!("the key of `{index}`")));
        // Lists that are ordered by the same time share its place.
        let ranges: BTreeMap<_, _> = self
            .lists
            .iter()
            .map(|list| (list.range_attribute(), format!("the order of `{}`", list.name)))
            .collect();
        let mut seen = BTreeMap::new();
        for (attribute, second) in of_store.chain(hashes).chain(ranges).chain(fields) {
            if let Some(first) = seen.insert(attribute.clone(), second.clone()) {
                return Some((attribute, [first, second]));
            }
        }
        None
    }
}

/// Rows that share the value of one attribute, ordered by the time in another one, newest first.
#[derive(Debug, PartialEq, Eq)]
pub struct ListSchema {
    /// The list's name, which is its index's: 3 to 255 of `a-z` and `-`.
    pub name: &'static str,
    /// The attribute by whose value rows are listed.
    pub by: IndexedAttribute,
    /// The attribute that orders them, a [`Timestamp`].
    pub order_by: IndexedAttribute,
    /// Whether the list is spread over shards: for values that a large part of all rows has, such as a status.
    pub sharded: bool,
}

impl ListSchema {
    /// The attribute that is the hash of the list's index.
    pub fn hash_attribute(&self) -> String {
        key_attribute(self.name)
    }

    /// The attribute that is the range of the list's index: the text of a [`Position`].
    pub fn range_attribute(&self) -> String {
        format!("{}Position", self.order_by.name)
    }
}

/// Rows that are found by the value of an attribute.
#[derive(Debug, PartialEq, Eq)]
pub struct LookupSchema {
    /// The look-up's name, which is its index's: 3 to 255 of `a-z` and `-`.
    pub name: &'static str,
    /// The attribute by whose value rows are found.
    pub by: IndexedAttribute,
    /// The time by which those that share a value are sorted, newest first. Without one the order is undefined.
    pub order_by: Option<IndexedAttribute>,
}

impl LookupSchema {
    /// The attribute that is the hash of the look-up's index.
    pub fn hash_attribute(&self) -> String {
        key_attribute(self.name)
    }
}

/// `ByStatusKey` for `by-status`.
fn key_attribute(index: &str) -> String {
    let mut name = String::with_capacity(index.len() + 3);
    for word in index.split('-') {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name + "Key"
}

/// An attribute in the key of an index.
#[derive(Clone, Copy)]
pub struct IndexedAttribute {
    /// The attribute.
    pub name: &'static str,
    /// Its value as the index has it; `None` where the value is not of the attribute's type, or is absent.
    pub text: fn(&Value) -> Option<String>,
}

impl IndexedAttribute {
    /// The attribute `name`, of type `T`.
    pub const fn of<T: IndexValue>(name: &'static str) -> Self {
        Self { name, text: index_text::<T> }
    }
}

fn index_text<T: IndexValue>(value: &Value) -> Option<String> {
    T::deserialize(value).ok()?.index_value()
}

impl fmt::Debug for IndexedAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for IndexedAttribute {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for IndexedAttribute {}

/// A row's key in its table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// The tenant of the row.
    pub tenant: TenantId,
    /// The text of its id.
    pub id: String,
}

/// `<tenant>#<id>`. A tenant holds no `#`, so no key of one tenant is another's.
impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.tenant, self.id)
    }
}

impl FromStr for RowKey {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (tenant, id) = text.split_once('#').ok_or(Invalid("must be <tenant>#<id>"))?;
        Ok(Self { tenant: tenant.parse()?, id: id.to_owned() })
    }
}

/// A place in a list: a time, and a row's id among the rows of the same microsecond. The newer is the greater.
///
/// Its text, `<time>#<id>`, sorts as positions do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The time that the list orders rows by.
    pub at: Timestamp,
    /// The text of the row's id.
    pub id: String,
}

impl Position {
    /// The least position of a time; of all times, where none is given. It is no row's, since no row's id is empty.
    pub fn start_of(time: Option<Timestamp>) -> Self {
        Self { at: time.unwrap_or(Timestamp::from_unix_micros(0)), id: String::new() }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.at, self.id)
    }
}

impl FromStr for Position {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (at, id) = text.split_once('#').ok_or(Invalid("must be <time>#<id>"))?;
        Ok(Self { at: at.parse()?, id: id.to_owned() })
    }
}

/// A row as a store has it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRow {
    /// Its key.
    pub key: RowKey,
    /// The version of the last event in it. Of a row that many aggregates feed: how often it was changed.
    pub version: u64,
    /// Its attributes, the id among them. Empty where events have removed the row: then only the version is kept.
    pub attributes: Attributes,
    /// The newest event in it, and that event's cause. `None` where it is missing or unreadable, which does not make
    /// the row invalid.
    pub provenance: Option<Provenance>,
}

impl StoredRow {
    /// The row with its type; `None` where there is no row, but the version that is kept in its place.
    pub fn typed<R: Row>(self) -> Result<Option<Versioned<R>>, UnusableAttribute> {
        if self.attributes.is_empty() {
            return Ok(None);
        }
        let row = R::from_attributes(&self.attributes)?;
        Ok(Some(Versioned { tenant: self.key.tenant, version: self.version, row }))
    }

    /// The row's place in a list; `None` where it is in none.
    pub fn position(&self, list: &ListSchema) -> Option<Position> {
        let at = (list.order_by.text)(self.attributes.get(list.order_by.name)?)?;
        Some(Position { at: at.parse().ok()?, id: self.key.id.clone() })
    }
}

/// A row with its type, at a version.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned<R> {
    /// The tenant of the row.
    pub tenant: TenantId,
    /// The version of the last event in it.
    pub version: u64,
    /// The row.
    pub row: R,
}

/// The newest event in a row, and that event's cause: with it, a row leads back to the call that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// The event.
    pub event_id: EventId,
    /// The wider piece of work that it belongs to.
    pub correlation_id: CommandId,
    /// Its cause, as an id: a command's, or, where an event caused the command, that event's.
    pub causation_id: CommandId,
    /// The W3C trace context of the call that caused it, where it has one.
    pub trace_parent: Option<String>,
}

/// One attribute of a row type, with the type of its value. `#[derive(Row)]` makes one for each field except the id.
pub struct Field<R, T> {
    name: &'static str,
    types: PhantomData<fn() -> (R, T)>,
}

impl<R, T> Field<R, T> {
    /// The attribute `name`.
    pub const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    /// The attribute's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// An index of a row type, with the type of the values that rows are found by. `#[derive(Row)]` makes one for each list
/// and each look-up.
pub struct Index<R, V, S: 'static> {
    schema: &'static S,
    types: PhantomData<fn() -> (R, V)>,
}

/// A list of a row type.
pub type List<R, V> = Index<R, V, ListSchema>;

/// A look-up of a row type.
pub type Lookup<R, V> = Index<R, V, LookupSchema>;

impl<R, V, S> Index<R, V, S> {
    /// The index of this schema.
    pub const fn new(schema: &'static S) -> Self {
        Self { schema, types: PhantomData }
    }

    /// Its schema.
    pub const fn schema(&self) -> &'static S {
        self.schema
    }
}

/// A row's id as an attribute: for the code that `#[derive(Row)]` makes.
#[doc(hidden)]
pub fn write_id<I: RowId>(id: &I) -> Value {
    Value::String(id.to_string())
}

/// The value of a field as an attribute: for the code that `#[derive(Row)]` makes.
#[doc(hidden)]
pub fn write<T: Serialize>(attribute: &'static str, value: &T) -> Result<Value, UnusableAttribute> {
    serde_json::to_value(value).map_err(|_| UnusableAttribute(attribute))
}

/// A row's id from its attribute: for the code that `#[derive(Row)]` makes.
#[doc(hidden)]
pub fn read_id<I: RowId>(attributes: &Attributes, attribute: &'static str) -> Result<I, UnusableAttribute> {
    let text = attributes.get(attribute).and_then(Value::as_str).ok_or(UnusableAttribute(attribute))?;
    text.parse().map_err(|_| UnusableAttribute(attribute))
}

/// A field from an attribute: for the code that `#[derive(Row)]` makes.
#[doc(hidden)]
pub fn read<T: DeserializeOwned>(
    attributes: &Attributes,
    attribute: &'static str,
) -> Result<T, UnusableAttribute> {
    T::deserialize(attributes.get(attribute).unwrap_or(&Value::Null))
        .map_err(|_| UnusableAttribute(attribute))
}

/// New values for some attributes of a row.
#[derive(Debug, Clone)]
pub struct Patch<R> {
    pub(crate) set: Attributes,
    pub(crate) unusable: Option<UnusableAttribute>,
    row: PhantomData<fn() -> R>,
}

impl<R> Default for Patch<R> {
    fn default() -> Self {
        Self { set: Attributes::new(), unusable: None, row: PhantomData }
    }
}

impl<R: Row> Patch<R> {
    /// A patch that changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The patch with a new value for an attribute. `None` takes an optional attribute away.
    #[must_use]
    pub fn set<T: Serialize>(mut self, field: Field<R, T>, value: T) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => drop(self.set.insert(field.name.to_owned(), value)),
            Err(_) => self.unusable = Some(UnusableAttribute(field.name)),
        }
        self
    }

    /// The patch with a new value for an attribute where there is one.
    #[must_use]
    pub fn set_if<T: Serialize>(self, field: Field<R, T>, value: Option<T>) -> Self {
        match value {
            Some(value) => self.set(field, value),
            None => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_position() -> impl Strategy<Value = Position> {
        // A narrow range of times, so that many are equal.
        (1_767_225_600_000_000..1_767_225_600_000_003_i64, "[0-9a-f]{4}")
            .prop_map(|(time, id)| Position { at: Timestamp::from_unix_micros(time), id })
    }

    proptest! {
        #[test]
        fn a_position_survives_its_text_and_texts_sort_as_positions(a in any_position(), b in any_position()) {
            prop_assert_eq!(a.to_string().parse::<Position>().unwrap(), a.clone());
            prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
        }

        #[test]
        fn no_two_tenants_rows_share_a_key(a in "[ab-]{1,2}", b in "[ab-]{1,2}", x in "[ab#-]{0,3}", y in "[ab#-]{0,3}") {
            let (one, other) = (
                RowKey { tenant: a.parse().unwrap(), id: x },
                RowKey { tenant: b.parse().unwrap(), id: y },
            );
            prop_assert_eq!(one.to_string() == other.to_string(), one == other);
            prop_assert_eq!(one.to_string().parse::<RowKey>().unwrap(), one);
        }
    }

    #[test]
    fn an_index_names_its_attributes() {
        let by = IndexedAttribute::of::<String>("Status");
        let order_by = IndexedAttribute::of::<Timestamp>("CreatedAt");
        let list = ListSchema { name: "by-open-status", by, order_by, sharded: true };
        assert_eq!(
            (list.hash_attribute().as_str(), list.range_attribute().as_str()),
            ("ByOpenStatusKey", "CreatedAtPosition")
        );
    }
}
