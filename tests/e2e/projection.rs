//! The cost and the delay from events to rows. Run with `--nocapture` to see the figures.

use futures::future::join_all;
use millrace_aws::Aws;
use millrace_core::Application;
use millrace_tests::{ORDERS, TOTALS, TestApp, USERS};
use shop::{
    CustomerTotals, OrderSummary, UserProfile,
    contracts::{
        query::{GetCustomerTotalsRequest, GetOrderRequest},
        types::OrderStatus,
    },
    order::Order,
    user::User,
};
use tokio::time::Instant;

use crate::calls::{create_order, create_user, drained, patient, set_status};

const CLIENTS: usize = 16;
const ORDERS_EACH: usize = 16;
const LIFE: [OrderStatus; 3] = [OrderStatus::Processing, OrderStatus::Shipped, OrderStatus::Delivered];

/// Requests of a projector for each of so many events.
fn requests_an_event(aws: &Aws, events: usize) -> f64 {
    let counts = aws.requests().counts();
    // Of time, not of events: the depths of queues, counted every 15 s.
    let requests: u64 = counts.iter().filter(|(name, _)| *name != "GetQueueAttributes").map(|(_, n)| n).sum();
    let each = requests as f64 / events as f64;
    println!("{each:.3} requests an event: {counts:?}");
    each
}

/// A projection that changes a row without reading it takes one request an event, and its share of those to its queue.
#[tokio::test(flavor = "multi_thread")]
async fn under_load_an_event_costs_the_projector_at_most_1_3_requests() {
    let app = TestApp::projecting(blind()).await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    let began = Instant::now();
    let clients = (0..CLIENTS).map(async |_| {
        let mut orders = Vec::new();
        for _ in 0..ORDERS_EACH {
            let mut order = create_order(&app, &john).await.unwrap();
            for status in LIFE {
                order = set_status(&app, &order, status).await.unwrap();
            }
            orders.push(order);
        }
        orders
    });
    let orders = join_all(clients).await.concat();
    let commanded = began.elapsed();
    join_all(orders.iter().map(async |order| {
        let request = GetOrderRequest { order_id: order.id.clone(), after: order.after() };
        let order = app.order_queries().get_order(patient(request)).await.unwrap().into_inner();
        assert_eq!(order.order.unwrap().version, 4);
    }))
    .await;
    for projection in [USERS, ORDERS] {
        drained(&app, projection).await;
    }
    let events = 1 + CLIENTS * ORDERS_EACH * (1 + LIFE.len());
    println!("{events} events in {commanded:?}, caught up after {:?}", began.elapsed());
    let each = requests_an_event(&app.projector_aws, events);
    assert!(each <= 1.3, "{each}");
    app.end().await.unwrap();
}

/// A sum takes three requests an event, where no other change of it is in the way.
#[tokio::test(flavor = "multi_thread")]
async fn a_sum_costs_two_reads_and_a_transaction() {
    let mut app = TestApp::projecting(blind()).await.unwrap();
    let sums = Application::new("shop").aggregate::<User>().aggregate::<Order>();
    let sums = sums.aggregating_projection::<CustomerTotals>().build().unwrap();
    let summing = app.another_projector_of(sums).await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    for _ in 0..ORDERS_EACH {
        let order = create_order(&app, &john).await.unwrap();
        let request = GetCustomerTotalsRequest { user_id: john.id.clone(), after: order.after() };
        app.customer_queries().get_customer_totals(patient(request)).await.unwrap();
    }
    drained(&app, TOTALS).await;
    let counts = summing.requests().counts();
    println!("{counts:?}");
    // A repeated message costs a read of its part, and nothing more.
    let of = |operation| counts.get(operation).copied().unwrap_or_default();
    let events = u64::try_from(ORDERS_EACH).unwrap();
    assert_eq!(of("TransactWriteItems"), events);
    assert!((2 * events..=3 * events).contains(&of("GetItem")), "{counts:?}");
    app.end().await.unwrap();
}

/// The projections that change rows without reading them.
fn blind() -> Application {
    let shop = Application::new("shop").aggregate::<User>().aggregate::<Order>();
    shop.projection::<UserProfile>().projection::<OrderSummary>().build().unwrap()
}

/// One command after the other, each read as soon as it can be.
#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_an_idle_stack_can_be_read_after_its_reply() {
    const COMMANDS: usize = 100;
    let app = TestApp::new().await.unwrap();
    let john = create_user(&app, "john@example.com").await.unwrap();
    let mut lags = Vec::new();
    for _ in 0..COMMANDS {
        let order = create_order(&app, &john).await.unwrap();
        let replied = Instant::now();
        let request = GetOrderRequest { order_id: order.id.clone(), after: order.after() };
        app.order_queries().get_order(patient(request)).await.unwrap();
        lags.push(replied.elapsed());
    }
    lags.sort_unstable();
    let [half, most, all] = [COMMANDS / 2, COMMANDS * 99 / 100, COMMANDS - 1].map(|place| lags[place]);
    println!("from reply to readable: p50 {half:?}, p99 {most:?}, at most {all:?}");
    app.end().await.unwrap();
}
