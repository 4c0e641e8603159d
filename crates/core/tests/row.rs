//! `#[derive(Row)]`: attributes, constants and the schema follow from the struct.

#![allow(clippy::panic, reason = "this is test code")]

use millrace_core::{
    IndexValue, Invalid, Patch, Row, TenantId, Timestamp,
    row::{Attributes, ListSchema, Provenance, RowKey, RowSchema, StoredRow, UnusableAttribute},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// An id that serde cannot write, and that is no UUID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Number(u32);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}", self.0)
    }
}

impl std::str::FromStr for Number {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.parse().map(Self).map_err(|_| Invalid("must be a number"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Status {
    Open,
    Settled,
}

impl IndexValue for Status {
    fn index_value(&self) -> Option<String> {
        // Settled invoices are on no list.
        (*self == Self::Open).then(|| "OPEN".to_owned())
    }
}

#[derive(Debug, Clone, PartialEq, Row)]
#[row(resource = "invoice", key = number)]
#[row(list(name = "by-status", by = status, order_by = issued_at, sharded))]
#[row(list(name = "by-po-box", by = po_box, order_by = issued_at), lookup(name = "by-type", by = r#type))]
#[row(lookup(name = "by-memo", by = memo, order_by = issued_at))]
struct Invoice {
    /// The id.
    number: Number,
    status: Status,
    issued_at: Timestamp,
    po_box: Option<String>,
    r#type: String,
    memo: String,
    amounts: Vec<u64>,
}

fn invoice() -> Invoice {
    Invoice {
        number: Number(7),
        status: Status::Open,
        issued_at: Timestamp::from_unix_micros(1),
        po_box: None,
        r#type: "a".to_owned(),
        memo: "b".to_owned(),
        amounts: vec![1, 2],
    }
}

fn attributes() -> Value {
    json!({
        "Number": "0007",
        "Status": "Open",
        "IssuedAt": "1970-01-01T00:00:00.000001Z",
        "PoBox": null,
        "Type": "a",
        "Memo": "b",
        "Amounts": [1, 2],
    })
}

fn map(value: Value) -> Attributes {
    let Value::Object(map) = value else { panic!("an object") };
    map
}

#[test]
fn a_row_survives_its_attributes() {
    assert_eq!(invoice().to_attributes(), Ok(map(attributes())));
    assert_eq!(Invoice::from_attributes(&map(attributes())), Ok(invoice()));
    assert_eq!(invoice().id(), &Number(7));
    // An absent attribute reads as null, and attributes outside of the schema are ignored.
    let mut other = map(attributes());
    other.remove("PoBox");
    other.insert("Newer".to_owned(), json!(1));
    assert_eq!(Invoice::from_attributes(&other), Ok(invoice()));
}

#[test]
fn an_attribute_that_is_missing_or_wrong_is_named_and_not_quoted() {
    for name in ["Number", "Status", "IssuedAt", "Type", "Memo", "Amounts"] {
        for value in [None, Some(json!({"secret": 1})), Some(Value::Null)] {
            let mut attributes = map(attributes());
            attributes.remove(name);
            attributes.extend(value.map(|value| (name.to_owned(), value)));
            let error = Invoice::from_attributes(&attributes).unwrap_err();
            assert_eq!(error, UnusableAttribute(name));
            assert!(error.to_string().contains(name) && !error.to_string().contains("secret"), "{error}");
        }
    }
    let mut attributes = map(attributes());
    attributes.insert("Number".to_owned(), json!("seven"));
    assert_eq!(Invoice::from_attributes(&attributes), Err(UnusableAttribute("Number")));
}

#[test]
fn the_schema_follows_from_the_struct() {
    let RowSchema { resource, id, attributes, .. } = Invoice::SCHEMA;
    assert_eq!((*resource, *id), ("invoice", "Number"));
    assert_eq!(*attributes, ["Status", "IssuedAt", "PoBox", "Type", "Memo", "Amounts"]);
    let list = |name| Invoice::SCHEMA.list(name).unwrap();
    let ListSchema { by, order_by, sharded, .. } = list("by-status");
    assert_eq!((by.name, order_by.name, *sharded), ("Status", "IssuedAt", true));
    assert!(!list("by-po-box").sharded);
    assert_eq!(list("by-po-box").hash_attribute(), "ByPoBoxKey");
    assert_eq!(list("by-po-box").range_attribute(), list("by-status").range_attribute());
    let lookup = |name| Invoice::SCHEMA.lookup(name).unwrap();
    assert_eq!((lookup("by-type").by.name, lookup("by-type").order_by), ("Type", None));
    assert_eq!(lookup("by-memo").order_by.map(|order_by| order_by.name), Some("IssuedAt"));
    assert_eq!(lookup("by-memo").hash_attribute(), "ByMemoKey");
    assert!(Invoice::SCHEMA.list("by-memo").is_none() && Invoice::SCHEMA.lookup("by-status").is_none());
}

#[test]
fn an_index_has_the_values_text_and_none_for_what_is_in_no_index() {
    let text = |list: &str, value: Value| (Invoice::SCHEMA.list(list).unwrap().by.text)(&value);
    assert_eq!(text("by-status", json!("Open")).as_deref(), Some("OPEN"));
    for value in [json!("Settled"), json!("no status"), Value::Null] {
        assert_eq!(text("by-status", value), None);
    }
    assert_eq!(text("by-po-box", json!("12")).as_deref(), Some("12"));
    for value in [Value::Null, json!(12)] {
        assert_eq!(text("by-po-box", value), None);
    }
}

#[test]
fn fields_are_constants_that_patches_take() {
    assert_eq!([Invoice::TYPE.name(), Invoice::PO_BOX.name()], ["Type", "PoBox"]);
    let patch = Patch::<Invoice>::new()
        .set(Invoice::STATUS, Status::Settled)
        .set(Invoice::PO_BOX, None)
        .set_if(Invoice::MEMO, None)
        .set_if(Invoice::TYPE, Some("c".to_owned()));
    let shown = format!("{patch:?}");
    for name in ["Status", "PoBox", "Type"] {
        assert!(shown.contains(name), "{shown}");
    }
    assert!(!shown.contains("Memo"), "{shown}");
}

#[test]
fn a_stored_row_is_typed_or_only_a_version() {
    let key = RowKey { tenant: TenantId::default(), id: "0007".to_owned() };
    let stored =
        |attributes| StoredRow { key: key.clone(), version: 3, attributes, provenance: None::<Provenance> };
    let row = stored(map(attributes())).typed::<Invoice>().unwrap().unwrap();
    assert_eq!((row.tenant, row.version, row.row), (TenantId::default(), 3, invoice()));
    assert_eq!(stored(Attributes::new()).typed::<Invoice>(), Ok(None));
    let position = stored(map(attributes())).position(Invoice::SCHEMA.list("by-status").unwrap()).unwrap();
    assert_eq!(position.to_string(), "1970-01-01T00:00:00.000001Z#0007");
}
