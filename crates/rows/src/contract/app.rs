//! The application of the suites: tickets, a log of each, and the workload of their owners.

use std::{fmt, str::FromStr};

use millrace_core::{
    Aggregate, AggregateType, AggregatingProjection, Change, DecodeError, Encoded, Envelope, EventCodec,
    EventId, EventMessage, EvolveError, FoldProjection, IndexValue, Invalid, Patch, Projection,
    ProjectionName, Recorded, Rejection, Row, StreamId, Timestamp,
    projection::{ProjectionSpec, RowUpdate},
    uuid_id,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

uuid_id! {
    /// A ticket.
    pub struct TicketId;
}

/// A text that is found in any case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Title(pub String);

impl IndexValue for Title {
    fn index_value(&self) -> Option<String> {
        Some(self.0.to_lowercase())
    }
}

/// An owner: any text at all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner(pub String);

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Owner {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Ok(Self(text.to_owned()))
    }
}

impl IndexValue for Owner {
    fn index_value(&self) -> Option<String> {
        Some(self.0.clone())
    }
}

/// Part of a ticket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The subject.
    pub text: String,
    /// How often.
    pub count: u64,
    /// How much.
    pub weight: f64,
    /// Nothing, or something.
    pub hint: Option<bool>,
}

/// A row of which an attribute is optional, and part of an index.
#[derive(Debug, Clone, PartialEq, Row)]
#[row(resource = "ticket", key = ticket_id)]
#[row(list(name = "by-owner", by = owner, order_by = opened_at))]
#[row(list(name = "by-status", by = status, order_by = opened_at, sharded))]
#[row(list(name = "by-label", by = label, order_by = opened_at))]
#[row(lookup(name = "by-title", by = title, order_by = changed_at))]
pub struct Ticket {
    /// Its id.
    pub ticket_id: TicketId,
    /// Its owner.
    pub owner: Owner,
    /// Where it stands.
    pub status: String,
    /// The title.
    pub title: Title,
    /// The label.
    pub label: Option<String>,
    /// The lines.
    pub lines: Vec<Line>,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it last changed.
    pub changed_at: Timestamp,
}

/// Each event says by itself how the row changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TicketEvent {
    /// The row is this.
    Opened {
        /// The owner.
        owner: Owner,
        /// The title.
        title: Title,
        /// The label.
        label: Option<String>,
        /// The lines.
        lines: Vec<Line>,
        /// The time.
        at: Timestamp,
    },
    /// The row has new values.
    Changed {
        /// Another owner.
        owner: Option<Owner>,
        /// Another status.
        status: Option<String>,
        /// Another title.
        title: Option<Title>,
        /// Another label, none if it is empty.
        label: Option<String>,
        /// The time.
        at: Timestamp,
    },
    /// The row stays as it is.
    Seen {},
    /// The row is removed.
    Withdrawn {},
}

impl EventCodec for TicketEvent {
    const EVENT_TYPES: &'static [&'static str] = &["Opened", "Changed", "Seen", "Withdrawn"];

    fn encode(&self) -> Encoded {
        let event_type = match self {
            Self::Opened { .. } => "Opened",
            Self::Changed { .. } => "Changed",
            Self::Seen {} => "Seen",
            Self::Withdrawn {} => "Withdrawn",
        };
        let data = millrace_core::codec::to_json(self);
        Encoded { event_type, schema_version: 1, data }
    }

    fn decode(event_type: &str, _: u32, data: &Map<String, Value>) -> Result<Self, DecodeError> {
        match event_type {
            "Seen" => Ok(Self::Seen {}),
            "Withdrawn" => Ok(Self::Withdrawn {}),
            "Opened" | "Changed" => millrace_core::codec::from_json(1, 1, data),
            _ => Err(DecodeError::UnknownType),
        }
    }

    fn message(_: &str, _: u32, _: &Map<String, Value>) -> Result<EventMessage, DecodeError> {
        Err(DecodeError::UnknownType)
    }
}

/// The aggregate, of which the suites need the events alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Desk;

