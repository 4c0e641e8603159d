//! Lists of orders, and reading them part by part.

use std::{cmp::Reverse, collections::HashSet};

use millrace_aws::AwsError;
use millrace_domain::{
    Label, OrderId, TenantId, UserId,
    order::{Basket, OrderItem, OrderStatus},
};
use uuid::Uuid;

use super::{
    apply, at, basket, eventually, ids, in_status, label, moved, of_user, placed, position, tenant, valid,
};
use crate::{
    Among, MOST_EXAMINED, OrderChange, OrderList, OrderRow, Placed, Position, ReadOrders, Times, WriteRows,
};

pub(super) async fn orders<S: ReadOrders + WriteRows<OrderChange>>(store: &S) {
    lists_are_newest_first_and_total(store).await;
    parts_meet_every_order_once(store).await;
    a_range_of_times_includes_its_start_and_excludes_its_end(store).await;
    an_order_is_listed_under_its_status_alone(store).await;
    a_users_orders_in_a_status_are_met_though_few_of_many_are_in_it(store).await;
    orders_that_are_all_of_one_shard_are_met(store).await;
    orders_too_large_for_one_part_are_met(store).await;
}

/// A user, and the orders of that user, newest first.
struct Buyer {
    tenant: TenantId,
    user_id: UserId,
    orders: Vec<OrderChange>,
}

impl Buyer {
    /// Places orders, three at each time.
    async fn of<S: WriteRows<OrderChange>>(store: &S, orders: i64) -> Self {
        let (tenant, user_id) = (tenant(), UserId(Uuid::new_v4()));
        let orders = (0..orders).map(|n| placed(&tenant, user_id, at(n / 3))).collect();
        Self::with(store, tenant, user_id, orders).await
    }

    async fn with<S: WriteRows<OrderChange>>(
        store: &S,
        tenant: TenantId,
        user_id: UserId,
        mut orders: Vec<OrderChange>,
    ) -> Self {
        for change in &orders {
            apply(store, change).await;
        }
        orders.sort_by_key(|change| Reverse(position(change)));
        Self { tenant, user_id, orders }
    }

    /// The orders' ids, of those that are chosen.
    fn ids(&self, chosen: impl Fn(&OrderChange) -> bool) -> Vec<OrderId> {
        self.orders.iter().filter(|order| chosen(order)).map(|order| order.order_id).collect()
    }

    /// The list of the user's orders, and the one of those that are still as they were placed.
    fn lists(&self) -> [OrderList; 2] {
        [of_user(&self.tenant, self.user_id), in_status(&self.tenant, OrderStatus::Created)]
    }
}

/// The ids of all parts of a list that follow a place.
async fn all<S: ReadOrders>(
    store: &S,
    list: &OrderList,
    mut before: Option<Position>,
    limit: u16,
) -> Result<Vec<OrderId>, AwsError> {
    let (mut met, mut seen) = (Vec::new(), HashSet::new());
    loop {
        let part = store.part(list, before.as_ref(), limit).await?;
        assert!(part.rows.len() <= limit.into(), "no more than were asked for");
        let places = part.rows.iter().map(OrderRow::position).chain(part.end);
        assert!(places.clone().all(|place| before.is_none_or(|before| place < before)), "a step back");
        assert!(places.is_sorted_by(|a, b| a >= b), "newest first, down to the end");
        assert!(part.rows.iter().all(|row| list.holds(row)), "what is not on the list");
        assert!(part.rows.iter().all(|row| seen.insert(row.order_id)), "an order twice");
        met.extend(ids(&part.rows));
        match part.end {
            Some(end) => before = Some(end),
            None => return Ok(met),
        }
    }
}

/// Waits until all parts of a list hold these orders, however many are asked for at a time.
async fn listed<S: ReadOrders>(store: &S, list: &OrderList, expected: Vec<OrderId>) {
    for limit in [100, 7, 1] {
        eventually(expected.clone(), || all(store, list, None, limit)).await;
    }
}

async fn lists_are_newest_first_and_total<S: ReadOrders + WriteRows<OrderChange>>(store: &S) {
    let buyer = Buyer::of(store, 23).await;
    let expected = buyer.ids(|_| true);
    for list in buyer.lists() {
        listed(store, &list, expected.clone()).await;
        for (reached, order) in (1..).zip(&buyer.orders) {
            let rest = all(store, &list, Some(position(order)), 4).await.expect("the store can be reached");
            assert_eq!(rest, expected[reached..]);
        }
        // Two of the orders have the first place's time, and there is no order there.
        let nowhere = Position { order_id: OrderId(Uuid::max()), ..position(&buyer.orders[0]) };
        assert_eq!(all(store, &list, Some(nowhere), 100).await.expect("the store can be reached"), expected);
    }
    listed(store, &of_user(&buyer.tenant, UserId(Uuid::new_v4())), vec![]).await;
}

async fn parts_meet_every_order_once<S: ReadOrders + WriteRows<OrderChange>>(store: &S) {
    let buyer = Buyer::of(store, 60).await;
    let expected = buyer.ids(|_| true);
    for list in buyer.lists() {
        for limit in [2, 3, 10, 59, 60, 61] {
            eventually(expected.clone(), || all(store, &list, None, limit)).await;
        }
    }
}

