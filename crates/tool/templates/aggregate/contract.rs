//! Between {{agg}} and its contracts.

use millrace_core::{DecodeError, Invalid, Versioned, codec::field};
use millrace_proto::time_to_proto;

use super::{Status, Title, {{Agg}}Closed, {{Agg}}Created, {{Agg}}Event, summary::{{Agg}}Summary};
use crate::contracts::{
    command::{Close{{Agg}}Request, Create{{Agg}}Request},
    event, query,
};

millrace_proto::event_codec! {
    {{Agg}}Event in crate::contracts::event {
        {{Agg}}Created = 1,
        {{Agg}}Closed = 1,
    }
}

millrace_proto::command_requests! {
    Create{{Agg}}Request creates ();
    Close{{Agg}}Request updates {{agg_snake}}_id;
}

impl From<&{{Agg}}Created> for event::{{Agg}}Created {
    fn from({{Agg}}Created { title }: &{{Agg}}Created) -> Self {
        Self { title: title.clone().into() }
    }
}

impl TryFrom<event::{{Agg}}Created> for {{Agg}}Created {
    type Error = DecodeError;

    fn try_from(message: event::{{Agg}}Created) -> Result<Self, DecodeError> {
        Ok(Self { title: field("title", Title::try_from(message.title))? })
    }
}

impl From<&{{Agg}}Closed> for event::{{Agg}}Closed {
    fn from({{Agg}}Closed: &{{Agg}}Closed) -> Self {
        Self {}
    }
}

impl TryFrom<event::{{Agg}}Closed> for {{Agg}}Closed {
    type Error = DecodeError;

    fn try_from(_: event::{{Agg}}Closed) -> Result<Self, DecodeError> {
        Ok(Self)
    }
}

impl From<Status> for query::{{Agg}}Status {
    fn from(status: Status) -> Self {
        match status {
            Status::Open => Self::Open,
            Status::Closed => Self::Closed,
        }
    }
}

/// Of the number that the contract has for it.
impl TryFrom<i32> for Status {
    type Error = Invalid;

    fn try_from(number: i32) -> Result<Self, Invalid> {
        match query::{{Agg}}Status::try_from(number) {
            Ok(query::{{Agg}}Status::Open) => Ok(Self::Open),
            Ok(query::{{Agg}}Status::Closed) => Ok(Self::Closed),
            Ok(query::{{Agg}}Status::Unspecified) => Err(Invalid("must be set")),
            Err(_) => Err(Invalid("must be a status that the contract defines")),
        }
    }
}

impl From<Versioned<{{Agg}}Summary>> for query::{{Agg}}Summary {
    fn from(Versioned { version, row, .. }: Versioned<{{Agg}}Summary>) -> Self {
        Self {
            {{agg_snake}}_id: row.{{agg_snake}}_id.to_string(),
            title: row.title.into(),
            status: query::{{Agg}}Status::from(row.status).into(),
            created_at: Some(time_to_proto(row.created_at)),
            updated_at: Some(time_to_proto(row.updated_at)),
            version,
        }
    }
}
