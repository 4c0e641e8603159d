//! Five hundred watchers on one process: their messages, and their cost.

use std::{fs, time::Instant};

use futures::{StreamExt as _, future::join_all, stream};
use millrace_tests::{
    FaultProxy, TestApp, Traffic, aws_stack, eventually,
    process::{Deployable, Process, log_folder},
};
use shop::contracts::{
    query::{WatchOrderRequest, WatchOrderResponse, order_query_service_client::OrderQueryServiceClient},
    types::OrderStatus,
};
use tokio::time::{Duration, sleep};
use tonic::{Streaming, transport::Endpoint};

use crate::calls::{At, create_order, create_user, set_status};

const WATCHERS: usize = 500;
const ROWS: usize = 100;

/// A connection holds 256 streams.
const CONNECTIONS: usize = 4;

/// The shortest time between two reads of a row: `WATCH_POLL_MS`.
const FASTEST: Duration = Duration::from_millis(250);

/// The memory that a process has now, in KiB.
fn memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Readings of watched rows that went over a wire since this was asked last.
fn readings(proxy: &FaultProxy) -> Traffic {
    proxy.take().get("BatchGetItem").copied().unwrap_or_default()
}

/// Fails if there were more reads than so many rows cost, for any number of watchers.
fn bounded(what: &str, traffic: Traffic, took: Duration) {
    let rounds = took.as_secs_f64() / FASTEST.as_secs_f64() + 1.0;
    println!(
        "{what}: {} requests, {:.0} read units, {} bytes in {took:?}",
        traffic.requests, traffic.read_units, traffic.response_bytes
    );
    // A hundred rows are one request. Each reading of a small row is half a unit.
    let requests = u32::try_from(traffic.requests).unwrap();
    assert!(f64::from(requests) <= rounds, "{what}: {requests} requests in {rounds:.1} rounds");
    assert!(traffic.read_units <= 0.5 * 100.0 * f64::from(requests), "{what}: {} units", traffic.read_units);
}

/// Reads states until one of a version comes; how many there were.
async fn until(states: &mut Streaming<WatchOrderResponse>, seen: &mut u64, version: u64) -> usize {
    let mut count = 0;
    while *seen < version {
        let order = states.message().await.unwrap().unwrap().order.unwrap();
        assert!(order.version > *seen, "{} after {seen}", order.version);
        *seen = order.version;
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_watch_a_hundred_rows_at_the_price_of_a_hundred_rows() {
    let app = TestApp::on(aws_stack().await.unwrap()).await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    let mut orders: Vec<At> = Vec::new();
    for _ in 0..ROWS {
        orders.push(create_order(&app, &john).await.unwrap());
    }
    let proxy = FaultProxy::before(app.stack.endpoint()).await.unwrap();
    let mut command = Deployable::QueryService.command(&app.stack);
    command.env("AWS_ENDPOINT_URL", proxy.url());
    let log = log_folder("watchers").unwrap().join("query-service.log");
    let running = Process::start(command, &log).await.unwrap();
    let process = running.id();
    let endpoint = Endpoint::from_shared(format!("http://{}", running.address())).unwrap();
    let connections = join_all((0..CONNECTIONS).map(|_| endpoint.connect())).await;
    let connections: Vec<_> = connections.into_iter().map(Result::unwrap).collect();

    // A first watcher makes everything that is made once.
    let watch = async |n: usize| {
        let order = &orders[n % ROWS];
        let mut client = OrderQueryServiceClient::new(connections[n % CONNECTIONS].clone());
        let request = WatchOrderRequest { order_id: order.id.clone(), after: order.after(), seen_version: 0 };
        client.watch_order(request).await.unwrap().into_inner()
    };
    let mut first = watch(0).await;
    until(&mut first, &mut 0, 1).await;
    let before = memory(process);
    let mut watches: Vec<_> =
        stream::iter(1..WATCHERS).map(&watch).buffered(32).map(|states| (states, 0)).collect().await;
    watches.insert(0, (first, 0));
    // The first has had its first state.
    watches[0].1 = 1;
    join_all(watches.iter_mut().map(|(states, seen)| until(states, seen, 1))).await;
    let grown = memory(process).saturating_sub(before);
    println!("{WATCHERS} watchers: {grown} KiB, {:.1} each", f64_of(grown) / f64_of(499));
    assert!(grown < 64 * 1024, "{grown} KiB");

    println!("to begin: {:?}", proxy.take().get("GetItem"));
    let began = Instant::now();
    sleep(Duration::from_secs(5)).await;
    bounded("while nothing changes", readings(&proxy), began.elapsed());

    let began = Instant::now();
    for status in [OrderStatus::Processing, OrderStatus::Shipped, OrderStatus::Delivered] {
        for order in &mut orders {
            *order = set_status(&app, order, status).await.unwrap();
        }
    }
    let states = join_all(watches.iter_mut().map(|(states, seen)| until(states, seen, 4))).await;
    let took = began.elapsed();
    let sent: usize = states.iter().sum();
    println!("{} changes: {sent} states sent to {WATCHERS}", 3 * ROWS);
    assert!((WATCHERS..=3 * WATCHERS).contains(&sent), "{sent}");
    bounded("while everything changes", readings(&proxy), took);

    // Five leave each row, then the last.
    drop(watches);
    eventually("silence", async || {
        readings(&proxy);
        sleep(Duration::from_secs(1)).await;
        (readings(&proxy).requests == 0).then_some(())
    })
    .await;
    println!("at the end {} KiB, {before} before", memory(process));
    drop(running);
    app.end().await.unwrap();
}

fn f64_of(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap())
}
