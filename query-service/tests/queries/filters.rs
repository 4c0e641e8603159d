//! Lists of some orders only.

use millrace_proto::Timestamp;
use millrace_rows::MAX_EXAMINED;
use shop::{
    contracts::{
        query::{
            GetOrdersByStatusRequest, GetOrdersByUserRequest, OrderSummary,
            order_query_service_server::OrderQueryService as _,
        },
        types,
    },
    order::OrderStatus,
};
use tonic::{Request, Status};

use crate::support::{World, after_order, at, bad_fields, order_id, user_id};

const BUYER: u128 = 1 << 100;

/// The time so many nanoseconds after the start of 2026.
fn nanos(nanos: i64) -> Timestamp {
    let seconds = at(0).unix_micros() / 1_000_000;
    let (more, nanos) = (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
    Timestamp { seconds: seconds + more, nanos: nanos.try_into().unwrap() }
}

fn of_buyer() -> GetOrdersByUserRequest {
    GetOrdersByUserRequest { user_id: user_id(BUYER).to_string(), page_size: 100, ..Default::default() }
}

fn in_status(status: OrderStatus) -> GetOrdersByStatusRequest {
    GetOrdersByStatusRequest {
        status: types::OrderStatus::from(status).into(),
        page_size: 100,
        ..Default::default()
    }
}

async fn by_user(
    world: &World,
    request: GetOrdersByUserRequest,
) -> Result<(Vec<OrderSummary>, String), Status> {
    let reply = world.order_service().get_orders_by_user(Request::new(request)).await?.into_inner();
    Ok((reply.orders, reply.next_page_token))
}

async fn by_status(
    world: &World,
    request: GetOrdersByStatusRequest,
) -> Result<(Vec<OrderSummary>, String), Status> {
    let reply = world.order_service().get_orders_by_status(Request::new(request)).await?.into_inner();
    Ok((reply.orders, reply.next_page_token))
}

fn numbers(orders: &[OrderSummary]) -> Vec<u128> {
    orders.iter().map(|order| order.order_id.parse::<uuid::Uuid>().unwrap().as_u128()).collect()
}

#[tokio::test]
async fn a_range_of_times_includes_its_start_and_excludes_its_end() {
    let world = World::default();
    for n in 0..5 {
        world.place(n, BUYER, i64::try_from(n).unwrap()).await;
    }
    // In nanoseconds; orders are placed at whole microseconds.
    let table: [(Option<i64>, Option<i64>, &[u128]); 12] = [
        (None, None, &[4, 3, 2, 1, 0]),
        (Some(2_000), None, &[4, 3, 2]),
        (Some(1_001), None, &[4, 3, 2]),
        (Some(2_001), None, &[4, 3]),
        (None, Some(2_000), &[1, 0]),
        (None, Some(2_001), &[2, 1, 0]),
        (None, Some(1_999), &[1, 0]),
        (Some(1_000), Some(3_000), &[2, 1]),
        (Some(2_000), Some(2_001), &[2]),
        (Some(2_001), Some(2_999), &[]),
        (Some(-1), Some(1), &[0]),
        (Some(4_001), Some(9_000_000_000), &[]),
    ];
    for (since, before, expected) in table {
        let (created_since, created_before) = (since.map(nanos), before.map(nanos));
        for page_size in [1, 2, 100] {
            let (mut met, mut request) = (vec![], of_buyer());
            (request.created_since, request.created_before, request.page_size) =
                (created_since, created_before, page_size);
            loop {
                let (orders, next) = by_user(&world, request.clone()).await.unwrap();
                met.extend(numbers(&orders));
                request.page_token = next;
                if request.page_token.is_empty() {
                    break;
                }
            }
            assert_eq!(met, expected, "{since:?} {before:?} by {page_size}");
        }
        let request =
            GetOrdersByStatusRequest { created_since, created_before, ..in_status(OrderStatus::Created) };
        let (orders, next) = by_status(&world, request).await.unwrap();
        assert_eq!((numbers(&orders), next.is_empty()), (expected.to_vec(), true), "{since:?} {before:?}");
    }
}

#[tokio::test]
async fn a_range_that_is_none_is_named_by_the_field_that_is_bad() {
    let world = World::default();
    let table = [
        (Some(nanos(7)), Some(nanos(7)), vec!["created_before"]),
        (Some(nanos(8)), Some(nanos(7)), vec!["created_before"]),
        (None, Some(Timestamp { seconds: 0, nanos: 0 }), vec!["created_before"]),
        (Some(Timestamp { seconds: -1, nanos: 0 }), Some(nanos(7)), vec!["created_since"]),
        (
            Some(Timestamp { seconds: 1, nanos: -1 }),
            Some(Timestamp { seconds: 1, nanos: i32::MAX }),
            vec!["created_since", "created_before"],
        ),
        (
            Some(Timestamp { seconds: i64::MAX, nanos: 0 }),
            Some(Timestamp { seconds: i64::MIN, nanos: 0 }),
            vec!["created_since", "created_before"],
        ),
    ];
    for (created_since, created_before, bad) in table {
        let request = GetOrdersByUserRequest { created_since, created_before, ..of_buyer() };
        assert_eq!(bad_fields(&by_user(&world, request).await.unwrap_err()), bad);
        let request =
            GetOrdersByStatusRequest { created_since, created_before, ..in_status(OrderStatus::Created) };
        assert_eq!(bad_fields(&by_status(&world, request).await.unwrap_err()), bad);
    }
    for status in [7, -1, i32::MAX] {
        let status = by_user(&world, GetOrdersByUserRequest { status, ..of_buyer() }).await.unwrap_err();
        assert_eq!(bad_fields(&status), ["status"]);
    }
}

#[tokio::test]
async fn a_users_orders_can_be_those_in_one_status() {
    let world = World::default();
    for n in 0..6 {
        world.place(n, if n == 5 { 2 } else { BUYER }, i64::try_from(n).unwrap()).await;
        if n % 2 == 1 {
            world.advance(n, 2, OrderStatus::Processing).await;
        }
    }
    let of = |status: OrderStatus| GetOrdersByUserRequest {
        status: types::OrderStatus::from(status).into(),
        created_since: Some(nanos(1_000)),
        ..of_buyer()
    };
    for (status, expected) in [
        (OrderStatus::Created, vec![4, 2]),
        (OrderStatus::Processing, vec![3, 1]),
        (OrderStatus::Shipped, vec![]),
    ] {
        let (orders, next) = by_user(&world, of(status)).await.unwrap();
        assert_eq!((numbers(&orders), next.as_str()), (expected, ""), "{status:?}");
    }
}

#[tokio::test]
async fn a_page_of_few_among_many_may_be_short_or_empty_and_is_not_the_last_for_that() {
    let world = World::default();
    let many = 3 * u128::from(MAX_EXAMINED) + 50;
    for n in 0..many {
        world.place(n, BUYER, i64::try_from(n).unwrap()).await;
    }
    // The oldest of all, and two at the end of the third page.
    let edge = many - 2 * u128::from(MAX_EXAMINED);
    for n in [0, edge, edge - 1] {
        world.advance(n, 2, OrderStatus::Cancelled).await;
    }
    let mut request = GetOrdersByUserRequest {
        status: types::OrderStatus::from(OrderStatus::Cancelled).into(),
        page_size: 20,
        ..of_buyer()
    };
    let mut pages = vec![];
    loop {
        let (orders, next) = by_user(&world, request.clone()).await.unwrap();
        pages.push(numbers(&orders));
        request.page_token = next;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, [vec![], vec![edge], vec![edge - 1], vec![0]]);

    // An order that has just changed to the status is on the page of its place, and on no other.
    world.orders.rows.hold_index();
    world.advance(edge + 1, 2, OrderStatus::Cancelled).await;
    (request.page_token, request.after) = (String::new(), after_order(edge + 1, 2));
    let mut pages = vec![];
    loop {
        let (orders, next) = by_user(&world, request.clone()).await.unwrap();
        pages.push(numbers(&orders));
        request.page_token = next;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, [vec![], vec![edge + 1, edge], vec![edge - 1], vec![0]]);
}

#[tokio::test]
async fn a_token_serves_no_other_filters_than_its_own() {
    let world = World::default();
    for n in 0..9 {
        world.place(n, BUYER, i64::try_from(n).unwrap()).await;
    }
    let of = |status, since: Option<i64>, before: Option<i64>| GetOrdersByUserRequest {
        page_size: 1,
        status,
        created_since: since.map(nanos),
        created_before: before.map(nanos),
        ..of_buyer()
    };
    let queries = [
        of(0, None, None),
        of(1, None, None),
        of(0, Some(1_000), None),
        of(0, Some(2_000), None),
        of(0, None, Some(8_000)),
        of(0, Some(1_000), Some(8_000)),
        of(1, Some(1_000), Some(8_000)),
    ];
    for own in &queries {
        let (_, page_token) = by_user(&world, own.clone()).await.unwrap();
        for query in &queries {
            let asked =
                by_user(&world, GetOrdersByUserRequest { page_token: page_token.clone(), ..query.clone() });
            match asked.await {
                Ok(_) => assert_eq!(query, own),
                Err(status) => {
                    assert_ne!(query, own);
                    assert_eq!(bad_fields(&status), ["page_token"]);
                }
            }
        }
    }
    let at = |since: i64| GetOrdersByStatusRequest {
        page_size: 1,
        created_since: Some(nanos(since)),
        ..in_status(OrderStatus::Created)
    };
    let (_, page_token) = by_status(&world, at(1_000)).await.unwrap();
    let other =
        by_status(&world, GetOrdersByStatusRequest { page_token: page_token.clone(), ..at(2_000) }).await;
    assert_eq!(bad_fields(&other.unwrap_err()), ["page_token"]);
    // Orders are placed at whole microseconds, so that is the same query.
    let same = by_status(&world, GetOrdersByStatusRequest { page_token, ..at(1) }).await.unwrap();
    assert_eq!(same.0[0].order_id, order_id(7).to_string());
}
