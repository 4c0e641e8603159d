//! `OrderCommandService`.

use millrace_command::{AppendEvents, CommandHandler, Reply, Snapshots, reply};
use millrace_core::Invalid;
use millrace_server::Violations;
use shop::{
    Label, Money, UserId,
    contracts::{
        self,
        command::{
            CreateOrderRequest, CreateOrderResponse, UpdateOrderStatusRequest, UpdateOrderStatusResponse,
            order_command_service_server::OrderCommandService,
        },
        types,
    },
    order::{Basket, Order, OrderCommand, OrderItem, OrderStatus, Quantity},
    user::User,
};
use tonic::Request;

/// Commands on orders. An order's user must exist.
#[derive(Debug)]
pub struct Orders<S> {
    /// The handler of orders.
    pub orders: CommandHandler<Order, S>,
    /// The handler of users, to check that they exist.
    pub users: CommandHandler<User, S>,
}

#[tonic::async_trait]
impl<S: AppendEvents + Snapshots> OrderCommandService for Orders<S> {
    async fn create_order(&self, request: Request<CreateOrderRequest>) -> Reply<CreateOrderResponse> {
        let mut placed_by = None;
        let envelope = self.orders.creation(request, |message, violations| {
            let user_id: Option<UserId> = violations.field("user_id", message.user_id.parse());
            let basket = basket(violations, &message.items);
            if let Some(total) = &message.total_amount {
                check_total(violations, total, &message.items, basket.as_ref());
            }
            placed_by = user_id;
            Some(OrderCommand::CreateOrder { user_id: user_id?, basket: basket? })
        })?;
        if let Some(UserId(user)) = placed_by {
            // Users never cease to exist, so the answer still holds when the order is stored.
            self.users.require(&envelope.stream.tenant, user, "USER_EXISTS").await?;
        }
        reply(CreateOrderResponse { result: self.orders.send(&envelope).await? })
    }

    async fn update_order_status(
        &self,
        request: Request<UpdateOrderStatusRequest>,
    ) -> Reply<UpdateOrderStatusResponse> {
        let result = self.orders.update(request, |message, violations| {
            let status = violations.field("status", OrderStatus::try_from(message.status));
            Some(OrderCommand::UpdateOrderStatus { status: status? })
        });
        reply(UpdateOrderStatusResponse { result: result.await? })
    }
}

/// Reads the items: each field of each one, then the rules over all of them.
fn basket(violations: &mut Violations, items: &[types::OrderItem]) -> Option<Basket> {
    let first = items.first().map_or("", currency);
    if items.len() > Basket::MAX_ITEMS {
        violations.add("items", "must hold at most 100 items");
    } else if items.iter().any(|item| differ(currency(item), first)) {
        violations.add("items", "all prices must be in one currency");
    }
    let mut parsed = Vec::with_capacity(items.len().min(Basket::MAX_ITEMS));
    for (n, item) in items.iter().enumerate() {
        if violations.is_full() {
            return None;
        }
        parsed.push(parse_item(violations, n, item));
    }
    let parsed: Vec<OrderItem> = parsed.into_iter().collect::<Option<_>>()?;
    violations.field("items", Basket::new(parsed))
}

/// The currency of an item; empty where it has none, which is a violation of its own.
fn currency(item: &types::OrderItem) -> &str {
    item.price.as_ref().map_or("", |price| price.currency_code.as_str())
}

/// Whether two currencies are there and are not the same one.
fn differ(a: &str, b: &str) -> bool {
    !a.is_empty() && !b.is_empty() && a != b
}

fn parse_item(violations: &mut Violations, n: usize, item: &types::OrderItem) -> Option<OrderItem> {
    let product = violations.field(format!("items[{n}].product"), Label::try_from(item.product.clone()));
    let quantity = violations.field(format!("items[{n}].quantity"), Quantity::try_from(item.quantity));
    let price = violations.field(format!("items[{n}].price"), price(item.price.as_ref()));
    Some(OrderItem { product: product?, quantity: quantity?, price: price? })
}

fn price(price: Option<&contracts::Money>) -> Result<Money, Invalid> {
    let price = Money::try_from(price.ok_or(Invalid("must be set"))?)?;
    if price.units() > OrderItem::MAX_UNITS {
        return Err(Invalid("units must be 0 to 999,999,999"));
    }
    Ok(price)
}

/// A total that the client computed must be right.
fn check_total(
    violations: &mut Violations,
    total: &contracts::Money,
    items: &[types::OrderItem],
    basket: Option<&Basket>,
) {
    let Some(total) = violations.field("total_amount", Money::try_from(total)) else { return };
    if items.iter().any(|item| differ(currency(item), total.currency().as_str())) {
        violations.add("total_amount", "must be in the currency of the items");
    } else if basket.is_some_and(|basket| basket.total() != total) {
        violations.add("total_amount", "must be the sum over all items of quantity times price");
    }
}
