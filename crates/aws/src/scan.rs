//! Common parts of reads of whole tables.

use std::num::NonZeroU32;

use aws_sdk_dynamodb::types::ConsumedCapacity;
use serde_json::{Map, Value};

use crate::item::{Item, attribute, json};

/// One of the parts that a scan of a table is divided into, to be read side by side (DynamoDB Developer Guide, "Parallel
/// scan"). All items of one hash key lie in the same part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Which one, from 0 on.
    pub number: u32,
    /// Of how many, up to a million.
    pub of: NonZeroU32,
}

impl Segment {
    /// All segments of a scan in `of` segments.
    pub fn all(of: NonZeroU32) -> impl Iterator<Item = Self> {
        (0..of.get()).map(move |number| Self { number, of })
    }

    /// The segment's number as the SDK takes it.
    pub fn number(self) -> i32 {
        i32::try_from(self.number).unwrap_or(i32::MAX)
    }

    /// The number of all segments as the SDK takes it.
    pub fn total(self) -> i32 {
        i32::try_from(self.of.get()).unwrap_or(i32::MAX)
    }
}

/// A place in a scan. Its text can be stored, and another process can go on from it.
pub trait Place: Clone + Send + Sync + 'static {
    /// Its text.
    fn to_text(&self) -> String;

    /// The inverse of [`to_text`](Self::to_text); `None` for the text of no place.
    fn from_text(text: &str) -> Option<Self>;
}

/// The key at which a page of DynamoDB ends, as a JSON object.
impl Place for Item {
    fn to_text(&self) -> String {
        // Keys are texts and numbers, and JSON has both.
        let key = self.iter().filter_map(|(name, value)| Some((name.clone(), json(value)?)));
        Value::Object(key.collect()).to_string()
    }

    fn from_text(text: &str) -> Option<Self> {
        let key: Map<String, Value> = serde_json::from_str(text).ok()?;
        Some(key.iter().map(|(name, value)| (name.clone(), attribute(value))).collect())
    }
}

/// The units that a request consumed; 0 where AWS does not report them.
pub fn units(used: Option<&ConsumedCapacity>) -> f64 {
    used.and_then(ConsumedCapacity::capacity_units).unwrap_or_default()
}

/// A key of a table, fit for a line of a report: without control characters, and of bounded length.
pub fn printable(key: &str) -> String {
    const MOST: usize = 200;
    key.chars().take(MOST).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::{number, text};

    #[test]
    fn a_key_survives_its_text() {
        let key: Item = [("AggregateId", text("acme#user#\"any\" text")), ("Version", number(u64::MAX))]
            .map(|(name, value)| (name.to_owned(), value))
            .into();
        assert_eq!(Item::from_text(&key.to_text()), Some(key));
        assert_eq!(Item::from_text("no key"), None);
    }

    #[test]
    fn a_key_is_shown_on_one_line_of_bounded_length() {
        assert_eq!(printable("acme#user#x"), "acme#user#x");
        assert_eq!(printable("a\nb\u{1b}"), "a\\nb\\u{1b}");
        assert!(printable(&"\n".repeat(5_000)).len() <= 400);
    }
}
