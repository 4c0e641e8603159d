//! A command, and then at once every query that could show it, with the token of its reply: never stale. The
//! deployables' own code over gRPC: only the way from the event store to the read models lags.
//!
//! `query-service/tests/queries/lagging.rs` is the same with indexes that lag at random.

use std::time::Instant;

use futures::future::join_all;
use millrace_core::TenantId;
use millrace_proto::query::{GetHistoryRequest, RecordedEvent, SearchEventsRequest, SortOrder};
use millrace_testing::random::{Seed, scaled};
use millrace_tests::{Replied as _, TestApp};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use shop::contracts::{
    command::{UpdateOrderStatusRequest, UpdateUserProfileRequest},
    query::{
        BatchGetOrdersRequest, BatchGetUserProfilesRequest, GetCustomerTotalsRequest, GetOrderAsOfRequest,
        GetOrderRequest, GetOrdersByStatusRequest, GetOrdersByUserRequest, GetUserByEmailRequest,
        GetUserProfileAsOfRequest, GetUserProfileRequest, OrderSummary, WatchOrderRequest,
        WatchUserProfileRequest,
    },
    types::OrderStatus,
};
use tonic::{Code, Request};

use crate::{
    calls::{At, as_of_version, laptop, patient, user},
    rows::as_tenant,
};

/// The number of tenants. Each has one customer, which gives one command after the other.
const CUSTOMERS: usize = 8;

const FORWARD: [OrderStatus; 4] =
    [OrderStatus::Created, OrderStatus::Processing, OrderStatus::Shipped, OrderStatus::Delivered];

/// A tenant's only user, and the user's orders.
struct Customer<'a> {
    app: &'a TestApp,
    tenant: TenantId,
    user: At,
    email: String,
    orders: Vec<(At, usize)>,
    chance: StdRng,
    asked: u64,
}

