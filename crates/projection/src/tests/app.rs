//! The application of these tests: counters, each in a group, under a projection of each kind.

use std::{fmt, str::FromStr};

use millrace_core::{
    Aggregate, AggregateType, AggregatingProjection, Application, Change, DecodeError, Encoded, EventCodec,
    EventMessage, EvolveError, FoldProjection, Invalid, Patch, Projection, ProjectionName, Recorded,
    Rejection, Row, Timestamp, codec::from_json, projection::ProjectionSpec, uuid_id,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Everything that is registered.
pub(crate) fn app() -> Application {
    Application::new("counting")
        .aggregate::<Counter>()
        .projection::<CounterCard>()
        .fold_projection::<CounterTotal>()
        .aggregating_projection::<GroupTotals>()
        .build()
        .unwrap()
}

/// The projection with blind writes.
pub(crate) fn cards() -> ProjectionSpec {
    app().projection("counter-cards").unwrap().clone()
}

/// The fold projection.
pub(crate) fn totals() -> ProjectionSpec {
    app().projection("counter-totals").unwrap().clone()
}

/// The projection whose rows sum up counters.
pub(crate) fn groups() -> ProjectionSpec {
    app().projection("group-totals").unwrap().clone()
}

uuid_id! {
    /// A counter.
    pub struct CounterId;
}

/// A counter; without a group while it is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counter {
    group: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) enum Command {
    Open { name: String, owner: String, group: String },
    Rename { name: Option<String>, owner: Option<String> },
    Add(i64),
    Move(String),
    Close,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Event {
    Opened { name: String, owner: String, group: String },
    Renamed { name: Option<String>, owner: Option<String> },
    Added { by: i64 },
    Moved { group: String },
    Closed {},
}

#[derive(Debug)]
pub(crate) struct NotOpen;

impl From<NotOpen> for Rejection {
    fn from(NotOpen: NotOpen) -> Self {
        Self::NotFound
    }
}

impl Aggregate for Counter {
    const TYPE: AggregateType = AggregateType::new("counter");
    const STATE_SCHEMA: u32 = 1;
    type Command = Command;
    type Event = Event;
    type Error = NotOpen;

    fn decide(state: Option<&Self>, command: &Command, _: Timestamp) -> Result<Vec<Event>, NotOpen> {
        let is_open = state.is_some_and(|counter| counter.group.is_some());
        let event = match command.clone() {
            Command::Open { name, owner, group } if !is_open => Event::Opened { name, owner, group },
            Command::Rename { name, owner } if is_open => Event::Renamed { name, owner },
            Command::Add(by) if is_open => Event::Added { by },
            Command::Move(group) if is_open => Event::Moved { group },
            Command::Close if is_open => Event::Closed {},
            Command::Open { .. }
            | Command::Rename { .. }
            | Command::Add(_)
            | Command::Move(_)
            | Command::Close => return Err(NotOpen),
        };
        Ok(vec![event])
    }

    fn evolve(state: Option<Self>, event: &Event) -> Result<Self, EvolveError> {
        let group = match event {
            Event::Opened { group, .. } | Event::Moved { group } => Some(group.clone()),
            Event::Renamed { .. } | Event::Added { .. } => state.and_then(|counter| counter.group),
            Event::Closed {} => None,
        };
        Ok(Self { group })
    }
}

impl EventCodec for Event {
    const EVENT_TYPES: &'static [&'static str] = &["Opened", "Renamed", "Added", "Moved", "Closed"];

    fn encode(&self) -> Encoded {
        let value = serde_json::to_value(self).unwrap();
        let (name, data) = value.as_object().unwrap().iter().next().unwrap();
        let event_type = Self::EVENT_TYPES.iter().find(|known| *known == name).unwrap();
        Encoded { event_type, schema_version: 1, data: data.as_object().unwrap().clone() }
    }

    fn message(
        event_type: &str,
        schema: u32,
        data: &Map<String, Value>,
    ) -> Result<EventMessage, DecodeError> {
        Self::decode(event_type, schema, data)?;
        Ok(EventMessage { name: format!("counting.{event_type}"), bytes: Vec::new() })
    }

    fn decode(event_type: &str, schema: u32, data: &Map<String, Value>) -> Result<Self, DecodeError> {
        if !Self::EVENT_TYPES.contains(&event_type) {
            return Err(DecodeError::UnknownType);
        }
        let tagged = Map::from_iter([(event_type.to_owned(), json!(data))]);
        let event = from_json(schema, 1, &tagged)?;
        if matches!(&event, Self::Opened { owner, .. } if !owner.contains('@')) {
            return Err(DecodeError::BadField { field: "owner", reason: Invalid("must be an address") });
        }
        Ok(event)
    }
}

