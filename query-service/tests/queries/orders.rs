//! Queries about orders.

use std::{collections::HashSet, time::Duration};

use crate::support::{
    BAD_AFTER, World, after_order, after_user, bad_after, bad_fields, basket, of_tenant, order_id, user_id,
};
use millrace_proto::query::ReadAfter;
use proptest::{collection::vec, prelude::*, sample::select};
use prost::Message as _;
use shop::{
    contracts::{
        query::{
            GetOrderRequest, GetOrdersByStatusRequest, GetOrdersByUserRequest, OrderSummary,
            order_query_service_server::OrderQueryService as _,
        },
        types,
    },
    order::OrderStatus,
};
use tokio::time::{Instant, sleep};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

/// The user with the listed orders.
const BUYER: u128 = 1 << 100;

/// A client's list query.
#[derive(Debug, Clone, Copy)]
enum Asked {
    OfBuyer,
    In(OrderStatus),
}

type Page = (Vec<OrderSummary>, String);

async fn page(
    world: &World,
    asked: Asked,
    size: i32,
    token: &str,
    after: Option<ReadAfter>,
) -> Result<Page, Status> {
    let (page_size, page_token) = (size, token.to_owned());
    let service = world.order_service();
    match asked {
        Asked::OfBuyer => {
            let user_id = user_id(BUYER).to_string();
            let request =
                GetOrdersByUserRequest { user_id, page_size, page_token, after, ..Default::default() };
            let reply = service.get_orders_by_user(Request::new(request)).await?.into_inner();
            Ok((reply.orders, reply.next_page_token))
        }
        Asked::In(status) => {
            let status = types::OrderStatus::from(status).into();
            let request =
                GetOrdersByStatusRequest { status, page_size, page_token, after, ..Default::default() };
            let reply = service.get_orders_by_status(Request::new(request)).await?.into_inner();
            Ok((reply.orders, reply.next_page_token))
        }
    }
}

/// Every page of a list.
async fn pages(world: &World, asked: Asked, size: i32, after: Option<ReadAfter>) -> Vec<Vec<OrderSummary>> {
    let (mut pages, mut token) = (vec![], String::new());
    loop {
        let (orders, next) = page(world, asked, size, &token, after.clone()).await.unwrap();
        pages.push(orders);
        assert!(pages.len() < 200, "a list that does not end");
        if next.is_empty() {
            return pages;
        }
        token = next;
    }
}

fn ids(orders: &[OrderSummary]) -> Vec<String> {
    orders.iter().map(|order| order.order_id.clone()).collect()
}

async fn by_id(world: &World, id: u128, after: Option<ReadAfter>) -> Result<OrderSummary, Status> {
    let request = GetOrderRequest { order_id: order_id(id).to_string(), after };
    let reply = world.order_service().get_order(Request::new(request)).await?;
    Ok(reply.into_inner().order.expect("an order in every reply"))
}

#[tokio::test]
async fn an_order_is_shown_whole() {
    let world = World::default();
    world.place_basket(1, BUYER, 5, basket("laptop", 3)).await;
    world.advance(1, 2, OrderStatus::Processing).await;
    let order = by_id(&world, 1, None).await.unwrap();
    assert_eq!((order.order_id, order.user_id), (order_id(1).to_string(), user_id(BUYER).to_string()));
    assert_eq!(
        (order.items.len(), order.items[0].quantity, order.items[0].product.as_str()),
        (3, 2, "laptop")
    );
    let total = order.total_amount.unwrap();
    assert_eq!((total.units, total.nanos, total.currency_code.as_str()), (5_999, 940_000_000, "USD"));
    assert_eq!((order.status, order.version), (types::OrderStatus::Processing.into(), 2));
    assert_eq!((order.created_at.unwrap().nanos, order.updated_at.unwrap().nanos), (5_000, 99_000));
}

