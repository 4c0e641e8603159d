//! What bringing events into rows costs, and how soon they are there. Run with `--nocapture` to see the figures.

use futures::future::join_all;
use millrace_proto::{query::GetOrderRequest, types::OrderStatus};
use millrace_tests::World;
use tokio::time::Instant;

use crate::calls::{create_order, create_user, drained, patient, set_status};

const CLIENTS: usize = 16;
const ORDERS: usize = 16;
const LIFE: [OrderStatus; 3] = [OrderStatus::Processing, OrderStatus::Shipped, OrderStatus::Delivered];

#[tokio::test(flavor = "multi_thread")]
async fn under_load_an_event_costs_the_projector_at_most_a_request_and_a_quarter() {
    let world = World::new().await.unwrap();
    let john = create_user(&world, "john@example.com").await.unwrap();
    let began = Instant::now();
    let clients = (0..CLIENTS).map(async |_| {
        let mut orders = Vec::new();
        for _ in 0..ORDERS {
            let mut order = create_order(&world, &john).await.unwrap();
            for status in LIFE {
                order = set_status(&world, &order, status).await.unwrap();
            }
            orders.push(order);
        }
        orders
    });
    let orders = join_all(clients).await.concat();
    let commanded = began.elapsed();
    join_all(orders.iter().map(async |order| {
        let request = GetOrderRequest { order_id: order.id.clone(), after: order.after() };
        let order = world.order_queries().get_order(patient(request)).await.unwrap().into_inner();
        assert_eq!(order.order.unwrap().version, 4);
    }))
    .await;
    drained(&world, "OrderQueueUrl").await;

    let counts = world.projector_aws.requests().counts();
    let events = 1 + CLIENTS * ORDERS * (1 + LIFE.len());
    // Of time, not of events: the depths of queues, counted every 15 s.
    let requests: u64 = counts.iter().filter(|(name, _)| *name != "GetQueueAttributes").map(|(_, n)| n).sum();
    let per_event = requests as f64 / events as f64;
    println!("{events} events in {commanded:?}, caught up after {:?}: {counts:?}", began.elapsed());
    println!("{per_event:.3} requests an event");
    assert!(per_event <= 1.25, "{per_event}: {counts:?}");
    world.end().await.unwrap();
}

/// One command after the other, each read as soon as it can be.
#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_an_idle_stack_can_be_read_after_its_reply() {
    const COMMANDS: usize = 100;
    let world = World::new().await.unwrap();
    let john = create_user(&world, "john@example.com").await.unwrap();
    let mut lags = Vec::new();
    for _ in 0..COMMANDS {
        let order = create_order(&world, &john).await.unwrap();
        let replied = Instant::now();
        let request = GetOrderRequest { order_id: order.id.clone(), after: order.after() };
        world.order_queries().get_order(patient(request)).await.unwrap();
        lags.push(replied.elapsed());
    }
    lags.sort_unstable();
    let [half, most, all] = [COMMANDS / 2, COMMANDS * 99 / 100, COMMANDS - 1].map(|place| lags[place]);
    println!("from reply to readable: p50 {half:?}, p99 {most:?}, at most {all:?}");
    world.end().await.unwrap();
}
