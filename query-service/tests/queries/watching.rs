//! Watching: what is sent, when, at what price, and how it ends.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream::BoxStream};
use metrics_exporter_prometheus::PrometheusBuilder;
use millrace_aws::AwsError;
use millrace_domain::{OrderId, TenantId, Timestamp, order::OrderStatus};
use millrace_proto::query::{
    WatchOrderRequest, WatchOrderResponse, WatchUserProfileRequest,
    order_query_service_server::OrderQueryService, user_query_service_server::UserQueryService,
};
use millrace_read_models::{Key, Many};
use millrace_runtime::{Places, call::EndOfStream, clock};
use query_service::watch::{Hub, Rows};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use crate::support::{MOST_WATCHERS, PACE, World, after, bad_fields, of_tenant, order_id, reason, user_id};

/// Longer than a change takes to be seen after a silence.
const SOON: Duration = Duration::from_secs(3);

type Sent = BoxStream<'static, Result<WatchOrderResponse, Status>>;

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

/// How it ends, which is soon.
async fn end(sent: &mut Sent) -> Status {
    let end = timeout(Duration::from_secs(15), sent.next()).await.expect("it ends soon");
    assert!(sent.next().await.is_none());
    end.unwrap().unwrap_err()
}

/// That nothing comes.
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

type All = HashMap<Key<OrderId>, Result<u64, AwsError>>;

/// Rows that are no more than their versions, and how many were asked for at a time.
#[derive(Clone, Default)]
struct Versions {
    rows: Arc<Mutex<All>>,
    /// Rows that AWS has no time for.
    left: Arc<Mutex<Vec<Key<OrderId>>>>,
    readings: Arc<Mutex<Vec<usize>>>,
}

impl Versions {
    fn set(&self, key: Key<OrderId>, version: Result<u64, AwsError>) {
        self.rows.lock().unwrap().insert(key, version);
    }

    fn hub(&self, places: u32) -> Hub<Self> {
        let hub = Hub::new(self.clone(), PACE, Places::new(places, places), CancellationToken::new());
        tokio::spawn(hub.clone().run());
        hub
    }

    fn readings(&self) -> usize {
        self.readings.lock().unwrap().len()
    }
}

impl Rows for Versions {
    type Id = OrderId;
    type Row = u64;

    fn version(row: &u64) -> u64 {
        *row
    }

    fn updated_at(row: &u64) -> Timestamp {
        // The higher a version, the longer ago: what is told of it shows which version it was.
        let age = i64::try_from(*row).unwrap() * 1_000_000;
        Timestamp::from_unix_micros(clock::now().unix_micros() - age)
    }

    async fn read(&self, keys: &[Key<OrderId>]) -> Result<Many<OrderId, u64>, AwsError> {
        self.readings.lock().unwrap().push(keys.len());
        let (rows, left) = (self.rows.lock().unwrap(), self.left.lock().unwrap());
        let (left, answered): (Vec<_>, Vec<_>) = keys.iter().cloned().partition(|key| left.contains(key));
        let found = answered.into_iter().filter_map(|key| rows.get(&key).cloned().map(|row| (key, row)));
        Ok(Many { found: found.collect(), left, read_units: 0.0 })
    }
}

fn key(id: u128) -> Key<OrderId> {
    (TenantId::default(), order_id(id))
}

type Numbers = BoxStream<'static, Result<u64, Status>>;

fn begin(hub: &Hub<Versions>, key: Key<OrderId>, version: u64) -> Numbers {
    let place = hub.place(&TenantId::default()).unwrap();
    hub.watch(place, key, version).messages(0, None, |version| *version)
}

async fn next_number(sent: &mut Numbers) -> u64 {
    timeout(SOON, sent.next()).await.expect("a state comes soon").unwrap().unwrap()
}

