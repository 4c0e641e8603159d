//! Orders.

pub mod contract;
pub mod summary;

use millrace_core::{Aggregate, AggregateType, EvolveError, IndexValue, Invalid, Rejection, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Label, Money, UserId};

/// The status of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OrderStatus {
    /// Placed.
    Created,
    /// Being prepared.
    Processing,
    /// Shipped, not yet delivered.
    Shipped,
    /// With its buyer.
    Delivered,
    /// Called off before it was shipped. Final.
    Cancelled,
    /// Come back after its delivery. Final.
    Returned,
}

impl OrderStatus {
    /// Every status.
    pub const ALL: [Self; 6] =
        [Self::Created, Self::Processing, Self::Shipped, Self::Delivered, Self::Cancelled, Self::Returned];

    /// Whether an order may move from this status straight to `next`.
    pub fn leads_to(self, next: Self) -> bool {
        match self {
            Self::Created => matches!(next, Self::Processing | Self::Cancelled),
            Self::Processing => matches!(next, Self::Shipped | Self::Cancelled),
            Self::Shipped => next == Self::Delivered,
            Self::Delivered => next == Self::Returned,
            Self::Cancelled | Self::Returned => false,
        }
    }

    /// The status in capitals, as keys and messages name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Processing => "PROCESSING",
            Self::Shipped => "SHIPPED",
            Self::Delivered => "DELIVERED",
            Self::Cancelled => "CANCELLED",
            Self::Returned => "RETURNED",
        }
    }
}

impl IndexValue for OrderStatus {
    fn index_value(&self) -> Option<String> {
        Some(self.as_str().to_owned())
    }
}

/// How many pieces: 1 to 10,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "u32")]
pub struct Quantity(u32);

impl Quantity {
    /// The number of pieces.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl From<Quantity> for u32 {
    fn from(quantity: Quantity) -> Self {
        quantity.0
    }
}

impl TryFrom<i32> for Quantity {
    type Error = Invalid;

    fn try_from(pieces: i32) -> Result<Self, Invalid> {
        match u32::try_from(pieces) {
            Ok(pieces @ 1..=10_000) => Ok(Self(pieces)),
            _ => Err(Invalid("must be 1 to 10,000")),
        }
    }
}

/// One line of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct OrderItem {
    /// The product.
    pub product: Label,
    /// How many pieces.
    pub quantity: Quantity,
    /// The price of one piece.
    pub price: Money,
}

impl OrderItem {
    /// The highest price of one piece, in whole units. With at most 100 lines of 10,000 pieces no total can overflow.
    pub const MAX_UNITS: i64 = 999_999_999;
}

/// The content of an order: 1 to 100 lines in one currency, with their sum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredBasket", into = "StoredBasket")]
pub struct Basket {
    items: Vec<OrderItem>,
    total: Money,
}

/// A basket in a row, with the total for readers that lack this program.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StoredBasket {
    items: Vec<OrderItem>,
    total: Money,
}

impl From<Basket> for StoredBasket {
    fn from(Basket { items, total }: Basket) -> Self {
        Self { items, total }
    }
}

impl TryFrom<StoredBasket> for Basket {
    type Error = Invalid;

    fn try_from(stored: StoredBasket) -> Result<Self, Invalid> {
        let basket = Self::new(stored.items)?;
        if basket.total == stored.total { Ok(basket) } else { Err(Invalid("the total is not the items'")) }
    }
}

impl Basket {
    /// The most lines that an order has.
    pub const MAX_ITEMS: usize = 100;

    /// The basket of these lines.
    pub fn new(items: Vec<OrderItem>) -> Result<Self, Invalid> {
        let Some(first) = items.first() else { return Err(Invalid("must hold at least one item")) };
        if items.len() > Self::MAX_ITEMS {
            return Err(Invalid("must hold at most 100 items"));
        }
        let currency = first.price.currency();
        if items.iter().any(|item| item.price.currency() != currency) {
            return Err(Invalid("all prices must be in one currency"));
        }
        let total = items.iter().try_fold(Money::zero(currency), |sum, item| {
            sum.checked_add(item.price.checked_mul(item.quantity.get())?)
        });
        total.map(|total| Self { items, total }).ok_or(Invalid("the total is too large"))
    }

