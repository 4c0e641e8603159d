//! Codecs between events and their stored form.

/// Makes an event of an application storable as messages of its contracts.
///
/// Each variant holds a struct of its own name, and has a message of that name in the module that is given; `= 1` is the
/// schema that it is written by. The struct's `From` writes the message, the message's `TryFrom` reads it, and says by
/// [`DecodeError`](millrace_core::DecodeError) which field breaks a rule. A variant that is left out, or listed twice,
/// does not compile.
///
/// ```ignore
/// millrace_proto::event_codec! {
///     OrderEvent in crate::contracts::shop::event::v1 {
///         OrderCreated = 1,
///         OrderStatusUpdated = 1,
///     }
/// }
/// ```
#[macro_export]
macro_rules! event_codec {
    ($event:ident in $module:path { $($variant:ident = $schema:literal),+ $(,)? }) => {
        const _: () = {
            use $module as messages;
            use $crate::__private::core::codec::{DecodeError, Encoded, EventCodec, EventMessage, are_distinct, from_json, to_json};

            // By itself: an associated constant would be checked only where it is used.
            const _: () = assert!(are_distinct(&[$(stringify!($variant)),+]), "an event is listed twice");

            impl EventCodec for $event {
                const EVENT_TYPES: &'static [&'static str] = &[$(stringify!($variant)),+];

                fn encode(&self) -> Encoded {
                    match self {
                        $(Self::$variant(event) => Encoded {
                            event_type: stringify!($variant),
                            schema_version: $schema,
                            data: to_json(&messages::$variant::from(event)),
                        }),+
                    }
                }

                fn decode(
                    event_type: &str,
                    schema_version: u32,
                    data: &$crate::__private::Fields,
                ) -> Result<Self, DecodeError> {
                    $(if event_type == stringify!($variant) {
                        let message: messages::$variant = from_json(schema_version, $schema, data)?;
                        return $variant::try_from(message).map(Self::$variant);
                    })+
                    Err(DecodeError::UnknownType)
                }

                fn message(
                    event_type: &str,
                    schema_version: u32,
                    data: &$crate::__private::Fields,
                ) -> Result<EventMessage, DecodeError> {
                    Self::decode(event_type, schema_version, data)?;
                    $(if event_type == stringify!($variant) {
                        let message: messages::$variant = from_json(schema_version, $schema, data)?;
                        return Ok(EventMessage {
                            name: <messages::$variant as $crate::__private::prost::Name>::full_name(),
                            bytes: $crate::__private::prost::Message::encode_to_vec(&message),
                        });
                    })+
                    Err(DecodeError::UnknownType)
                }
            }
        };
    };
}

/// Makes an event of an application storable without a contract: for small applications and tests.
///
/// Each variant holds a struct of its own name, which serde writes and reads; `= 1` is the schema that it is written by. A
/// variant that is left out, or listed twice, does not compile. A struct with `#[serde(deny_unknown_fields)]` leaves events
/// with further fields to the newer release that wrote them, as contracts do; any other is read without them.
/// History shows the event as a `google.protobuf.Struct`.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// #[derive(Debug, Clone, PartialEq)]
/// enum CounterEvent {
///     Increased(Increased),
/// }
///
/// #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
/// struct Increased {
///     by: u32,
/// }
///
/// millrace_proto::json_event_codec! {
///     CounterEvent { Increased = 1 }
/// }
///
/// use millrace_core::EventCodec as _;
/// let event = CounterEvent::Increased(Increased { by: 2 });
/// let stored = event.encode();
/// assert_eq!(stored.event_type, "Increased");
/// assert_eq!(CounterEvent::decode("Increased", 1, &stored.data), Ok(event));
/// ```
///
/// ```compile_fail,E0080
/// # use serde::{Deserialize, Serialize};
/// # enum CounterEvent { Increased(Increased) }
/// # #[derive(Serialize, Deserialize)]
/// # struct Increased;
/// millrace_proto::json_event_codec! {
///     CounterEvent { Increased = 1, Increased = 2 }
/// }
/// ```
#[macro_export]
macro_rules! json_event_codec {
    ($event:ident { $($variant:ident = $schema:literal),+ $(,)? }) => {
        const _: () = {
            use $crate::__private::core::codec::{DecodeError, Encoded, EventCodec, EventMessage, are_distinct, from_json, to_json};

            // By itself: an associated constant would be checked only where it is used.
            const _: () = assert!(are_distinct(&[$(stringify!($variant)),+]), "an event is listed twice");

            impl EventCodec for $event {
                const EVENT_TYPES: &'static [&'static str] = &[$(stringify!($variant)),+];

                fn encode(&self) -> Encoded {
                    match self {
                        $(Self::$variant(event) => Encoded {
                            event_type: stringify!($variant),
                            schema_version: $schema,
                            data: to_json(event),
                        }),+
                    }
                }

                fn decode(
                    event_type: &str,
                    schema_version: u32,
                    data: &$crate::__private::Fields,
                ) -> Result<Self, DecodeError> {
                    $(if event_type == stringify!($variant) {
                        return from_json::<$variant>(schema_version, $schema, data).map(Self::$variant);
                    })+
                    Err(DecodeError::UnknownType)
                }

                fn message(
                    event_type: &str,
                    schema_version: u32,
                    data: &$crate::__private::Fields,
                ) -> Result<EventMessage, DecodeError> {
                    Self::decode(event_type, schema_version, data)?;
                    Ok(EventMessage {
                        name: "google.protobuf.Struct".to_owned(),
                        bytes: $crate::__private::prost::Message::encode_to_vec(&$crate::__private::structure(data)),
                    })
                }
            }
        };
    };
}

/// Fields as the well-known type that JSON has among messages.
pub fn structure(fields: &serde_json::Map<String, serde_json::Value>) -> prost_types::Struct {
    prost_types::Struct { fields: fields.iter().map(|(name, field)| (name.clone(), value(field))).collect() }
}

fn value(json: &serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(truth) => Kind::BoolValue(*truth),
        // A double is all that a Struct has for numbers.
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.iter().map(value).collect() })
        }
        Json::Object(fields) => Kind::StructValue(structure(fields)),
    };
    prost_types::Value { kind: Some(kind) }
}