/// Readings of one row that are now newer, now older: such are those that need not be consistent.
#[tokio::test(start_paused = true)]
async fn a_reading_that_is_older_than_the_one_before_is_not_sent() {
    let rows = Versions::default();
    let mut sent = begin(&rows.hub(1), key(1), 5);
    let mut all = vec![next_number(&mut sent).await];
    for version in [3, 6, 4, 6, 7, 5, 9, 8] {
        rows.set(key(1), Ok(version));
        while let Ok(Some(version)) = timeout(SOON, sent.next()).await {
            all.push(version.unwrap());
        }
    }
    assert_eq!(all, [5, 6, 7, 9]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_its_callers_token_or_deadline_and_says_which() {
    for (is_token, code) in [(true, Code::Unauthenticated), (false, Code::DeadlineExceeded)] {
        let at = Instant::now() + SOON;
        let end = if is_token { EndOfStream::Token(at) } else { EndOfStream::Deadline(at) };
        let hub = Versions::default().hub(1);
        let watch = hub.watch(hub.place(&TenantId::default()).unwrap(), key(1), 1);
        let mut sent = watch.messages(0, Some(end), |version| *version);
        assert_eq!(sent.next().await.unwrap().unwrap(), 1);
        assert_eq!(sent.next().await.unwrap().unwrap_err().code(), code);
        assert!(sent.next().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_of_two_tenants_is_two_rows() {
    let rows = Versions::default();
    let of = |tenant: &str| -> Key<OrderId> { (tenant.parse().unwrap(), order_id(1)) };
    let hub = rows.hub(2);
    let (mut ours, mut theirs) = (begin(&hub, of("ours"), 1), begin(&hub, of("theirs"), 7));
    assert_eq!((next_number(&mut ours).await, next_number(&mut theirs).await), (1, 7));
    rows.set(of("ours"), Ok(2));
    rows.set(of("theirs"), Ok(7));
    assert_eq!(next_number(&mut ours).await, 2);
    assert!(timeout(SOON, theirs.next()).await.is_err(), "it is not theirs");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_cannot_be_read_ends_its_own_watches_alone_and_is_asked_for_less_and_less() {
    let rows = Versions::default();
    let hub = rows.hub(3);
    let (mut broken, mut left, mut whole) =
        (begin(&hub, key(1), 1), begin(&hub, key(2), 1), begin(&hub, key(3), 1));
    for sent in [&mut broken, &mut left, &mut whole] {
        assert_eq!(next_number(sent).await, 1);
    }
    rows.set(key(1), Err(AwsError::Nonsense("it has no version".to_owned())));
    rows.left.lock().unwrap().push(key(2));
    rows.set(key(3), Ok(1));
    let failed = broken.next().await.unwrap().unwrap_err();
    assert_eq!((failed.code(), reason(&failed).as_deref()), (Code::Internal, Some("INTERNAL")));
    let failed = left.next().await.unwrap().unwrap_err();
    assert_eq!((failed.code(), reason(&failed).as_deref()), (Code::ResourceExhausted, Some("THROTTLED")));
    assert!(broken.next().await.is_none() && left.next().await.is_none());
    // Ten seconds at four a second were forty.
    assert!((10..=25).contains(&rows.readings()), "{}", rows.readings());

    rows.set(key(3), Ok(2));
    assert_eq!(next_number(&mut whole).await, 2);
}

#[tokio::test(start_paused = true)]
async fn who_comes_to_a_row_that_could_not_be_read_for_long_is_not_told_of_what_was_before() {
    let rows = Versions::default();
    let hub = rows.hub(2);
    let _before = begin(&hub, key(1), 1);
    rows.set(key(1), Err(AwsError::Unreachable("a test says so".to_owned())));
    sleep(Duration::from_secs(30)).await;
    // The caller has just read it.
    let mut sent = begin(&hub, key(1), 2);
    assert_eq!(next_number(&mut sent).await, 2);
    assert!(timeout(Duration::from_secs(8), sent.next()).await.is_err(), "not before ten seconds");
    rows.set(key(1), Ok(3));
    assert_eq!(next_number(&mut sent).await, 3);
}

#[tokio::test(start_paused = true)]
async fn a_reading_that_succeeds_with_news_begins_the_patience_anew() {
    let rows = Versions::default();
    let mut sent = begin(&rows.hub(1), key(1), 1);
    assert_eq!(next_number(&mut sent).await, 1);
    let unreachable = || Err(AwsError::Unreachable("a test says so".to_owned()));
    rows.set(key(1), unreachable());
    sleep(Duration::from_secs(9)).await;
    rows.set(key(1), Ok(2));
    assert_eq!(next_number(&mut sent).await, 2);
    rows.set(key(1), unreachable());
    assert!(timeout(Duration::from_secs(8), sent.next()).await.is_err(), "not before ten seconds");
}

/// Whoever comes to a row that has just changed makes it one that is read often, at whatever moment.
#[tokio::test(start_paused = true)]
async fn a_row_that_somebody_has_seen_change_is_read_often_from_then_on() {
    for moment in 0..8 {
        let rows = Versions::default();
        let hub = rows.hub(2);
        let mut sent = begin(&hub, key(1), 1);
        assert_eq!(next_number(&mut sent).await, 1);
        rows.set(key(1), Ok(1));
        // Long enough that it is read every two seconds only.
        sleep(Duration::from_secs(60) + PACE.fastest * moment).await;
        let _other = begin(&hub, key(1), 2);
        assert_eq!(next_number(&mut sent).await, 2);
        rows.set(key(1), Ok(3));
        let soon = timeout(PACE.fastest * 5 / 2, sent.next()).await.expect("it is read soon");
        assert_eq!(soon.unwrap().unwrap(), 3);
    }
}

#[tokio::test]
async fn a_row_that_two_leave_at_the_same_moment_is_not_watched_any_more() {
    const ROUNDS: usize = 20_000;
    let hub = Versions::default().hub(u32::try_from(2 * ROUNDS).unwrap());
    let watch =
        |id: usize| hub.watch(hub.place(&TenantId::default()).unwrap(), key(id.try_into().unwrap()), 1);
    let watches = [(); 2].map(|()| (0..ROUNDS).map(watch).collect::<Vec<_>>());
    let ready = AtomicUsize::new(0);
    std::thread::scope(|threads| {
        for watches in watches {
            let ready = &ready;
            threads.spawn(move || {
                for (round, watch) in watches.into_iter().enumerate() {
                    ready.fetch_add(1, Ordering::SeqCst);
                    // A barrier that waits without sleep: they are to be as close as can be.
                    while ready.load(Ordering::SeqCst) < 2 * (round + 1) {
                        std::hint::spin_loop();
                    }
                    drop(watch);
                }
            });
        }
    });
    assert_eq!(hub.watched_rows(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lag_is_told_of_changes_and_not_of_what_was_there_before() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let rows = Versions::default();
    let mut sent = begin(&rows.hub(1), key(1), 1_000_000);
    assert_eq!(next_number(&mut sent).await, 1_000_000);
    assert!(!shown.render().contains("watch_lag_seconds_count"), "{}", shown.render());
    rows.set(key(1), Ok(1_000_001));
    assert_eq!(next_number(&mut sent).await, 1_000_001);
    let shown = shown.render();
    assert!(shown.contains("watch_lag_seconds_count 1"), "{shown}");
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

    // A row that does not change is read ever less often.
    sleep(Duration::from_secs(60)).await;
    let before = world.orders.requests();
    sleep(Duration::from_secs(60)).await;
    let reads = world.orders.requests() - before;
    assert!((25..=30).contains(&reads), "every two seconds: {reads}");

    // Who leaves is not read for.
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
    for _ in 0..MOST_WATCHERS {
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
    let bad = WatchOrderRequest { order_id: "1".into(), seen_version: 0, after: after(1, 0) };
    assert_eq!(bad_fields(&refused(Request::new(bad)).await), ["order_id", "after.version"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_begins_no_older_than_the_token_that_it_is_given() {
    let world = World::default();
    let service = world.order_service();
    let (begun, ()) =
        tokio::join!(watch(&service, WatchOrderRequest { after: after(1, 2), ..order(1) }), async {
            sleep(Duration::from_millis(300)).await;
            world.place(1, 7, 0).await;
            sleep(Duration::from_millis(300)).await;
            world.advance(1, 2, OrderStatus::Processing).await;
        });
    let mut sent = begun;
    assert_eq!(next(&mut sent).await, 2);
    let never = WatchOrderRequest { after: after(1, 9), ..order(1) };
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
