//! The deployable as a server: behaviour that needs a connection.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::{
    events::{created, of, user},
    support::{WATCHING, World, after_order, order_id, reason, user_id},
};
use millrace_aws::AwsError;
use millrace_core::StreamId;
use millrace_event_store::{Direction, Found, HistoryPage, MemoryStore, ReadHistory, Search};
use millrace_proto::query::history_service_client::HistoryServiceClient;
use millrace_query::watch::Watching;
use millrace_server::{READINESS, process::Process, serve::Listeners};
use shop::{
    contracts::{
        DESCRIPTORS,
        query::{
            GetOrderRequest, GetUserProfileRequest, WatchOrderRequest,
            order_query_service_client::OrderQueryServiceClient,
            user_query_service_client::UserQueryServiceClient,
        },
    },
    order::OrderStatus,
};
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

type Server = (Channel, CancellationToken, JoinHandle<anyhow::Result<()>>);

pub(crate) async fn start(world: &World) -> Server {
    start_over(world, world.events.clone()).await
}

async fn start_over(world: &World, events: impl ReadHistory) -> Server {
    let (address, shutdown, server) = serve(world, events, WATCHING).await;
    (connect(&address).await, shutdown, server)
}

/// Serves on a free port; returns the address, the means to end it, and its end.
pub(crate) async fn serve(
    world: &World,
    events: impl ReadHistory,
    watching: Watching,
) -> (String, CancellationToken, JoinHandle<anyhow::Result<()>>) {
    let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", grpc.local_addr().unwrap());
    let world = World { ending: CancellationToken::new(), ..world.clone() };
    let process = Process { shutdown: world.ending.clone(), metrics: None };
    let (service, listeners) = (world.service_over(events, watching), Listeners::open(grpc));
    let services = query_service::adapters(&service).unwrap();
    let server = tokio::spawn(millrace_query::serve(service, services, DESCRIPTORS, listeners, 64, process));
    (address, world.ending, server)
}

/// A connection of its own.
pub(crate) async fn connect(address: &str) -> Channel {
    Channel::from_shared(address.to_owned()).unwrap().connect().await.unwrap()
}

#[tokio::test]
async fn every_service_answers_and_the_server_ends_when_told() {
    let world = World::default();
    world.user(1, 1, "john@example.com").await;
    world.place(2, 1, 0).await;
    let (channel, shutdown, server) = start(&world).await;
    let request = GetUserProfileRequest { user_id: user_id(1).to_string(), after: None };
    let reply = UserQueryServiceClient::new(channel.clone()).get_user_profile(request).await.unwrap();
    assert_eq!(reply.into_inner().user_profile.unwrap().version, 1);
    let request = GetOrderRequest { order_id: order_id(2).to_string(), after: None };
    let reply = OrderQueryServiceClient::new(channel.clone()).get_order(request).await.unwrap();
    assert_eq!(reply.into_inner().order.unwrap().version, 1);
    world.append(created(&user(1), 0)).await;
    let reply = HistoryServiceClient::new(channel.clone()).get_history(of(&user(1))).await.unwrap();
    assert_eq!(reply.into_inner().events.len(), 1);
    drop(channel);
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_caller_learns_that_the_read_model_is_behind_before_its_deadline() {
    let world = World::default();
    let (channel, _shutdown, _server) = start(&world).await;
    let mut request =
        Request::new(GetOrderRequest { order_id: order_id(2).to_string(), after: after_order(2, 1) });
    request.set_timeout(Duration::from_millis(600));
    let start = Instant::now();
    let status = OrderQueryServiceClient::new(channel).get_order(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_deref()), (Code::Unavailable, Some("READ_MODEL_BEHIND")));
    assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_watch_goes_on_over_a_connection_until_its_deadline_or_the_end_of_the_server() {
    let world = World::default();
    world.place(2, 1, 0).await;
    let (channel, shutdown, server) = start(&world).await;
    let mut client = OrderQueryServiceClient::new(channel);
    let watch = WatchOrderRequest { order_id: order_id(2).to_string(), ..Default::default() };
    let mut timed = Request::new(watch.clone());
    // As a header, so that the client itself does not end it.
    timed.metadata_mut().insert("grpc-timeout", "600m".parse().unwrap());
    let mut timed = client.watch_order(timed).await.unwrap().into_inner();
    let mut endless = client.watch_order(watch).await.unwrap().into_inner();
    for states in [&mut timed, &mut endless] {
        assert_eq!(states.message().await.unwrap().unwrap().order.unwrap().version, 1);
    }
    world.advance(2, 2, OrderStatus::Processing).await;
    for states in [&mut timed, &mut endless] {
        assert_eq!(states.message().await.unwrap().unwrap().order.unwrap().version, 2);
    }
    assert_eq!(timed.message().await.unwrap_err().code(), Code::DeadlineExceeded);
    shutdown.cancel();
    let end = endless.message().await.unwrap_err();
    assert_eq!((end.code(), reason(&end).as_deref()), (Code::Unavailable, Some("ENDING")));
    tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap().unwrap();
}

/// An event store that can be unreachable.
#[derive(Debug, Clone, Default)]
struct Distant {
    events: MemoryStore,
    is_out_of_reach: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
}

impl ReadHistory for Distant {
    async fn history(
        &self,
        stream: &StreamId,
        versions: RangeInclusive<u64>,
        direction: Direction,
        limit: u16,
    ) -> Result<HistoryPage, AwsError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.is_out_of_reach.load(Ordering::SeqCst) {
            return Err(AwsError::Unreachable("it is out of reach".to_owned()));
        }
        self.events.history(stream, versions, direction, limit).await
    }

    async fn search(&self, search: &Search, limit: u16) -> Result<Option<Found>, AwsError> {
        self.events.search(search, limit).await
    }
}

/// Asks again until the answer is yes, for a minute at most.
pub(crate) async fn eventually(mut ask: impl AsyncFnMut() -> bool) {
    let mut looks = 0;
    while !ask().await {
        looks += 1;
        assert!(looks < 3_000, "not within a minute");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_server_that_cannot_read_the_event_store_is_not_ready() {
    let events = Distant::default();
    events.is_out_of_reach.store(true, Ordering::SeqCst);
    let (channel, _shutdown, _server) = start_over(&World::default(), events.clone()).await;
    let status = async || {
        let request = HealthCheckRequest { service: READINESS.to_owned() };
        HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner().status()
    };
    // By the second look, the first one's result is published.
    eventually(async || events.asked.load(Ordering::SeqCst) > 1).await;
    assert_eq!(status().await, ServingStatus::NotServing);
    events.is_out_of_reach.store(false, Ordering::SeqCst);
    eventually(async || status().await == ServingStatus::Serving).await;
}
