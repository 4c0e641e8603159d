//! Queries, over read models and an event store in memory, and the page tokens that they hand out.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use arbitrary::{Arbitrary as _, Result, Unstructured};
use millrace_core::projection::ProjectionSpec;
use millrace_event_store::MemoryStore;
use millrace_proto::{
    Timestamp,
    query::{GetHistoryRequest, SearchEventsRequest, history_service_server::HistoryService as _},
};
use millrace_query::{
    QueryService,
    history::History,
    token::PageTokens,
    watch::{Pace, Watching},
};
use millrace_rows::{MemoryRows, WriteOutcome, WriteRows as _};
use query_service::{Customers, Orders, Users};
use shop::{
    CustomerTotals, OrderSummary, UserProfile,
    contracts::{
        Money,
        command::{
            CreateOrderRequest, CreateUserRequest, UpdateOrderStatusRequest,
            order_command_service_server::OrderCommandService as _,
            user_command_service_server::UserCommandService as _,
        },
        query::{
            BatchGetOrdersRequest, GetOrdersByStatusRequest, GetOrdersByUserRequest,
            customer_query_service_server::CustomerQueryService as _,
            order_query_service_server::OrderQueryService as _,
            user_query_service_server::UserQueryService as _,
        },
        types::{OrderItem, OrderStatus},
    },
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    application::SHOP,
    calls::{Caller, answered, message},
    commands::services,
    wire::run,
};

/// The services, over the data of two tenants.
struct World {
    users: Users,
    orders: Orders,
    customers: Customers,
    history: History,
    /// The ids of the tenants' users, one each, and of their orders, three each.
    user_ids: Vec<String>,
    order_ids: Vec<String>,
}

const TENANTS: [&str; 2] = ["acme", "other"];

static WORLD: LazyLock<World> = LazyLock::new(|| run(world()));

async fn world() -> World {
    let events = MemoryStore::default();
    let (mut user_ids, mut order_ids) = (Vec::new(), Vec::new());
    for tenant in TENANTS {
        let (to, caller) = (services(&events), Caller::Tenant(tenant.into()));
        // With ids of commands, so that aggregates have the same ids in every run: seeds name them.
        let user = CreateUserRequest {
            email: "john@example.com".into(),
            name: "John".into(),
            command_id: Some("user".into()),
            ..Default::default()
        };
        let user = to.users.create_user(caller.request(user)).await.expect("a user").into_inner();
        let user_id = user.result.and_then(|result| result.read_after).expect("a token").aggregate_id;
        let price = Money { currency_code: "USD".into(), units: 1, nanos: 0 };
        let item = OrderItem { product: "laptop".into(), quantity: 1, price: Some(price) };
        for number in 1..=3 {
            let (user_id, items) = (user_id.clone(), vec![item.clone()]);
            let command_id = Some(format!("order-{number}"));
            let order = CreateOrderRequest { user_id, items, command_id, ..Default::default() };
            let order = to.orders.create_order(caller.request(order)).await.expect("an order").into_inner();
            let token = order.result.and_then(|result| result.read_after).expect("a token");
            order_ids.push(token.aggregate_id);
        }
        let order_id = order_ids[order_ids.len() - 1].clone();
        let status = OrderStatus::Processing.into();
        let update = UpdateOrderStatusRequest { order_id, status, ..Default::default() };
        to.orders.update_order_status(caller.request(update)).await.expect("a change");
        user_ids.push(user_id);
    }
    let mut rows = BTreeMap::new();
    for spec in SHOP.projections() {
        rows.insert(spec.name, project(spec, &events).await);
    }
    let second = Duration::from_secs(1);
    let pace = Pace { fastest: second, slowest: second };
    let service = QueryService::new(
        &SHOP,
        |spec| rows[&spec.name].clone(),
        events,
        PageTokens::new(b"key"),
        Watching { pace, max: 1, max_per_tenant: 1 },
        CancellationToken::new(),
    );
    World {
        users: Users(service.rows::<UserProfile, _>().expect("a registered projection")),
        orders: Orders(service.rows::<OrderSummary, _>().expect("a registered projection")),
        customers: Customers(service.rows::<CustomerTotals, _>().expect("a registered projection")),
        history: service.history(),
        user_ids,
        order_ids,
    }
}

