//! Between users and their contracts.

use millrace_core::{DecodeError, Versioned, codec::field};
use millrace_proto::time_to_proto;

use super::{UserCreated, UserEvent, UserProfileUpdated};
use crate::{
    Email, Label, UserProfile,
    contracts::{
        command::{CreateUserRequest, UpdateUserProfileRequest},
        event, query,
    },
};

millrace_proto::event_codec! {
    UserEvent in crate::contracts::event {
        UserCreated = 1,
        UserProfileUpdated = 1,
    }
}

millrace_proto::command_requests! {
    CreateUserRequest creates ();
    UpdateUserProfileRequest updates user_id;
}

impl From<&UserCreated> for event::UserCreated {
    fn from(UserCreated { email, name }: &UserCreated) -> Self {
        Self { email: email.as_str().to_owned(), name: name.as_str().to_owned() }
    }
}

impl TryFrom<event::UserCreated> for UserCreated {
    type Error = DecodeError;

    fn try_from(message: event::UserCreated) -> Result<Self, DecodeError> {
        Ok(Self {
            email: field("email", Email::try_from(message.email))?,
            name: field("name", Label::try_from(message.name))?,
        })
    }
}

impl From<&UserProfileUpdated> for event::UserProfileUpdated {
    fn from(UserProfileUpdated { email, name }: &UserProfileUpdated) -> Self {
        Self { email: email.clone().map(String::from), name: name.clone().map(String::from) }
    }
}

impl TryFrom<event::UserProfileUpdated> for UserProfileUpdated {
    type Error = DecodeError;

    fn try_from(message: event::UserProfileUpdated) -> Result<Self, DecodeError> {
        Ok(Self {
            email: field("email", message.email.map(Email::try_from).transpose())?,
            name: field("name", message.name.map(Label::try_from).transpose())?,
        })
    }
}

impl From<Versioned<UserProfile>> for query::UserProfile {
    fn from(Versioned { version, row, .. }: Versioned<UserProfile>) -> Self {
        Self {
            user_id: row.user_id.to_string(),
            email: row.email.into(),
            name: row.name.into(),
            created_at: Some(time_to_proto(row.created_at)),
            updated_at: Some(time_to_proto(row.updated_at)),
            version,
        }
    }
}