    /// The lines.
    pub fn items(&self) -> &[OrderItem] {
        &self.items
    }

    /// The sum over all lines of quantity times price.
    pub fn total(&self) -> Money {
        self.total
    }
}

/// The commands on an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderCommand {
    /// Place it. That the user exists is checked before.
    CreateOrder {
        /// The user who places the order.
        user_id: UserId,
        /// The lines.
        basket: Basket,
    },
    /// Move it to another status.
    UpdateOrderStatus {
        /// The status to move to.
        status: OrderStatus,
    },
}

/// The events of an order. Events are a storage format: a change here is a change of every stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderEvent {
    /// It was placed.
    OrderCreated(OrderCreated),
    /// It moved to another status.
    OrderStatusUpdated(OrderStatusUpdated),
}

/// An order was placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderCreated {
    /// The user who placed it.
    pub user_id: UserId,
    /// The lines of the order.
    pub basket: Basket,
}

/// An order moved to another status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderStatusUpdated {
    /// The status.
    pub status: OrderStatus,
}

/// Why a command on an order is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The order does not exist.
    #[error("the order does not exist")]
    NotFound,
    /// There is one already.
    #[error("the order exists already")]
    AlreadyExists,
    /// Its status does not lead to the requested one.
    #[error("an order that is {} cannot become {}", .from.as_str(), .to.as_str())]
    StatusNotAllowed {
        /// The present status.
        from: OrderStatus,
        /// Where it was to go.
        to: OrderStatus,
    },
}

impl From<OrderError> for Rejection {
    fn from(refusal: OrderError) -> Self {
        match refusal {
            OrderError::NotFound => Self::NotFound,
            OrderError::AlreadyExists => Self::AlreadyExists,
            OrderError::StatusNotAllowed { .. } => {
                Self::Rule { kind: "ORDER_STATUS", description: refusal.to_string() }
            }
        }
    }
}

/// An order's present state: as much of it as decisions need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    status: OrderStatus,
}

impl Order {
    /// The present status.
    pub fn status(&self) -> OrderStatus {
        self.status
    }
}

impl Aggregate for Order {
    const TYPE: AggregateType = AggregateType::new("order");
    const STATE_SCHEMA: u32 = 1;
    type Command = OrderCommand;
    type Event = OrderEvent;
    type Error = OrderError;

    fn decide(
        state: Option<&Self>,
        command: &OrderCommand,
        _: Timestamp,
    ) -> Result<Vec<OrderEvent>, OrderError> {
        match (state, command.clone()) {
            (None, OrderCommand::CreateOrder { user_id, basket }) => {
                Ok(vec![OrderEvent::OrderCreated(OrderCreated { user_id, basket })])
            }
            (Some(_), OrderCommand::CreateOrder { .. }) => Err(OrderError::AlreadyExists),
            (None, OrderCommand::UpdateOrderStatus { .. }) => Err(OrderError::NotFound),
            (Some(order), OrderCommand::UpdateOrderStatus { status }) if order.status.leads_to(status) => {
                Ok(vec![OrderEvent::OrderStatusUpdated(OrderStatusUpdated { status })])
            }
            (Some(order), OrderCommand::UpdateOrderStatus { status }) => {
                Err(OrderError::StatusNotAllowed { from: order.status, to: status })
            }
        }
    }

