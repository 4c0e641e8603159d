//! What queries cost on AWS: requests, bytes, read units. Run with `--nocapture` to see the table.

use std::{collections::BTreeMap, fmt::Write as _};

use millrace_domain::{Email, EventId, TenantId, UserId, order::OrderStatus};
use millrace_proto::{
    codec::{status_to_proto, time_to_proto},
    query::{
        BatchGetOrdersRequest, BatchGetUserProfilesRequest, GetOrderRequest, GetOrdersByStatusRequest,
        GetOrdersByUserRequest, GetUserByEmailRequest, GetUserProfileRequest, ReadAfter,
        order_query_service_server::OrderQueryService as _, user_query_service_server::UserQueryService as _,
    },
};
use millrace_read_models::{
    Among, DynamoOrders, DynamoUsers, OrderChange, OrderList, Provenance, ReadOrders as _, Times, UserChange,
    WriteRows as _, Written,
};
use millrace_tests::{Ground, Traffic, Wire};
use tonic::Request;
use uuid::Uuid;

use crate::{
    replica::{QueryReplica, SHARDS, models},
    rows::{Asked, BUYER, ask, at, laptop, largest, order_id, placed},
};

/// Services without a port, so that nothing else is counted, over a wire that meters.
struct Metered {
    wire: Wire,
    rows: DynamoOrders,
    services: QueryReplica,
    notes: Vec<Note>,
}

/// What a call cost, and what it may cost.
struct Note {
    what: &'static str,
    used: BTreeMap<String, Traffic>,
    requests: BTreeMap<&'static str, u64>,
    read_units: f64,
    /// What AWS charges besides for what a filter left out, which cannot be seen in the reply.
    left_out: f64,
}

impl Metered {
    async fn new(ground: &Ground) -> Self {
        let wire = Wire::before(ground.endpoint()).await.unwrap();
        let models = models(ground, &wire.aws(&ground.account).await);
        let services = QueryReplica::new(&models);
        Self { wire, rows: models.orders, services, notes: Vec::new() }
    }

    /// Notes what was sent since the last note: these requests and no others, for so many read units.
    fn note(&mut self, what: &'static str, requests: &[(&'static str, u64)], read_units: f64) {
        let requests = requests.iter().copied().collect();
        self.notes.push(Note { what, used: self.wire.take(), requests, read_units, left_out: 0.0 });
    }

    /// Adds to the last note what it cost to read these two parts of a list, which a filter left out nearly whole.
    async fn looked_at(&mut self, list: &OrderList, first: u16, further: u16) {
        let part = self.rows.part(list, None, first).await.unwrap();
        self.rows.part(list, part.end.as_ref(), further).await.unwrap();
        let used: f64 = self.wire.take().values().map(|traffic| traffic.read_units).sum();
        if let Some(note) = self.notes.last_mut() {
            note.left_out = used - note.used.values().map(|traffic| traffic.read_units).sum::<f64>();
        }
    }

    /// Shows the notes, and holds them against what was expected.
    fn settle(&self) {
        let mut table = format!("\n{:<62} {:<26} {:>10} {:>7}\n", "", "requests", "bytes read", "RU");
        for Note { what, used, left_out, .. } in &self.notes {
            let requests: Vec<_> =
                used.iter().map(|(name, traffic)| format!("{} {name}", traffic.requests)).collect();
            let bytes: u64 = used.values().map(|traffic| traffic.response_bytes).sum();
            let read_units: f64 = used.values().map(|traffic| traffic.read_units).sum::<f64>() + left_out;
            writeln!(table, "{what:<62} {:<26} {bytes:>10} {read_units:>7.1}", requests.join(", ")).unwrap();
        }
        println!("{table}");
        for Note { what, used, requests, read_units, left_out } in &self.notes {
            let sent: BTreeMap<_, _> =
                used.iter().map(|(name, traffic)| (name.as_str(), traffic.requests)).collect();
            assert_eq!(sent, *requests, "{what}");
            let units: f64 = used.values().map(|traffic| traffic.read_units).sum::<f64>() + left_out;
            assert_eq!(units, *read_units, "{what}");
        }
    }

    async fn page(&self, tenant: &TenantId, asked: Asked) -> (usize, String) {
        let (orders, next) = ask(&self.services.orders, tenant, asked).await.unwrap();
        (orders.len(), next)
    }
}