/// The rows that a projection makes of all events.
async fn project(spec: &ProjectionSpec, events: &MemoryStore) -> MemoryRows {
    let rows = MemoryRows::new(spec);
    for stored in events.all().iter().filter(|stored| stored.envelope.aggregate_type == spec.source) {
        let update = (spec.update)(&stored.envelope).expect("an update").expect("an event's data");
        assert_eq!(rows.write(&update).await.expect("a row"), WriteOutcome::Applied);
    }
    rows
}

/// A query of any kind, by any caller, with any message. It is answered or refused.
pub(crate) fn queries(data: &[u8]) -> Result<()> {
    let u = &mut Unstructured::new(data);
    let (caller, world) = (Caller::any(u)?, &*WORLD);
    macro_rules! ask {
        ($service:ident, $method:ident) => {{
            let request = caller.request(message(u)?);
            answered(run(world.$service.$method(request)));
        }};
    }
    match u.int_in_range(0..=12)? {
        0 => ask!(users, get_user_profile),
        1 => ask!(users, get_user_by_email),
        2 => ask!(users, batch_get_user_profiles),
        3 => ask!(orders, get_order),
        4 => ask!(orders, batch_get_orders),
        5 => ask!(orders, get_orders_by_user),
        6 => ask!(orders, get_orders_by_status),
        7 => ask!(history, get_history),
        8 => ask!(users, get_user_profile_as_of),
        9 => ask!(orders, get_order_as_of),
        10 => ask!(history, search_events),
        11 => ask!(customers, get_customer_totals),
        _ => {
            // All ids at once, of whomever they are: a tenant is shown its own.
            let asked = world.order_ids.iter().chain(&world.user_ids).cloned().collect();
            let request = BatchGetOrdersRequest { order_ids: asked, after: None };
            if let Some(found) = answered(run(world.orders.batch_get_orders(caller.request(request)))) {
                let own =
                    TENANTS.iter().position(|tenant| caller == Caller::Tenant(tenant.as_bytes().to_vec()));
                let own = own.map_or(&[][..], |own| &world.order_ids[own * 3..][..3]);
                assert!(
                    found.orders.iter().all(|order| own.contains(&order.order_id)),
                    "another tenant's order"
                );
            }
        }
    }
    Ok(())
}

/// A query with pages, and its caller.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Paged {
    tenant: usize,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    OfUser { user: usize, status: i32, since: Option<i64>, before: Option<i64> },
    InStatus { status: i32, since: Option<i64>, before: Option<i64> },
    History { of: usize, newest_first: bool },
    Search { event_type: &'static str, since: Option<i64>, before: Option<i64>, newest_first: bool },
}

impl Paged {
    fn any(u: &mut Unstructured<'_>) -> Result<Self> {
        // Not the beginning of 1970, which is where no beginning is, too.
        let since = *u.choose(&[None, Some(1), Some(1_700_000_000)])?;
        let before = *u.choose(&[None, Some(1_900_000_000), Some(1_900_000_001)])?;
        let kind = match u.int_in_range(0..=3)? {
            0 => Kind::OfUser { user: u.int_in_range(0..=1)?, status: u.int_in_range(0..=2)?, since, before },
            1 => Kind::InStatus { status: u.int_in_range(1..=2)?, since, before },
            2 => Kind::History { of: u.int_in_range(0..=1)?, newest_first: bool::arbitrary(u)? },
            _ => {
                let event_type = u.choose(&["OrderCreated", "UserCreated"])?;
                Kind::Search { event_type, since, before, newest_first: bool::arbitrary(u)? }
            }
        };
        Ok(Self { tenant: u.int_in_range(0..=1)?, kind })
    }