impl Customer<'_> {
    async fn of(app: &TestApp, number: usize, seed: u64) -> Customer<'_> {
        let (tenant, email): (TenantId, _) =
            (format!("tenant-{number}").parse().unwrap(), "0@example.com".to_owned());
        let reply = app.users().create_user(as_tenant(&tenant, user(&email))).await.unwrap().reply();
        let user = At::from(reply);
        let chance = StdRng::seed_from_u64(seed ^ u64::try_from(number).unwrap());
        let mut customer = Customer { app, tenant, user, email, orders: Vec::new(), chance, asked: 0 };
        customer.ask_about_user(None).await;
        customer
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = patient(message);
        request.metadata_mut().insert("x-tenant-id", self.tenant.as_str().parse().unwrap());
        request
    }

    /// One command, and all questions about it.
    async fn step(&mut self) {
        let movable: Vec<_> =
            (0..self.orders.len()).filter(|n| self.orders[*n].1 + 1 < FORWARD.len()).collect();
        match movable.choose(&mut self.chance).copied() {
            Some(n) if self.chance.random_bool(0.5) => {
                let (order, stands) = &self.orders[n];
                let (before, now) = (FORWARD[*stands], FORWARD[stands + 1]);
                let request = UpdateOrderStatusRequest {
                    order_id: order.id.clone(),
                    status: now.into(),
                    ..Default::default()
                };
                let reply = self.app.orders().update_order_status(self.request(request)).await.unwrap();
                self.orders[n].0.version = reply.reply().version;
                self.orders[n].1 += 1;
                self.ask_about_order(n, now, Some(before)).await;
            }
            // A list of the customer's orders has one page.
            Some(_) | None if self.orders.len() < 100 && self.chance.random_bool(0.7) => {
                let request = self.request(laptop(&self.user.id));
                let reply = self.app.orders().create_order(request).await.unwrap().reply();
                self.orders.push((At::from(reply), 0));
                self.ask_about_order(self.orders.len() - 1, OrderStatus::Created, None).await;
            }
            Some(_) | None => {
                let email = format!("{}@example.com", self.user.version);
                let request = UpdateUserProfileRequest {
                    user_id: self.user.id.clone(),
                    email: Some(email.clone()),
                    ..Default::default()
                };
                let reply = self.app.users().update_user_profile(self.request(request)).await.unwrap();
                self.user.version = reply.reply().version;
                let old = std::mem::replace(&mut self.email, email);
                self.ask_about_user(Some(old)).await;
            }
        }
    }

    async fn ask_about_user(&mut self, given_up: Option<String>) {
        let (after, user_id) = (self.user.after(), self.user.id.clone());
        let mut queries = self.app.user_queries();
        let expected = (self.email.clone(), self.user.version);

        let request = self.request(GetUserByEmailRequest { email: self.email.clone(), after: after.clone() });
        let found = queries.get_user_by_email(request).await.unwrap().into_inner().user_profile.unwrap();
        assert_eq!((found.email, found.version), expected, "GetUserByEmail");
        if let Some(email) = given_up {
            let request = self.request(GetUserByEmailRequest { email, after: after.clone() });
            let status = queries.get_user_by_email(request).await.unwrap_err();
            assert_eq!(status.code(), Code::NotFound, "by the address that was given up");
        }
        let request = self.request(GetUserProfileRequest { user_id: user_id.clone(), after: after.clone() });
        let found = queries.get_user_profile(request).await.unwrap().into_inner().user_profile.unwrap();
        assert_eq!((found.email, found.version), expected, "GetUserProfile");
        let user_ids = vec![user_id.clone()];
        let request = self.request(BatchGetUserProfilesRequest { user_ids, after: after.clone() });
        let found = queries.batch_get_user_profiles(request).await.unwrap().into_inner().user_profiles;
        assert_eq!((found[0].email.clone(), found[0].version), expected, "BatchGetUserProfiles");
        let request =
            WatchUserProfileRequest { user_id: user_id.clone(), seen_version: 0, after: after.clone() };
        let mut states = queries.watch_user_profile(self.request(request)).await.unwrap().into_inner();
        let found = states.message().await.unwrap().unwrap().user_profile.unwrap();
        assert_eq!((found.email, found.version), expected, "WatchUserProfile");

        let as_of = as_of_version(self.user.version);
        let request = self.request(GetUserProfileAsOfRequest { user_id: user_id.clone(), as_of });
        let found = queries.get_user_profile_as_of(request).await.unwrap().into_inner().user_profile.unwrap();
        assert_eq!((found.email, found.version), expected, "GetUserProfileAsOf");
        let event_type = if self.user.version == 1 { "UserCreated" } else { "UserProfileUpdated" };
        self.ask_about_event(event_type, self.user.clone()).await;
        self.asked += 8;
    }

    async fn ask_about_order(&mut self, n: usize, now: OrderStatus, before: Option<OrderStatus>) {
        let (order, after) = (self.orders[n].0.clone(), self.orders[n].0.after());
        let mut queries = self.app.order_queries();
        let is_fresh = |query: &str, found: &OrderSummary| {
            assert_eq!((found.status(), found.version), (now, order.version), "{query}");
        };
        // A list that has been read for whether the order is on it, which it is in one version or not.
        let check = |query: &str, listed: Vec<OrderSummary>, is_on_it: bool| {
            let found: Vec<_> = listed.iter().filter(|listed| listed.order_id == order.id).collect();
            assert_eq!(found.len(), usize::from(is_on_it), "{query}: {now:?}, was {before:?}");
            found.into_iter().for_each(|found| is_fresh(query, found));
        };
        let all = (OrderStatus::Unspecified, true);
        for (status, is_on_it) in [(now, true), all].into_iter().chain(before.map(|status| (status, false))) {
            let request = self.request(GetOrdersByUserRequest {
                user_id: self.user.id.clone(),
                status: status.into(),
                page_size: 100,
                after: after.clone(),
                ..Default::default()
            });
            let listed = queries.get_orders_by_user(request).await.unwrap().into_inner().orders;
            check("GetOrdersByUser", listed, is_on_it);
            if status == OrderStatus::Unspecified {
                continue;
            }
            let request = self.request(GetOrdersByStatusRequest {
                status: status.into(),
                page_size: 100,
                after: after.clone(),
                ..Default::default()
            });
            let listed = queries.get_orders_by_status(request).await.unwrap().into_inner().orders;
            check("GetOrdersByStatus", listed, is_on_it);
            self.asked += 1;
        }
        let request = self.request(GetOrderRequest { order_id: order.id.clone(), after: after.clone() });
        is_fresh("GetOrder", &queries.get_order(request).await.unwrap().into_inner().order.unwrap());
        let order_ids = vec![order.id.clone()];
        let request = self.request(BatchGetOrdersRequest { order_ids, after: after.clone() });
        is_fresh("BatchGetOrders", &queries.batch_get_orders(request).await.unwrap().into_inner().orders[0]);
        let request = WatchOrderRequest { order_id: order.id.clone(), seen_version: 0, after };
        let mut states = queries.watch_order(self.request(request)).await.unwrap().into_inner();
        is_fresh("WatchOrder", &states.message().await.unwrap().unwrap().order.unwrap());

        let as_of = as_of_version(order.version);
        let request = self.request(GetOrderAsOfRequest { order_id: order.id.clone(), as_of });
        let found = queries.get_order_as_of(request).await.unwrap().into_inner().order.unwrap();
        is_fresh("GetOrderAsOf", &found);
        let event_type = if order.version == 1 { "OrderCreated" } else { "OrderStatusUpdated" };
        self.ask_about_totals(&order).await;
        self.ask_about_event(event_type, order).await;
        self.asked += 9;
    }

    /// The totals of the customer, which every order feeds: no order of them is cancelled.
    async fn ask_about_totals(&self, order: &At) {
        let request = GetCustomerTotalsRequest { user_id: self.user.id.clone(), after: order.after() };
        let reply = self.app.customer_queries().get_customer_totals(self.request(request)).await;
        let totals = reply.unwrap().into_inner().totals.unwrap();
        assert_eq!(usize::try_from(totals.orders).unwrap(), self.orders.len(), "GetCustomerTotals");
    }

    /// Asks for an event among those of its aggregate and those of its type.
    async fn ask_about_event(&self, event_type: &str, at: At) {
        let (mut history, order) = (self.app.history(), SortOrder::NewestFirst.into());
        let is_there = |query: &str, events: &[RecordedEvent]| {
            let same = |event: &&RecordedEvent| event.aggregate_id == at.id && event.version == at.version;
            assert_eq!(events.iter().filter(same).count(), 1, "{query}: {at:?}");
        };
        let (aggregate_type, aggregate_id) = (at.aggregate_type.clone(), at.id.clone());
        let request = GetHistoryRequest { aggregate_type, aggregate_id, order, ..Default::default() };
        let found = history.get_history(self.request(request)).await.unwrap().into_inner();
        is_there("GetHistory", &found.events);
        let request = SearchEventsRequest {
            event_type: event_type.to_owned(),
            order,
            after: at.after(),
            ..Default::default()
        };
        let found = history.search_events(self.request(request)).await.unwrap().into_inner();
        is_there("SearchEvents", &found.events);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_seen_at_once_by_every_query_that_could_show_them() {
    let commands = scaled(80);
    let seed = Seed::draw("cargo test -p millrace-tests --test e2e -- read_after");
    let app = TestApp::new().await.unwrap();
    let start = Instant::now();
    let customers = (0..CUSTOMERS).map(async |number| {
        let mut customer = Customer::of(&app, number, seed.value()).await;
        for _ in 1..commands as usize / CUSTOMERS {
            customer.step().await;
        }
        customer.asked
    });
    let asked: u64 = join_all(customers).await.into_iter().sum();
    println!("{commands} commands, {asked} questions at once after them, none stale: {:?}", start.elapsed());
    app.end().await.unwrap();
}
