//! A rollout that changes the number of shards of sharded lists, under load.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use millrace_core::TenantId;
use millrace_tests::{
    Reply, eventually,
    fleet::{Crew, Fleet},
    load::{Fate, TrackedCommand, request, send},
    process::Deployable,
    workload::Body,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IteratorRandom as _};
use shop::contracts::{
    Money,
    command::{CreateOrderRequest, CreateUserRequest, UpdateOrderStatusRequest},
    query::{GetOrderRequest, GetOrdersByStatusRequest, order_query_service_client::OrderQueryServiceClient},
    types::{OrderItem, OrderStatus},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};

use crate::{
    stage::{Stage, run_for, summary},
    verdict::at_rest,
};

/// Shards after the rollout, of which there were four.
const MORE: &str = "16";

/// The statuses that the shopper's orders have.
const STATUSES: [OrderStatus; 3] = [OrderStatus::Created, OrderStatus::Processing, OrderStatus::Shipped];

#[tokio::test(flavor = "multi_thread")]
async fn lists_miss_no_order_while_a_rollout_raises_the_number_of_shards() {
    let stage = Stage::enter("shards").await;
    let stack = stage.stack().await;
    let crew = Crew { command_services: 2, projectors: 2, query_services: 2, ..Crew::default() };
    let fleet = stage.fleet(stage.name, &stack, crew).await;
    fleet.raise().await.unwrap();
    stage.say("all are up");

    let load = stage.load(8);
    let mut shopper = Shopper::new(&fleet, stage.seed).await;
    let rolled_out = CancellationToken::new();
    let time = Duration::from_secs(stage.pick(60, 5));
    let (mut commands, looks) = run_for(&load, &fleet, time, async |_| {
        let rollout = async {
            for (deployable, variable) in [
                (Deployable::QueryService, "INDEX_SHARDS_READ"),
                (Deployable::Projector, "INDEX_SHARDS_WRITE"),
                (Deployable::CommandService, "INDEX_SHARDS_WRITE"),
            ] {
                for member in fleet.of(deployable) {
                    member.replace_with(variable, MORE).await?;
                }
            }
            rolled_out.cancel();
            anyhow::Ok(())
        };
        let looks = shopper.shop_until(&rolled_out);
        Ok(tokio::try_join!(rollout, async { anyhow::Ok(looks.await) })?.1)
    })
    .await;
    stage.say(&format!("rolled out: {}, {looks} looks at each list", summary(&commands, &load)));
    commands.append(&mut shopper.commands);

    let oracle = at_rest(&stack, &commands).await;
    // The load's orders are in lists by either number.
    let mut expected: BTreeMap<(TenantId, i32), BTreeSet<String>> = BTreeMap::new();
    for (stream, events) in
        oracle.streams().iter().filter(|(stream, _)| stream.aggregate_type.as_str() == "order")
    {
        let status = events.iter().rev().find_map(|event| event.event_data.as_ref()?.get("status")?.as_str());
        let status = status.map_or(OrderStatus::Created, |name| {
            OrderStatus::from_str_name(name).expect("a status of the contract")
        });
        let list = expected.entry((stream.tenant.clone(), status.into())).or_default();
        list.insert(stream.id.to_string());
    }
    for ((tenant, status), orders) in &expected {
        for member in fleet.of(Deployable::QueryService) {
            let right =
                async || (list(member.channel()?, tenant, *status).await.ok()? == *orders).then_some(());
            eventually(
                &format!("all {} orders of {tenant} in status {status} are listed", orders.len()),
                right,
            )
            .await;
        }
    }
    assert!(
        looks > 3 && expected.len() > 4,
        "{looks} looks at lists of {} kinds show little",
        expected.len()
    );
}