/// No command is refused.
#[derive(Debug)]
pub enum Never {}

impl From<Never> for Rejection {
    fn from(never: Never) -> Self {
        match never {}
    }
}

impl Aggregate for Desk {
    const TYPE: AggregateType = AggregateType::new("ticket");
    const STATE_SCHEMA: u32 = 1;
    type Command = TicketEvent;
    type Event = TicketEvent;
    type Error = Never;

    fn decide(_: Option<&Self>, event: &TicketEvent, _: Timestamp) -> Result<Vec<TicketEvent>, Never> {
        Ok(vec![event.clone()])
    }

    fn evolve(_: Option<Self>, _: &TicketEvent) -> Result<Self, EvolveError> {
        Ok(Self)
    }
}

impl Projection for Ticket {
    const NAME: ProjectionName = ProjectionName::new("tickets", 1);
    type Aggregate = Desk;
    type Row = Self;

    fn apply(recorded: &Recorded<TicketEvent>) -> Change<Self> {
        match recorded.event.clone() {
            TicketEvent::Opened { owner, title, label, lines, at } => Change::Put(Self {
                ticket_id: recorded.aggregate_id(),
                owner,
                status: "OPEN".to_owned(),
                title,
                label,
                lines,
                opened_at: at,
                changed_at: at,
            }),
            TicketEvent::Changed { owner, status, title, label, at } => Change::Update(
                Patch::new()
                    .set_if(Self::OWNER, owner)
                    .set_if(Self::STATUS, status)
                    .set_if(Self::TITLE, title)
                    .set_if(Self::LABEL, label.map(|label| Some(label).filter(|label| !label.is_empty())))
                    .set(Self::CHANGED_AT, at),
            ),
            TicketEvent::Seen {} => Change::Keep,
            TicketEvent::Withdrawn {} => Change::Remove,
        }
    }
}

/// A row that needs the row before, and that consists of optional attributes alone.
#[derive(Debug, Clone, PartialEq, Row)]
#[row(resource = "log", key = ticket_id, lookup(name = "by-last", by = last))]
pub struct TicketLog {
    /// The ticket.
    pub ticket_id: TicketId,
    /// The events, if there are any.
    pub events: Option<Vec<String>>,
    /// The newest status.
    pub last: Option<String>,
    /// When it was opened.
    pub began_at: Option<Timestamp>,
}

impl FoldProjection for TicketLog {
    const NAME: ProjectionName = ProjectionName::new("ticket-logs", 1);
    type Aggregate = Desk;
    type Row = Self;

    fn fold(row: Option<Self>, recorded: &Recorded<TicketEvent>) -> Option<Self> {
        let mut log = row.unwrap_or_else(|| Self {
            ticket_id: recorded.aggregate_id(),
            events: None,
            last: None,
            began_at: None,
        });
        match &recorded.event {
            TicketEvent::Opened { at, .. } => log.began_at = Some(*at),
            TicketEvent::Changed { status, .. } => log.last = status.clone(),
            TicketEvent::Seen {} => return Some(log),
            TicketEvent::Withdrawn {} => return None,
        }
        log.events.get_or_insert_default().push(recorded.event.encode().event_type.to_owned());
        Some(log)
    }
}

/// A row that sums up the tickets of an owner.
#[derive(Debug, Clone, PartialEq, Row)]
#[row(resource = "workload", key = owner, list(name = "by-load", by = load, order_by = until))]
pub struct Workload {
    /// The owner.
    pub owner: Owner,
    /// How many tickets there are.
    pub tickets: u64,
    /// The sum of their weights.
    pub weight: u64,
    /// The class of that weight.
    pub load: String,
    /// As many microseconds as the weight.
    pub until: Timestamp,
}

/// A ticket's contribution to the workload of its owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadPart {
    owner: Owner,
    weight: u64,
}

impl AggregatingProjection for Workload {
    const NAME: ProjectionName = ProjectionName::new("workloads", 1);
    type Aggregate = Desk;
    type Row = Self;
    type Part = WorkloadPart;

