//! Watches: their messages, times, costs and ends.

use std::time::Duration;

use futures::StreamExt as _;
use millrace_aws::AwsError;
use millrace_query::Messages;
use shop::{
    contracts::query::{
        WatchOrderRequest, WatchOrderResponse, WatchUserProfileRequest,
        order_query_service_server::OrderQueryService, user_query_service_server::UserQueryService as _,
    },
    order::OrderStatus,
};
use tokio::time::{sleep, timeout};
use tonic::{Code, Request, Status};

use crate::support::{
    MAX_WATCHERS, PACE, World, after_order, bad_fields, of_tenant, order_id, reason, user_id,
};

/// Longer than it takes to see a change after a silence.
const SOON: Duration = Duration::from_secs(3);

type Sent = Messages<WatchOrderResponse>;

fn order(id: u128) -> WatchOrderRequest {
    WatchOrderRequest { order_id: order_id(id).to_string(), ..Default::default() }
}

async fn watch<S>(service: &S, request: WatchOrderRequest) -> Sent
where
    S: OrderQueryService<WatchOrderStream = Sent>,
{
    service.watch_order(Request::new(request)).await.unwrap().into_inner()
}

/// The version of the next state.
async fn next(sent: &mut Sent) -> u64 {
    let next = timeout(SOON, sent.next()).await.expect("a state comes soon");
    next.unwrap().unwrap().order.unwrap().version
}

/// The end of the stream, which comes soon.
async fn end(sent: &mut Sent) -> Status {
    let end = timeout(Duration::from_secs(15), sent.next()).await.expect("it ends soon");
    assert!(sent.next().await.is_none());
    end.unwrap().unwrap_err()
}

/// Fails if a message comes.
async fn silent(sent: &mut Sent) {
    assert!(timeout(SOON, sent.next()).await.is_err(), "nothing is to come");
}

