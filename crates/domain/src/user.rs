//! Users.

use serde::{Deserialize, Serialize};

use crate::{Aggregate, AggregateType, Email, Label, Misfit, Timestamp, UniqueKey, UserId};

/// What can be asked of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserCommand {
    /// Create it.
    CreateUser {
        /// Its id.
        user_id: UserId,
        /// Its e-mail address, unique within the tenant.
        email: Email,
        /// Its display name.
        name: Label,
    },
    /// Change what is named, keep the rest.
    UpdateUserProfile {
        /// The new e-mail address.
        email: Option<Email>,
        /// The new display name.
        name: Option<Label>,
    },
}

/// What can have happened to a user. Events are a storage format: a change here is a change of every stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserEvent {
    /// It was created.
    UserCreated {
        /// Its id.
        user_id: UserId,
        /// Its e-mail address.
        email: Email,
        /// Its display name.
        name: Label,
        /// When.
        created_at: Timestamp,
    },
    /// What is named was set; the rest stayed.
    UserProfileUpdated {
        /// Its id.
        user_id: UserId,
        /// The new e-mail address.
        email: Option<Email>,
        /// The new display name.
        name: Option<Label>,
        /// When.
        updated_at: Timestamp,
    },
}

/// Why a command on a user is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserRefusal {
    /// There is no such user.
    #[error("the user does not exist")]
    NotFound,
    /// There is one already.
    #[error("the user exists already")]
    AlreadyExists,
}