async fn a_range_of_times_includes_its_start_and_excludes_its_end<S: ReadOrders + WriteRows<OrderChange>>(
    store: &S,
) {
    let (tenant, user_id) = (tenant(), UserId(Uuid::new_v4()));
    // The ends of what an id can be, at each time. Ids that others have too are no matter: these are the tenant's.
    let order = |n: u128, time| OrderChange {
        order_id: OrderId(Uuid::from_u128(n)),
        ..placed(&tenant, user_id, time)
    };
    let orders = (0..4_u32).flat_map(|n| {
        let time = at(n.into());
        [order(n.into(), time), order(u128::MAX - u128::from(n), time)]
    });
    let orders: Vec<_> = orders.collect();
    let buyer = Buyer::with(store, tenant.clone(), user_id, orders).await;
    for list in buyer.lists() {
        listed(store, &list, buyer.ids(|_| true)).await;
        for since in [None, Some(0), Some(1), Some(3), Some(4)] {
            for before in [None, Some(0), Some(1), Some(3), Some(4)] {
                let created = Times { since: since.map(at), before: before.map(at) };
                let chosen = buyer.ids(|order| created.hold(position(order).created_at));
                listed(store, &OrderList { created, ..list.clone() }, chosen).await;
            }
        }
    }
}

async fn an_order_is_listed_under_its_status_alone<S: ReadOrders + WriteRows<OrderChange>>(store: &S) {
    let (tenant, user_id) = (tenant(), UserId(Uuid::new_v4()));
    let change = placed(&tenant, user_id, at(0));
    apply(store, &change).await;
    apply(store, &moved(&change, OrderStatus::Cancelled)).await;
    for status in OrderStatus::ALL {
        let expected = if status == OrderStatus::Cancelled { vec![change.order_id] } else { vec![] };
        let of_user =
            OrderList { among: Among::User { user_id, status: Some(status) }, ..of_user(&tenant, user_id) };
        for list in [in_status(&tenant, status), of_user] {
            listed(store, &list, expected.clone()).await;
        }
    }
}

async fn a_users_orders_in_a_status_are_met_though_few_of_many_are_in_it<
    S: ReadOrders + WriteRows<OrderChange>,
>(
    store: &S,
) {
    let buyer = Buyer::of(store, i64::from(MOST_EXAMINED) + 60).await;
    let (newest, oldest) = (&buyer.orders[1], &buyer.orders[buyer.orders.len() - 2]);
    for order in [newest, oldest] {
        apply(store, &moved(order, OrderStatus::Cancelled)).await;
    }
    let status = |status| OrderList {
        among: Among::User { user_id: buyer.user_id, status: Some(status) },
        ..of_user(&buyer.tenant, buyer.user_id)
    };
    let cancelled = status(OrderStatus::Cancelled);
    listed(store, &cancelled, vec![newest.order_id, oldest.order_id]).await;
    let part = store.part(&cancelled, None, 20).await.expect("the store can be reached");
    assert_eq!(ids(&part.rows), [newest.order_id], "no more than so many are looked at");
    let looked_at = usize::from(MOST_EXAMINED);
    assert_eq!(part.end, Some(position(&buyer.orders[looked_at - 1])));
    // A part may even be empty.
    let none = store.part(&status(OrderStatus::Shipped), None, 20).await.expect("the store can be reached");
    assert!(none.rows.is_empty() && none.end.is_some());
    let others = |order: &OrderChange| order.order_id != newest.order_id && order.order_id != oldest.order_id;
    let created = status(OrderStatus::Created);
    eventually(buyer.ids(others), || all(store, &created, None, 90)).await;
}

async fn orders_that_are_all_of_one_shard_are_met<S: ReadOrders + WriteRows<OrderChange>>(store: &S) {
    // Multiples of every number of shards up to ten; a few of another one.
    for stray in [0, 1, 9] {
        let (tenant, user_id) = (tenant(), UserId(Uuid::new_v4()));
        let order = |n: i64| {
            let id = Uuid::new_v4().as_u128() / 5_040 * 5_040 + u128::from(n < stray);
            OrderChange { order_id: OrderId(Uuid::from_u128(id)), ..placed(&tenant, user_id, at(n * 7 % 45)) }
        };
        let orders = (0..45).map(order).collect();
        let buyer = Buyer::with(store, tenant.clone(), user_id, orders).await;
        for list in buyer.lists() {
            listed(store, &list, buyer.ids(|_| true)).await;
            for limit in [20, 44, 45, 46] {
                eventually(buyer.ids(|_| true), || all(store, &list, None, limit)).await;
            }
        }
    }
}

async fn orders_too_large_for_one_part_are_met<S: ReadOrders + WriteRows<OrderChange>>(store: &S) {
    let (tenant, user_id) = (tenant(), UserId(Uuid::new_v4()));
    // Some 80 KB an order, of which 1 MB holds a dozen.
    let item = OrderItem { product: label(&"𒀀".repeat(Label::MAX_LEN)), ..basket().items()[0].clone() };
    let large = valid(Basket::new(vec![item; Basket::MOST_ITEMS]));
    let order = |n| {
        let mut change = placed(&tenant, user_id, at(n));
        change.placed = change.placed.map(|placed| Placed { basket: large.clone(), ..placed });
        change
    };
    let orders = (0..60).map(order).collect();
    let buyer = Buyer::with(store, tenant.clone(), user_id, orders).await;
    for list in buyer.lists() {
        eventually(buyer.ids(|_| true), || all(store, &list, None, 100)).await;
    }
}
