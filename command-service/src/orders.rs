//! `OrderCommandService`.

use millrace_domain::{
    Aggregate as _, Invalid, Label, Money, OrderId, StreamId, UserId,
    order::{Basket, Order as OrderState, OrderCommand, OrderItem, OrderRefusal, Quantity},
    user::User,
};
use millrace_event_store::{AppendEvents, Snapshots};
use millrace_proto::{
    codec::{money_from_proto, status_from_proto},
    command::{
        CreateOrderRequest, CreateOrderResponse, UpdateOrderStatusRequest, UpdateOrderStatusResponse,
        order_command_service_server::OrderCommandService,
    },
    types,
};
use millrace_runtime::{Call, Failure, Violations};
use tonic::{Request, Response, Status};

use crate::{
    handler::{Handler, IntoFailure, Order},
    parse::{created_id, digest, expected_version, ids},
    users,
};

/// Serves commands on orders.
#[derive(Debug)]
pub struct Orders<S> {
    handler: Handler<OrderState, S>,
    users: Handler<User, S>,
}

impl<S> Orders<S> {
    /// The service over a handler of orders, and one of users to ask whether they exist.
    pub fn new(handler: Handler<OrderState, S>, users: Handler<User, S>) -> Self {
        Self { handler, users }
    }
}

#[tonic::async_trait]
impl<S: AppendEvents + Snapshots> OrderCommandService for Orders<S> {
    async fn create_order(
        &self,
        request: Request<CreateOrderRequest>,
    ) -> Result<Response<CreateOrderResponse>, Status> {
        let call = Call::of(&request)?;
        let (user_id, order) = create(&call, request.into_inner())?;
        // Users never cease to exist, so what is found here still holds when the order is stored.
        if !self.users.exists(&users::stream(&call, user_id)).await? {
            return Err(Failure::Precondition {
                kind: "USER_EXISTS",
                subject: user_id.to_string(),
                description: "the user does not exist".to_owned(),
            }
            .into());
        }
        Ok(Response::new(self.handler.execute(&order).await?.into()))
    }

    async fn update_order_status(
        &self,
        request: Request<UpdateOrderStatusRequest>,
    ) -> Result<Response<UpdateOrderStatusResponse>, Status> {
        let order = update(&Call::of(&request)?, request.into_inner())?;
        Ok(Response::new(self.handler.execute(&order).await?.into()))
    }
}

fn create(call: &Call, mut request: CreateOrderRequest) -> Result<(UserId, Order<OrderState>), Failure> {
    let mut wrong = Violations::default();
    let ids = ids(&mut wrong, request.command_id.take(), request.correlation_id.take());
    request.user_id.make_ascii_lowercase();
    let digest = digest("CreateOrder", &request);
    let user_id: Option<UserId> = wrong.field("user_id", request.user_id.parse());
    let basket = basket(&mut wrong, &request.items);
    if let Some(total) = &request.total_amount {
        check_total(&mut wrong, total, &request.items, basket.as_ref());
    }
    let (ids, user_id, basket) = wrong.finish((|| Some((ids?, user_id?, basket?)))())?;
    let order_id = OrderId(created_id(&call.tenant, OrderState::TYPE.as_str(), &ids.command_id));
    let order = Order {
        stream: stream(call, order_id),
        command: OrderCommand::CreateOrder { order_id, user_id, basket },
        creates: true,
        expected_version: None,
        command_id: ids.command_id,
        digest,
        correlation_id: ids.correlation_id,
        trace: call.trace,
    };
    Ok((user_id, order))
}