#[tokio::test(start_paused = true)]
async fn the_present_state_is_sent_and_then_each_newer_one_once() {
    let world = World::default();
    world.place(1, 7, 0).await;
    let service = world.order_service();
    let mut sent = watch(&service, order(1)).await;
    assert_eq!(next(&mut sent).await, 1);
    silent(&mut sent).await;
    for (version, status) in
        [(2, OrderStatus::Processing), (3, OrderStatus::Shipped), (4, OrderStatus::Delivered)]
    {
        world.advance(1, version, status).await;
        assert_eq!(next(&mut sent).await, version);
    }
    silent(&mut sent).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_resumed_brings_only_what_is_newer_than_what_was_seen() {
    let world = World::default();
    world.place(1, 7, 0).await;
    world.advance(1, 2, OrderStatus::Processing).await;
    let service = world.order_service();
    let mut sent = watch(&service, WatchOrderRequest { seen_version: 2, ..order(1) }).await;
    silent(&mut sent).await;
    world.advance(1, 3, OrderStatus::Shipped).await;
    assert_eq!(next(&mut sent).await, 3);

    let mut behind = watch(&service, WatchOrderRequest { seen_version: 1, ..order(1) }).await;
    assert_eq!(next(&mut behind).await, 3);
    let mut ahead = watch(&service, WatchOrderRequest { seen_version: u64::MAX, ..order(1) }).await;
    silent(&mut ahead).await;
}

#[tokio::test(start_paused = true)]
async fn who_reads_slowly_gets_the_newest_state_and_none_in_between() {
    let world = World::default();
    world.user(1, 1, "john@example.com").await;
    let service = world.user_service();
    let request = WatchUserProfileRequest { user_id: user_id(1).to_string(), ..Default::default() };
    let mut sent = service.watch_user_profile(Request::new(request)).await.unwrap().into_inner();
    for version in 2..=500 {
        world.user(1, version, &format!("john{version}@example.com")).await;
        sleep(Duration::from_millis(50)).await;
    }
    sleep(SOON).await;
    let state = sent.next().await.unwrap().unwrap().user_profile.unwrap();
    assert_eq!((state.version, state.email.as_str()), (500, "john500@example.com"));
    assert!(timeout(SOON, sent.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn all_who_watch_a_row_cost_one_reading_and_many_rows_one_request() {
    let world = World::default();
    for id in 1..=100 {
        world.place(id, 7, 0).await;
    }
    let service = world.order_service();
    let mut all = Vec::new();
    for id in (1..=100).chain([1; 50]) {
        all.push(watch(&service, order(id)).await);
    }
    let before = world.orders.requests();
    sleep(PACE.fastest * 2).await;
    assert_eq!(
        world.orders.requests() - before,
        1,
        "for a hundred rows and a hundred and fifty who watch them"
    );

    // A row that does not change is read less and less often.
    sleep(Duration::from_secs(60)).await;
    let before = world.orders.requests();
    sleep(Duration::from_secs(60)).await;
    let reads = world.orders.requests() - before;
    assert!((25..=30).contains(&reads), "every two seconds: {reads}");

    // Rows whose watchers have left are not read.
    drop(all);
    let before = world.orders.requests();
    sleep(Duration::from_secs(60)).await;
    assert!(world.orders.requests() - before <= 1);
}

#[tokio::test(start_paused = true)]
async fn only_so_many_can_watch_and_who_leaves_makes_room() {
    let world = World::default();
    world.place(1, 7, 0).await;
    let service = world.order_service();
    let mut all = Vec::new();
    for _ in 0..MAX_WATCHERS {
        all.push(watch(&service, order(1)).await);
    }
    let before = world.orders.gets();
    let refused = service.watch_order(Request::new(order(1))).await.map(drop).unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_deref()), (Code::ResourceExhausted, Some("OVERLOADED")));
    assert_eq!(world.orders.gets(), before, "nothing is read for who cannot watch");
    all.pop();
    all.push(watch(&service, order(1)).await);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_watched_is_refused_at_once() {
    let world = World::default();
    world.place(1, 7, 0).await;
    let service = world.order_service();
    let refused = async |request| service.watch_order(request).await.map(drop).unwrap_err();
    assert_eq!(refused(Request::new(order(2))).await.code(), Code::NotFound);
    assert_eq!(refused(of_tenant("other", order(1))).await.code(), Code::NotFound);
    let bad = WatchOrderRequest { order_id: "1".into(), seen_version: 0, after: after_order(1, 0) };
    assert_eq!(bad_fields(&refused(Request::new(bad)).await), ["order_id", "after.version"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_begins_no_older_than_the_token_that_it_is_given() {
    let world = World::default();
    let service = world.order_service();
    let (begun, ()) =
        tokio::join!(watch(&service, WatchOrderRequest { after: after_order(1, 2), ..order(1) }), async {
            sleep(Duration::from_millis(300)).await;
            world.place(1, 7, 0).await;
            sleep(Duration::from_millis(300)).await;
            world.advance(1, 2, OrderStatus::Processing).await;
        });
    let mut sent = begun;
    assert_eq!(next(&mut sent).await, 2);
    let never = WatchOrderRequest { after: after_order(1, 9), ..order(1) };
    let refused = service.watch_order(Request::new(never)).await.map(drop).unwrap_err();
    assert_eq!(reason(&refused).as_deref(), Some("READ_MODEL_BEHIND"));
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_the_process_and_says_so() {
    let world = World::default();
    world.place(1, 7, 0).await;
    let service = world.order_service();
    let mut sent = watch(&service, order(1)).await;
    assert_eq!(next(&mut sent).await, 1);
    world.ending.cancel();
    let end = end(&mut sent).await;
    assert_eq!((end.code(), reason(&end).as_deref()), (Code::Unavailable, Some("ENDING")));
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_is_not_noticed_and_a_long_one_is_told() {
    let world = World::default();
    world.place(1, 7, 0).await;
    let service = world.order_service();
    let mut sent = watch(&service, order(1)).await;
    assert_eq!(next(&mut sent).await, 1);
    let unreachable = || Some(AwsError::Unreachable("a test says so".to_owned()));
    world.orders.fail(unreachable());
    sleep(Duration::from_secs(9)).await;
    world.orders.fail(None);
    world.advance(1, 2, OrderStatus::Processing).await;
    assert_eq!(next(&mut sent).await, 2);

    world.orders.fail(unreachable());
    let end = end(&mut sent).await;
    assert_eq!((end.code(), reason(&end).as_deref()), (Code::Unavailable, Some("STORAGE_UNREACHABLE")));
    world.orders.fail(None);
    let mut again = watch(&service, WatchOrderRequest { seen_version: 1, ..order(1) }).await;
    assert_eq!(next(&mut again).await, 2);
}
