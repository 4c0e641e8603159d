//! Queries, over read models and an event store in memory, and the page tokens that they hand out.

use std::sync::LazyLock;

use arbitrary::{Arbitrary as _, Result, Unstructured};
use millrace_event_store::MemoryStore;
use millrace_proto::{
    Money, Timestamp,
    codec::EventCodec,
    command::{
        CreateOrderRequest, CreateUserRequest, UpdateOrderStatusRequest,
        order_command_service_server::OrderCommandService as _,
        user_command_service_server::UserCommandService as _,
    },
    query::{
        BatchGetOrdersRequest, GetHistoryRequest, GetOrdersByStatusRequest, GetOrdersByUserRequest,
        SearchEventsRequest, get_history_request::Aggregate, history_service_server::HistoryService as _,
        order_query_service_server::OrderQueryService as _, user_query_service_server::UserQueryService as _,
    },
    types::{OrderItem, OrderStatus},
};
use millrace_read_models::{MemoryOrders, MemoryUsers, WriteRows, Written};
use millrace_runtime::Places;
use projector::Projection;
use query_service::{
    history::History,
    models::Models,
    orders::Orders,
    token::PageTokens,
    users::Users,
    watch::{Hub, OrderRows, Pace, UserRows},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    calls::{Caller, answered, message},
    commands::services,
    wire::run,
};

/// The services, over what two tenants have.
struct World {
    users: Users<MemoryUsers, MemoryOrders>,
    orders: Orders<MemoryUsers, MemoryOrders>,
    history: History<MemoryStore>,
    /// The ids of the tenants' users and orders, three each.
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
        let user =
            CreateUserRequest { email: "john@example.com".into(), name: "John".into(), ..Default::default() };
        let user = to.users.create_user(caller.request(user)).await.expect("a user").into_inner();
        let price = Money { currency_code: "USD".into(), units: 1, nanos: 0 };
        let item = OrderItem { product: "laptop".into(), quantity: 1, price: Some(price) };
        for _ in 0..3 {
            let user_id = user.aggregate_id.clone();
            let order = CreateOrderRequest { user_id, items: vec![item.clone()], ..Default::default() };
            let order = to.orders.create_order(caller.request(order)).await.expect("an order").into_inner();
            order_ids.push(order.aggregate_id);
        }
        let order_id = order_ids[order_ids.len() - 1].clone();
        let status = OrderStatus::Processing.into();
        let update = UpdateOrderStatusRequest { order_id, status, ..Default::default() };
        to.orders.update_order_status(caller.request(update)).await.expect("a change");
        user_ids.push(user.aggregate_id);
    }
    let (users, orders) = (MemoryUsers::default(), MemoryOrders::default());
    project::<projector::Users>(&events, &users).await;
    project::<projector::Orders>(&events, &orders).await;

    let pace =
        Pace { fastest: std::time::Duration::from_secs(1), slowest: std::time::Duration::from_secs(1) };
    let (places, ending) = (Places::new(1, 1), CancellationToken::new());
    let models = Models::new(users.clone(), orders.clone());
    let tokens = PageTokens::new(b"key");
    let user_hub = Hub::new(UserRows(users), pace, places.clone(), ending.clone());
    let order_hub = Hub::new(OrderRows(orders), pace, places, ending);
    World {
        users: Users::new(models.clone(), user_hub),
        orders: Orders::new(models, tokens.clone(), order_hub),
        history: History::new(events, tokens),
        user_ids,
        order_ids,
    }
}

async fn project<P: Projection>(events: &MemoryStore, rows: &impl WriteRows<P::Change>) {
    for stored in events.all() {
        let envelope = &stored.envelope;
        if envelope.aggregate_type != P::AGGREGATE {
            continue;
        }
        let data = envelope.event_data.clone().expect("an event's data");
        let event = P::Event::decode(&envelope.event_type, envelope.schema_version, &data).expect("an event");
        let change = P::change(envelope, event).expect("a change");
        assert_eq!(rows.write(&change).await.expect("a row"), Written::Applied);
    }
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
    match u.int_in_range(0..=11)? {
        0 => ask!(users, get_user_profile),
        1 => ask!(users, get_user_by_email),
        2 => ask!(users, batch_get_user_profiles),
        3 => ask!(orders, get_order),
        4 => ask!(orders, batch_get_orders),
        5 => ask!(orders, get_orders_by_user),
        6 => ask!(orders, get_orders_by_status),
        7 => ask!(history, get_history),
        8 => ask!(history, get_user_profile_as_of),
        9 => ask!(history, get_order_as_of),
        10 => ask!(history, search_events),
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

/// A query whose answer comes in pages, and who asks it.
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
                let aggregate = Some(Aggregate::OrderId(world.order_ids[of * 3 + 2].clone()));
                let order = order(*newest_first);
                let request = GetHistoryRequest { aggregate, page_size, page_token, order };
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
