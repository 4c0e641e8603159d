//! {{Agg}}: commands, events, state, and the rules between them.

pub mod commands;
pub mod contract;
pub mod queries;
pub mod summary;

use millrace_core::{Aggregate, AggregateType, EvolveError, IndexValue, Invalid, Rejection, Timestamp};
use serde::{Deserialize, Serialize};

millrace_core::uuid_id! {
    /// The id of a {{agg}}.
    pub struct {{Agg}}Id;
}

/// A title: 1 to 200 characters, none of them a control character, not blank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Title(String);

impl TryFrom<String> for Title {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        if text.trim().is_empty() || text.chars().count() > 200 || text.chars().any(char::is_control) {
            Err(Invalid("must be 1 to 200 characters, not blank, without control characters"))
        } else {
            Ok(Self(text))
        }
    }
}

impl From<Title> for String {
    fn from(title: Title) -> Self {
        title.0
    }
}

/// Where a {{agg}} stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// It was created.
    Open,
    /// It was closed.
    Closed,
}

impl IndexValue for Status {
    fn index_value(&self) -> Option<String> {
        Some(match self {
            Self::Open => "OPEN".to_owned(),
            Self::Closed => "CLOSED".to_owned(),
        })
    }
}

/// The commands on a {{agg}}.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum {{Agg}}Command {
    /// Create it.
    Create {
        /// Its title.
        title: Title,
    },
    /// Close it.
    Close,
}

/// The events of a {{agg}}. Each has a message of its own name in the contracts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum {{Agg}}Event {
    /// It was created.
    {{Agg}}Created({{Agg}}Created),
    /// It was closed.
    {{Agg}}Closed({{Agg}}Closed),
}

/// One was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct {{Agg}}Created {
    /// Its title.
    pub title: Title,
}

/// One was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct {{Agg}}Closed;

/// Why a command on a {{agg}} is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum {{Agg}}Error {
    /// There is none.
    #[error("the {{agg}} does not exist")]
    NotFound,
    /// There is one already.
    #[error("the {{agg}} exists already")]
    AlreadyExists,
    /// It was closed before.
    #[error("the {{agg}} is closed already")]
    Closed,
}

impl From<{{Agg}}Error> for Rejection {
    fn from(error: {{Agg}}Error) -> Self {
        match error {
            {{Agg}}Error::NotFound => Self::NotFound,
            {{Agg}}Error::AlreadyExists => Self::AlreadyExists,
            {{Agg}}Error::Closed => Self::Rule { kind: "{{AGG}}_CLOSED", description: error.to_string() },
        }
    }
}

/// The present state: as much of it as decisions need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct {{Agg}} {
    status: Status,
}

impl Aggregate for {{Agg}} {
    const TYPE: AggregateType = AggregateType::new("{{agg}}");
    const STATE_SCHEMA: u32 = 1;
    type Command = {{Agg}}Command;
    type Event = {{Agg}}Event;
    type Error = {{Agg}}Error;

    fn decide(
        state: Option<&Self>,
        command: &{{Agg}}Command,
        _: Timestamp,
    ) -> Result<Vec<{{Agg}}Event>, {{Agg}}Error> {
        match (state, command.clone()) {
            (None, {{Agg}}Command::Create { title }) => Ok(vec![{{Agg}}Event::{{Agg}}Created({{Agg}}Created { title })]),
            (Some(_), {{Agg}}Command::Create { .. }) => Err({{Agg}}Error::AlreadyExists),
            (None, {{Agg}}Command::Close) => Err({{Agg}}Error::NotFound),
            (Some(Self { status: Status::Open }), {{Agg}}Command::Close) => {
                Ok(vec![{{Agg}}Event::{{Agg}}Closed({{Agg}}Closed)])
            }
            (Some(Self { status: Status::Closed }), {{Agg}}Command::Close) => Err({{Agg}}Error::Closed),
        }
    }

    fn evolve(state: Option<Self>, event: &{{Agg}}Event) -> Result<Self, EvolveError> {
        match (state, event) {
            (None, {{Agg}}Event::{{Agg}}Created(_)) => Ok(Self { status: Status::Open }),
            (Some(_), {{Agg}}Event::{{Agg}}Created(_)) => Err(EvolveError("a {{agg}} is created once")),
            (None, {{Agg}}Event::{{Agg}}Closed(_)) => Err(EvolveError("a {{agg}} is created before it is closed")),
            (Some(_), {{Agg}}Event::{{Agg}}Closed(_)) => Ok(Self { status: Status::Closed }),
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_testing::{aggregate_id, assert_codec, given, project, time_of};

    use super::{summary::{{Agg}}Summary, *};

    fn title() -> Title {
        Title::try_from("a title".to_owned()).unwrap()
    }

    fn created() -> {{Agg}}Event {
        {{Agg}}Event::{{Agg}}Created({{Agg}}Created { title: title() })
    }

    fn closed() -> {{Agg}}Event {
        {{Agg}}Event::{{Agg}}Closed({{Agg}}Closed)
    }

    #[test]
    fn one_is_created_once() {
        let create = {{Agg}}Command::Create { title: title() };
        given::<{{Agg}}>(&[]).when(create.clone()).then(&[created()]);
        given::<{{Agg}}>(&[created()]).when(create).then_error({{Agg}}Error::AlreadyExists);
    }

    #[test]
    fn one_is_closed_once() {
        given::<{{Agg}}>(&[created()]).when({{Agg}}Command::Close).then(&[closed()]);
        given::<{{Agg}}>(&[created(), closed()]).when({{Agg}}Command::Close).then_error({{Agg}}Error::Closed);
        given::<{{Agg}}>(&[]).when({{Agg}}Command::Close).then_error({{Agg}}Error::NotFound);
    }

    #[test]
    fn events_are_stored_as_they_are() {
        assert_codec(&[created(), closed()]);
    }

    #[test]
    fn a_summary_shows_the_{{agg_snake}}_as_it_is() {
        project::<{{Agg}}Summary, _>(&[created(), closed()]).then(Some({{Agg}}Summary {
            {{agg_snake}}_id: aggregate_id(1),
            title: title(),
            status: Status::Closed,
            created_at: time_of(1),
            updated_at: time_of(2),
        }));
    }
}
