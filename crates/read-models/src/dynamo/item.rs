//! Items of a table, read as hostile input.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use millrace_aws::AwsError;
use millrace_domain::TenantId;
use uuid::Uuid;

use crate::Key;

pub(super) type Item = HashMap<String, AttributeValue>;

/// A value that belongs to one tenant, such as the key of a row.
pub(super) fn tenant_key(tenant: &TenantId, value: impl std::fmt::Display) -> String {
    format!("{tenant}#{value}")
}

/// Keys of rows by the text that they have in a table.
pub(super) fn asked<I: Copy + std::fmt::Display>(keys: &[Key<I>]) -> HashMap<String, Key<I>> {
    keys.iter().map(|key| (tenant_key(&key.0, key.1), key.clone())).collect()
}

/// Says which attribute cannot be read. Never says what it holds: that may be personal data.
pub(super) fn unreadable(attribute: &str) -> AwsError {
    AwsError::Nonsense(format!("the attribute {attribute} of a row is missing or cannot be read"))
}

/// The text of an attribute.
pub(super) fn text<'a>(item: &'a Item, attribute: &str) -> Result<&'a str, AwsError> {
    item.get(attribute).and_then(|v| v.as_s().ok()).map(String::as_str).ok_or_else(|| unreadable(attribute))
}

/// An attribute's text as a value of the domain.
pub(super) fn parsed<T: TryFrom<String>>(item: &Item, attribute: &str) -> Result<T, AwsError> {
    T::try_from(text(item, attribute)?.to_owned()).map_err(|_| unreadable(attribute))
}

/// The tenant and the id in a key.
pub(super) fn tenant_and_id(item: &Item, attribute: &str) -> Result<(TenantId, Uuid), AwsError> {
    let (tenant, id) = text(item, attribute)?.split_once('#').ok_or_else(|| unreadable(attribute))?;
    let tenant = tenant.parse().map_err(|_| unreadable(attribute))?;
    Ok((tenant, id.parse().map_err(|_| unreadable(attribute))?))
}

/// The number in an attribute, as a decimal number without exponent.
pub(super) fn decimal(item: &Item, attribute: &str) -> Result<String, AwsError> {
    let number = item.get(attribute).and_then(|v| v.as_n().ok()).ok_or_else(|| unreadable(attribute))?;
    plain(number).ok_or_else(|| unreadable(attribute))
}

/// The whole number in an attribute.
pub(super) fn whole<T: std::str::FromStr>(item: &Item, attribute: &str) -> Result<T, AwsError> {
    decimal(item, attribute)?.parse().map_err(|_| unreadable(attribute))
}

/// A number of DynamoDB without exponent and without zeros that say nothing. It promises to keep a number's value, not
/// its notation: `100` may come back as `1E+2`.
pub(super) fn plain(number: &str) -> Option<String> {
    let (digits, exponent) = match number.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (number, 0),
    };
    let (units, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    // DynamoDB's own bounds are 38 digits and exponents of -130 to 125.
    if units.is_empty() || digits.len() > 200 || exponent.abs() > 200 {
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
    Some(plain.trim_end_matches('0').trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use millrace_domain::Email;
    use proptest::{prelude::*, sample::select};

    use super::*;

    /// Tenants and addresses of which parts look alike, with the sign that joins them in the addresses.
    fn any_owner() -> impl Strategy<Value = (TenantId, Email)> {
        let tenant = select(vec!["a", "b", "a-b", "b-a", "ab"]).prop_map(|tenant| tenant.parse().unwrap());
        let email =
            "[ab#-]{1,4}@[ab]{1,2}".prop_filter_map("an address", |email| Email::try_from(email).ok());
        (tenant, email)
    }

    proptest! {
        #[test]
        fn no_two_tenants_or_addresses_make_one_key(one in any_owner(), other in any_owner()) {
            let key = |(tenant, email): &(TenantId, Email)| tenant_key(tenant, email.normalised());
            let same = one.0 == other.0 && one.1.normalised() == other.1.normalised();
            prop_assert_eq!(key(&one) == key(&other), same);
        }
    }

    #[test]
    fn a_number_is_read_in_any_notation() {
        for (number, expected) in [
            ("100", "100"),
            ("1E+2", "100"),
            ("1e2", "100"),
            ("0.000000001", "0.000000001"),
            ("1E-9", "0.000000001"),
            ("12.50", "12.5"),
            ("1.25E1", "12.5"),
            ("007.0", "7"),
            ("0", "0"),
            ("0.0", "0"),
            ("0E-20", "0"),
        ] {
            assert_eq!(plain(number).as_deref(), Some(expected), "{number}");
        }
        for number in ["", ".", "-1", "1E", "E5", "1E999999999999", "1E9999", "1.2.3", "x", "９"] {
            assert_eq!(plain(number), None, "{number}");
        }
    }
}
