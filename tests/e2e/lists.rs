//! Lists on DynamoDB: of very many orders, and while orders are written between pages.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use millrace_domain::{TenantId, order::OrderStatus};
use millrace_proto::{
    codec::status_to_proto,
    query::{GetOrdersByStatusRequest, GetOrdersByUserRequest},
};
use millrace_read_models::{DynamoOrders, OrderChange, Placed, WriteRows as _, Written};
use millrace_tests::{Ground, Traffic, Wire, eventually};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use crate::{
    calls::seed,
    replica::{QueryReplica, SHARDS, models},
    rows::{Asked, BUYER, ask, laptop, order_id, placed},
};

fn in_status(status: OrderStatus) -> Asked {
    Asked::InStatus(GetOrdersByStatusRequest { status: status_to_proto(status).into(), ..Default::default() })
}

fn of_buyer(status: Option<OrderStatus>) -> Asked {
    let status = status.map_or(0, |status| status_to_proto(status).into());
    Asked::OfUser(GetOrdersByUserRequest { user_id: BUYER.to_string(), status, ..Default::default() })
}

/// Lets a tenant have so many orders in one status and pages through all of them, over a wire that meters.
async fn all_pages_of(orders: u64) {
    let ground = Ground::new().await.unwrap();
    let wire = Wire::before(ground.endpoint()).await.unwrap();
    let (tenant, models) = (TenantId::default(), models(&ground, &wire.aws(&ground.account).await));
    let start = Instant::now();
    let mut expected: Vec<(i64, String)> = Vec::new();
    for first in (0..orders).step_by(5_000) {
        // Seven at each time.
        let place = |n: u64| placed(&tenant, n, laptop(), i64::try_from(n / 7).unwrap());
        let changes: Vec<_> = (first..orders.min(first + 5_000)).map(place).collect();
        models.orders.load(&changes).await.unwrap();
    }
    expected.extend((0..orders).map(|n| (i64::try_from(n / 7).unwrap(), order_id(n).to_string())));
    expected.sort_unstable_by(|a, b| b.cmp(a));
    let (loaded, start) = (start.elapsed(), Instant::now());
    wire.take();

    let service = QueryReplica::new(&models).orders;
    let (mut met, mut token, mut all, mut pages, mut further) =
        (Vec::new(), String::new(), Traffic::default(), 0, 0);
    loop {
        let (page, next) =
            ask(&service, &tenant, in_status(OrderStatus::Created).page(100, &token)).await.unwrap();
        met.extend(page.into_iter().map(|order| order.order_id));
        pages += 1;
        let used = wire.take();
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

/// Orders that are written while somebody pages through them.
struct Course {
    rows: DynamoOrders,
    tenant: TenantId,
    orders: BTreeMap<u64, OrderChange>,
    chance: StdRng,
}

impl Course {
    /// Some orders, none of them far from another in time.
    async fn of(rows: DynamoOrders, tenant: &str, orders: u64, seed: u64) -> Self {
        let tenant: TenantId = tenant.parse().unwrap();
        let mut course = Self { rows, tenant, orders: BTreeMap::new(), chance: StdRng::seed_from_u64(seed) };
        for n in 0..orders {
            let change = course.placed(n);
            course.orders.insert(n, change);
        }
        for change in course.orders.values_mut() {
            if course.chance.random_bool(0.4) {
                (change.status, change.to) = (OrderStatus::Processing, 2);
            }
        }
        course.rows.load(&course.orders.values().cloned().collect::<Vec<_>>()).await.unwrap();
        course
    }

    fn placed(&mut self, n: u64) -> OrderChange {
        placed(&self.tenant, n, laptop(), self.chance.random_range(0..60))
    }

    /// Places an order or moves one, before or behind whoever pages.
    async fn write(&mut self) {
        let n = u64::try_from(self.orders.len()).unwrap();
        let change = if self.chance.random_bool(0.4) {
            self.placed(n)
        } else {
            let numbers: Vec<_> = self.orders.keys().copied().collect();
            let moved = self.orders[numbers.choose(&mut self.chance).unwrap()].clone();
            let status = *[OrderStatus::Created, OrderStatus::Processing].choose(&mut self.chance).unwrap();
            OrderChange { from: moved.to, to: moved.to + 1, status, ..moved }
        };
        let sent =
            OrderChange { placed: change.placed.clone().filter(|_| change.from == 0), ..change.clone() };
        assert_eq!(self.rows.write(&sent).await.unwrap(), Written::Applied);
        let id = change.order_id;
        let n = (0..=n).find(|n| order_id(*n) == id).unwrap();
        self.orders.insert(n, change);
    }

    /// Those that are in a status, or all.
    fn listed(&self, status: Option<OrderStatus>) -> BTreeSet<String> {
        let orders = self.orders.values().filter(|order| status.is_none_or(|status| order.status == status));
        orders.map(|order| order.order_id.to_string()).collect()
    }
}

/// Where an order stands.
fn place(changes: &BTreeMap<u64, OrderChange>, id: &str) -> (i64, String) {
    let order = changes.values().find(|order| order.order_id.to_string() == id).unwrap();
    let Some(Placed { created_at, .. }) = &order.placed else { panic!("{order:?}") };
    (created_at.unix_micros(), id.to_owned())
}

/// What the contract promises to whoever asks for one page after the other, and no more: the indexes of DynamoDB lag.
#[tokio::test(flavor = "multi_thread")]
async fn pages_neither_repeat_nor_pass_over_an_order_while_orders_are_written_between_them() {
    let seed = seed();
    let ground = Ground::new().await.unwrap();
    let models = models(&ground, &ground.aws().await);
    let service = QueryReplica::new(&models).orders;
    for round in 0..6_u64 {
        let (created, tenant) = (Some(OrderStatus::Created), format!("tenant-{round}"));
        let mut course = Course::of(models.orders.clone(), &tenant, 120, seed ^ round).await;
        let (asked, status) = match round % 3 {
            0 => (in_status(OrderStatus::Created), created),
            1 => (of_buyer(None), None),
            _ => (of_buyer(created), created),
        };
        // A list begins when the indexes show what is on it.
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
        let places: Vec<_> = met.iter().map(|id| place(&course.orders, id)).collect();
        assert!(places.is_sorted_by(|a, b| a > b), "newest first, none twice: {places:?}");
        let missed: Vec<_> = always.iter().filter(|id| !met.contains(id)).collect();
        assert!(missed.is_empty(), "passed over: {missed:?}");
        assert!(met.iter().all(|id| ever.contains(id)), "what never was on the list");
        println!("{asked:?}: {} orders on {pages} pages, {} always there", met.len(), always.len());
    }
}