#[tokio::test]
async fn an_order_that_does_not_exist_is_not_found() {
    let status = by_id(&World::default(), 1, None).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let details = status.get_error_details();
    let resource = details.resource_info().unwrap();
    assert_eq!(
        (resource.resource_type.as_str(), resource.resource_name.as_str()),
        ("order", &*order_id(1).to_string())
    );
}

#[tokio::test]
async fn a_list_of_nothing_is_empty_and_has_no_next_page() {
    for asked in [Asked::OfBuyer, Asked::In(OrderStatus::Returned)] {
        assert_eq!(page(&World::default(), asked, 0, "", None).await.unwrap(), (vec![], String::new()));
    }
}

#[tokio::test]
async fn another_tenant_sees_nothing() {
    let world = World::default();
    world.place(1, BUYER, 0).await;
    let service = world.order_service();
    let get = GetOrderRequest { order_id: order_id(1).to_string(), after: None };
    assert_eq!(service.get_order(of_tenant("other", get)).await.unwrap_err().code(), Code::NotFound);
    let by_user = GetOrdersByUserRequest { user_id: user_id(BUYER).to_string(), ..Default::default() };
    let reply = service.get_orders_by_user(of_tenant("other", by_user)).await.unwrap();
    assert_eq!(reply.into_inner().orders, []);
    let status = types::OrderStatus::Created.into();
    let by_status = GetOrdersByStatusRequest { status, ..Default::default() };
    let reply = service.get_orders_by_status(of_tenant("other", by_status)).await.unwrap();
    assert_eq!(reply.into_inner().orders, []);
}

#[tokio::test]
async fn every_bad_field_is_named() {
    let world = World::default();
    let get = GetOrderRequest { order_id: "7".into(), after: bad_after() };
    let status = world.order_service().get_order(Request::new(get)).await.unwrap_err();
    assert_eq!(bad_fields(&status), [&["order_id"], &BAD_AFTER[..]].concat());

    let page_token = "x".repeat(1025);
    let by_user = GetOrdersByUserRequest {
        user_id: "7".into(),
        page_size: -1,
        page_token: page_token.clone(),
        after: bad_after(),
        ..Default::default()
    };
    let status = world.order_service().get_orders_by_user(Request::new(by_user)).await.unwrap_err();
    let rest = [&["page_size", "page_token"], &BAD_AFTER[..]].concat();
    assert_eq!(bad_fields(&status), [&["user_id"], &rest[..]].concat());

    for (number, page_size) in [(0, 101), (7, i32::MAX), (-1, i32::MIN)] {
        let page_token = page_token.clone();
        let by_status = GetOrdersByStatusRequest {
            status: number,
            page_size,
            page_token,
            after: bad_after(),
            ..Default::default()
        };
        let status = world.order_service().get_orders_by_status(Request::new(by_status)).await.unwrap_err();
        assert_eq!(bad_fields(&status), [&["status"], &rest[..]].concat(), "{number}");
    }
}

#[tokio::test]
async fn a_page_holds_20_orders_unless_the_request_says_otherwise() {
    let world = World::default();
    for n in 0..150 {
        world.place(n, BUYER, 0).await;
    }
    for asked in [Asked::OfBuyer, Asked::In(OrderStatus::Created)] {
        for (size, held) in [(0, 20), (1, 1), (100, 100)] {
            let (orders, next) = page(&world, asked, size, "", None).await.unwrap();
            assert_eq!((orders.len(), next.is_empty()), (held, false), "{asked:?} {size}");
        }
    }
}

#[tokio::test]
async fn the_last_page_says_so_even_when_it_is_full() {
    let world = World::default();
    for n in 0..40 {
        world.place(n, BUYER, 0).await;
    }
    for asked in [Asked::OfBuyer, Asked::In(OrderStatus::Created)] {
        for after in [None, after_order(3, 1)] {
            let sizes: Vec<_> = pages(&world, asked, 20, after).await.iter().map(Vec::len).collect();
            assert_eq!(sizes, [20, 20], "{asked:?}");
        }
    }
}

