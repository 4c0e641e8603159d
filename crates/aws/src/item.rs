//! Items of DynamoDB: between attributes and JSON.
//!
//! Items are read as hostile input: nesting has a bound, and an error names the fault without quoting the value.

use std::{collections::HashMap, str::FromStr};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_dynamodbstreams::types::AttributeValue as StreamValue;
use millrace_core::Invalid;
use serde_json::{Map, Number, Value};

/// An item of a table.
pub type Item = HashMap<String, AttributeValue>;

/// The deepest nesting of values: deeper than the 32 levels of DynamoDB (Developer Guide, "Quotas"), and not so deep
/// that reading them could exhaust the stack.
const DEEPEST: usize = 64;

/// The reason that an item cannot be read. Names attributes, never their values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// An attribute is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An attribute is of a type that no such item has there.
    #[error("{0} is of another type")]
    WrongType(&'static str),
    /// An attribute's value breaks a rule.
    #[error("{attribute} {reason}")]
    Bad {
        /// The attribute.
        attribute: &'static str,
        /// The rule.
        reason: Invalid,
    },
    /// An attribute contradicts the item's key.
    #[error("{0} contradicts the key")]
    ContradictsKey(&'static str),
}

/// A text as an attribute.
pub fn text(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

/// A number as an attribute.
pub fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// A JSON object as an attribute.
pub fn map(values: &Map<String, Value>) -> AttributeValue {
    AttributeValue::M(values.iter().map(|(name, value)| (name.clone(), attribute(value))).collect())
}

/// A JSON value as an attribute.
pub fn attribute(value: &Value) -> AttributeValue {
    match value {
        Value::Null => AttributeValue::Null(true),
        Value::Bool(truth) => AttributeValue::Bool(*truth),
        Value::Number(n) => number(n),
        Value::String(t) => text(t),
        Value::Array(values) => AttributeValue::L(values.iter().map(attribute).collect()),
        Value::Object(values) => map(values),
    }
}

/// The JSON value of an attribute; `None` where JSON has no such value, or the nesting is too deep.
pub fn json<A: Attribute>(attribute: &A) -> Option<Value> {
    attribute.to_json(DEEPEST)
}

/// The JSON value of the attribute of this name.
pub fn value<A: Attribute>(item: &HashMap<String, A>, name: &'static str) -> Result<Value, ItemError> {
    json(item.get(name).ok_or(ItemError::Missing(name))?).ok_or(ItemError::WrongType(name))
}

/// The text in an attribute.
pub fn string<A: Attribute>(item: &HashMap<String, A>, name: &'static str) -> Result<String, ItemError> {
    if let Value::String(text) = value(item, name)? { Ok(text) } else { Err(ItemError::WrongType(name)) }
}

/// The JSON object in an attribute.
pub fn object<A: Attribute>(
    item: &HashMap<String, A>,
    name: &'static str,
) -> Result<Map<String, Value>, ItemError> {
    if let Value::Object(fields) = value(item, name)? { Ok(fields) } else { Err(ItemError::WrongType(name)) }
}

/// The whole number in an attribute, which is not negative.
pub fn whole<A: Attribute, T: TryFrom<u64>>(
    item: &HashMap<String, A>,
    name: &'static str,
) -> Result<T, ItemError> {
    let whole = value(item, name)?.as_u64().ok_or(ItemError::WrongType(name))?;
    T::try_from(whole).map_err(|_| ItemError::Bad { attribute: name, reason: Invalid("is too large") })
}

/// The value of which an attribute has the text.
pub fn parsed<A: Attribute, T: FromStr<Err = Invalid>>(
    item: &HashMap<String, A>,
    name: &'static str,
) -> Result<T, ItemError> {
    string(item, name)?.parse().map_err(|reason| ItemError::Bad { attribute: name, reason })
}

/// An attribute's value, of which the SDKs of DynamoDB and of its streams have a type each.
pub trait Attribute: sealed::ToJson {}

impl<T: sealed::ToJson> Attribute for T {}

mod sealed {
    use serde_json::Value;

    pub trait ToJson {
        /// The value as JSON; `None` where JSON has no such value, or the nesting exceeds `levels`.
        fn to_json(&self, levels: usize) -> Option<Value>;
    }
}

macro_rules! to_json {
    ($type:ident) => {
        impl sealed::ToJson for $type {
            fn to_json(&self, levels: usize) -> Option<Value> {
                let deeper = levels.checked_sub(1)?;
                match self {
                    Self::S(text) => Some(Value::String(text.clone())),
                    Self::N(number) => json_number(number).map(Value::Number),
                    Self::Bool(truth) => Some(Value::Bool(*truth)),
                    Self::Null(true) => Some(Value::Null),
                    Self::L(values) => {
                        values.iter().map(|v| v.to_json(deeper)).collect::<Option<_>>().map(Value::Array)
                    }
                    Self::M(values) => {
                        let fields = values.iter().map(|(name, v)| Some((name.clone(), v.to_json(deeper)?)));
                        fields.collect::<Option<_>>().map(Value::Object)
                    }
                    Self::Null(false) | Self::B(_) | Self::Bs(_) | Self::Ns(_) | Self::Ss(_) | _ => None,
                }
            }
        }
    };
}

to_json!(AttributeValue);
to_json!(StreamValue);

/// A number as JSON, in any notation of DynamoDB: it promises to keep a number's value, so `100` may come back as
/// `1E+2`. Whole where it is whole, so that an `int32` of a contract is one again.
fn json_number(text: &str) -> Option<Number> {
    let whole = |text: &str| {
        (text.parse::<u64>().map(Number::from)).or_else(|_| text.parse::<i64>().map(Number::from)).ok()
    };
    whole(text).or_else(|| {
        let plain = plain(text)?;
        whole(&plain).or_else(|| plain.parse().ok().and_then(Number::from_f64))
    })
}

/// A number without exponent and without zeros that mean nothing.
fn plain(number: &str) -> Option<String> {
    let (sign, number) = match number.strip_prefix('-') {
        Some(number) => ("-", number),
        None => ("", number),
    };
    let (digits, exponent) = match number.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (number, 0),
    };
    let (units, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    // DynamoDB's own bounds are 38 digits and exponents of -130 to 125.
    if units.is_empty() || digits.len() > 200 || !(-200..=200).contains(&exponent) {
        return None;
    }
    let mut digits: String = [units, fraction].concat();
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut point = i32::try_from(units.len()).ok()? + exponent;
    while point < 1 {
        digits.insert(0, '0');
        point += 1;
    }
    let point = usize::try_from(point).ok()?;
    while digits.len() < point {
        digits.push('0');
    }
    let (units, fraction) = digits.split_at(point);
    let units = units.trim_start_matches('0');
    let plain = format!("{}.{fraction}", if units.is_empty() { "0" } else { units });
    let plain = plain.trim_end_matches('0').trim_end_matches('.');
    Some(if plain == "0" { plain.to_owned() } else { format!("{sign}{plain}") })
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};
    use serde_json::json;

    use super::*;

    /// JSON that DynamoDB keeps exactly: numbers that are whole, or of few digits.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (any::<i32>(), 1..9_i32).prop_map(|(n, digits)| {
                // Not whole.
                json!(f64::from(n / 10 * 10 + 1) / 10_f64.powi(digits))
            }),
            "\\PC{0,8}".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 16, 4, |inner| {
            prop_oneof![
                collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                collection::btree_map("\\PC{0,4}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_survives_its_attribute(value in any_json()) {
            prop_assert_eq!(json(&attribute(&value)), Some(value));
        }

        #[test]
        fn any_number_is_json_or_none(text in "[-+.0-9eENainf]{0,12}") {
            let _ = json_number(&text);
        }

        #[test]
        fn a_numbers_notation_is_no_matter(digits in 0..1_000_000_u32, zeros in 0..12_u32, point in 0..6_i32) {
            let value = f64::from(digits) * 10_f64.powi(-point);
            let written = [
                format!("{digits}E-{point}"),
                format!("{digits}{}e-{}", "0".repeat(zeros as usize), point + i32::try_from(zeros).unwrap()),
                format!("00{digits}.{}E-{point}", "0".repeat(zeros as usize)),
            ];
            let read: Vec<_> = written.iter().map(|text| json_number(text).unwrap()).collect();
            prop_assert!(read.iter().all(|number| *number == read[0]), "{read:?}");
            let read = read[0].as_f64().unwrap();
            prop_assert!((read - value).abs() <= value * 1e-12, "{read} {value}");
        }
    }

    #[test]
    fn whole_numbers_come_back_whole() {
        for (text, number) in [
            ("500000000", json!(500_000_000)),
            ("-1", json!(-1)),
            ("0.5", json!(0.5)),
            ("1E+2", json!(100)),
            ("1e2", json!(100)),
            ("-1.5E1", json!(-15)),
            ("100.0", json!(100)),
            ("1E-9", json!(1e-9)),
            ("12.50", json!(12.5)),
            ("0E-20", json!(0)),
            ("-0.0", json!(0)),
            ("1E+30", json!(1e30)),
        ] {
            assert_eq!(json_number(text).map(Value::Number), Some(number), "{text}");
        }
        for text in [
            "",
            ".",
            "NaN",
            "inf",
            "1e400",
            "7 ",
            "1E",
            "E5",
            "1E999999999999",
            "1E-2147483648",
            "1.2.3",
            "--1",
            "９",
        ] {
            assert_eq!(json_number(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_not_quoted() {
        let item: Item = [("Name".to_owned(), text("secret"))].into();
        for error in [
            whole::<_, u64>(&item, "Name").unwrap_err(),
            object(&item, "Name").unwrap_err(),
            parsed::<_, millrace_core::EventId>(&item, "Name").unwrap_err(),
        ] {
            assert!(
                error.to_string().contains("Name") && !format!("{error:?}").contains("secret"),
                "{error}"
            );
        }
        assert_eq!(string(&item, "Other"), Err(ItemError::Missing("Other")));
    }

    #[test]
    fn bottomless_values_are_refused() {
        let deep = |levels| (1..levels).fold(number(1), |inner, _| AttributeValue::L(vec![inner]));
        assert!(json(&deep(DEEPEST)).is_some());
        assert_eq!(json(&deep(DEEPEST + 1)), None);
    }
}