fn update(call: &Call, mut request: UpdateOrderStatusRequest) -> Result<Order<OrderState>, Failure> {
    let mut wrong = Violations::default();
    let ids = ids(&mut wrong, request.command_id.take(), request.correlation_id.take());
    request.order_id.make_ascii_lowercase();
    let digest = digest("UpdateOrderStatus", &request);
    let order_id: Option<OrderId> = wrong.field("order_id", request.order_id.parse());
    let status = wrong.field("status", status_from_proto(request.status));
    let expected_version = expected_version(&mut wrong, request.expected_version);
    let (ids, order_id, status) = wrong.finish((|| Some((ids?, order_id?, status?)))())?;
    Ok(Order {
        stream: stream(call, order_id),
        command: OrderCommand::UpdateOrderStatus { status },
        creates: false,
        expected_version,
        command_id: ids.command_id,
        digest,
        correlation_id: ids.correlation_id,
        trace: call.trace,
    })
}

fn stream(call: &Call, order_id: OrderId) -> StreamId {
    StreamId { tenant: call.tenant.clone(), aggregate_type: OrderState::TYPE, id: order_id.0 }
}

/// Reads the items: each field of each one, then what they must have in common.
fn basket(wrong: &mut Violations, items: &[types::OrderItem]) -> Option<Basket> {
    let first = items.first().map_or("", currency);
    if items.len() > Basket::MOST_ITEMS {
        wrong.add("items", "must hold at most 100 items");
    } else if items.iter().any(|item| differ(currency(item), first)) {
        wrong.add("items", "all prices must be in one currency");
    }
    let mut parsed = Vec::with_capacity(items.len().min(Basket::MOST_ITEMS));
    for (n, item) in items.iter().enumerate() {
        if wrong.is_full() {
            return None;
        }
        parsed.push(parse_item(wrong, n, item));
    }
    let parsed: Vec<OrderItem> = parsed.into_iter().collect::<Option<_>>()?;
    wrong.field("items", Basket::new(parsed))
}

/// The currency of an item; empty where it has none, which is a violation of its own.
fn currency(item: &types::OrderItem) -> &str {
    item.price.as_ref().map_or("", |price| price.currency_code.as_str())
}

/// Whether two currencies are there and are not the same one.
fn differ(a: &str, b: &str) -> bool {
    !a.is_empty() && !b.is_empty() && a != b
}

fn parse_item(wrong: &mut Violations, n: usize, item: &types::OrderItem) -> Option<OrderItem> {
    let product = wrong.field(format!("items[{n}].product"), Label::try_from(item.product.clone()));
    let quantity = wrong.field(format!("items[{n}].quantity"), Quantity::try_from(item.quantity));
    let price = wrong.field(format!("items[{n}].price"), price(item.price.as_ref()));
    Some(OrderItem { product: product?, quantity: quantity?, price: price? })
}

fn price(price: Option<&millrace_proto::Money>) -> Result<Money, Invalid> {
    let price = money_from_proto(price.ok_or(Invalid("must be set"))?)?;
    if price.units() > OrderItem::MOST_UNITS {
        return Err(Invalid("units must be 0 to 999,999,999"));
    }
    Ok(price)
}

/// A total that the client computed must be right.
fn check_total(
    wrong: &mut Violations,
    total: &millrace_proto::Money,
    items: &[types::OrderItem],
    basket: Option<&Basket>,
) {
    let Some(total) = wrong.field("total_amount", money_from_proto(total)) else { return };
    if items.iter().any(|item| differ(currency(item), total.currency().as_str())) {
        wrong.add("total_amount", "must be in the currency of the items");
    } else if basket.is_some_and(|basket| basket.total() != total) {
        wrong.add("total_amount", "must be the sum over all items of quantity times price");
    }
}

impl IntoFailure for OrderRefusal {
    fn into_failure(self, stream: &StreamId) -> Failure {
        match self {
            Self::NotFound => Failure::NotFound { resource_type: "order", name: stream.id.to_string() },
            // The id of an order comes from the command's id: where there is one already, the id was used before.
            Self::AlreadyExists => Failure::CommandIdReused,
            Self::StatusNotAllowed { .. } => Failure::Precondition {
                kind: "ORDER_STATUS",
                subject: stream.id.to_string(),
                description: self.to_string(),
            },
        }
    }
}
