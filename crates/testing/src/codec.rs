//! How an aggregate's events are stored and read back.

use std::fmt::Debug;

use millrace_core::{DecodeError, Encoded, EventCodec};
use serde_json::{Map, json};

/// Asserts that events are stored and read back unchanged, and that damage is an error and no panic. `examples` must
/// have one of each event type at least: those with optional fields set and unset are worth an example each.
#[track_caller]
pub fn assert_codec<E: EventCodec + Debug + PartialEq>(examples: &[E]) {
    for event_type in E::EVENT_TYPES {
        let is_shown = examples.iter().any(|event| event.encode().event_type == *event_type);
        assert!(is_shown, "there is no example of the event type {event_type}");
    }
    for event in examples {
        let encoded = event.encode();
        let (event_type, schema) = (encoded.event_type, encoded.schema_version);
        assert!(E::EVENT_TYPES.contains(&event_type), "{event_type} is missing among EVENT_TYPES");
        assert!(schema >= 1, "{event_type}: schema versions begin at 1");
        match E::decode(event_type, schema, &encoded.data) {
            Ok(read) => assert_eq!(read, *event, "{event_type} read back"),
            Err(error) => panic!("{event_type} cannot be read back: {error}"),
        }
        match E::message(event_type, schema, &encoded.data) {
            Ok(message) => {
                let is_named = message.name.rsplit('.').next() == Some(event_type);
                // Events of `json_event_codec` have no contract.
                let has_contract = message.name != "google.protobuf.Struct";
                assert!(is_named || !has_contract, "{event_type}: {}", message.name);
                if has_contract {
                    assert_unknown_fields_are_told::<E>(&encoded);
                }
            }
            Err(error) => panic!("{event_type} has no message: {error}"),
        }
        assert_damage_is_told::<E>(&encoded);
        let newer = E::decode(event_type, schema + 1, &encoded.data);
        assert!(
            matches!(newer, Err(DecodeError::NewerSchema { .. })),
            "{event_type} of a newer schema is read as {newer:?}"
        );
    }
    let unknown = E::decode("NoSuchEvent", 1, &Map::new());
    assert_eq!(unknown, Err(DecodeError::UnknownType), "an event type that nobody knows");
}

/// Asserts that a field of a newer release is an error: without it the event would be folded otherwise than there.
#[track_caller]
fn assert_unknown_fields_are_told<E: EventCodec + Debug + PartialEq>(encoded: &Encoded) {
    let mut newer = encoded.data.clone();
    newer.insert("fieldOfANewerRelease".to_owned(), json!(1));
    let decoded = E::decode(encoded.event_type, encoded.schema_version, &newer);
    assert_eq!(decoded, Err(DecodeError::UnknownField), "{} with a new field", encoded.event_type);
}

/// Asserts that a field with a value of another type is an error, by both ways to read an event.
#[track_caller]
fn assert_damage_is_told<E: EventCodec + Debug>(encoded: &Encoded) {
    for field in encoded.data.keys() {
        let mut damaged = encoded.data.clone();
        damaged.insert(field.clone(), json!([[]]));
        let (event_type, schema) = (encoded.event_type, encoded.schema_version);
        let decoded = E::decode(event_type, schema, &damaged).map(drop);
        assert!(decoded.is_err(), "{event_type} is read although its {field} is damaged");
        assert_eq!(
            E::message(event_type, schema, &damaged).map(drop),
            decoded,
            "{event_type}, damaged {field}"
        );
    }
}
