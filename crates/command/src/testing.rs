//! A small application for tests.

use millrace_core::{
    Aggregate, AggregateState, AggregateType, Application, CommandDigest, CommittedEvent, EventId,
    EvolveError, Rejection, StreamId, TenantId, Timestamp,
};
use millrace_server::TraceParent;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{CommandEnvelope, CommandHandlerConfig, snapshots};

/// A note: texts, each written by a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note(Vec<String>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoteEvent {
    Written(Written),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) text: String,
}

millrace_proto::json_event_codec! {
    NoteEvent { Written = 1 }
}

/// Nothing is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Never {}

impl From<Never> for Rejection {
    fn from(never: Never) -> Self {
        match never {}
    }
}

impl Aggregate for Note {
    const TYPE: AggregateType = AggregateType::new("note");
    const STATE_SCHEMA: u32 = 1;
    type Command = String;
    type Event = NoteEvent;
    type Error = Never;

    fn decide(_: Option<&Self>, text: &String, _: Timestamp) -> Result<Vec<NoteEvent>, Never> {
        Ok(vec![NoteEvent::Written(Written { text: text.clone() })])
    }

    fn evolve(state: Option<Self>, NoteEvent::Written(event): &NoteEvent) -> Result<Self, EvolveError> {
        let mut texts = state.map_or_else(Vec::new, |note| note.0);
        texts.push(event.text.clone());
        Ok(Self(texts))
    }
}

/// A note after commands, each an id and a text.
pub(crate) fn noted(commands: impl Iterator<Item = (String, String)>) -> AggregateState<Note> {
    (1..).zip(commands).fold(AggregateState::default(), |state, (version, (id, text))| {
        let committed = CommittedEvent {
            version,
            event_id: EventId(Uuid::from_u128(version.into())),
            command_id: id.parse().unwrap(),
            at: Timestamp::from_unix_micros(0),
            event: NoteEvent::Written(Written { text }),
        };
        state.apply(&committed).unwrap()
    })
}

/// An aggregate that is not registered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Other;

impl Aggregate for Other {
    const TYPE: AggregateType = AggregateType::new("other");
    const STATE_SCHEMA: u32 = 1;
    type Command = ();
    type Event = NoteEvent;
    type Error = Never;

    fn decide(_: Option<&Self>, (): &(), _: Timestamp) -> Result<Vec<NoteEvent>, Never> {
        Ok(Vec::new())
    }

    fn evolve(_: Option<Self>, _: &NoteEvent) -> Result<Self, EvolveError> {
        Ok(Self)
    }
}

/// An application of notes alone.
pub(crate) fn notes() -> Application {
    Application::new("notes").aggregate::<Note>().build().unwrap()
}

pub(crate) const CONFIG: CommandHandlerConfig = CommandHandlerConfig {
    clock: || Timestamp::from_unix_micros(0),
    jitter: || 0.0,
    snapshot_every: snapshots::EVERY,
};

/// A command that adds a text to a note.
pub(crate) fn note(id: u128, command_id: &str, text: &str) -> CommandEnvelope<Note> {
    let id = Uuid::from_u128(id);
    CommandEnvelope {
        stream: StreamId { tenant: TenantId::default(), aggregate_type: Note::TYPE, id },
        command: text.to_owned(),
        creates: false,
        expected_version: None,
        command_id: command_id.parse().unwrap(),
        digest: CommandDigest(text.len().try_into().unwrap()),
        correlation_id: command_id.parse().unwrap(),
        trace: TraceParent::new_root(),
    }
}
