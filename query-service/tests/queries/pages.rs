//! Pages of lists while orders are written between them.

use std::collections::BTreeMap;

use millrace_core::{TenantId, Versioned};
use millrace_proto::time_to_proto;
use proptest::{collection::vec, option, prelude::*, sample::select};
use shop::{
    OrderSummary,
    contracts::{
        query::{
            GetOrdersByStatusRequest, GetOrdersByUserRequest, OrderSummary as OrderMessage,
            order_query_service_server::OrderQueryService,
        },
        types,
    },
    order::OrderStatus,
};
use tonic::Request;

use crate::support::{World, at, basket, moving, order_id, placing, user_id};

/// The query's orders: by a buyer or a status or both, in a range of times.
#[derive(Debug, Clone)]
struct Asked {
    buyer: Option<u128>,
    status: Option<OrderStatus>,
    since: Option<i64>,
    before: Option<i64>,
}

impl Asked {
    async fn page(&self, service: &impl OrderQueryService, size: usize, token: &str) -> (Vec<u128>, String) {
        let (page_size, page_token) = (i32::try_from(size).unwrap(), token.to_owned());
        let created_since = self.since.map(|since| time_to_proto(at(since)));
        let created_before = self.before.map(|before| time_to_proto(at(before)));
        let status = self.status.map_or(0, |status| types::OrderStatus::from(status).into());
        let (orders, next) = if let Some(buyer) = self.buyer {
            let user_id = user_id(buyer).to_string();
            let request = GetOrdersByUserRequest {
                user_id,
                page_size,
                page_token,
                after: None,
                status,
                created_since,
                created_before,
            };
            let reply = service.get_orders_by_user(Request::new(request)).await.unwrap().into_inner();
            (reply.orders, reply.next_page_token)
        } else {
            let request = GetOrdersByStatusRequest {
                status,
                page_size,
                page_token,
                after: None,
                created_since,
                created_before,
            };
            let reply = service.get_orders_by_status(Request::new(request)).await.unwrap().into_inner();
            (reply.orders, reply.next_page_token)
        };
        (orders.iter().map(number).collect(), next)
    }

    fn holds(&self, order: &Order) -> bool {
        self.buyer.is_none_or(|buyer| order.buyer == buyer)
            && self.status.is_none_or(|status| order.status == status)
            && self.since.is_none_or(|since| since <= order.placed)
            && self.before.is_none_or(|before| order.placed < before)
    }
}

fn number(order: &OrderMessage) -> u128 {
    order.order_id.parse::<uuid::Uuid>().unwrap().as_u128()
}

/// A written order.
#[derive(Debug, Clone)]
struct Order {
    buyer: u128,
    placed: i64,
    status: OrderStatus,
    version: u64,
}

/// A write.
#[derive(Debug, Clone)]
enum Write {
    Place { id: u128, buyer: u128, placed: i64 },
    Move { which: prop::sample::Index, to: OrderStatus },
}

/// A change before a page, and the page's size.
#[derive(Debug, Clone)]
struct Round {
    writes: Vec<Write>,
    /// Whether the indexes stay as they are until after the next page.
    holds: bool,
    size: usize,
}

fn any_status() -> impl Strategy<Value = OrderStatus> {
    // Few, so that many orders come and leave.
    select(vec![OrderStatus::Created, OrderStatus::Processing])
}

fn any_id() -> impl Strategy<Value = u128> {
    prop_oneof![1 => select(vec![0, 1, u128::MAX - 1, u128::MAX]), 4 => any::<u128>()]
}

fn any_write() -> impl Strategy<Value = Write> {
    prop_oneof![
        (any_id(), 1..3_u128, 0..12_i64).prop_map(|(id, buyer, placed)| Write::Place { id, buyer, placed }),
        (any::<prop::sample::Index>(), any_status()).prop_map(|(which, to)| Write::Move { which, to }),
    ]
}

fn any_round() -> impl Strategy<Value = Round> {
    (vec(any_write(), 0..8), any::<bool>(), 1..7_usize).prop_map(|(writes, holds, size)| Round {
        writes,
        holds,
        size,
    })
}

fn any_asked() -> impl Strategy<Value = Asked> {
    let among =
        prop_oneof![(Just(Some(1)), option::of(any_status())), (Just(None), any_status().prop_map(Some)),];
    (among, option::weighted(0.3, 0..6_i64), option::weighted(0.3, 6..13_i64))
        .prop_map(|((buyer, status), since, before)| Asked { buyer, status, since, before })
}

type Orders = BTreeMap<u128, Order>;

