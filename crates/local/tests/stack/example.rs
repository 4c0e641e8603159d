//! A small application: accounts, the letters that they get, and notes that no projection takes.

use millrace_core::{
    Aggregate, AggregateType, Application, Change, DecodeError, Encoded, EventCodec, EventMessage,
    EvolveError, Projection, ProjectionName, Recorded, Rejection, Row, Timestamp, uuid_id,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

uuid_id! {
    /// An account or a letter.
    pub struct Id;
}

pub(crate) fn application() -> Application {
    Application::new("bank")
        .aggregate::<Thing<0>>()
        .aggregate::<Thing<1>>()
        .aggregate::<Thing<2>>()
        .projection::<AccountRow>()
        .projection::<LetterRow>()
        .build()
        .unwrap()
}

/// The aggregate of number `N`: nothing is ever decided here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Thing<const N: usize>;

#[derive(Debug, Clone)]
pub(crate) struct Happened<const N: usize>;

impl<const N: usize> Aggregate for Thing<N> {
    const TYPE: AggregateType = AggregateType::new(["account", "letter", "note"][N]);
    const STATE_SCHEMA: u32 = 1;
    type Command = ();
    type Event = Happened<N>;
    type Error = Rejection;

    fn decide(_: Option<&Self>, (): &(), _: Timestamp) -> Result<Vec<Happened<N>>, Rejection> {
        Err(Rejection::NotFound)
    }

    fn evolve(_: Option<Self>, _: &Happened<N>) -> Result<Self, EvolveError> {
        Ok(Self)
    }
}

impl<const N: usize> EventCodec for Happened<N> {
    const EVENT_TYPES: &'static [&'static str] = [&["AccountOpened"], &["LetterSent"], &["NoteTaken"]][N];

    fn encode(&self) -> Encoded {
        Encoded { event_type: Self::EVENT_TYPES[0], schema_version: 1, data: Map::new() }
    }

    fn message(_: &str, _: u32, _: &Map<String, Value>) -> Result<EventMessage, DecodeError> {
        Err(DecodeError::UnknownType)
    }

    fn decode(_: &str, _: u32, _: &Map<String, Value>) -> Result<Self, DecodeError> {
        Ok(Self)
    }
}

#[derive(Debug, Clone, PartialEq, Row)]
#[row(resource = "account", key = id)]
#[row(list(name = "by-branch", by = branch, order_by = opened_at))]
#[row(list(name = "by-kind", by = kind, order_by = opened_at, sharded))]
#[row(lookup(name = "by-number", by = number))]
pub(crate) struct AccountRow {
    id: Id,
    branch: Id,
    kind: Id,
    number: Id,
    opened_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Row)]
#[row(resource = "letter", key = id)]
pub(crate) struct LetterRow {
    id: Id,
}

impl Projection for AccountRow {
    const NAME: ProjectionName = ProjectionName::new("accounts", 1);
    type Aggregate = Thing<0>;
    type Row = Self;

    fn apply(_: &Recorded<Happened<0>>) -> Change<Self> {
        Change::Keep
    }
}

impl Projection for LetterRow {
    const NAME: ProjectionName = ProjectionName::new("sent-letters", 2);
    type Aggregate = Thing<1>;
    type Row = Self;

    fn apply(_: &Recorded<Happened<1>>) -> Change<Self> {
        Change::Keep
    }
}
