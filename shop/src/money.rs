//! Amounts of money, exact, in one currency.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use millrace_core::Invalid;

use crate::contracts;

/// A currency: three capital letters, as ISO 4217 writes them. Which codes are in use is not checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency([u8; 3]);

impl Currency {
    /// The three letters.
    pub fn as_str(&self) -> &str {
        // ASCII by construction, so the default never applies.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for Currency {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.as_bytes() {
            &[a, b, c] if [a, b, c].iter().all(u8::is_ascii_uppercase) => Ok(Self([a, b, c])),
            _ => Err(Invalid("currency_code must be three capital letters (ISO 4217)")),
        }
    }
}

impl TryFrom<String> for Currency {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.as_str().to_owned()
    }
}

/// An amount of money that is not negative, exact to 10⁻⁹ of a unit, as `google.type.Money` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "StoredMoney", into = "StoredMoney")]
pub struct Money {
    currency: Currency,
    /// In 10⁻⁹ of a unit. At most `i64::MAX` units and 999,999,999 nanos, so that it fits the contract's fields.
    nanos: i128,
}

const NANOS_PER_UNIT: i128 = 1_000_000_000;
const MAX_NANOS: i128 = i64::MAX as i128 * NANOS_PER_UNIT + NANOS_PER_UNIT - 1;

impl Money {
    /// `units` whole units and `nanos` 10⁻⁹ of one; `nanos` is 0 to 999,999,999, and neither is negative.
    pub fn new(currency: Currency, units: i64, nanos: i32) -> Result<Self, Invalid> {
        if units < 0 {
            return Err(Invalid("units must not be negative"));
        }
        if !(0..=999_999_999).contains(&nanos) {
            return Err(Invalid("nanos must be 0 to 999,999,999"));
        }
        Ok(Self { currency, nanos: i128::from(units) * NANOS_PER_UNIT + i128::from(nanos) })
    }

    /// An amount in 10⁻⁹ of a unit, clamped to the valid amounts.
    pub fn from_nanos(currency: Currency, nanos: i128) -> Self {
        Self { currency, nanos: nanos.clamp(0, MAX_NANOS) }
    }

    /// The whole amount in 10⁻⁹ of a unit.
    pub fn as_nanos(&self) -> i128 {
        self.nanos
    }

    /// Nothing, in a currency.
    pub fn zero(currency: Currency) -> Self {
        Self { currency, nanos: 0 }
    }

    /// The currency.
    pub fn currency(&self) -> Currency {
        self.currency
    }

    /// The whole units.
    pub fn units(&self) -> i64 {
        i64::try_from(self.nanos / NANOS_PER_UNIT).unwrap_or(i64::MAX)
    }

    /// The part beyond the whole units, in 10⁻⁹ of one.
    pub fn nanos(&self) -> i32 {
        i32::try_from(self.nanos % NANOS_PER_UNIT).unwrap_or(0)
    }

    /// The sum; `None` where the currencies differ or the sum does not fit.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let nanos = self.nanos.checked_add(other.nanos)?;
        (self.currency == other.currency && nanos <= MAX_NANOS).then_some(Self { nanos, ..self })
    }

    /// This amount `times` over; `None` where that does not fit.
    pub fn checked_mul(self, times: u32) -> Option<Self> {
        let nanos = self.nanos.checked_mul(i128::from(times))?;
        (nanos <= MAX_NANOS).then_some(Self { nanos, ..self })
    }

    /// The amount as a decimal number without exponent and without trailing zeros, such as `999.99`.
    pub fn to_decimal(&self) -> String {
        let text = format!("{}.{:09}", self.units(), self.nanos());
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }

    /// Parses the text of [`to_decimal`](Self::to_decimal).
    pub fn from_decimal(currency: Currency, text: &str) -> Result<Self, Invalid> {
        const BAD: Invalid = Invalid("must be a decimal number with at most nine places");
        let (units, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if units.is_empty() || !digits(units) || !digits(fraction) || fraction.len() > 9 {
            return Err(BAD);
        }
        let nanos = format!("{fraction:0<9}").parse().map_err(|_| BAD)?;
        Self::new(currency, units.parse().map_err(|_| BAD)?, nanos)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.to_decimal(), self.currency.as_str())
    }
}

