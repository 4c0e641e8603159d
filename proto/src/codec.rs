//! Between the events of the contract, which are a storage format, and those of the domain.
//!
//! One file per aggregate. What the domain writes it can read back; what others wrote is checked as hostile input.

mod order;
mod user;

use millrace_domain::{
    Aggregate as _, AggregateType, Currency, Email, Invalid, Label, Money, Timestamp, order::Order,
    user::User,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::query::recorded_event::Payload;

/// An event as it is stored: its type, the schema it is written by, and its canonical proto3 JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// The name of a message of `millrace.event.v1`.
    pub event_type: &'static str,
    /// The schema of that message.
    pub schema_version: u32,
    /// The message.
    pub data: Map<String, Value>,
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

/// A domain event that can be stored and read back.
pub trait EventCodec: Sized {
    /// The names of the events.
    const EVENT_TYPES: &'static [&'static str];

    /// The event as it is stored.
    fn encode(&self) -> Encoded;

    /// The event that was stored.
    fn decode(event_type: &str, schema_version: u32, data: &Map<String, Value>) -> Result<Self, DecodeError>;
}

/// The message of an event of any kind of aggregate, as it was written. What the domain cannot read is not shown
/// either: an event can be read by all, or by none.
pub fn payload(
    kind: &AggregateType,
    event_type: &str,
    schema_version: u32,
    data: &Map<String, Value>,
) -> Result<Payload, DecodeError> {
    match kind {
        kind if *kind == User::TYPE => user::payload(event_type, schema_version, data),
        kind if *kind == Order::TYPE => order::payload(event_type, schema_version, data),
        _ => Err(DecodeError::UnknownType),
    }
}

/// Writes a message as its canonical JSON.
fn to_json(message: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(message) {
        Ok(Value::Object(fields)) => fields,
        // A generated message writes an object, and none of its fields can fail to be written: enums and times come
        // from the domain and are in range.
        Ok(_) | Err(_) => Map::new(),
    }
}

/// Reads a message that was written by schema 1, the only one so far.
fn from_json<M: DeserializeOwned>(schema_version: u32, data: &Map<String, Value>) -> Result<M, DecodeError> {
    const NEWEST: u32 = 1;
    if schema_version > NEWEST {
        return Err(DecodeError::NewerSchema { found: schema_version, newest: NEWEST });
    }
    // The error of a reader can quote what it read, which may be personal data: only its place is kept.
    M::deserialize(data).map_err(|error| DecodeError::Malformed(format!("{:?}", error.classify())))
}

/// Says which field breaks a rule.
fn field<T>(field: &'static str, value: Result<T, Invalid>) -> Result<T, DecodeError> {
    value.map_err(|reason| DecodeError::BadField { field, reason })
}

/// A time of the domain in the contract's type.
pub fn time_to_proto(time: Timestamp) -> crate::Timestamp {
    let micros = time.unix_micros();
    // `Timestamp` holds years up to 9999 only, and microseconds within a second always fit.
    let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or(0);
    crate::Timestamp { seconds: micros.div_euclid(1_000_000), nanos }
}

fn time_from_proto(time: Option<crate::Timestamp>) -> Result<Timestamp, Invalid> {
    let time = time.ok_or(Invalid("is missing"))?;
    let micros =
        time.seconds.checked_mul(1_000_000).and_then(|s| s.checked_add(i64::from(time.nanos) / 1_000));
    micros.map(Timestamp::from_unix_micros).ok_or(Invalid("is out of range"))
}

/// An amount of the domain in the contract's type.
pub fn money_to_proto(money: Money) -> crate::Money {
    crate::Money {
        currency_code: money.currency().as_str().to_owned(),
        units: money.units(),
        nanos: money.nanos(),
    }
}

/// An amount of the contract in the domain's type.
pub fn money_from_proto(money: &crate::Money) -> Result<Money, Invalid> {
    let currency: Currency = money.currency_code.parse()?;
    Money::new(currency, money.units, money.nanos)
}

pub use order::{item_from_proto, item_to_proto, status_from_proto, status_to_proto};

fn email(text: String) -> Result<Email, DecodeError> {
    field("email", Email::try_from(text))
}

fn name(text: String) -> Result<Label, DecodeError> {
    field("name", Label::try_from(text))
}
