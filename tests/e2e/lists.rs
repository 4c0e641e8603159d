//! Lists on DynamoDB: of very many orders, and while orders are written between pages.

use std::{collections::BTreeSet, time::Instant};

use millrace_core::TenantId;
use millrace_rows::DynamoRows;
use millrace_testing::random::Seed;
use millrace_tests::{FaultProxy, ORDERS, Traffic, aws_stack, eventually};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use shop::{
    contracts::{
        query::{GetOrdersByStatusRequest, GetOrdersByUserRequest},
        types,
    },
    order::OrderStatus,
};

use crate::{
    replica::{QueryReplica, SHARDS, dynamo_rows},
    rows::{Asked, BUYER, ask, laptop, moved, order_id, placed, write},
};

fn in_status(status: OrderStatus) -> Asked {
    Asked::InStatus(GetOrdersByStatusRequest {
        status: types::OrderStatus::from(status).into(),
        ..Default::default()
    })
}

fn of_buyer(status: Option<OrderStatus>) -> Asked {
    let status = status.map_or(0, |status| types::OrderStatus::from(status).into());
    Asked::OfUser(GetOrdersByUserRequest { user_id: BUYER.to_string(), status, ..Default::default() })
}

/// Lets a tenant have so many orders in one status and pages through all of them, over a wire that meters.
async fn all_pages_of(orders: u64) {
    let stack = aws_stack().await.unwrap();
    let proxy = FaultProxy::before(stack.endpoint()).await.unwrap();
    let (tenant, aws) = (TenantId::default(), proxy.aws(&stack.account).await);
    let rows = dynamo_rows(&stack, &aws, ORDERS);
    let start = Instant::now();
    let mut expected: Vec<(i64, String)> = Vec::new();
    for first in (0..orders).step_by(5_000) {
        // Seven at each time.
        let place = |n: u64| placed(&tenant, n, laptop(), i64::try_from(n / 7).unwrap());
        write(&rows, (first..orders.min(first + 5_000)).map(place)).await;
    }
    expected.extend((0..orders).map(|n| (i64::try_from(n / 7).unwrap(), order_id(n).to_string())));
    expected.sort_unstable_by(|a, b| b.cmp(a));
    let (loaded, start) = (start.elapsed(), Instant::now());
    proxy.take();

    let service = QueryReplica::new(&stack, &aws).orders;
    let (mut met, mut token, mut all, mut pages, mut further) =
        (Vec::new(), String::new(), Traffic::default(), 0, 0);
    loop {
        let (page, next) =
            ask(&service, &tenant, in_status(OrderStatus::Created).page(100, &token)).await.unwrap();
        met.extend(page.into_iter().map(|order| order.order_id));
        pages += 1;
        let used = proxy.take();
        assert_eq!(used.keys().collect::<Vec<_>>(), ["Query"]);
        let used = used["Query"];
        assert!(used.requests <= u64::from(SHARDS.get()) + 1, "{} requests for a page", used.requests);
        further += u64::from(used.requests > u64::from(SHARDS.get()));
        all += used;
        if next.is_empty() {
            break;
        }
        token = next;
    }
    assert_eq!(met.len(), expected.len());
    assert!(met.iter().eq(expected.iter().map(|(_, id)| id)), "each once, newest first");
    println!(
        "{orders} orders were written in {loaded:?}; {pages} pages were read in {:?}: {} requests, of which {further} \
         for a shard that had to be read further, {} read units, {:.1} MiB",
        start.elapsed(),
        all.requests,
        all.read_units,
        all.response_bytes as f64 / f64::from(1 << 20)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_2_000_orders_in_one_status_pages_through_all_of_them() {
    all_pages_of(2_000).await;
}

/// `cargo test -p millrace-tests --test e2e -- --ignored 20_000_orders --nocapture`
///
/// Two minutes. The emulator's queries take the longer the more a partition holds: with 100,000, one takes longer than the
/// SDK lets an attempt take. `query-service/tests/queries/pages.rs` has that many in memory, each time.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it takes minutes, nearly all of them the emulator's"]
async fn a_tenant_with_20_000_orders_in_one_status_pages_through_all_of_them() {
    all_pages_of(20_000).await;
}

/// An order as it was written last.
#[derive(Clone)]
struct Written {
    at: i64,
    version: u64,
    status: OrderStatus,
}

/// Orders that are written while a client pages through them.
struct Course {
    rows: DynamoRows,
    tenant: TenantId,
    /// By their numbers.
    orders: Vec<Written>,
    chance: StdRng,
}

impl Course {
    /// Some orders, none of them far from another in time.
    async fn of(rows: DynamoRows, tenant: &str, orders: usize, seed: u64) -> Self {
        let tenant: TenantId = tenant.parse().unwrap();
        let mut course = Self { rows, tenant, orders: Vec::new(), chance: StdRng::seed_from_u64(seed) };
        for _ in 0..orders {
            course.place().await;
            if course.chance.random_bool(0.4) {
                course.set(course.orders.len() - 1, OrderStatus::Processing).await;
            }
        }
        course
    }

    async fn place(&mut self) {
        let (n, at) = (self.orders.len(), self.chance.random_range(0..60));
        write(&self.rows, [placed(&self.tenant, u64::try_from(n).unwrap(), laptop(), at)]).await;
        self.orders.push(Written { at, version: 1, status: OrderStatus::Created });
    }

    async fn set(&mut self, n: usize, status: OrderStatus) {
        let order = &mut self.orders[n];
        (order.version, order.status) = (order.version + 1, status);
        write(&self.rows, [moved(&self.tenant, u64::try_from(n).unwrap(), order.version, status)]).await;
    }

    /// Places an order or moves one, before or behind the reader's page.
    async fn write(&mut self) {
        if self.chance.random_bool(0.4) {
            return self.place().await;
        }
        let n = self.chance.random_range(0..self.orders.len());
        let status = *[OrderStatus::Created, OrderStatus::Processing].choose(&mut self.chance).unwrap();
        self.set(n, status).await;
    }

    /// Those that are in a status, or all.
    fn listed(&self, status: Option<OrderStatus>) -> BTreeSet<String> {
        let orders = (0..).zip(&self.orders);
        let orders = orders.filter(|(_, order)| status.is_none_or(|status| order.status == status));
        orders.map(|(n, _)| order_id(n).to_string()).collect()
    }

    /// Where an order stands.
    fn place_of(&self, id: &str) -> (i64, String) {
        let (_, order) = (0..).zip(&self.orders).find(|(n, _)| order_id(*n).to_string() == id).unwrap();
        (order.at, id.to_owned())
    }
}

/// The contract's promise to a client that reads page after page, and no more: the indexes of DynamoDB lag.
#[tokio::test(flavor = "multi_thread")]
async fn pages_neither_repeat_nor_pass_over_an_order_while_orders_are_written_between_them() {
    let seed = Seed::draw("cargo test -p millrace-tests --test e2e -- pages_neither_repeat");
    let stack = aws_stack().await.unwrap();
    let aws = stack.aws().await;
    let (rows, service) = (dynamo_rows(&stack, &aws, ORDERS), QueryReplica::new(&stack, &aws).orders);
    for round in 0..6_u64 {
        let (created, tenant) = (Some(OrderStatus::Created), format!("tenant-{round}"));
        let mut course = Course::of(rows.clone(), &tenant, 120, seed.value() ^ round).await;
        let (asked, status) = match round % 3 {
            0 => (in_status(OrderStatus::Created), created),
            1 => (of_buyer(None), None),
            _ => (of_buyer(created), created),
        };
        // A list begins when the indexes show its orders.
        eventually("the indexes to show all", async || {
            let (mut count, mut token) = (0, String::new());
            loop {
                let (page, next) =
                    ask(&service, &course.tenant, asked.clone().page(100, &token)).await.unwrap();
                count += page.len();
                if next.is_empty() {
                    return (count == course.listed(status).len()).then_some(());
                }
                token = next;
            }
        })
        .await;
        let (mut always, mut ever) = (course.listed(status), course.listed(status));
        let (mut met, mut token, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let size = course.chance.random_range(1..12);
            let (page, next) = ask(&service, &course.tenant, asked.clone().page(size, &token)).await.unwrap();
            met.extend(page.into_iter().map(|order| order.order_id));
            pages += 1;
            assert!(pages < 1_000, "a list that does not end");
            if next.is_empty() {
                break;
            }
            token = next;
            for _ in 0..course.chance.random_range(0..5) {
                course.write().await;
                let now = course.listed(status);
                always.retain(|id| now.contains(id));
                ever.extend(now);
            }
        }
        let places: Vec<_> = met.iter().map(|id| course.place_of(id)).collect();
        assert!(places.is_sorted_by(|a, b| a > b), "newest first, none twice: {places:?}");
        let missed: Vec<_> = always.iter().filter(|id| !met.contains(id)).collect();
        assert!(missed.is_empty(), "passed over: {missed:?}");
        assert!(met.iter().all(|id| ever.contains(id)), "what never was on the list");
        println!("{asked:?}: {} orders on {pages} pages, {} always there", met.len(), always.len());
    }
}
