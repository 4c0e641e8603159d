//! User profiles.

use millrace_domain::{
    Aggregate, AggregateType,
    user::{User, UserEvent},
};
use millrace_proto::Envelope;
use millrace_read_models::UserChange;

use super::{Place, Projection, provenance, versions};
use crate::Failure;

/// Users into user profiles.
#[derive(Debug)]
pub enum Users {}

impl Projection for Users {
    type Event = UserEvent;
    type Change = UserChange;

    const NAME: &'static str = "user-profiles";
    const AGGREGATE: AggregateType = User::TYPE;

    fn change(envelope: &Envelope, event: UserEvent) -> Result<UserChange, Failure> {
        let tenant = envelope.tenant_id.clone();
        let provenance = provenance(envelope);
        match event {
            UserEvent::UserCreated { user_id, email, name, created_at } => {
                let (from, to) = versions(envelope, user_id.0, Place::First)?;
                Ok(UserChange {
                    tenant,
                    user_id,
                    from,
                    to,
                    created_at: Some(created_at),
                    email: Some(email),
                    name: Some(name),
                    updated_at: created_at,
                    provenance,
                })
            }
            UserEvent::UserProfileUpdated { user_id, email, name, updated_at } => {
                let (from, to) = versions(envelope, user_id.0, Place::Later)?;
                Ok(UserChange {
                    tenant,
                    user_id,
                    from,
                    to,
                    created_at: None,
                    email,
                    name,
                    updated_at,
                    provenance,
                })
            }
        }
    }
}