    fn evolve(state: Option<Self>, event: &OrderEvent) -> Result<Self, EvolveError> {
        match (state, event) {
            (None, OrderEvent::OrderCreated(_)) => Ok(Self { status: OrderStatus::Created }),
            (Some(_), OrderEvent::OrderCreated(_)) => Err(EvolveError("an order is created once")),
            (None, OrderEvent::OrderStatusUpdated(_)) => {
                Err(EvolveError("an order is created before it changes"))
            }
            (Some(order), OrderEvent::OrderStatusUpdated(OrderStatusUpdated { status })) => {
                if order.status.leads_to(*status) {
                    Ok(Self { status: *status })
                } else {
                    Err(EvolveError("the order's status does not lead to the event's"))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};
    use uuid::Uuid;

    use super::*;
    use crate::OrderSummary;
    use millrace_core::{
        AggregateState, DecodeError, EventCodec as _,
        aggregate::testing::{Decision, send},
    };
    use millrace_testing::{aggregate_id, assert_codec, given, project, time_of};

    fn item(pieces: i32, units: i64, nanos: i32, currency: &str) -> OrderItem {
        OrderItem {
            product: Label::try_from("laptop".to_owned()).unwrap(),
            quantity: pieces.try_into().unwrap(),
            price: Money::new(currency.parse().unwrap(), units, nanos).unwrap(),
        }
    }

    fn basket() -> Basket {
        Basket::new(vec![item(1, 999, 990_000_000, "USD")]).unwrap()
    }

    fn create() -> OrderCommand {
        OrderCommand::CreateOrder { user_id: UserId(Uuid::from_u128(2)), basket: basket() }
    }

    fn created() -> OrderEvent {
        OrderEvent::OrderCreated(OrderCreated { user_id: UserId(Uuid::from_u128(2)), basket: basket() })
    }

    fn moved(status: OrderStatus) -> OrderEvent {
        OrderEvent::OrderStatusUpdated(OrderStatusUpdated { status })
    }

    /// A shortest history that ends in the status.
    fn history_to(status: OrderStatus) -> Vec<OrderEvent> {
        use OrderStatus::{Cancelled, Created, Delivered, Processing, Returned, Shipped};
        let way: &[OrderStatus] = match status {
            Created => &[],
            Processing => &[Processing],
            Shipped => &[Processing, Shipped],
            Delivered => &[Processing, Shipped, Delivered],
            Cancelled => &[Cancelled],
            Returned => &[Processing, Shipped, Delivered, Returned],
        };
        std::iter::once(created()).chain(way.iter().copied().map(moved)).collect()
    }

    #[test]
    fn an_order_is_created_once() {
        given::<Order>(&[]).when(create()).then(&[created()]);
        given::<Order>(&[created()]).when(create()).then_error(OrderError::AlreadyExists);
    }

    #[test]
    fn a_status_without_an_order_cannot_change() {
        given::<Order>(&[])
            .when(OrderCommand::UpdateOrderStatus { status: OrderStatus::Processing })
            .then_error(OrderError::NotFound);
    }

    #[test]
    fn exactly_six_changes_of_status_are_allowed() {
        use OrderStatus::{Cancelled, Created, Delivered, Processing, Returned, Shipped};
        let allowed = [
            (Created, Processing),
            (Processing, Shipped),
            (Shipped, Delivered),
            (Created, Cancelled),
            (Processing, Cancelled),
            (Delivered, Returned),
        ];
        for from in OrderStatus::ALL {
            for to in OrderStatus::ALL {
                let outcome =
                    given::<Order>(&history_to(from)).when(OrderCommand::UpdateOrderStatus { status: to });
                if allowed.contains(&(from, to)) {
                    outcome.then(&[moved(to)]);
                } else {
                    outcome.then_error(OrderError::StatusNotAllowed { from, to });
                }
            }
        }
    }

    #[test]
    fn a_basket_has_items_of_one_currency() {
        assert!(Basket::new(vec![]).is_err());
        assert!(Basket::new(vec![item(1, 1, 0, "USD"); 101]).is_err());
        let mixed = Basket::new(vec![item(1, 1, 0, "USD"), item(1, 1, 0, "EUR")]);
        assert_eq!(mixed, Err(Invalid("all prices must be in one currency")));
        assert!(Basket::new(vec![item(10_000, OrderItem::MAX_UNITS, 999_999_999, "USD"); 100]).is_ok());
        assert!(Basket::new(vec![item(2, i64::MAX, 0, "USD")]).is_err());
    }

    #[test]
    fn a_stored_basket_has_the_total_of_its_items() {
        let basket = Basket::new(vec![item(2, 3, 0, "USD")]).unwrap();
        let mut stored = serde_json::to_value(&basket).unwrap();
        assert_eq!(serde_json::from_value::<Basket>(stored.clone()).unwrap(), basket);
        stored["Total"] = serde_json::to_value(Money::zero(basket.total().currency())).unwrap();
        assert!(serde_json::from_value::<Basket>(stored).is_err());
    }

    #[test]
    fn a_quantity_is_1_to_10_000() {
        for pieces in [0, -1, 10_001, i32::MIN, i32::MAX] {
            assert!(Quantity::try_from(pieces).is_err(), "{pieces}");
        }
        assert_eq!(Quantity::try_from(10_000).unwrap().get(), 10_000);
    }

    #[test]
    fn events_that_do_not_fit_are_misfits() {
        assert!(Order::evolve(None, &moved(OrderStatus::Processing)).is_err());
        let order = Order::evolve(None, &created()).unwrap();
        assert!(Order::evolve(Some(order.clone()), &created()).is_err());
        assert!(Order::evolve(Some(order), &moved(OrderStatus::Shipped)).is_err());
    }

    #[test]
    fn events_are_stored_as_they_are() {
        let statuses = OrderStatus::ALL.map(moved);
        assert_codec(&[&[created()], &statuses[..]].concat());
    }

    #[test]
    fn a_status_of_a_newer_release_is_told() {
        let data = serde_json::json!({"status": "ORDER_STATUS_LOST"});
        let read = OrderEvent::decode("OrderStatusUpdated", 1, data.as_object().unwrap());
        assert_eq!(read, Err(DecodeError::UnknownField));
    }

    #[test]
    fn a_summary_shows_the_order_as_it_stands() {
        let summary = |status, version| OrderSummary {
            order_id: aggregate_id(1),
            user_id: UserId(Uuid::from_u128(2)),
            basket: basket(),
            status,
            created_at: time_of(1),
            updated_at: time_of(version),
        };
        for status in OrderStatus::ALL {
            let history = history_to(status);
            project::<OrderSummary, _>(&history).then(Some(summary(status, history.len() as u64)));
        }
    }

    fn any_command() -> impl Strategy<Value = OrderCommand> {
        prop_oneof![
            1 => Just(create()),
            4 => select(OrderStatus::ALL.to_vec()).prop_map(|status| OrderCommand::UpdateOrderStatus { status }),
        ]
    }

    #[test]
    fn the_form_of_the_state_changes_only_with_its_schema() {
        let order = Order::evolve(None, &created()).unwrap();
        let form = serde_json::json!({"status": "CREATED"});
        assert_eq!((Order::STATE_SCHEMA, serde_json::to_value(order).unwrap()), (1, form));
    }

    proptest! {
        #[test]
        fn evolve_accepts_every_decision_and_a_repeated_command_adds_nothing(commands in vec(any_command(), 1..30)) {
            let mut root = AggregateState::<Order>::default();
            for (n, command) in commands.iter().enumerate() {
                let (after, first) = send(root, &n.to_string(), command);
                let (again, second) = send(after.clone(), &n.to_string(), command);
                prop_assert_eq!(&again, &after);
                prop_assert_eq!(first.is_ok(), matches!(second, Ok(Decision::Replay(_))));
                let kept = serde_json::to_string(&after).unwrap();
                prop_assert_eq!(&serde_json::from_str::<AggregateState<Order>>(&kept).unwrap(), &after, "a snapshot");
                root = after;
            }
        }

        #[test]
        fn a_total_is_the_sum_of_its_items(lines in vec((1..=10_000_i32, 0..=999_999_999_i64, 0..=999_999_999_i32), 1..=100)) {
            let nanos: i128 = lines.iter()
                .map(|(pieces, units, nanos)| i128::from(*pieces) * (i128::from(*units) * 1_000_000_000 + i128::from(*nanos)))
                .sum();
            let items = lines.into_iter().map(|(p, u, n)| item(p, u, n, "USD")).collect();
            let total = Basket::new(items).unwrap().total();
            prop_assert_eq!(i128::from(total.units()) * 1_000_000_000 + i128::from(total.nanos()), nanos);
        }
    }
}
