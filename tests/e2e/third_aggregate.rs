//! A third aggregate beside the shop's two, with rows of two more kinds: registered here, and everything else follows. In
//! memory, by the library's own code from the command to the query.

use std::{collections::BTreeMap, num::NonZeroU64, time::Duration};

use millrace_command::{CommandEnvelope, CommandHandler, CommandHandlerConfig, StateCache};
use millrace_core::{
    Aggregate, AggregateType, AggregatingProjection, Application, CommandDigest, EvolveError, FoldProjection,
    ProjectionName, Recorded, Rejection, Row, StreamId, TenantId, Timestamp, Versioned,
    projection::ProjectionSpec,
};
use millrace_event_store::MemoryStore;
use millrace_projection::{
    Handle as _, Projector,
    queue::{Message, ReceiptHandle},
};
use millrace_proto::query::{SearchEventsRequest, history_service_server::HistoryService as _};
use millrace_query::{
    QueryService, accept,
    token::PageTokens,
    watch::{Pace, Watching},
};
use millrace_rows::MemoryRows;
use millrace_testing::{Oracle, convergence::found_rows, oracle::differences};
use serde::{Deserialize, Serialize};
use serde_json::json;
use shop::{CustomerTotals, OrderSummary, UserProfile, order::Order, user::User};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};
use uuid::Uuid;

use crate::calls::{after, as_of_version, history_of};

millrace_core::uuid_id! {
    /// A kind of ware.
    pub struct WareId;
}

millrace_core::uuid_id! {
    /// A shelf.
    pub struct ShelfId;
}

/// How many pieces of a ware there are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stock {
    pieces: u32,
}

#[derive(Debug, Clone)]
enum StockCommand {
    Receive { shelf: ShelfId, pieces: u32 },
    Take { pieces: u32 },
}

