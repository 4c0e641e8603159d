//! Customers' totals: rows that belong to no aggregate, each fed by many.

use std::time::Duration;

use millrace_proto::query::ReadAfter;
use shop::{
    contracts::query::{
        CustomerTotals, GetCustomerTotalsRequest, customer_query_service_server::CustomerQueryService as _,
    },
    order::{OrderEvent, OrderStatus, OrderStatusUpdated},
};
use tokio::time::{Instant, sleep};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::{
    events::{order, placed_by},
    support::{
        BAD_AFTER, World, after_order, after_user, bad_after, bad_fields, basket, of_tenant, reason, update,
        user_id, written,
    },
};

const BUYER: u128 = 1 << 100;

fn request(id: u128, after: Option<ReadAfter>) -> GetCustomerTotalsRequest {
    GetCustomerTotalsRequest { user_id: user_id(id).to_string(), after }
}

async fn totals(world: &World, id: u128, after: Option<ReadAfter>) -> Result<CustomerTotals, Status> {
    let reply = world.customer_service().get_customer_totals(Request::new(request(id, after))).await?;
    Ok(reply.into_inner().totals.expect("totals in every reply"))
}

/// Adds an order's next version to the customer's totals.
async fn learn(world: &World, id: u128, version: u64, event: OrderEvent) {
    let micros = i64::try_from(version).unwrap();
    written(&world.customers, &update("customer-totals", &order(id), version, micros, &event)).await;
}

async fn place(world: &World, id: u128) {
    learn(world, id, 1, placed_by(BUYER, basket("laptop", 1))).await;
}

async fn cancel(world: &World, id: u128) {
    let status = OrderStatus::Cancelled;
    learn(world, id, 2, OrderEvent::OrderStatusUpdated(OrderStatusUpdated { status })).await;
}

#[tokio::test]
async fn totals_sum_up_all_orders_of_a_customer() {
    let world = World::default();
    for id in 1..=3 {
        place(&world, id).await;
    }
    cancel(&world, 2).await;
    let totals = totals(&world, BUYER, None).await.unwrap();
    assert_eq!(
        (totals.user_id.as_str(), totals.orders, totals.cancelled),
        (&*user_id(BUYER).to_string(), 2, 1)
    );
    let spent: Vec<_> = totals.spent.iter().map(|sum| (&*sum.currency_code, sum.units, sum.nanos)).collect();
    assert_eq!(spent, [("USD", 3_999, 960_000_000)]);
    assert_eq!(totals.last_order_at.unwrap().nanos, 1_000);
}

#[tokio::test]
async fn who_has_placed_no_order_is_not_found() {
    let world = World::default();
    place(&world, 1).await;
    let nobody = totals(&world, 7, None).await.unwrap_err();
    let details = nobody.get_error_details();
    let resource = details.resource_info().unwrap();
    assert_eq!((nobody.code(), resource.resource_type.as_str()), (Code::NotFound, "customer"));
    let foreign = of_tenant("other", request(BUYER, None));
    let foreign = world.customer_service().get_customer_totals(foreign).await.unwrap_err();
    assert_eq!(foreign.code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn the_token_of_an_order_waits_for_the_totals_to_hold_its_command() {
    let world = World::default();
    place(&world, 1).await;
    // The row's version is none of an order's: it counts its own changes.
    cancel(&world, 1).await;
    let start = Instant::now();
    let writes = async {
        sleep(Duration::from_millis(300)).await;
        place(&world, 2).await;
        sleep(Duration::from_millis(300)).await;
        cancel(&world, 2).await;
    };
    let (placed, cancelled, ()) = tokio::join!(
        async { (totals(&world, BUYER, after_order(2, 1)).await.unwrap(), start.elapsed()) },
        async { (totals(&world, BUYER, after_order(2, 2)).await.unwrap(), start.elapsed()) },
        writes
    );
    assert_eq!((placed.0.orders, placed.0.cancelled), (1, 1));
    assert_eq!((cancelled.0.orders, cancelled.0.cancelled), (0, 2));
    for ((_, waited), at_least) in [(placed, 300), (cancelled, 600)] {
        assert!((at_least..=at_least + 260).contains(&waited.as_millis()), "{waited:?}");
    }

    for token in [after_order(2, 3), after_order(9, 1)] {
        let behind = totals(&world, BUYER, token).await.unwrap_err();
        assert_eq!(reason(&behind).as_deref(), Some("READ_MODEL_BEHIND"));
    }
}

#[tokio::test(start_paused = true)]
async fn totals_wait_for_themselves_and_for_no_other_rows_of_orders() {
    let world = World::default();
    place(&world, 1).await;
    // The order has no summary yet.
    assert_eq!(totals(&world, BUYER, after_order(1, 1)).await.unwrap().orders, 1);
    assert_eq!(world.orders.requests(), 0);
    assert_eq!(world.customers.requests(), 2, "one for the token, one for the row");
}

#[tokio::test(start_paused = true)]
async fn totals_can_wait_for_a_user() {
    let world = World::default();
    place(&world, 1).await;
    let start = Instant::now();
    let writes = async {
        sleep(Duration::from_millis(100)).await;
        world.user(1, 1, "john@example.com").await;
    };
    let (found, ()) = tokio::join!(totals(&world, BUYER, after_user(1, 1)), writes);
    assert_eq!(found.unwrap().orders, 1);
    assert!(start.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn every_bad_field_is_named() {
    let world = World::default();
    let request = GetCustomerTotalsRequest { user_id: "7".into(), after: bad_after() };
    let status = world.customer_service().get_customer_totals(Request::new(request)).await.unwrap_err();
    assert_eq!(bad_fields(&status), [&["user_id"], &BAD_AFTER[..]].concat());
}
