//! Watches over a connection: callers that leave, and callers that do not read.

use std::time::Duration;

use millrace_query::watch::{Pace, Watching};
use shop::{
    contracts::query::{
        WatchOrderRequest, WatchOrderResponse, order_query_service_client::OrderQueryServiceClient,
    },
    order::OrderStatus,
};
use tokio_util::sync::DropGuard;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::{
    server::{connect, eventually, serve},
    support::{World, basket, of_tenant, order_id, reason},
};

/// Fast, for fast tests.
const PACE: Pace = Pace { fastest: Duration::from_millis(5), slowest: Duration::from_millis(50) };

/// Serves at most `most` watches.
async fn start(world: &World, most: u32) -> (String, DropGuard) {
    let (address, shutdown, _) =
        serve(world, world.events.clone(), Watching { pace: PACE, max: most, max_per_tenant: most }).await;
    (address, shutdown.drop_guard())
}

async fn watch(channel: &Channel, id: u128) -> Result<Streaming<WatchOrderResponse>, Status> {
    let request = WatchOrderRequest { order_id: order_id(id).to_string(), ..Default::default() };
    Ok(OrderQueryServiceClient::new(channel.clone()).watch_order(request).await?.into_inner())
}

async fn version(states: &mut Streaming<WatchOrderResponse>) -> u64 {
    states.message().await.unwrap().unwrap().order.unwrap().version
}

#[tokio::test]
async fn who_leaves_makes_room_though_nothing_happens_to_the_row() {
    let world = World::default();
    world.place(1, 7, 0).await;
    let (address, _end) = start(&world, 1).await;
    let channel = connect(&address).await;
    let mut states = watch(&channel, 1).await.unwrap();
    assert_eq!(version(&mut states).await, 1);
    let refused = watch(&channel, 1).await.map(drop).unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_deref()), (Code::ResourceExhausted, Some("OVERLOADED")));
    // The row does not change: no message is sent that could reveal the caller's absence.
    drop(states);
    eventually(async || watch(&channel, 1).await.is_ok()).await;
}

#[tokio::test]
async fn a_tenant_that_has_its_share_keeps_no_other_out() {
    let world = World::default();
    world.place(1, 7, 0).await;
    let watching = Watching { pace: PACE, max: 2, max_per_tenant: 1 };
    let (address, shutdown, _) = serve(&world, world.events.clone(), watching).await;
    let _end = shutdown.drop_guard();
    let channel = connect(&address).await;
    let mut states = watch(&channel, 1).await.unwrap();
    assert_eq!(version(&mut states).await, 1);
    let refused = watch(&channel, 1).await.map(drop).unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_deref()), (Code::ResourceExhausted, Some("TENANT_BUSY")));
    // Another tenant has a permit, and so learns that it has no such order.
    let request = WatchOrderRequest { order_id: order_id(1).to_string(), ..Default::default() };
    let mut client = OrderQueryServiceClient::new(channel);
    let other = client.watch_order(of_tenant("acme", request)).await.map(drop).unwrap_err();
    assert_eq!(other.code(), Code::NotFound);
}

#[tokio::test]
async fn a_connection_that_is_gone_makes_room() {
    let world = World::default();
    world.place(1, 7, 0).await;
    let (address, _end) = start(&world, 2).await;
    let staying = connect(&address).await;
    let mut stays = watch(&staying, 1).await.unwrap();
    let gone = tokio::task::spawn_blocking(move || {
        // The end of the runtime ends all in it, without a goodbye.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            assert_eq!(version(&mut watch(&connect(&address).await, 1).await.unwrap()).await, 1)
        });
    });
    gone.await.unwrap();
    eventually(async || watch(&staying, 1).await.is_ok()).await;
    assert_eq!(version(&mut stays).await, 1);
}

/// Large enough that a few states fill a connection's buffers.
fn large() -> String {
    "x".repeat(200)
}

#[tokio::test]
async fn who_does_not_read_is_sent_the_newest_state_afterwards_and_few_of_those_in_between() {
    const VERSIONS: u64 = 400;
    let world = World::default();
    // Each state has 23 KB, and the caller's window is 64: the server would have to keep the states in between.
    world.place_basket(1, 7, 0, basket(&large(), 100)).await;
    let (address, _end) = start(&world, 2).await;
    let channel = connect(&address).await;
    let narrow = Endpoint::from_shared(address).unwrap().initial_stream_window_size(64 * 1024);
    let mut slow = watch(&narrow.connect().await.unwrap(), 1).await.unwrap();
    let mut quick = watch(&channel, 1).await.unwrap();
    assert_eq!(version(&mut quick).await, 1);
    for next in 2..=VERSIONS {
        world.advance(1, next, OrderStatus::Processing).await;
        while version(&mut quick).await < next {}
    }
    let mut seen = vec![version(&mut slow).await];
    while *seen.last().unwrap() < VERSIONS {
        seen.push(version(&mut slow).await);
    }
    println!("of {VERSIONS} states, who did not read got {}", seen.len());
    assert!(seen.is_sorted_by(|one, next| one < next), "{seen:?}");
    assert!(seen.len() < 50, "{} states were kept for it", seen.len());
}
