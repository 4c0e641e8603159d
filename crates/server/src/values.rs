//! Readers of single values of a configuration.

/// The number of shards of a sharded index key.
pub type IndexShards = u16;

/// Reads a number of index shards: 1 to 256.
pub fn index_shards(text: &str) -> Result<IndexShards, String> {
    match text.parse() {
        Ok(shards @ 1..=256) => Ok(shards),
        _ => Err("must be a whole number from 1 to 256".to_owned()),
    }
}

/// Reads the name of a DynamoDB table: 3 to 255 of a-z, A-Z, 0-9, `_`, `-` and `.` (DynamoDB Developer Guide, "Naming
/// rules").
pub fn table_name(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if (3..=255).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("must be a table's name: 3 to 255 of a-z, A-Z, 0-9, _, - and .".to_owned())
    }
}

/// Reads a text that must not be empty.
pub fn non_empty(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// Reads `on` or `off`.
pub fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("must be on or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_tables_name() {
        for name in ["", "ab", "a b", "a/b", &"x".repeat(256)] {
            assert!(table_name(name).is_err(), "{name}");
        }
        assert!(index_shards("257").is_err() && index_shards("256").is_ok());
        assert!(non_empty(" ").is_err());
        assert!((on_off("on"), on_off("off")) == (Ok(true), Ok(false)) && on_off("ON").is_err());
    }
}