    fn part(part: Option<WorkloadPart>, recorded: &Recorded<TicketEvent>) -> Option<WorkloadPart> {
        match &recorded.event {
            TicketEvent::Opened { owner, lines, .. } => {
                Some(WorkloadPart { owner: owner.clone(), weight: lines.iter().map(|line| line.count).sum() })
            }
            TicketEvent::Changed { owner, .. } => {
                part.map(|part| WorkloadPart { owner: owner.clone().unwrap_or(part.owner), ..part })
            }
            TicketEvent::Seen {} => part,
            TicketEvent::Withdrawn {} => None,
        }
    }

    fn row_of(part: &WorkloadPart) -> Owner {
        part.owner.clone()
    }

    fn fold(
        row: Option<Self>,
        owner: &Owner,
        before: Option<&WorkloadPart>,
        after: Option<&WorkloadPart>,
    ) -> Self {
        let (tickets, weight) = row.map_or((0, 0), |row| (row.tickets, row.weight));
        let count = |part: Option<&WorkloadPart>| u64::from(part.is_some());
        let weigh = |part: Option<&WorkloadPart>| part.map_or(0, |part| part.weight);
        Self::of(owner.clone(), tickets + count(after) - count(before), weight + weigh(after) - weigh(before))
    }
}

impl Workload {
    /// The workload of a number of tickets with a total weight.
    pub(super) fn of(owner: Owner, tickets: u64, weight: u64) -> Self {
        let load = if weight < 100 { "LIGHT" } else { "HEAVY" };
        let until = Timestamp::from_unix_micros(i64::try_from(weight).unwrap_or(i64::MAX));
        Self { owner, tickets, weight, load: load.to_owned(), until }
    }
}

/// The application's registration.
pub fn application() -> millrace_core::Application {
    millrace_core::Application::new("desk")
        .aggregate::<Desk>()
        .projection::<Ticket>()
        .fold_projection::<TicketLog>()
        .aggregating_projection::<Workload>()
        .build()
        .expect("the suite's own application is sound")
}

/// One of its projections.
pub fn spec(name: &str) -> ProjectionSpec {
    application().projection(name).expect("a projection of the suite").clone()
}

/// The update that an event makes.
pub(super) fn update(
    spec: &ProjectionSpec,
    stream: &StreamId,
    version: u64,
    event: &TicketEvent,
) -> RowUpdate {
    let Encoded { event_type, schema_version, data } = event.encode();
    let command_id = Uuid::new_v4().to_string().parse().expect("a UUID is a command id");
    let envelope = Envelope {
        event_id: EventId(Uuid::new_v4()),
        tenant_id: stream.tenant.clone(),
        aggregate_type: stream.aggregate_type.clone(),
        aggregate_id: stream.id,
        version,
        event_type: event_type.to_owned(),
        schema_version,
        timestamp: Timestamp::from_unix_micros(1),
        event_data: Some(data),
        command_id,
        correlation_id: format!("名前 #{version}").parse().expect("a command id is a text"),
        causation_id: Uuid::new_v4().to_string().parse().expect("a UUID is a command id"),
        // Odd versions have a trace, even ones have none.
        trace_parent: (version % 2 == 1)
            .then(|| format!("00-{:032x}-{version:016x}-01", Uuid::new_v4().as_u128())),
    };
    let update = (spec.update)(&envelope).expect("the suite's own events are sound");
    update.expect("an event with its data makes an update")
}

/// Lines with whatever JSON has.
pub(super) fn lines() -> Vec<Line> {
    let line = |text: &str, count, weight, hint| Line { text: text.to_owned(), count, weight, hint };
    vec![
        line("名前", u64::MAX, 0.25, None),
        line("", 0, -1e-9, Some(true)),
        line("a hundred", 100, 100.0, Some(false)),
    ]
}

/// The values of a row's attributes that only an unreadable row has.
pub(super) fn nonsense() -> Value {
    json!([{"not": "a value"}])
}