#[tokio::test]
async fn orders_that_come_between_pages_neither_hide_nor_repeat_older_ones() {
    for asked in [Asked::OfBuyer, Asked::In(OrderStatus::Created)] {
        let world = World::default();
        for n in 0..250 {
            world.place(n, BUYER, i64::try_from(n / 7).unwrap()).await;
        }
        let (mut met, mut token, mut newer) = (vec![], String::new(), 1_000);
        loop {
            let (orders, next) = page(&world, asked, 30, &token, None).await.unwrap();
            met.extend(ids(&orders));
            for _ in 0..3 {
                newer += 1;
                world.place(newer, BUYER, i64::try_from(newer).unwrap()).await;
            }
            if next.is_empty() {
                break;
            }
            token = next;
        }
        let mut expected: Vec<_> = (0..250_u128).map(|n| (n / 7, order_id(n))).collect();
        expected.sort_unstable_by(|a, b| b.cmp(a));
        let expected: Vec<_> = expected.into_iter().map(|(_, id)| id.to_string()).collect();
        assert_eq!(met, expected, "{asked:?}");
    }
}

#[tokio::test]
async fn a_token_that_is_not_this_querys_own_is_refused() {
    let world = World::default();
    for n in 0..3 {
        world.place(n, BUYER, 0).await;
        world.place(100 + n, 2, 0).await;
    }
    let (_, of_buyer) = page(&world, Asked::OfBuyer, 1, "", None).await.unwrap();
    let (_, in_created) = page(&world, Asked::In(OrderStatus::Created), 1, "", None).await.unwrap();
    let mut changed = of_buyer.clone().into_bytes();
    changed[9] = if changed[9] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    let table = [
        (Asked::OfBuyer, in_created.clone()),
        (Asked::OfBuyer, changed),
        (Asked::OfBuyer, of_buyer[..of_buyer.len() - 1].to_owned()),
        (Asked::OfBuyer, format!("{of_buyer}A")),
        (Asked::OfBuyer, "token".to_owned()),
        (Asked::OfBuyer, "💥".to_owned()),
        (Asked::In(OrderStatus::Created), of_buyer.clone()),
        (Asked::In(OrderStatus::Shipped), in_created.clone()),
    ];
    for (asked, token) in table {
        let status = page(&world, asked, 1, &token, None).await.unwrap_err();
        assert_eq!(bad_fields(&status), ["page_token"], "{asked:?} {token}");
    }

    let user = |id| GetOrdersByUserRequest {
        user_id: user_id(id).to_string(),
        page_token: of_buyer.clone(),
        ..Default::default()
    };
    let service = world.order_service();
    let another_user = service.get_orders_by_user(Request::new(user(2))).await.unwrap_err();
    assert_eq!(bad_fields(&another_user), ["page_token"]);
    let another_tenant = service.get_orders_by_user(of_tenant("other", user(BUYER))).await.unwrap_err();
    assert_eq!(bad_fields(&another_tenant), ["page_token"]);

    // The page size is no part of the query: a client may change it between pages.
    assert_eq!(page(&world, Asked::OfBuyer, 100, &of_buyer, None).await.unwrap().0.len(), 2);
}

#[tokio::test]
async fn a_page_of_large_orders_fits_into_a_message() {
    let world = World::default();
    for n in 0..100 {
        world.place_basket(n, BUYER, 0, basket(&"𒀀".repeat(200), 100)).await;
    }
    let pages = pages(&world, Asked::OfBuyer, 100, None).await;
    assert!(pages.len() > 1);
    for page in &pages {
        let bytes: usize = page.iter().map(prost::Message::encoded_len).sum();
        assert!(bytes < 4 << 20, "{bytes} bytes");
    }
    let met: HashSet<_> = pages.iter().flat_map(|page| ids(page)).collect();
    assert_eq!(met.len(), 100);
    assert!(pages[0][0].encoded_len() > 80_000);
}