fn john() -> UserChange {
    let id = Uuid::from_u128(7);
    UserChange {
        tenant: TenantId::default(),
        user_id: UserId(id),
        from: 0,
        to: 1,
        created_at: Some(at(0)),
        email: Some(Email::try_from("john@example.com".to_owned()).unwrap()),
        name: Some("John Doe".to_owned().try_into().unwrap()),
        updated_at: at(0),
        provenance: Provenance {
            event_id: EventId(id),
            correlation_id: id.to_string().parse().unwrap(),
            causation_id: id.to_string().parse().unwrap(),
            trace_parent: None,
        },
    }
}

fn after(id: Uuid, version: u64) -> Option<ReadAfter> {
    Some(ReadAfter { aggregate_id: id.to_string(), version })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_costs_what_the_architecture_says() {
    const QUERIES: u64 = SHARDS.get() as u64;
    let ground = Ground::new().await.unwrap();
    let (us, bulk): (TenantId, TenantId) = (TenantId::default(), "bulk".parse().unwrap());
    let mut metered = Metered::new(&ground).await;
    let users = DynamoUsers::new(ground.aws().await.dynamodb(), ground.output("UserReadModelTable"));
    assert_eq!(users.write(&john()).await.unwrap(), Written::Applied);
    let mut rows: Vec<OrderChange> =
        (0..2_000).map(|n| placed(&us, n, laptop(), i64::try_from(n).unwrap())).collect();
    // Of the user's orders, every hundredth has been shipped.
    for change in rows.iter_mut().step_by(100) {
        (change.status, change.to) = (OrderStatus::Shipped, 3);
    }
    rows.extend((0..60).map(|n| placed(&bulk, n, largest(), i64::try_from(n).unwrap())));
    metered.rows.load(&rows).await.unwrap();
    metered.wire.take();

    let newest = order_id(1_999);
    let order = |after| GetOrderRequest { order_id: newest.to_string(), after };
    metered.services.orders.get_order(Request::new(order(None))).await.unwrap();
    metered.note("GetOrder", &[("GetItem", 1)], 1.0);
    metered.services.orders.get_order(Request::new(order(after(newest.0, 1)))).await.unwrap();
    metered.note("GetOrder, with its own token", &[("GetItem", 1)], 1.0);
    metered.services.orders.get_order(Request::new(order(after(order_id(1).0, 1)))).await.unwrap();
    metered.note("GetOrder, with another order's token", &[("GetItem", 2)], 2.0);
    metered.services.orders.get_order(Request::new(order(after(john().user_id.0, 1)))).await.unwrap();
    metered.note("GetOrder, with a user's token", &[("GetItem", 3)], 3.0);
    let profile = GetUserProfileRequest { user_id: john().user_id.to_string(), after: None };
    metered.services.users.get_user_profile(Request::new(profile)).await.unwrap();
    metered.note("GetUserProfile", &[("GetItem", 1)], 1.0);
    let profile =
        GetUserProfileRequest { user_id: john().user_id.to_string(), after: after(john().user_id.0, 1) };
    metered.services.users.get_user_profile(Request::new(profile)).await.unwrap();
    metered.note("GetUserProfile, with its own token", &[("GetItem", 1)], 1.0);
    let email = |after| GetUserByEmailRequest { email: "john@example.com".into(), after };
    metered.services.users.get_user_by_email(Request::new(email(None))).await.unwrap();
    metered.note("GetUserByEmail", &[("Query", 1)], 0.5);
    metered.services.users.get_user_by_email(Request::new(email(after(john().user_id.0, 1)))).await.unwrap();
    metered.note("GetUserByEmail, with a token", &[("Query", 1), ("GetItem", 1)], 1.5);

    let batch = |count: u64, after| {
        let order_ids = (0..count).map(|n| order_id(n).to_string()).collect();
        Request::new(BatchGetOrdersRequest { order_ids, after })
    };
    assert_eq!(
        metered.services.orders.batch_get_orders(batch(20, None)).await.unwrap().get_ref().orders.len(),
        20
    );
    metered.note("BatchGetOrders, 20", &[("BatchGetItem", 1)], 20.0);
    assert_eq!(
        metered.services.orders.batch_get_orders(batch(100, None)).await.unwrap().get_ref().orders.len(),
        100
    );
    metered.note("BatchGetOrders, 100", &[("BatchGetItem", 1)], 100.0);
    let awaited = batch(100, after(order_id(7).0, 1));
    assert_eq!(metered.services.orders.batch_get_orders(awaited).await.unwrap().get_ref().orders.len(), 100);
    metered.note(
        "BatchGetOrders, 100, with the token of one of them",
        &[("BatchGetItem", 1), ("GetItem", 1)],
        100.0,
    );
    let user_ids = vec![john().user_id.to_string(), Uuid::nil().to_string()];
    let request = Request::new(BatchGetUserProfilesRequest { user_ids, after: None });
    metered.services.users.batch_get_user_profiles(request).await.unwrap();
    metered.note("BatchGetUserProfiles, 2, of which one does not exist", &[("BatchGetItem", 1)], 2.0);

    let by_user = GetOrdersByUserRequest { user_id: BUYER.to_string(), ..Default::default() };
    let of_user = |size, token: &str| Asked::OfUser(by_user.clone()).page(size, token);
    let (_, next) = metered.page(&us, of_user(20, "")).await;
    metered.note("GetOrdersByUser, a page of 20", &[("Query", 1)], 2.0);
    assert_eq!(metered.page(&us, of_user(20, &next)).await.0, 20);
    metered.note("GetOrdersByUser, its next page", &[("Query", 1)], 2.0);
    assert_eq!(metered.page(&us, of_user(100, "")).await.0, 100);
    metered.note("GetOrdersByUser, a page of 100", &[("Query", 1)], 9.0);
    let awaited = GetOrdersByUserRequest { after: after(newest.0, 1), ..by_user.clone() };
    assert_eq!(metered.page(&us, Asked::OfUser(awaited).page(20, "")).await.0, 20);
    metered.note("GetOrdersByUser, a page of 20, with a token", &[("Query", 1), ("GetItem", 1)], 3.0);
    let range = GetOrdersByUserRequest {
        created_since: Some(time_to_proto(at(500))),
        created_before: Some(time_to_proto(at(505))),
        ..by_user.clone()
    };
    assert_eq!(metered.page(&us, Asked::OfUser(range).page(20, "")).await.0, 4 + 1);
    metered.note("GetOrdersByUser, 5 of 2,000 by their times", &[("Query", 1)], 0.5);
    let filtered =
        |status| GetOrdersByUserRequest { status: status_to_proto(status).into(), ..by_user.clone() };
    assert_eq!(metered.page(&us, Asked::OfUser(filtered(OrderStatus::Created)).page(20, "")).await.0, 20);
    let all = OrderList {
        tenant: us.clone(),
        among: Among::User { user_id: BUYER, status: None },
        created: Times::default(),
    };
    metered.note("GetOrdersByUser, a page of 20 of the 99 % in a status", &[("Query", 1)], 9.0);
    assert_eq!(metered.page(&us, Asked::OfUser(filtered(OrderStatus::Shipped)).page(20, "")).await.0, 5);
    metered.note("GetOrdersByUser, 5 of the 1 % in a status, of 500 looked at", &[("Query", 2)], 44.5);
    metered.looked_at(&all, 100, 400).await;

    let by_status = GetOrdersByStatusRequest {
        status: status_to_proto(OrderStatus::Created).into(),
        ..Default::default()
    };
    let in_status = |size, token: &str| Asked::InStatus(by_status.clone()).page(size, token);
    let (_, next) = metered.page(&us, in_status(20, "")).await;
    metered.note("GetOrdersByStatus, a page of 20", &[("Query", QUERIES)], 6.0);
    assert_eq!(metered.page(&us, in_status(20, &next)).await.0, 20);
    metered.note("GetOrdersByStatus, its next page", &[("Query", QUERIES)], 6.0);
    assert_eq!(metered.page(&us, in_status(100, "")).await.0, 100);
    metered.note("GetOrdersByStatus, a page of 100", &[("Query", QUERIES)], 16.0);
    let awaited = GetOrdersByStatusRequest { after: after(newest.0, 1), ..by_status.clone() };
    assert_eq!(metered.page(&us, Asked::InStatus(awaited).page(20, "")).await.0, 20);
    metered.note("GetOrdersByStatus, a page of 20, with a token", &[("Query", QUERIES), ("GetItem", 1)], 7.0);

    let (large, _) = metered.page(&bulk, of_user(100, "")).await;
    metered.note("GetOrdersByUser, a page of orders of 80 KB", &[("Query", 2)], 0.0);
    let (large_in_status, _) = metered.page(&bulk, in_status(100, "")).await;
    metered.note("GetOrdersByStatus, a page of orders of 80 KB", &[("Query", QUERIES + 1)], 0.0);
    println!("{large} and {large_in_status} orders of 80 KB on a page");
    metered.settle();
}
