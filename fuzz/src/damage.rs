//! Items of DynamoDB's, as its JSON has them, and damage to them.

use arbitrary::{Result, Unstructured};
use serde_json::{Value, json};

/// A text that no error may quote: it stands in every place of an item where personal data may.
pub(crate) const SECRET: &str = "secret";

/// Texts that are right in one place and wrong in all others.
const TEXTS: [&str; 15] = [
    "acme#user#00000000-0000-0000-0000-000000000001",
    "other#user#00000000-0000-0000-0000-000000000001",
    "acme#00000000-0000-0000-0000-000000000001",
    "other#00000000-0000-0000-0000-000000000001",
    "00000000-0000-0000-0000-000000000001",
    "acme",
    "other",
    "2026-11-23T12:00:00.000000Z",
    "9999-12-31T23:59:60.999999999+23:59",
    "CREATED",
    "",
    "acme#user#00000000-0000-0000-0000-000000000002",
    "acme@00000000-0000-0000-0000-000000000001",
    "2026-11-23T12:00:00.000000Z#00000000-0000-0000-0000-000000000001",
    "USD",
];

/// Characters of which numbers are made.
const DIGITS: &[u8; 16] = b"0123456789.-+Ee ";

pub(crate) fn s(text: impl ToString) -> Value {
    json!({ "S": text.to_string() })
}

pub(crate) fn n(number: impl ToString) -> Value {
    json!({ "N": number.to_string() })
}

/// An item with up to four attributes of it changed, added or taken away.
pub(crate) fn damaged(u: &mut Unstructured<'_>, mut item: Value) -> Result<Value> {
    let Some(attributes) = item.as_object_mut() else { return Ok(item) };
    let names: Vec<String> = attributes.keys().cloned().collect();
    for _ in 0..u.int_in_range(0..=4)? {
        let name = u.choose(&names)?.clone();
        match u.int_in_range(0..=7)? {
            0 => drop(attributes.remove(&name)),
            1 => drop(attributes.insert(text(u)?, value(u, 4)?)),
            2 => {
                // Deeper than anything that DynamoDB takes, and as deep as the SDK reads.
                let levels = u.int_in_range(0..=50)?;
                let deep = (0..levels).fold(s(SECRET), |inner, _| json!({ "L": [inner] }));
                attributes.insert(name, deep);
            }
            3 => drop(attributes.insert(name, n(number(u)?))),
            4 => drop(attributes.insert(name, s(text(u)?))),
            _ => drop(attributes.insert(name, value(u, 4)?)),
        }
    }
    Ok(item)
}

/// Any value of DynamoDB's.
pub(crate) fn value(u: &mut Unstructured<'_>, levels: u32) -> Result<Value> {
    let kinds = if levels == 0 { 4 } else { 9 };
    Ok(match u.int_in_range(0..=kinds)? {
        0 => s(text(u)?),
        1 => n(number(u)?),
        2 => json!({ "BOOL": bool::arbitrary(u)? }),
        3 => json!({ "NULL": bool::arbitrary(u)? }),
        4 => json!({ "B": "c2VjcmV0" }),
        5 => json!({ "SS": [text(u)?] }),
        6 => json!({ "NS": [number(u)?] }),
        7 => json!({ "BS": ["c2VjcmV0"] }),
        8 => {
            let values = (0..u.int_in_range(0..=3)?).map(|_| value(u, levels - 1));
            json!({ "L": values.collect::<Result<Vec<_>>>()? })
        }
        _ => {
            let fields = (0..u.int_in_range(0..=3)?).map(|_| Ok((text(u)?, value(u, levels - 1)?)));
            json!({ "M": Value::Object(fields.collect::<Result<_>>()?) })
        }
    })
}

/// A text: one that is right somewhere, or any.
pub(crate) fn text(u: &mut Unstructured<'_>) -> Result<String> {
    if bool::arbitrary(u)? {
        return Ok((*u.choose(&TEXTS)?).to_owned());
    }
    let len = u.int_in_range(0..=40)?;
    Ok(format!("{}{SECRET}", String::from_utf8_lossy(u.bytes(len.min(u.len()))?)))
}

/// A number's text, or something of the same characters.
pub(crate) fn number(u: &mut Unstructured<'_>) -> Result<String> {
    // Where numbers of 32 and 64 bits end, and somewhat beyond what DynamoDB's own may be.
    const ENDS: [i128; 9] = [
        0,
        -1,
        126,
        201,
        i32::MIN as i128,
        i32::MAX as i128,
        i64::MIN as i128,
        i64::MAX as i128,
        u64::MAX as i128,
    ];
    match u.int_in_range(0..=5)? {
        0 => return Ok(u64::arbitrary(u)?.to_string()),
        1 => return Ok(u.choose(&ENDS)?.to_string()),
        2 => return Ok(format!("{}E{}", u.choose(&[0, 1, 25])?, u.choose(&ENDS)?)),
        _ => {}
    }
    let len = u.int_in_range(0..=24)?;
    (0..len).map(|_| Ok(char::from(*u.choose(DIGITS)?))).collect()
}

use arbitrary::Arbitrary;
