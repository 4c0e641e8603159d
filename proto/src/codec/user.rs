//! Users' events.

use millrace_domain::user::UserEvent;
use serde_json::{Map, Value};

use super::{
    DecodeError, Encoded, EventCodec, email, field, from_json, name, time_from_proto, time_to_proto, to_json,
};
use crate::{
    event::{UserCreated, UserProfileUpdated},
    query::recorded_event::Payload,
};

const USER_CREATED: &str = "UserCreated";
const USER_PROFILE_UPDATED: &str = "UserProfileUpdated";

impl EventCodec for UserEvent {
    const EVENT_TYPES: &'static [&'static str] = &[USER_CREATED, USER_PROFILE_UPDATED];

    fn encode(&self) -> Encoded {
        match self.clone() {
            Self::UserCreated { user_id, email, name, created_at } => Encoded {
                event_type: USER_CREATED,
                schema_version: 1,
                data: to_json(&UserCreated {
                    user_id: user_id.to_string(),
                    email: email.into(),
                    name: name.into(),
                    created_at: Some(time_to_proto(created_at)),
                }),
            },
            Self::UserProfileUpdated { user_id, email, name, updated_at } => Encoded {
                event_type: USER_PROFILE_UPDATED,
                schema_version: 1,
                data: to_json(&UserProfileUpdated {
                    user_id: user_id.to_string(),
                    email: email.map(String::from),
                    name: name.map(String::from),
                    updated_at: Some(time_to_proto(updated_at)),
                }),
            },
        }
    }

    fn decode(event_type: &str, schema_version: u32, data: &Map<String, Value>) -> Result<Self, DecodeError> {
        match event_type {
            USER_CREATED => {
                let message: UserCreated = from_json(schema_version, data)?;
                Ok(Self::UserCreated {
                    user_id: field("userId", message.user_id.parse())?,
                    email: email(message.email)?,
                    name: name(message.name)?,
                    created_at: field("createdAt", time_from_proto(message.created_at))?,
                })
            }
            USER_PROFILE_UPDATED => {
                let message: UserProfileUpdated = from_json(schema_version, data)?;
                Ok(Self::UserProfileUpdated {
                    user_id: field("userId", message.user_id.parse())?,
                    email: message.email.map(email).transpose()?,
                    name: message.name.map(name).transpose()?,
                    updated_at: field("updatedAt", time_from_proto(message.updated_at))?,
                })
            }
            _ => Err(DecodeError::UnknownType),
        }
    }
}

/// An event's message, as it was written.
pub(super) fn payload(
    event_type: &str,
    schema_version: u32,
    data: &Map<String, Value>,
) -> Result<Payload, DecodeError> {
    match UserEvent::decode(event_type, schema_version, data)? {
        UserEvent::UserCreated { .. } => from_json(schema_version, data).map(Payload::UserCreated),
        UserEvent::UserProfileUpdated { .. } => {
            from_json(schema_version, data).map(Payload::UserProfileUpdated)
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_domain::{Email, Label, Timestamp, UserId};
    use proptest::{option, prelude::*};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn any_event() -> impl Strategy<Value = UserEvent> {
        let id = any::<u128>().prop_map(|n| UserId(Uuid::from_u128(n)));
        let email = "[a-zA-Z.+]{1,9}@[a-z]{1,9}".prop_map(|t| Email::try_from(t).unwrap());
        let name = "\\PC{0,20}x".prop_map(|t| Label::try_from(t).unwrap());
        let time = (0..253_402_300_799_000_000_i64).prop_map(Timestamp::from_unix_micros);
        prop_oneof![
            (id.clone(), email.clone(), name.clone(), time.clone()).prop_map(
                |(user_id, email, name, created_at)| UserEvent::UserCreated {
                    user_id,
                    email,
                    name,
                    created_at
                }
            ),
            (id, option::of(email), option::of(name), time).prop_map(|(user_id, email, name, updated_at)| {
                UserEvent::UserProfileUpdated { user_id, email, name, updated_at }
            }),
        ]
    }

    /// The JSON of a message of this aggregate.
    fn as_json(payload: Payload) -> Option<Map<String, Value>> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "no other message is this aggregate's")]
        match payload {
            Payload::UserCreated(message) => Some(to_json(&message)),
            Payload::UserProfileUpdated(message) => Some(to_json(&message)),
            _ => None,
        }
    }

    proptest! {
        #[test]
        fn an_event_survives_its_storage(event in any_event()) {
            let stored = event.encode();
            prop_assert!(UserEvent::EVENT_TYPES.contains(&stored.event_type));
            prop_assert_eq!(UserEvent::decode(stored.event_type, stored.schema_version, &stored.data), Ok(event));
            let shown = payload(stored.event_type, stored.schema_version, &stored.data).map(as_json);
            prop_assert_eq!(shown, Ok(Some(stored.data)));
        }
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn created() -> Map<String, Value> {
        object(json!({
            "userId": "00000000-0000-0000-0000-000000000001",
            "email": "john@example.com",
            "name": "John",
            "createdAt": "2026-11-23T12:00:00.000001Z",
        }))
    }

    #[test]
    fn the_stored_form_is_the_canonical_json_of_the_contract() {
        let event = UserEvent::decode(USER_CREATED, 1, &created()).unwrap();
        assert_eq!(event.encode().data, created());
    }

    #[test]
    fn a_field_of_a_newer_release_is_passed_over() {
        let mut newer = created();
        newer.insert("nickname".into(), json!({"deep": [1]}));
        assert_eq!(
            UserEvent::decode(USER_CREATED, 1, &newer),
            UserEvent::decode(USER_CREATED, 1, &created())
        );
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        assert_eq!(UserEvent::decode("UserErased", 1, &created()), Err(DecodeError::UnknownType));
        assert!(matches!(
            UserEvent::decode(USER_CREATED, 2, &created()),
            Err(DecodeError::NewerSchema { found: 2, newest: 1 })
        ));
        for (name, bad) in [("email", json!("nobody")), ("userId", json!("7")), ("name", json!(""))] {
            let mut data = created();
            data.insert(name.into(), bad);
            let error = UserEvent::decode(USER_CREATED, 1, &data).unwrap_err();
            assert!(matches!(error, DecodeError::BadField { field, .. } if field == name), "{error}");
        }
        let mut data = created();
        data.insert("email".into(), json!({"secret": 1}));
        let error = UserEvent::decode(USER_CREATED, 1, &data).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