/// An amount in a row: `{"Currency": "USD", "Amount": "999.99"}`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StoredMoney {
    currency: Currency,
    amount: String,
}

impl From<Money> for StoredMoney {
    fn from(money: Money) -> Self {
        Self { currency: money.currency, amount: money.to_decimal() }
    }
}

impl TryFrom<StoredMoney> for Money {
    type Error = Invalid;

    fn try_from(stored: StoredMoney) -> Result<Self, Invalid> {
        Self::from_decimal(stored.currency, &stored.amount)
    }
}

impl From<Money> for contracts::Money {
    fn from(money: Money) -> Self {
        Self {
            currency_code: money.currency().as_str().to_owned(),
            units: money.units(),
            nanos: money.nanos(),
        }
    }
}

impl TryFrom<&contracts::Money> for Money {
    type Error = Invalid;

    fn try_from(money: &contracts::Money) -> Result<Self, Invalid> {
        Self::new(money.currency_code.parse()?, money.units, money.nanos)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usd(units: i64, nanos: i32) -> Money {
        Money::new("USD".parse().unwrap(), units, nanos).unwrap()
    }

    #[test]
    fn a_currency_is_three_capital_letters() {
        assert_eq!("EUR".parse::<Currency>().unwrap().as_str(), "EUR");
        for text in ["", "EU", "EURO", "eur", "E1R", "ÄU"] {
            assert!(text.parse::<Currency>().is_err(), "{text}");
        }
    }

    #[test]
    fn amounts_are_exact_where_floats_are_not() {
        let ten_cents = usd(0, 100_000_000);
        let three = ten_cents.checked_mul(3).unwrap();
        assert_eq!(three, usd(0, 300_000_000));
        assert_eq!(usd(999, 990_000_000).to_string(), "999.99 USD");
        assert_eq!(usd(7, 0).to_decimal(), "7");
        assert_eq!(usd(100, 0).to_decimal(), "100");
    }

    #[test]
    fn negative_and_overflowing_amounts_are_refused() {
        let usd_code = "USD".parse().unwrap();
        assert!(Money::new(usd_code, -1, 0).is_err());
        assert!(Money::new(usd_code, 0, -1).is_err());
        assert!(Money::new(usd_code, 0, 1_000_000_000).is_err());
        assert_eq!(usd(i64::MAX, 0).checked_add(usd(1, 0)), None);
        assert_eq!(usd(i64::MAX, 999_999_999).checked_mul(2), None);
        assert_eq!(usd(1, 0).checked_add(Money::zero("EUR".parse().unwrap())), None);
    }

    #[test]
    fn a_text_that_is_no_amount_is_refused() {
        for text in ["", ".", ".5", "-1", "+1", "1e3", "1.0000000001", "1.2.3", "９", "99999999999999999999"]
        {
            assert!(Money::from_decimal("USD".parse().unwrap(), text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_amount_survives_its_parts_and_its_decimal(units in 0..=i64::MAX, nanos in 0..=999_999_999) {
            let money = usd(units, nanos);
            prop_assert_eq!(money, usd(money.units(), money.nanos()));
            prop_assert_eq!(money, Money::from_decimal(money.currency(), &money.to_decimal()).unwrap());
        }

        #[test]
        fn times_is_repeated_sum(units in 0..1_000_000_000_i64, nanos in 0..=999_999_999, times in 0..50_u32) {
            let money = usd(units, nanos);
            let sum = (0..times).try_fold(Money::zero(money.currency()), |sum, _| sum.checked_add(money));
            prop_assert_eq!(money.checked_mul(times), sum);
        }
    }
}