    /// A page of one, and the token of the next.
    fn page(&self, page_token: &str) -> std::result::Result<(Vec<String>, String), Status> {
        let (world, caller) = (&*WORLD, Caller::Tenant(TENANTS[self.tenant].into()));
        let (page_size, page_token) = (1, page_token.to_owned());
        let time = |seconds: Option<i64>| seconds.map(|seconds| Timestamp { seconds, nanos: 0 });
        let order = |newest_first| if newest_first { 2 } else { 1 };
        match &self.kind {
            Kind::OfUser { user, status, since, before } => {
                let request = GetOrdersByUserRequest {
                    user_id: world.user_ids[*user].clone(),
                    status: *status,
                    created_since: time(*since),
                    created_before: time(*before),
                    page_size,
                    page_token,
                    after: None,
                };
                let page = run(world.orders.get_orders_by_user(caller.request(request)))?.into_inner();
                Ok((page.orders.into_iter().map(|order| order.order_id).collect(), page.next_page_token))
            }
            Kind::InStatus { status, since, before } => {
                let request = GetOrdersByStatusRequest {
                    status: *status,
                    created_since: time(*since),
                    created_before: time(*before),
                    page_size,
                    page_token,
                    after: None,
                };
                let page = run(world.orders.get_orders_by_status(caller.request(request)))?.into_inner();
                Ok((page.orders.into_iter().map(|order| order.order_id).collect(), page.next_page_token))
            }
            Kind::History { of, newest_first } => {
                let request = GetHistoryRequest {
                    aggregate_type: "order".to_owned(),
                    aggregate_id: world.order_ids[of * 3 + 2].clone(),
                    page_size,
                    page_token,
                    order: order(*newest_first),
                };
                let page = run(world.history.get_history(caller.request(request)))?.into_inner();
                Ok((page.events.into_iter().map(|event| event.event_id).collect(), page.next_page_token))
            }
            Kind::Search { event_type, since, before, newest_first } => {
                let request = SearchEventsRequest {
                    event_type: (*event_type).into(),
                    start_time: time(*since),
                    end_time: time(*before),
                    page_size,
                    page_token,
                    order: order(*newest_first),
                    after: None,
                    follow: false,
                };
                let page = run(world.history.search_events(caller.request(request)))?.into_inner();
                Ok((page.events.into_iter().map(|event| event.event_id).collect(), page.next_page_token))
            }
        }
    }
}

/// A page token, as it was handed out, changed, or made up; brought back with the query and by the tenant that it was made
/// for, or with others. It is taken in the one case where nothing was changed.
pub(crate) fn page_tokens(data: &[u8]) -> Result<()> {
    let u = &mut Unstructured::new(data);
    let own = Paged::any(u)?;
    let Ok((first, token)) = own.page("") else { return Ok(()) };
    let (brought, with) = (changed(u, &token)?, if u.ratio(1, 2)? { own.clone() } else { Paged::any(u)? });
    if brought.is_empty() {
        return Ok(());
    }
    let is_own = brought == token && with == own;
    match with.page(&brought) {
        Ok((next, _)) => {
            assert!(is_own, "{brought} of {own:?} is taken for {with:?}");
            assert!(next.iter().all(|id| !first.contains(id)), "the next page is another one");
        }
        Err(status) => {
            assert!(!is_own, "{status:?}");
            let bad = status.get_error_details();
            let bad =
                bad.bad_request().map(|bad| bad.field_violations.iter().any(|v| v.field == "page_token"));
            // An order that is another tenant's is not there to have a history.
            assert!(status.code() == Code::NotFound || bad == Some(true), "{status:?}");
        }
    }
    Ok(())
}

/// A token with something done to it, or with nothing.
fn changed(u: &mut Unstructured<'_>, token: &str) -> Result<String> {
    let mut bytes = token.as_bytes().to_vec();
    match u.int_in_range(0..=5)? {
        0 | 1 => return Ok(token.to_owned()),
        2 if !bytes.is_empty() => {
            let at = u.choose_index(bytes.len())?;
            bytes[at] = *u.choose(b"ABCDwxyz0189-_=+/")?;
        }
        3 if !bytes.is_empty() => bytes.truncate(u.choose_index(bytes.len())?),
        4 => bytes.extend_from_slice(u.choose(&[&b"A"[..], b"=", b"==", b"AAAA"])?),
        _ => {
            let len = u.int_in_range(0..=80)?;
            bytes = u.bytes(len.min(u.len()))?.to_vec();
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
