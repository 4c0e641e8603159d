//! Users' profiles.

use millrace_aws::AwsError;
use millrace_domain::{Aggregate, Email, Label, StreamId, TenantId, Timestamp, UserId, user::User};

use crate::{Change, Provenance, flawed};

/// A user as the read model shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// Whose user it is.
    pub tenant: TenantId,
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
    /// The version of the last event in this row.
    pub version: u64,
    /// What made the row so. `None` where the row does not say it, as one that an older release wrote, or not so that it
    /// can be read: the row is no worse for that.
    pub provenance: Option<Provenance>,
}

/// What consecutive events change in a user's row. The first event of a user names every value; a later one only what
/// it sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserChange {
    /// Whose user it is.
    pub tenant: TenantId,
    /// Its id.
    pub user_id: UserId,
    /// The version that the row must have; 0 where there must be no row yet.
    pub from: u64,
    /// The version that the row gets.
    pub to: u64,
    /// When the user was created; set exactly where `from` is 0.
    pub created_at: Option<Timestamp>,
    /// The new e-mail address.
    pub email: Option<Email>,
    /// The new display name.
    pub name: Option<Label>,
    /// When the last of the events happened.
    pub updated_at: Timestamp,
    /// The last of the events, and what it came of.
    pub provenance: Provenance,
}

impl Change for UserChange {
    fn stream(&self) -> StreamId {
        StreamId { tenant: self.tenant.clone(), aggregate_type: User::TYPE, id: self.user_id.0 }
    }

    fn from(&self) -> u64 {
        self.from
    }

    fn to(&self) -> u64 {
        self.to
    }

    fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    fn then(self, next: Self) -> Option<Self> {
        let follows = next.from == self.to && next.user_id == self.user_id && next.tenant == self.tenant;
        // A second creation is flawed. It stays by itself, so that it fails by itself.
        (follows && next.created_at.is_none()).then(|| Self {
            to: next.to,
            email: next.email.or(self.email),
            name: next.name.or(self.name),
            updated_at: next.updated_at,
            provenance: next.provenance,
            ..self
        })
    }
}

impl UserChange {
    /// The first event's values, where this change makes the row.
    pub(crate) fn creation(&self) -> Result<Option<(Timestamp, Email, Label)>, AwsError> {
        if self.to <= self.from {
            return Err(flawed("it does not lead to a newer version"));
        }
        match (self.from, self.created_at, &self.email, &self.name) {
            (0, Some(created_at), Some(email), Some(name)) => {
                Ok(Some((created_at, email.clone(), name.clone())))
            }
            (0, ..) => Err(flawed("it makes a user without a time of creation, an address or a name")),
            (1.., None, ..) => Ok(None),
            (1.., Some(_), ..) => Err(flawed("it creates a user who exists")),
        }
    }

    /// The row after this change. The caller has compared the versions.
    pub(crate) fn applied_to(&self, row: Option<UserRow>) -> Result<UserRow, AwsError> {
        match (self.creation()?, row) {
            (Some((created_at, email, name)), None) => Ok(UserRow {
                tenant: self.tenant.clone(),
                user_id: self.user_id,
                email,
                name,
                created_at,
                updated_at: self.updated_at,
                version: self.to,
                provenance: Some(self.provenance.clone()),
            }),
            (None, Some(row)) => Ok(UserRow {
                email: self.email.clone().unwrap_or(row.email),
                name: self.name.clone().unwrap_or(row.name),
                updated_at: self.updated_at,
                version: self.to,
                provenance: Some(self.provenance.clone()),
                ..row
            }),
            (Some(_), Some(_)) | (None, None) => Err(flawed("it does not start at the row's version")),
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_domain::EventId;
    use uuid::Uuid;

    use super::*;

    /// Of the event of a version.
    fn made_by(version: u64) -> Provenance {
        Provenance {
            event_id: EventId(Uuid::from_u128(version.into())),
            correlation_id: format!("correlation-{version}").parse().unwrap(),
            causation_id: format!("causation-{version}").parse().unwrap(),
            trace_parent: version.is_multiple_of(2).then(|| format!("trace-{version}")),
        }
    }

    fn change(from: u64) -> UserChange {
        UserChange {
            tenant: TenantId::default(),
            user_id: UserId(Uuid::nil()),
            from,
            to: from + 1,
            created_at: None,
            email: None,
            name: None,
            updated_at: Timestamp::from_unix_micros(0),
            provenance: made_by(from + 1),
        }
    }

    #[test]
    fn the_later_of_two_merged_changes_wins_where_both_set_a_value() {
        let name = |text: &str| Some(Label::try_from(text.to_owned()).unwrap());
        let email = Some(Email::try_from("a@b".to_owned()).unwrap());
        let first = UserChange { name: name("first"), email: email.clone(), ..change(1) };
        let later = Timestamp::from_unix_micros(5);
        let merged = first.then(UserChange { name: name("second"), updated_at: later, ..change(2) }).unwrap();
        assert_eq!((merged.from, merged.to), (1, 3));
        assert_eq!((merged.name, merged.email, merged.updated_at), (name("second"), email, later));
        assert_eq!(merged.provenance, made_by(3), "whole, so nothing of the first event is left");
    }

    #[test]
    fn only_changes_of_one_row_that_follow_each_other_merge() {
        assert_eq!(change(1).then(change(3)), None);
        assert_eq!(change(1).then(change(1)), None);
        assert_eq!(change(1).then(UserChange { user_id: UserId(Uuid::max()), ..change(2) }), None);
        assert_eq!(change(1).then(UserChange { tenant: "acme".parse().unwrap(), ..change(2) }), None);
    }
}