#[tokio::test]
async fn a_new_order_is_listed_before_the_indexes_show_it() {
    let world = World::default();
    world.orders.rows.hold_index();
    world.place(1, BUYER, 0).await;
    for asked in [Asked::OfBuyer, Asked::In(OrderStatus::Created)] {
        assert_eq!(page(&world, asked, 0, "", None).await.unwrap().0, []);
        assert_eq!(
            ids(&page(&world, asked, 0, "", after_order(1, 1)).await.unwrap().0),
            [order_id(1).to_string()]
        );
    }
    assert_eq!(page(&world, Asked::In(OrderStatus::Shipped), 0, "", after_order(1, 1)).await.unwrap().0, []);
}

#[tokio::test]
async fn an_order_of_somebody_else_is_not_laid_over_a_list() {
    let world = World::default();
    world.orders.rows.hold_index();
    world.place(1, 2, 0).await;
    assert_eq!(page(&world, Asked::OfBuyer, 0, "", after_order(1, 1)).await.unwrap().0, []);
}

#[tokio::test(start_paused = true)]
async fn a_list_waits_for_its_token_be_it_an_orders_or_a_users() {
    let world = World::default();
    let start = Instant::now();
    let writes = async {
        sleep(Duration::from_millis(200)).await;
        world.place(1, BUYER, 0).await;
        sleep(Duration::from_millis(200)).await;
        world.user(BUYER, 1, "john@example.com").await;
    };
    let (by_order, by_user, ()) = tokio::join!(
        async { (page(&world, Asked::OfBuyer, 0, "", after_order(1, 1)).await, start.elapsed()) },
        async { (page(&world, Asked::OfBuyer, 0, "", after_user(BUYER, 1)).await, start.elapsed()) },
        writes
    );
    for ((reply, waited), at_least) in [(by_order, 200), (by_user, 400)] {
        assert_eq!(reply.unwrap().0.len(), 1);
        assert!(waited.as_millis() >= at_least && waited.as_millis() <= at_least + 260, "{waited:?}");
    }
}

/// A change of an order while the indexes are held.
#[derive(Debug, Clone)]
enum Unseen {
    Placed { created_at: i64, buyer: u128 },
    Moved { which: prop::sample::Index, to: OrderStatus },
}

fn any_unseen() -> impl Strategy<Value = Unseen> {
    prop_oneof![
        (0..6_i64, select(vec![BUYER, 2]))
            .prop_map(|(created_at, buyer)| Unseen::Placed { created_at, buyer }),
        (any::<prop::sample::Index>(), select(OrderStatus::ALL.to_vec()))
            .prop_map(|(which, to)| Unseen::Moved { which, to }),
    ]
}

proptest! {
    /// With the token of a change that the indexes lack, every page is as from up-to-date indexes.
    #[test]
    fn with_a_token_a_list_is_as_if_no_index_lagged(
        orders in vec((0..6_i64, select(vec![BUYER, 2])), 1..14),
        unseen in any_unseen(),
        asked in select(vec![Asked::OfBuyer, Asked::In(OrderStatus::Created), Asked::In(OrderStatus::Shipped)]),
        size in 1..5_i32,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (with_token, up_to_date) = runtime.block_on(async {
            let world = World::default();
            for (n, (created_at, buyer)) in (0..).zip(&orders) {
                world.place(2 * n + 1, *buyer, *created_at).await;
            }
            world.orders.rows.hold_index();
            let token = match unseen {
                Unseen::Placed { created_at, buyer } => {
                    // An id in the midst of the others, which orders orders of the same time.
                    world.place(8, buyer, created_at).await;
                    after_order(8, 1)
                }
                Unseen::Moved { which, to } => {
                    let moved = 2 * u128::try_from(which.index(orders.len())).unwrap() + 1;
                    world.advance(moved, 2, to).await;
                    after_order(moved, 2)
                }
            };
            let with_token = pages(&world, asked, size, token).await;
            world.orders.rows.release_index();
            (with_token, pages(&world, asked, size, None).await)
        });
        prop_assert_eq!(with_token, up_to_date);
    }
}