/// A user's present state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    user_id: UserId,
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
    const TYPE: AggregateType = AggregateType::of("user");
    const STATE_SCHEMA: u32 = 1;
    type Command = UserCommand;
    type Event = UserEvent;
    type Refusal = UserRefusal;

    fn decide(
        state: Option<&Self>,
        command: &UserCommand,
        at: Timestamp,
    ) -> Result<Vec<UserEvent>, UserRefusal> {
        match (state, command.clone()) {
            (None, UserCommand::CreateUser { user_id, email, name }) => {
                Ok(vec![UserEvent::UserCreated { user_id, email, name, created_at: at }])
            }
            (Some(_), UserCommand::CreateUser { .. }) => Err(UserRefusal::AlreadyExists),
            (None, UserCommand::UpdateUserProfile { .. }) => Err(UserRefusal::NotFound),
            (Some(user), UserCommand::UpdateUserProfile { email, name }) => {
                Ok(vec![UserEvent::UserProfileUpdated { user_id: user.user_id, email, name, updated_at: at }])
            }
        }
    }

    fn evolve(state: Option<Self>, event: &UserEvent) -> Result<Self, Misfit> {
        match (state, event.clone()) {
            (None, UserEvent::UserCreated { user_id, email, name, .. }) => Ok(Self { user_id, email, name }),
            (Some(user), UserEvent::UserProfileUpdated { user_id, email, name, .. })
                if user_id == user.user_id =>
            {
                Ok(Self { email: email.unwrap_or(user.email), name: name.unwrap_or(user.name), ..user })
            }
            (Some(_), UserEvent::UserCreated { .. }) => Err(Misfit("a user is created once")),
            (None, UserEvent::UserProfileUpdated { .. }) => {
                Err(Misfit("a user is created before it changes"))
            }
            (Some(_), UserEvent::UserProfileUpdated { .. }) => Err(Misfit("the event names another user")),
        }
    }

    fn unique_keys(&self) -> Vec<UniqueKey> {
        vec![UniqueKey { scope: Self::EMAIL_KEY, value: self.email.normalised() }]
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};
    use uuid::Uuid;

    use super::*;
    use crate::{
        Decision, Root,
        aggregate::testing::{given, noon, send},
    };

    fn id() -> UserId {
        UserId(Uuid::from_u128(1))
    }

    fn email(text: &str) -> Email {
        Email::try_from(text.to_owned()).unwrap()
    }

    fn name(text: &str) -> Label {
        Label::try_from(text.to_owned()).unwrap()
    }

    fn create() -> UserCommand {
        UserCommand::CreateUser { user_id: id(), email: email("john@example.com"), name: name("John") }
    }

    fn created() -> UserEvent {
        UserEvent::UserCreated {
            user_id: id(),
            email: email("john@example.com"),
            name: name("John"),
            created_at: noon(),
        }
    }

    fn renamed(to: &str) -> UserEvent {
        UserEvent::UserProfileUpdated { user_id: id(), email: None, name: Some(name(to)), updated_at: noon() }
    }

    #[test]
    fn a_user_is_created() {
        given::<User>(&[]).when(create()).then(&[created()]);
    }

    #[test]
    fn a_user_is_created_once() {
        given::<User>(&[created()]).when(create()).then_refused(UserRefusal::AlreadyExists);
    }

    #[test]
    fn a_profile_changes_in_what_the_command_names() {
        given::<User>(&[created()])
            .when(UserCommand::UpdateUserProfile { email: None, name: Some(name("Jack")) })
            .then(&[renamed("Jack")]);
        let user = User::evolve(User::evolve(None, &created()).ok(), &renamed("Jack")).unwrap();
        assert_eq!(user, User { user_id: id(), email: email("john@example.com"), name: name("Jack") });
    }

    #[test]
    fn a_profile_without_a_user_cannot_change() {
        given::<User>(&[])
            .when(UserCommand::UpdateUserProfile { email: None, name: Some(name("Jack")) })
            .then_refused(UserRefusal::NotFound);
    }

    #[test]
    fn a_user_holds_its_address_in_normal_form() {
        let event = UserEvent::UserProfileUpdated {
            user_id: id(),
            email: Some(email("New@Example.com")),
            name: None,
            updated_at: noon(),
        };
        let user = User::evolve(User::evolve(None, &created()).ok(), &event).unwrap();
        assert_eq!(user.unique_keys(), [UniqueKey { scope: "user.email", value: "new@example.com".into() }]);
    }

    #[test]
    fn events_that_do_not_fit_are_misfits() {
        assert!(User::evolve(None, &renamed("Jack")).is_err());
        let user = User::evolve(None, &created()).unwrap();
        assert!(User::evolve(Some(user.clone()), &created()).is_err());
        let foreign = UserEvent::UserProfileUpdated {
            user_id: UserId(Uuid::from_u128(2)),
            email: None,
            name: None,
            updated_at: noon(),
        };
        assert!(User::evolve(Some(user), &foreign).is_err());
    }

    #[test]
    fn the_form_of_the_state_changes_only_with_its_schema() {
        let user = User::evolve(None, &created()).unwrap();
        let form = serde_json::json!({
            "user_id": "00000000-0000-0000-0000-000000000001",
            "email": "john@example.com",
            "name": "John",
        });
        assert_eq!((User::STATE_SCHEMA, serde_json::to_value(user).unwrap()), (1, form));
    }

    fn any_command() -> impl Strategy<Value = UserCommand> {
        let mail = "[a-z]{1,5}@[a-z]{1,5}".prop_map(|t| email(&t));
        let label = "[a-zA-Z é]{0,8}x".prop_map(|t| name(&t));
        prop_oneof![
            (mail.clone(), label.clone()).prop_map(|(email, name)| UserCommand::CreateUser {
                user_id: id(),
                email,
                name
            }),
            (option::of(mail), option::of(label))
                .prop_map(|(email, name)| UserCommand::UpdateUserProfile { email, name }),
        ]
    }

    proptest! {
        #[test]
        fn evolve_accepts_every_decision_and_a_repeated_command_adds_nothing(commands in vec(any_command(), 1..30)) {
            let mut root = Root::<User>::default();
            for (n, command) in commands.iter().enumerate() {
                let (after, first) = send(root, &n.to_string(), 1, command);
                let (again, second) = send(after.clone(), &n.to_string(), 1, command);
                prop_assert_eq!(&again, &after);
                prop_assert_eq!(first.is_ok(), matches!(second, Ok(Decision::Replay(_))));
                let kept = serde_json::to_string(&after).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Root<User>>(&kept).unwrap(), &after, "a snapshot");
                root = after;
            }
        }
    }
}