#[derive(Debug, Clone, PartialEq)]
enum StockEvent {
    Received(Received),
    Taken(Taken),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Received {
    shelf: ShelfId,
    pieces: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Taken {
    pieces: u32,
}

millrace_proto::json_event_codec! {
    StockEvent { Received = 1, Taken = 1 }
}

#[derive(Debug, PartialEq)]
struct TooFew;

impl From<TooFew> for Rejection {
    fn from(_: TooFew) -> Self {
        Self::Rule { kind: "STOCK", description: "there are too few".to_owned() }
    }
}

impl Aggregate for Stock {
    const TYPE: AggregateType = AggregateType::new("stock");
    const STATE_SCHEMA: u32 = 1;
    type Command = StockCommand;
    type Event = StockEvent;
    type Error = TooFew;

    fn decide(state: Option<&Self>, command: &StockCommand, _: Timestamp) -> Result<Vec<StockEvent>, TooFew> {
        match *command {
            StockCommand::Receive { shelf, pieces } => {
                Ok(vec![StockEvent::Received(Received { shelf, pieces })])
            }
            StockCommand::Take { pieces } if state.is_some_and(|stock| stock.pieces >= pieces) => {
                Ok(vec![StockEvent::Taken(Taken { pieces })])
            }
            StockCommand::Take { .. } => Err(TooFew),
        }
    }

    fn evolve(state: Option<Self>, event: &StockEvent) -> Result<Self, EvolveError> {
        let pieces = state.map_or(0, |stock| stock.pieces);
        let after = match event {
            StockEvent::Received(event) => pieces.checked_add(event.pieces),
            StockEvent::Taken(event) => pieces.checked_sub(event.pieces),
        };
        after.map(|pieces| Self { pieces }).ok_or(EvolveError("there cannot be as many pieces"))
    }
}

/// A ware's stock, which depends on the stock before.
#[derive(Debug, Clone, PartialEq, Row)]
#[row(resource = "ware", key = ware_id, list(name = "by-shelf", by = shelf, order_by = changed_at))]
struct StockLevel {
    ware_id: WareId,
    shelf: ShelfId,
    pieces: u32,
    changed_at: Timestamp,
}

impl FoldProjection for StockLevel {
    const NAME: ProjectionName = ProjectionName::new("stock-levels", 1);
    type Aggregate = Stock;
    type Row = Self;

    fn fold(row: Option<Self>, recorded: &Recorded<StockEvent>) -> Option<Self> {
        let (ware_id, changed_at) = (recorded.aggregate_id(), recorded.time);
        match &recorded.event {
            StockEvent::Received(Received { shelf, pieces }) => {
                let pieces = row.map_or(0, |row| row.pieces) + pieces;
                Some(Self { ware_id, shelf: *shelf, pieces, changed_at })
            }
            StockEvent::Taken(Taken { pieces }) => {
                row.map(|row| Self { pieces: row.pieces - pieces, changed_at, ..row })
            }
        }
    }
}

/// All wares on a shelf.
#[derive(Debug, Clone, PartialEq, Row)]
#[row(resource = "shelf", key = shelf)]
struct ShelfLoad {
    shelf: ShelfId,
    pieces: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Load {
    shelf: ShelfId,
    pieces: u32,
}

impl AggregatingProjection for ShelfLoad {
    const NAME: ProjectionName = ProjectionName::new("shelf-loads", 1);
    type Aggregate = Stock;
    type Row = Self;
    type Part = Load;

    fn part(part: Option<Load>, recorded: &Recorded<StockEvent>) -> Option<Load> {
        match (&recorded.event, part) {
            (StockEvent::Received(Received { shelf, pieces }), part) => {
                Some(Load { shelf: *shelf, pieces: part.map_or(0, |part| part.pieces) + pieces })
            }
            (StockEvent::Taken(Taken { pieces }), part) => {
                part.map(|part| Load { pieces: part.pieces - pieces, ..part })
            }
        }
    }

    fn row_of(part: &Load) -> ShelfId {
        part.shelf
    }

    fn fold(row: Option<Self>, id: &ShelfId, before: Option<&Load>, after: Option<&Load>) -> Self {
        let pieces = |load: Option<&Load>| load.map_or(0, |load| load.pieces);
        Self { shelf: *id, pieces: row.map_or(0, |row| row.pieces) - pieces(before) + pieces(after) }
    }
}

/// A row as a message.
#[derive(Clone, PartialEq, prost::Message)]
struct StockMessage {
    #[prost(string, tag = "1")]
    ware_id: String,
    #[prost(uint32, tag = "2")]
    pieces: u32,
}

impl From<Versioned<StockLevel>> for StockMessage {
    fn from(Versioned { row, .. }: Versioned<StockLevel>) -> Self {
        Self { ware_id: row.ware_id.to_string(), pieces: row.pieces }
    }
}

/// The one registration: the shop's, and three lines more.
fn warehouse() -> Application {
    Application::new("warehouse")
        .aggregate::<User>()
        .aggregate::<Order>()
        .aggregate::<Stock>()
        .projection::<UserProfile>()
        .projection::<OrderSummary>()
        .aggregating_projection::<CustomerTotals>()
        .fold_projection::<StockLevel>()
        .aggregating_projection::<ShelfLoad>()
        .build()
        .unwrap()
}

/// Carries a command out; the version after it.
async fn command(
    store: &MemoryStore,
    ware: WareId,
    number: u32,
    command: StockCommand,
) -> Result<u64, Status> {
    let config = CommandHandlerConfig {
        clock: millrace_server::clock::now,
        jitter: || 0.5,
        snapshot_every: NonZeroU64::new(3).unwrap(),
    };
    let handler = CommandHandler::<Stock, _>::new(store.clone(), StateCache::new(0), config);
    let id = format!("command-{number}");
    let envelope = CommandEnvelope {
        stream: StreamId { tenant: TenantId::default(), aggregate_type: Stock::TYPE, id: ware.0 },
        command,
        creates: false,
        expected_version: None,
        command_id: id.parse().unwrap(),
        digest: CommandDigest(number.into()),
        correlation_id: id.parse().unwrap(),
        trace: millrace_server::TraceParent::current(),
    };
    Ok(handler.execute(&envelope).await?.receipt.version)
}

/// Brings all events to every projection that takes them.
async fn project(app: &Application, store: &MemoryStore, rows: &BTreeMap<ProjectionName, MemoryRows>) {
    for event in store.all() {
        for spec in app.projections_of(&event.envelope.aggregate_type) {
            let projector = Projector::new(
                spec.clone(),
                rows[&spec.name].clone(),
                store.clone(),
                millrace_server::clock::now,
            );
            let body = json!({ "version": "0", "source": "warehouse", "detail": event.envelope }).to_string();
            let id = event.envelope.event_id.to_string();
            let receipt = ReceiptHandle(id.as_str().into());
            let handled =
                projector.handle(&[Message { id, receipt, body, attempts: 1, waited: Duration::ZERO }]).await;
            assert!(handled.iter().all(Result::is_ok), "{handled:?}");
        }
    }
}

#[tokio::test]
async fn a_third_aggregate_is_registered_and_everything_else_follows() {
    let (app, store) = (warehouse(), MemoryStore::default());
    let empty = |spec: &ProjectionSpec| (spec.name, MemoryRows::new(spec));
    let rows: BTreeMap<_, _> = app.projections().iter().map(empty).collect();
    let [bolt, nut] = [1, 2].map(|n| WareId(Uuid::from_u128(n)));
    let [left, right] = [7, 8].map(|n| ShelfId(Uuid::from_u128(n)));
    let receive = |shelf, pieces| StockCommand::Receive { shelf, pieces };
    for (number, (ware, asked)) in (0..).zip([
        (bolt, receive(left, 10)),
        (nut, receive(left, 5)),
        (bolt, StockCommand::Take { pieces: 4 }),
        (bolt, receive(right, 1)),
        (nut, StockCommand::Take { pieces: 2 }),
    ]) {
        command(&store, ware, number, asked).await.unwrap();
    }
    let refused = command(&store, nut, 9, StockCommand::Take { pieces: 99 }).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let again = command(&store, nut, 4, StockCommand::Take { pieces: 2 }).await.unwrap();
    assert_eq!((again, store.all().len()), (2, 5), "a repeated command adds nothing");
    project(&app, &store, &rows).await;

    let oracle = Oracle::new(&app, store.all().into_iter().map(|event| event.envelope)).unwrap();
    let mut expected = oracle.rows().unwrap();
    expected.retain(|place, _| !place.is_part);
    let found = rows.iter().flat_map(|(name, rows)| found_rows(*name, rows)).collect();
    assert_eq!(differences(&expected, &found), [] as [String; 0]);

    let pace = Pace { fastest: Duration::MAX, slowest: Duration::MAX };
    let queries = QueryService::new(
        &app,
        |spec| rows[&spec.name].clone(),
        store,
        PageTokens::new(b"a key for this test"),
        Watching { max: 1, max_per_tenant: 1, pace },
        CancellationToken::new(),
    );
    ask(&queries, bolt, [left, right]).await;
}

/// Queries the commands' results in every way.
async fn ask(queries: &QueryService, bolt: WareId, [left, right]: [ShelfId; 2]) {
    let (call, ()) = accept(Request::new(())).unwrap();
    let (levels, loads) = (queries.rows::<StockLevel, _>().unwrap(), queries.rows::<ShelfLoad, _>().unwrap());
    let id = bolt.to_string();
    let level = levels.get(&call, ("ware_id", &id), after::<Stock>(bolt, 3)).await.unwrap();
    assert_eq!((level.version, level.row.pieces, level.row.shelf), (3, 7, right));
    let was = levels.as_of(&call, ("ware_id", &id), as_of_version(2)).await.unwrap();
    assert_eq!((was.row.pieces, was.row.shelf), (6, left));
    let on_shelf = levels.list(StockLevel::BY_SHELF, ("shelf", Ok(right)));
    let page = on_shelf.page::<StockMessage>(&call, 10, "", after::<Stock>(bolt, 3)).await.unwrap();
    assert_eq!(page.rows, [StockMessage { ware_id: id.clone(), pieces: 7 }]);
    for (shelf, pieces) in [(left, 3), (right, 7)] {
        let shelf = shelf.to_string();
        let load = loads.get(&call, ("shelf", &shelf), after::<Stock>(bolt, 3)).await.unwrap();
        assert_eq!(load.row.pieces, pieces, "on {shelf}");
    }
    let history = queries.history();
    let events =
        history.get_history(Request::new(history_of::<Stock>(&id))).await.unwrap().into_inner().events;
    let types: Vec<_> = events.iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(types, ["Received", "Taken", "Received"]);
    let search = SearchEventsRequest { event_type: "Taken".to_owned(), ..Default::default() };
    let found = history.search_events(Request::new(search)).await.unwrap().into_inner().events;
    assert_eq!(found.len(), 2);
}