/// The ids of a tenant's orders in a status, page by page.
async fn list(replica: Channel, tenant: &TenantId, status: i32) -> Result<BTreeSet<String>, Status> {
    let (mut ids, mut page_token) = (BTreeSet::new(), String::new());
    loop {
        let message = GetOrdersByStatusRequest { status, page_size: 20, page_token, ..Default::default() };
        let mut orders = OrderQueryServiceClient::new(replica.clone());
        let page = orders.get_orders_by_status(request(tenant, message)?).await?.into_inner();
        ids.extend(page.orders.into_iter().map(|order| order.order_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(ids);
        }
    }
}

/// A tenant who has its orders to itself, so that it knows each list.
struct Shopper {
    fleet: Arc<Fleet>,
    tenant: TenantId,
    user_id: String,
    rng: StdRng,
    orders: BTreeMap<OrderStatus, BTreeSet<String>>,
    commands: Vec<TrackedCommand>,
}

impl Shopper {
    /// With some orders in each status.
    async fn new(fleet: &Arc<Fleet>, seed: u64) -> Self {
        let mut shopper = Self {
            fleet: fleet.clone(),
            tenant: "shopper".parse().unwrap(),
            user_id: String::new(),
            rng: StdRng::seed_from_u64(seed),
            orders: STATUSES.map(|status| (status, BTreeSet::new())).into(),
            commands: Vec::new(),
        };
        let (email, name) = ("shopper@example.com".to_owned(), "Ann".to_owned());
        let user = Body::CreateUser(CreateUserRequest { email, name, ..Default::default() });
        shopper.user_id = shopper.order(user).await.aggregate_id;
        for _ in 0..12 {
            shopper.place().await;
            shopper.advance().await;
        }
        shopper
    }

    /// Places orders and moves them on, and looks at every list after each. Returns how often that was.
    async fn shop_until(&mut self, end: &CancellationToken) -> usize {
        let mut looks = 0;
        // Once more after the end.
        let mut over = false;
        while !over {
            over = end.is_cancelled();
            self.place().await;
            self.advance().await;
            for (status, orders) in &self.orders {
                let listed = self.asked(|replica| list(replica, &self.tenant, (*status).into())).await;
                assert_eq!(listed, *orders, "the list of {status:?} after {looks} looks");
            }
            looks += 1;
        }
        looks
    }

    async fn place(&mut self) {
        let price = Some(Money { currency_code: "USD".into(), units: 1, nanos: 0 });
        let items = vec![OrderItem { product: "pen".into(), quantity: 1, price }];
        let user_id = self.user_id.clone();
        let placed =
            self.order(Body::CreateOrder(CreateOrderRequest { user_id, items, ..Default::default() }));
        let placed = placed.await;
        self.seen(&placed).await;
        self.orders.entry(OrderStatus::Created).or_default().insert(placed.aggregate_id);
    }

    /// Moves an order to its next status, and with it, once more shards are written, to another shard.
    async fn advance(&mut self) {
        let [from, to] =
            if self.rng.random() { [STATUSES[0], STATUSES[1]] } else { [STATUSES[1], STATUSES[2]] };
        let Some(order_id) = self.orders[&from].iter().choose(&mut self.rng).cloned() else { return };
        let body =
            UpdateOrderStatusRequest { order_id: order_id.clone(), status: to.into(), ..Default::default() };
        let moved = self.order(Body::SetStatus(body)).await;
        self.seen(&moved).await;
        self.orders.entry(from).or_default().remove(&order_id);
        self.orders.entry(to).or_default().insert(order_id);
    }

    /// Sends a command until it is answered.
    async fn order(&mut self, body: Body) -> Reply {
        let command_id = format!("shopper-{}", self.commands.len());
        let tenant = self.tenant.clone();
        let mut tracked =
            TrackedCommand { tenant, command_id, body, passes_by: true, attempts: 0, fate: Fate::Open };
        let reply = eventually("a command is answered", async || {
            let members = self.fleet.of(Deployable::CommandService);
            let replica = members.filter_map(|member| member.channel()).choose(&mut self.rng)?;
            tracked.attempts += 1;
            send(replica, &tracked).await.ok()
        });
        let reply = reply.await;
        self.commands.push(TrackedCommand { fate: Fate::Acknowledged(reply.clone()), ..tracked });
        reply
    }

    /// Waits until an order's row shows a command.
    async fn seen(&self, reply: &Reply) {
        let message = GetOrderRequest { order_id: reply.aggregate_id.clone(), after: reply.after() };
        self.asked(async |replica| {
            let request = request(&self.tenant, message.clone())?;
            OrderQueryServiceClient::new(replica).get_order(request).await
        })
        .await;
    }

    /// Asks any replica of the query service until one answers.
    async fn asked<T>(&self, ask: impl AsyncFn(Channel) -> Result<T, Status>) -> T {
        eventually("a query is answered", async || {
            let members = self.fleet.of(Deployable::QueryService);
            let replica = members.filter_map(|member| member.channel()).choose(&mut rand::rng())?;
            ask(replica).await.ok()
        })
        .await
    }
}
