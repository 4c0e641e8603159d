//! Names of things: tenants, aggregates, commands, events.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Invalid;

/// Reads a UUID in the one form that the contracts know: 36 characters with hyphens, in either case.
pub fn parse_uuid(text: &str) -> Result<Uuid, Invalid> {
    const BAD: Invalid = Invalid("must be a UUID");
    if text.len() != uuid::fmt::Hyphenated::LENGTH {
        return Err(BAD);
    }
    Uuid::try_parse(text).map_err(|_| BAD)
}

/// Declares a UUID with a type of its own, such as the id of an aggregate. As text it is the form with hyphens, which
/// is the only one that it is read from, in either case. Its field `0` is the [`Uuid`].
///
/// ```
/// millrace_core::uuid_id! {
///     /// An invoice.
///     pub struct InvoiceId;
/// }
/// let id: InvoiceId = "4b7f2a9e-0c1d-4e5f-8a9b-0c1d2e3f4a5b".parse()?;
/// assert_eq!(id.to_string(), "4b7f2a9e-0c1d-4e5f-8a9b-0c1d2e3f4a5b");
/// # Ok::<(), millrace_core::Invalid>(())
/// ```
#[macro_export]
macro_rules! uuid_id {
    ($(#[$doc:meta])* pub struct $name:ident;) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $crate::__uuid::Uuid);

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::Invalid;

            fn from_str(text: &str) -> Result<Self, $crate::Invalid> {
                $crate::ids::parse_uuid(text).map(Self)
            }
        }

        impl ::std::convert::From<$crate::__uuid::Uuid> for $name {
            fn from(id: $crate::__uuid::Uuid) -> Self {
                Self(id)
            }
        }

        impl $crate::IndexValue for $name {
            fn index_value(&self) -> ::std::option::Option<::std::string::String> {
                ::std::option::Option::Some(self.to_string())
            }
        }

        impl $crate::__serde::Serialize for $name {
            fn serialize<S: $crate::__serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        }

        impl<'de> $crate::__serde::Deserialize<'de> for $name {
            fn deserialize<D: $crate::__serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::__uuid::Uuid::deserialize(deserializer).map(Self)
            }
        }
    };
}

crate::uuid_id! {
    /// An event, unique over all tenants and aggregates.
    pub struct EventId;
}

/// A tenant: 1 to 64 of `a-z`, `0-9` and `-`. No key of one tenant can be mistaken for another's, since keys join
/// their parts with `#`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// The tenant's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The tenant of a caller without one: `default`.
impl Default for TenantId {
    fn default() -> Self {
        Self("default".into())
    }
}

impl FromStr for TenantId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid("must be 1 to 64 of a-z, 0-9 and -"))
        }
    }
}

impl TryFrom<String> for TenantId {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<TenantId> for String {
    fn from(tenant: TenantId) -> Self {
        tenant.as_str().to_owned()
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A kind of aggregate, such as `user`: 1 to 32 of `a-z` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AggregateType(Cow<'static, str>);

impl AggregateType {
    /// A kind known at compile time. The name obeys the type's rule; a test of each aggregate checks it.
    pub const fn new(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// The kind's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AggregateType {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') {
            Ok(Self(Cow::Owned(text.to_owned())))
        } else {
            Err(Invalid("must be 1 to 32 of a-z and -"))
        }
    }
}

impl TryFrom<String> for AggregateType {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<AggregateType> for String {
    fn from(kind: AggregateType) -> Self {
        kind.0.into_owned()
    }
}

impl fmt::Display for AggregateType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One aggregate of one tenant, whose events form a stream. Its text, `<tenant>#<type>#<id>`, is its key in the event
/// store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// The tenant of the aggregate.
    pub tenant: TenantId,
    /// The type of aggregate.
    pub aggregate_type: AggregateType,
    /// Which one.
    pub id: Uuid,
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}#{}", self.tenant, self.aggregate_type, self.id.as_hyphenated())
    }
}

impl FromStr for StreamId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut parts = text.splitn(3, '#');
        let mut next = || parts.next().ok_or(Invalid("must be <tenant>#<type>#<id>"));
        Ok(Self { tenant: next()?.parse()?, aggregate_type: next()?.parse()?, id: parse_uuid(next()?)? })
    }
}

/// A client's idempotency key, also the form of a correlation id: 1 to 128 characters, none of them a control
/// character.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommandId(Arc<str>);

impl CommandId {
    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CommandId {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl FromStr for CommandId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() || text.chars().count() > 128 {
            Err(Invalid("must be 1 to 128 characters"))
        } else if text.chars().any(char::is_control) {
            Err(Invalid("must not hold control characters"))
        } else {
            Ok(Self(text.into()))
        }
    }
}

impl From<CommandId> for String {
    fn from(id: CommandId) -> Self {
        id.as_str().to_owned()
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The digest of a command's body, which distinguishes two bodies under one command id: 128 bits of a hash. As text, 32
/// hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommandDigest(pub u128);

impl fmt::Display for CommandDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl TryFrom<String> for CommandDigest {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        u128::from_str_radix(&text, 16).map(Self).map_err(|_| Invalid("must be hexadecimal digits"))
    }
}

impl From<CommandDigest> for String {
    fn from(digest: CommandDigest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_read_in_its_hyphenated_form_only() {
        let text = "4B7F2A9E-0C1D-4E5F-8A9B-0C1D2E3F4A5B";
        assert_eq!(text.parse::<EventId>().unwrap().to_string(), text.to_lowercase());
        for text in
            ["", "4b7f2a9e0c1d4e5f8a9b0c1d2e3f4a5b", "{4b7f2a9e-0c1d-4e5f-8a9b-0c1d2e3f4a5}", "not-a-uuid"]
        {
            assert!(text.parse::<EventId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_tenant_cannot_hold_what_joins_keys() {
        for text in ["a", "acme-42", &"x".repeat(64)] {
            assert_eq!(text.parse::<TenantId>().unwrap().as_str(), text);
        }
        for text in ["", "Acme", "a#b", "a b", "ä", &"x".repeat(65)] {
            assert!(text.parse::<TenantId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_stream_survives_its_key_and_a_foreign_key_is_refused() {
        let stream = StreamId {
            tenant: "acme".parse().unwrap(),
            aggregate_type: AggregateType::new("user"),
            id: Uuid::from_u128(7),
        };
        assert_eq!(stream.to_string().parse::<StreamId>().unwrap(), stream);
        for text in ["", "acme", "acme#user", "acme#user#7", "#user#00000000-0000-0000-0000-000000000007"] {
            assert!(text.parse::<StreamId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_command_id_is_counted_in_characters() {
        assert!("é".repeat(128).parse::<CommandId>().is_ok());
        for text in ["", "a\n", "a\0", "a\u{85}", &"é".repeat(129)] {
            assert!(text.parse::<CommandId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_digest_survives_its_text() {
        let digest = CommandDigest(0xabc);
        assert_eq!(digest.to_string().len(), 32);
        assert_eq!(CommandDigest::try_from(digest.to_string()).unwrap(), digest);
    }
}
