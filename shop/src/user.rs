//! Users.

pub mod contract;
pub mod profile;

use millrace_core::{Aggregate, AggregateType, EvolveError, Rejection, Timestamp, UniqueKey};
use serde::{Deserialize, Serialize};

use crate::{Email, Label};

/// The commands of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserCommand {
    /// Create it.
    CreateUser {
        /// Its e-mail address, unique within the tenant.
        email: Email,
        /// Its display name.
        name: Label,
    },
    /// Changes the given fields, keeps the others.
    UpdateUserProfile {
        /// The new e-mail address.
        email: Option<Email>,
        /// The new display name.
        name: Option<Label>,
    },
}

/// The events of a user. Events are a storage format: a change here is a change of every stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserEvent {
    /// It was created.
    UserCreated(UserCreated),
    /// Its profile was changed.
    UserProfileUpdated(UserProfileUpdated),
}

/// A user was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserCreated {
    /// Its e-mail address.
    pub email: Email,
    /// Its display name.
    pub name: Label,
}

/// The values that are named were set; the rest stayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserProfileUpdated {
    /// The new e-mail address.
    pub email: Option<Email>,
    /// The new display name.
    pub name: Option<Label>,
}

/// Why a command on a user is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// The user does not exist.
    #[error("the user does not exist")]
    NotFound,
    /// There is one already.
    #[error("the user exists already")]
    AlreadyExists,
}

impl From<UserError> for Rejection {
    fn from(refusal: UserError) -> Self {
        match refusal {
            UserError::NotFound => Self::NotFound,
            UserError::AlreadyExists => Self::AlreadyExists,
        }
    }
}

/// A user's present state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    email: Email,
    name: Label,
}

impl User {
    /// The scope of the unique key that a user's e-mail address is.
    pub const EMAIL_KEY: &'static str = "user.email";

    /// Its e-mail address.
    pub fn email(&self) -> &Email {
        &self.email
    }

    /// Its display name.
    pub fn name(&self) -> &Label {
        &self.name
    }
}

impl Aggregate for User {
    const TYPE: AggregateType = AggregateType::new("user");
    const STATE_SCHEMA: u32 = 1;
    type Command = UserCommand;
    type Event = UserEvent;
    type Error = UserError;

    fn decide(
        state: Option<&Self>,
        command: &UserCommand,
        _: Timestamp,
    ) -> Result<Vec<UserEvent>, UserError> {
        match (state, command.clone()) {
            (None, UserCommand::CreateUser { email, name }) => {
                Ok(vec![UserEvent::UserCreated(UserCreated { email, name })])
            }
            (Some(_), UserCommand::CreateUser { .. }) => Err(UserError::AlreadyExists),
            (None, UserCommand::UpdateUserProfile { .. }) => Err(UserError::NotFound),
            (Some(_), UserCommand::UpdateUserProfile { email, name }) => {
                Ok(vec![UserEvent::UserProfileUpdated(UserProfileUpdated { email, name })])
            }
        }
    }

    fn evolve(state: Option<Self>, event: &UserEvent) -> Result<Self, EvolveError> {
        match (state, event.clone()) {
            (None, UserEvent::UserCreated(UserCreated { email, name })) => Ok(Self { email, name }),
            (Some(user), UserEvent::UserProfileUpdated(UserProfileUpdated { email, name })) => {
                Ok(Self { email: email.unwrap_or(user.email), name: name.unwrap_or(user.name) })
            }
            (Some(_), UserEvent::UserCreated(_)) => Err(EvolveError("a user is created once")),
            (None, UserEvent::UserProfileUpdated(_)) => {
                Err(EvolveError("a user is created before it changes"))
            }
        }
    }