/// A counter as queries show it.
#[derive(Debug, Clone, PartialEq, Eq, Row)]
#[row(resource = "counter", key = counter_id, lookup(name = "by-owner", by = owner))]
#[row(list(name = "by-group", by = group, order_by = opened_at, sharded))]
pub(crate) struct CounterCard {
    pub(crate) counter_id: CounterId,
    pub(crate) name: String,
    pub(crate) owner: String,
    pub(crate) group: String,
    pub(crate) opened_at: Timestamp,
    pub(crate) changed_at: Timestamp,
}

impl Projection for CounterCard {
    const NAME: ProjectionName = ProjectionName::new("counter-cards", 1);
    type Aggregate = Counter;
    type Row = Self;

    fn apply(recorded: &Recorded<Event>) -> Change<Self> {
        let at = recorded.time;
        match recorded.event.clone() {
            Event::Opened { name, .. } if name == "panic" => panic!("a test says so"),
            Event::Opened { name, owner, group } => Change::Put(Self {
                counter_id: recorded.aggregate_id(),
                name,
                owner,
                group,
                opened_at: at,
                changed_at: at,
            }),
            Event::Renamed { name, owner } => Change::Update(
                Patch::new()
                    .set_if(Self::NAME_FIELD, name)
                    .set_if(Self::OWNER, owner)
                    .set(Self::CHANGED_AT, at),
            ),
            Event::Added { .. } => Change::Keep,
            Event::Moved { group } => {
                Change::Update(Patch::new().set(Self::GROUP, group).set(Self::CHANGED_AT, at))
            }
            Event::Closed {} => Change::Remove,
        }
    }
}

/// A counter's total.
#[derive(Debug, Clone, PartialEq, Eq, Row)]
#[row(resource = "total", key = counter_id)]
pub(crate) struct CounterTotal {
    pub(crate) counter_id: CounterId,
    pub(crate) total: i64,
    pub(crate) steps: u64,
}

/// An amount at which the fold panics, and one that it cannot add.
pub(crate) const PANIC: i64 = 667;
pub(crate) const UNUSABLE: i64 = 13;

impl FoldProjection for CounterTotal {
    const NAME: ProjectionName = ProjectionName::new("counter-totals", 1);
    type Aggregate = Counter;
    type Row = Self;

    fn fold(row: Option<Self>, recorded: &Recorded<Event>) -> Option<Self> {
        match &recorded.event {
            Event::Opened { .. } => Some(Self { counter_id: recorded.aggregate_id(), total: 0, steps: 0 }),
            Event::Added { by } => {
                assert_ne!(*by, PANIC, "a test says so");
                let row = row?;
                // A row of another counter is refused.
                let counter_id = if *by == UNUSABLE { CounterId(uuid::Uuid::nil()) } else { row.counter_id };
                Some(Self { counter_id, total: row.total + by, steps: row.steps + 1 })
            }
            Event::Renamed { .. } | Event::Moved { .. } => row,
            Event::Closed {} => None,
        }
    }
}

/// The name of a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Group(pub(crate) String);

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Group {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Ok(Self(text.to_owned()))
    }
}

/// The total of a group's counters.
#[derive(Debug, Clone, PartialEq, Eq, Row)]
#[row(resource = "group", key = group)]
pub(crate) struct GroupTotals {
    pub(crate) group: Group,
    pub(crate) counters: u32,
    pub(crate) total: i64,
}

/// A counter's contribution to its group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CounterPart {
    group: Group,
    total: i64,
}

impl AggregatingProjection for GroupTotals {
    const NAME: ProjectionName = ProjectionName::new("group-totals", 1);
    type Aggregate = Counter;
    type Row = Self;
    type Part = CounterPart;

    fn part(part: Option<CounterPart>, recorded: &Recorded<Event>) -> Option<CounterPart> {
        match recorded.event.clone() {
            Event::Opened { group, .. } => Some(CounterPart { group: Group(group), total: 0 }),
            Event::Added { by } => part.map(|part| CounterPart { total: part.total + by, ..part }),
            Event::Moved { group } => part.map(|part| CounterPart { group: Group(group), ..part }),
            Event::Renamed { .. } => part,
            Event::Closed {} => None,
        }
    }

    fn row_of(part: &CounterPart) -> Group {
        part.group.clone()
    }

    fn fold(
        row: Option<Self>,
        id: &Group,
        before: Option<&CounterPart>,
        after: Option<&CounterPart>,
    ) -> Self {
        let mut row = row.unwrap_or(Self { group: id.clone(), counters: 0, total: 0 });
        if let Some(part) = before {
            row.counters -= 1;
            row.total -= part.total;
        }
        if let Some(part) = after {
            row.counters += 1;
            row.total += part.total;
        }
        row
    }
}
