//! User profiles.

use millrace_core::{Change, Patch, Projection, ProjectionName, Recorded, Row, Timestamp};

use super::{User, UserCreated, UserEvent, UserProfileUpdated};
use crate::{Email, Label, UserId};

/// A user as queries show it.
#[derive(Debug, Clone, PartialEq, Eq, Row)]
#[row(resource = "user", key = user_id, lookup(name = "by-email", by = email, order_by = updated_at))]
pub struct UserProfile {
    /// Its id.
    pub user_id: UserId,
    /// Its e-mail address, as the user wrote it.
    pub email: Email,
    /// Its display name.
    pub name: Label,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Projection for UserProfile {
    const NAME: ProjectionName = ProjectionName::new("user-profiles", 1);
    type Aggregate = User;
    type Row = Self;

    fn apply(recorded: &Recorded<UserEvent>) -> Change<Self> {
        match &recorded.event {
            UserEvent::UserCreated(UserCreated { email, name }) => Change::Put(Self {
                user_id: recorded.aggregate_id(),
                email: email.clone(),
                name: name.clone(),
                created_at: recorded.time,
                updated_at: recorded.time,
            }),
            UserEvent::UserProfileUpdated(UserProfileUpdated { email, name }) => Change::Update(
                Patch::new()
                    .set_if(Self::EMAIL, email.clone())
                    .set_if(Self::NAME_FIELD, name.clone())
                    .set(Self::UPDATED_AT, recorded.time),
            ),
        }
    }
}
