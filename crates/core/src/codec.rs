//! Conversion between events as an application knows them and as they are stored.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::Invalid;

/// An event as it is stored: its type, the schema it is written by, and its canonical proto3 JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// The name of its message.
    pub event_type: &'static str,
    /// The schema of that message.
    pub schema_version: u32,
    /// The message.
    pub data: Map<String, Value>,
}

/// A message of a contract in its binary form, as `google.protobuf.Any` holds one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventMessage {
    /// The message's full name, such as `shop.event.v1.OrderCreated`.
    pub name: String,
    /// The message.
    pub bytes: Vec<u8>,
}

/// Why a stored event cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No message of this aggregate has that name.
    #[error("the event type is unknown")]
    UnknownType,
    /// A newer release wrote it.
    #[error("the event has schema version {found}, and this release reads up to {newest}")]
    NewerSchema {
        /// The event's schema.
        found: u32,
        /// The newest schema that this release reads.
        newest: u32,
    },
    /// A newer release wrote it, though its schema version is not newer.
    #[error("the event has a field or a name of a value that this release does not know")]
    UnknownField,
    /// It is not the JSON of its message.
    #[error("the event data is not the JSON of its message: {0}")]
    Malformed(String),
    /// A field breaks a rule.
    #[error("the event's {field} {reason}")]
    BadField {
        /// The field.
        field: &'static str,
        /// The rule.
        reason: Invalid,
    },
}

impl DecodeError {
    /// Whether a newer release wrote the event, so that a replica of that release can read it.
    pub fn is_of_newer_release(&self) -> bool {
        match self {
            Self::UnknownType | Self::NewerSchema { .. } | Self::UnknownField => true,
            Self::Malformed(_) | Self::BadField { .. } => false,
        }
    }
}

/// A domain event that can be stored and read back.
pub trait EventCodec: Sized {
    /// The names of the events.
    const EVENT_TYPES: &'static [&'static str];

    /// The event as it is stored.
    fn encode(&self) -> Encoded;

    /// The message of a stored event, as it was written. An event that [`decode`](Self::decode) refuses has none:
    /// either all readers can read an event, or none can.
    fn message(
        event_type: &str,
        schema_version: u32,
        data: &Map<String, Value>,
    ) -> Result<EventMessage, DecodeError>;

    /// The event that was stored.
    fn decode(event_type: &str, schema_version: u32, data: &Map<String, Value>) -> Result<Self, DecodeError>;
}

/// Whether no two of the names are the same.
pub const fn are_distinct(names: &[&str]) -> bool {
    let mut later = names;
    while let [first, rest @ ..] = later {
        let mut others = rest;
        while let [other, left @ ..] = others {
            if are_equal(first.as_bytes(), other.as_bytes()) {
                return false;
            }
            others = left;
        }
        later = rest;
    }
    true
}

/// `==`, which is not `const` yet.
const fn are_equal(mut one: &[u8], mut other: &[u8]) -> bool {
    while let ([a, one_rest @ ..], [b, other_rest @ ..]) = (one, other) {
        if *a != *b {
            return false;
        }
        (one, other) = (one_rest, other_rest);
    }
    one.is_empty() && other.is_empty()
}

/// Writes a message as its canonical JSON.
pub fn to_json(message: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(message) {
        Ok(Value::Object(fields)) => fields,
        // A generated message writes an object, and none of its fields can fail to be written: enums and times come
        // from the domain and are in range.
        Ok(_) | Err(_) => Map::new(),
    }
}

/// Reads a message whose newest schema is `newest`.
pub fn from_json<M: DeserializeOwned>(
    schema_version: u32,
    newest: u32,
    data: &Map<String, Value>,
) -> Result<M, DecodeError> {
    if schema_version > newest {
        return Err(DecodeError::NewerSchema { found: schema_version, newest });
    }
    M::deserialize(data).map_err(|error| {
        // Serde's own words, which its kinds of error do not tell apart.
        let text = error.to_string();
        if text.starts_with("unknown field `") || text.starts_with("unknown variant `") {
            return DecodeError::UnknownField;
        }
        // The error of a reader can quote its input, which may be personal data: only its place is kept.
        DecodeError::Malformed(format!("{:?}", error.classify()))
    })
}

/// Adds the name of the invalid field to the error.
pub fn field<T>(field: &'static str, value: Result<T, Invalid>) -> Result<T, DecodeError> {
    value.map_err(|reason| DecodeError::BadField { field, reason })
}