    fn unique_keys(&self) -> Vec<UniqueKey> {
        vec![UniqueKey { scope: Self::EMAIL_KEY, value: self.email.normalised() }]
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::UserProfile;
    use millrace_core::{
        AggregateState,
        aggregate::testing::{Decision, send},
    };
    use millrace_testing::{aggregate_id, assert_codec, given, project, time_of};

    fn email(text: &str) -> Email {
        Email::try_from(text.to_owned()).unwrap()
    }

    fn name(text: &str) -> Label {
        Label::try_from(text.to_owned()).unwrap()
    }

    fn create() -> UserCommand {
        UserCommand::CreateUser { email: email("john@example.com"), name: name("John") }
    }

    fn created() -> UserEvent {
        UserEvent::UserCreated(UserCreated { email: email("john@example.com"), name: name("John") })
    }

    fn renamed(to: &str) -> UserEvent {
        UserEvent::UserProfileUpdated(UserProfileUpdated { email: None, name: Some(name(to)) })
    }

    #[test]
    fn a_user_is_created() {
        given::<User>(&[]).when(create()).then(&[created()]);
    }

    #[test]
    fn a_user_is_created_once() {
        given::<User>(&[created()]).when(create()).then_error(UserError::AlreadyExists);
    }

    #[test]
    fn a_profile_changes_in_what_the_command_names() {
        given::<User>(&[created()])
            .when(UserCommand::UpdateUserProfile { email: None, name: Some(name("Jack")) })
            .then(&[renamed("Jack")]);
        let user = User::evolve(User::evolve(None, &created()).ok(), &renamed("Jack")).unwrap();
        assert_eq!(user, User { email: email("john@example.com"), name: name("Jack") });
    }

    #[test]
    fn a_profile_without_a_user_cannot_change() {
        given::<User>(&[])
            .when(UserCommand::UpdateUserProfile { email: None, name: Some(name("Jack")) })
            .then_error(UserError::NotFound);
    }

    #[test]
    fn a_user_holds_its_address_in_normal_form() {
        let event = UserEvent::UserProfileUpdated(UserProfileUpdated {
            email: Some(email("New@Example.com")),
            name: None,
        });
        let user = User::evolve(User::evolve(None, &created()).ok(), &event).unwrap();
        assert_eq!(user.unique_keys(), [UniqueKey { scope: "user.email", value: "new@example.com".into() }]);
    }

    #[test]
    fn events_that_do_not_fit_are_misfits() {
        assert!(User::evolve(None, &renamed("Jack")).is_err());
        let user = User::evolve(None, &created()).unwrap();
        assert!(User::evolve(Some(user), &created()).is_err());
    }

    #[test]
    fn the_form_of_the_state_changes_only_with_its_schema() {
        let user = User::evolve(None, &created()).unwrap();
        let form = serde_json::json!({
            "email": "john@example.com",
            "name": "John",
        });
        assert_eq!((User::STATE_SCHEMA, serde_json::to_value(user).unwrap()), (1, form));
    }

    #[test]
    fn events_are_stored_as_they_are() {
        let address = UserEvent::UserProfileUpdated(UserProfileUpdated {
            email: Some(email("New@Example.com")),
            name: None,
        });
        assert_codec(&[created(), renamed("Jack"), address]);
    }

    #[test]
    fn a_profile_shows_the_user_as_it_is() {
        let profile = |text: &str, version| UserProfile {
            user_id: aggregate_id(1),
            email: email("john@example.com"),
            name: name(text),
            created_at: time_of(1),
            updated_at: time_of(version),
        };
        project::<UserProfile, _>(&[created()]).then(Some(profile("John", 1)));
        project::<UserProfile, _>(&[created(), renamed("Jack")]).then(Some(profile("Jack", 2)));
    }

    fn any_command() -> impl Strategy<Value = UserCommand> {
        let mail = "[a-z]{1,5}@[a-z]{1,5}".prop_map(|t| email(&t));
        let label = "[a-zA-Z é]{0,8}x".prop_map(|t| name(&t));
        prop_oneof![
            (mail.clone(), label.clone()).prop_map(|(email, name)| UserCommand::CreateUser { email, name }),
            (option::of(mail), option::of(label))
                .prop_map(|(email, name)| UserCommand::UpdateUserProfile { email, name }),
        ]
    }

    proptest! {
        #[test]
        fn evolve_accepts_every_decision_and_a_repeated_command_adds_nothing(commands in vec(any_command(), 1..30)) {
            let mut root = AggregateState::<User>::default();
            for (n, command) in commands.iter().enumerate() {
                let (after, first) = send(root, &n.to_string(), command);
                let (again, second) = send(after.clone(), &n.to_string(), command);
                prop_assert_eq!(&again, &after);
                prop_assert_eq!(first.is_ok(), matches!(second, Ok(Decision::Replay(_))));
                let kept = serde_json::to_string(&after).unwrap();
                prop_assert_eq!(&serde_json::from_str::<AggregateState<User>>(&kept).unwrap(), &after, "a snapshot");
                root = after;
            }
        }
    }
}