async fn write(world: &World, orders: &mut Orders, writes: &[Write]) {
    for write in writes {
        match write {
            Write::Place { id, buyer, placed } if !orders.contains_key(id) => {
                world.write(placing(*id, *buyer, *placed, basket("laptop", 1))).await;
                let status = OrderStatus::Created;
                orders.insert(*id, Order { buyer: *buyer, placed: *placed, status, version: 1 });
            }
            Write::Move { which, to } if !orders.is_empty() => {
                let which = which.index(orders.len());
                let (id, order) = orders.iter_mut().nth(which).unwrap();
                (order.status, order.version) = (*to, order.version + 1);
                world.write(moving(*id, order.version, *to)).await;
            }
            Write::Place { .. } | Write::Move { .. } => {}
        }
    }
}

/// An order's place in every list that holds it.
type Place = (i64, u128);

/// The places of a list after a given one, newest first.
fn places(orders: &Orders, asked: &Asked, after: Option<Place>) -> Vec<Place> {
    let on_it = orders.iter().filter(|(_, order)| asked.holds(order));
    let places = on_it.map(|(id, order)| (order.placed, *id));
    let mut places: Vec<_> = places.filter(|place| after.is_none_or(|after| *place < after)).collect();
    places.sort_unstable_by(|a, b| b.cmp(a));
    places
}

proptest! {
    /// However orders are placed and moved between pages, before and behind them, each page shows the indexes' present
    /// list after the previous page. So no order appears twice, and an order that stays on the list is not skipped.
    #[test]
    fn each_page_goes_on_where_the_one_before_ended_whatever_is_written_between(
        first in vec(any_write(), 0..40),
        rounds in vec(any_round(), 1..12),
        asked in any_asked(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (world, mut orders) = (World::default(), Orders::new());
            write(&world, &mut orders, &first).await;
            let service = world.order_service();
            let (mut met, mut token, mut shown) = (Vec::<Place>::new(), String::new(), orders.clone());
            let mut always: Vec<Place> = places(&orders, &asked, None);
            for Round { writes, holds, size } in rounds.iter().cycle() {
                let left = places(&shown, &asked, met.last().copied());
                let (page, next) = asked.page(&service, *size, &token).await;
                let expected = &left[..left.len().min(*size)];
                assert_eq!(page, expected.iter().map(|(_, id)| *id).collect::<Vec<_>>());
                met.extend(expected);
                if next.is_empty() {
                    assert!(left.len() <= *size, "the last page, of a list that goes on");
                    break;
                }
                token = next;
                assert!(met.len() < 400, "a list that does not end");
                if *holds {
                    world.orders.rows.hold_index();
                    shown = orders.clone();
                    write(&world, &mut orders, writes).await;
                } else {
                    world.orders.rows.release_index();
                    write(&world, &mut orders, writes).await;
                    shown = orders.clone();
                }
                always.retain(|(_, id)| asked.holds(&shown[id]));
            }
            assert!(met.is_sorted_by(|a, b| a > b), "newest first, none twice");
            assert!(always.iter().all(|place| met.contains(place)), "one was passed over");
        });
    }
}

#[tokio::test]
async fn a_tenant_with_100_000_orders_in_one_status_pages_through_all_of_them() {
    const ORDERS: u64 = 100_000;
    let world = World::default();
    let mut expected = Vec::new();
    for n in 0..ORDERS {
        let id = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, &n.to_be_bytes()).as_u128();
        // Seven at each time.
        expected.push((i64::try_from(n / 7).unwrap(), id));
    }
    let basket = basket("laptop", 1);
    world.orders.rows.extend(expected.iter().map(|(placed, id)| Versioned {
        tenant: TenantId::default(),
        version: 1,
        row: OrderSummary {
            order_id: order_id(*id),
            user_id: user_id(id % 10),
            basket: basket.clone(),
            status: OrderStatus::Created,
            created_at: at(*placed),
            updated_at: at(*placed),
        },
    }));
    expected.sort_unstable_by(|a, b| b.cmp(a));
    let expected: Vec<_> = expected.into_iter().map(|(_, id)| id).collect();
    let asked = Asked { buyer: None, status: Some(OrderStatus::Created), since: None, before: None };
    let (service, mut met, mut token, mut pages) = (world.order_service(), Vec::new(), String::new(), 0);
    loop {
        let (page, next) = asked.page(&service, 100, &token).await;
        met.extend(page);
        pages += 1;
        if next.is_empty() {
            break;
        }
        token = next;
    }
    assert_eq!((met.len(), pages), (expected.len(), ORDERS / 100));
    assert!(met == expected, "newest first");
}
