//! A small application for tests: the books of a library, and their readers.

use std::time::Duration;

use millrace_core::{
    Aggregate, AggregateType, AggregatingProjection, Application, Change, DecodeError, Encoded, EventCodec,
    EventMessage, EvolveError, Patch, Projection, ProjectionName, Recorded, Rejection, Row, TenantId,
    Timestamp, codec,
    projection::ProjectionSpec,
    row::{RowKey, StoredRow},
    uuid_id,
};
use millrace_event_store::MemoryStore;
use millrace_rows::MemoryRows;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    QueryService,
    token::PageTokens,
    watch::{Pace, Watching},
};

uuid_id! {
    pub struct BookId;
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Book;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum BookEvent {
    Placed { shelf: String },
    Lent { reader: String },
}

#[derive(Debug)]
pub(crate) enum Never {}

impl From<Never> for Rejection {
    fn from(never: Never) -> Self {
        match never {}
    }
}

impl Aggregate for Book {
    const TYPE: AggregateType = AggregateType::new("book");
    const STATE_SCHEMA: u32 = 1;
    type Command = BookEvent;
    type Event = BookEvent;
    type Error = Never;

    fn decide(_: Option<&Self>, command: &BookEvent, _: Timestamp) -> Result<Vec<BookEvent>, Never> {
        Ok(vec![command.clone()])
    }

    fn evolve(state: Option<Self>, event: &BookEvent) -> Result<Self, EvolveError> {
        match (state, event) {
            (None, BookEvent::Lent { .. }) => Err(EvolveError("a book that is nowhere cannot be lent")),
            (None, BookEvent::Placed { .. }) | (Some(_), _) => Ok(Self),
        }
    }
}

impl EventCodec for BookEvent {
    const EVENT_TYPES: &'static [&'static str] = &["Placed", "Lent"];

    fn encode(&self) -> Encoded {
        let event_type = match self {
            Self::Placed { .. } => "Placed",
            Self::Lent { .. } => "Lent",
        };
        Encoded { event_type, schema_version: 1, data: codec::to_json(self) }
    }

    fn message(
        event_type: &str,
        schema: u32,
        data: &Map<String, Value>,
    ) -> Result<EventMessage, DecodeError> {
        Self::decode(event_type, schema, data)?;
        Ok(EventMessage { name: format!("library.{event_type}"), bytes: Vec::new() })
    }

    fn decode(_: &str, schema: u32, data: &Map<String, Value>) -> Result<Self, DecodeError> {
        codec::from_json(schema, 1, data)
    }
}

/// A book in queries.
#[derive(Debug, Clone, PartialEq, Row)]
#[row(resource = "book", key = book_id, lookup(name = "by-reader", by = reader))]
#[row(list(name = "by-shelf", by = shelf, order_by = placed_at))]
#[row(list(name = "by-reader-and-time", by = reader, order_by = placed_at, sharded))]
pub(crate) struct BookRow {
    pub(crate) book_id: BookId,
    pub(crate) shelf: String,
    pub(crate) reader: Option<String>,
    pub(crate) placed_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

impl Projection for BookRow {
    const NAME: ProjectionName = ProjectionName::new("books", 1);
    type Aggregate = Book;
    type Row = Self;

    fn apply(recorded: &Recorded<BookEvent>) -> Change<Self> {
        match &recorded.event {
            BookEvent::Placed { shelf } => Change::Put(Self {
                book_id: recorded.aggregate_id(),
                shelf: shelf.clone(),
                reader: None,
                placed_at: recorded.time,
                updated_at: recorded.time,
            }),
            BookEvent::Lent { reader } => {
                let patch = Patch::new().set(Self::READER, Some(reader.clone()));
                Change::Update(patch.set(Self::UPDATED_AT, recorded.time))
            }
        }
    }
}

/// How many books there are on a shelf. Not registered in [`application`].
#[derive(Debug, Clone, PartialEq, Row)]
#[row(resource = "shelf", key = shelf)]
pub(crate) struct ShelfRow {
    shelf: Shelf,
    books: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Shelf(String);

impl std::fmt::Display for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Shelf {
    type Err = millrace_core::Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl AggregatingProjection for ShelfRow {
    const NAME: ProjectionName = ProjectionName::new("shelves", 1);
    const HAS_QUERIES: bool = false;
    type Aggregate = Book;
    type Row = Self;
    type Part = String;

    fn part(part: Option<String>, recorded: &Recorded<BookEvent>) -> Option<String> {
        match &recorded.event {
            BookEvent::Placed { shelf } => Some(shelf.clone()),
            BookEvent::Lent { .. } => part,
        }
    }

    fn row_of(part: &String) -> Shelf {
        Shelf(part.clone())
    }

    fn fold(row: Option<Self>, id: &Shelf, before: Option<&String>, after: Option<&String>) -> Self {
        let books = row.map_or(0, |row| row.books);
        let (gone, come) = (u32::from(before.is_some()), u32::from(after.is_some()));
        Self { shelf: id.clone(), books: books + come - gone }
    }
}

/// The application, with one projection.
pub(crate) fn application() -> Application {
    Application::new("library").aggregate::<Book>().projection::<BookRow>().build().unwrap()
}

/// A query service over empty stores.
pub(crate) fn service(application: &Application) -> QueryService {
    let pace = Pace { fastest: Duration::from_secs(1), slowest: Duration::from_secs(1) };
    QueryService::new(
        application,
        MemoryRows::new,
        MemoryStore::default(),
        PageTokens::of_table("events"),
        Watching { pace, max: 1, max_per_tenant: 1 },
        CancellationToken::new(),
    )
}

pub(crate) fn books() -> ProjectionSpec {
    application().projection("books").unwrap().clone()
}

pub(crate) fn at(micros: i64) -> Timestamp {
    Timestamp::from_unix_micros(1_767_225_600_000_000 + micros)
}

pub(crate) fn key(id: u128) -> RowKey {
    RowKey { tenant: TenantId::default(), id: BookId(Uuid::from_u128(id)).to_string() }
}

/// A book on the shelf "a".
pub(crate) fn book(id: u128, reader: Option<&str>) -> BookRow {
    BookRow {
        book_id: BookId(Uuid::from_u128(id)),
        shelf: "a".to_owned(),
        reader: reader.map(str::to_owned),
        placed_at: at(5),
        updated_at: at(5),
    }
}

/// A row in a store's form.
pub(crate) fn stored(version: u64, row: &BookRow) -> StoredRow {
    let mut attributes = row.to_attributes().unwrap();
    attributes.retain(|_, value| !value.is_null());
    StoredRow { key: key(row.book_id.0.as_u128()), version, attributes, provenance: None }
}
