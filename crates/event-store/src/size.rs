//! How large DynamoDB takes an item to be.

use aws_sdk_dynamodb::types::AttributeValue;

use crate::item::Item;

/// The size of an item in bytes, by the rules of the DynamoDB Developer Guide, "DynamoDB item sizes and formats".
///
/// The guide gives the size of a number only about. Here it is never taken for smaller than it is, so an item that
/// passes here passes there.
pub(crate) fn item_size(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + value_size(value)).sum()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the SDK's unknown kind cannot be named")]
fn value_size(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(number) => number_size(number),
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        AttributeValue::Bool(_) | AttributeValue::Null(_) => 1,
        AttributeValue::Ss(texts) => texts.iter().map(String::len).sum(),
        AttributeValue::Ns(numbers) => numbers.iter().map(|n| number_size(n)).sum(),
        AttributeValue::Bs(all) => all.iter().map(|bytes| bytes.as_ref().len()).sum(),
        AttributeValue::L(values) => 3 + values.iter().map(|value| 1 + value_size(value)).sum::<usize>(),
        AttributeValue::M(values) => {
            3 + values.iter().map(|(name, value)| 1 + name.len() + value_size(value)).sum::<usize>()
        }
        // This program never writes a kind that the SDK does not know.
        _ => 0,
    }
}

/// A byte for two digits and one more; another for the sign. DynamoDB does not count zeroes at either end, this does.
fn number_size(number: &str) -> usize {
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    digits.div_ceil(2) + 1 + usize::from(number.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use AttributeValue::{Bool, L, M, N, Null, S};
    use aws_sdk_dynamodb::primitives::Blob;

    use super::*;

    #[test]
    fn sizes_follow_the_guide() {
        let one = |name: &str, value| (name.to_owned(), value);
        for (value, size) in [
            (S("é".into()), 2),
            (S(String::new()), 0),
            (N("0".into()), 2),
            (N("123".into()), 3),
            (N("-123".into()), 4),
            (Bool(false), 1),
            (Null(true), 1),
            (AttributeValue::B(Blob::new([0; 5])), 5),
            (L(vec![]), 3),
            (L(vec![S("ab".into()), Null(true)]), 3 + (1 + 2) + (1 + 1)),
            (M(HashMap::new()), 3),
            (M(HashMap::from([one("ab", S("c".into()))])), 3 + 1 + 2 + 1),
        ] {
            let item = Item::from([one("né", value.clone())]);
            assert_eq!(item_size(&item), 3 + size, "{value:?}");
        }
    }
}
