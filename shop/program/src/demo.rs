//! `cargo run -- demo`: a user and an order on their way through Millrace, each step checked and shown.
//!
//! The first four steps and the last validate the recipe that Millrace grew from; the fifth shows features that the
//! recipe lacks.

mod values;

use anyhow::{Context as _, bail, ensure};
use millrace_cli::{
    Running,
    demo::{Asked, Events, Screen, accepted, answered, ask, calling, connect, event_flow, refused},
};
use millrace_proto::{command::CommandResult, query::ReadAfter};
use shop::contracts::{
    DESCRIPTORS,
    command::{
        CreateUserRequest, CreateUserResponse, order_command_service_client::OrderCommandServiceClient,
        user_command_service_client::UserCommandServiceClient,
    },
    query::{
        GetCustomerTotalsRequest, GetCustomerTotalsResponse, GetOrderRequest, GetOrderResponse,
        GetOrdersByStatusRequest, GetOrdersByStatusResponse, GetOrdersByUserRequest, GetOrdersByUserResponse,
        GetUserByEmailRequest, GetUserByEmailResponse, GetUserProfileRequest, GetUserProfileResponse,
        OrderSummary, UserProfile, customer_query_service_client::CustomerQueryServiceClient,
        order_query_service_client::OrderQueryServiceClient,
        user_query_service_client::UserQueryServiceClient,
    },
    types::OrderStatus,
};
use tonic::{Code, transport::Channel};
use tonic_types::StatusExt as _;

use self::values::{EMAIL, NAME, john, laptop, mistakes, price, to_status};

const CREATE_USER: &str = "shop.command.v1.UserCommandService/CreateUser";
const CREATE_ORDER: &str = "shop.command.v1.OrderCommandService/CreateOrder";
const UPDATE_ORDER_STATUS: &str = "shop.command.v1.OrderCommandService/UpdateOrderStatus";
const GET_USER_PROFILE: &str = "shop.query.v1.UserQueryService/GetUserProfile";
const GET_USER_BY_EMAIL: &str = "shop.query.v1.UserQueryService/GetUserByEmail";
const GET_ORDER: &str = "shop.query.v1.OrderQueryService/GetOrder";
const GET_ORDERS_BY_USER: &str = "shop.query.v1.OrderQueryService/GetOrdersByUser";
const GET_ORDERS_BY_STATUS: &str = "shop.query.v1.OrderQueryService/GetOrdersByStatus";
const GET_CUSTOMER_TOTALS: &str = "shop.query.v1.CustomerQueryService/GetCustomerTotals";

/// The user's creation, the order's, its change of status; a profile takes the first, order summaries and customers'
/// totals take the others.
const EVENTS: Events = Events { stored: 3, applied: 5 };

pub(crate) async fn walk(running: &Running) -> anyhow::Result<()> {
    let mut walk = Walk::connect(running).await?;
    let (user, asked_of_user) = walk.create_user().await?;
    walk.stored_event(running, &user).await?;
    let (order, asked_of_order) = walk.order(user.id()).await?;
    walk.user_read_model(&user, asked_of_user).await?;
    walk.order_read_models(&user, &order, asked_of_order).await?;
    walk.beyond(&user, &order).await?;
    event_flow(&mut walk.screen, running, EVENTS).await
}

/// The result of a command, which has all of its parts.
#[derive(Debug, Clone, PartialEq)]
struct Done {
    result: CommandResult,
    /// Passed into queries unchanged.
    after: ReadAfter,
}

impl Done {
    fn of(result: Option<CommandResult>) -> anyhow::Result<Self> {
        let result = result.context("a reply without a result")?;
        let after = result.read_after.clone().context("a result without a read-after token")?;
        Ok(Self { result, after })
    }

    fn id(&self) -> &str {
        &self.after.aggregate_id
    }
}

struct AskedOfUser {
    profile: Asked<GetUserProfileResponse>,
    by_email: Asked<GetUserByEmailResponse>,
}

struct AskedOfOrder {
    order: Asked<GetOrderResponse>,
    by_user: Asked<GetOrdersByUserResponse>,
    by_status: Asked<GetOrdersByStatusResponse>,
    totals: Asked<GetCustomerTotalsResponse>,
}

struct Walk {
    screen: Screen,
    users: UserCommandServiceClient<Channel>,
    orders: OrderCommandServiceClient<Channel>,
    queries: Channel,
}

impl Walk {
    async fn connect(running: &Running) -> anyhow::Result<Self> {
        let commands = connect(&running.command_service.grpc).await?;
        Ok(Self {
            screen: Screen::new(DESCRIPTORS)?,
            users: UserCommandServiceClient::new(commands.clone()),
            orders: OrderCommandServiceClient::new(commands),
            queries: connect(&running.query_service.grpc).await?,
        })
    }

    fn user_queries(&self) -> UserQueryServiceClient<Channel> {
        UserQueryServiceClient::new(self.queries.clone())
    }

    fn order_queries(&self) -> OrderQueryServiceClient<Channel> {
        OrderQueryServiceClient::new(self.queries.clone())
    }

    async fn create_user(&mut self) -> anyhow::Result<(Done, AskedOfUser)> {
        self.screen.step("A user is created")?;
        let request = john();
        self.screen.request(CREATE_USER, &request)?;
        let reply = accepted(CREATE_USER, self.users.create_user(calling(request)).await)?;
        let user = Done::of(reply.result.clone())?;
        let asked = self.ask_of_user(&user);
        self.screen.reply(CREATE_USER, &reply)?;
        let version = user.after.version;
        ensure!(version == 1, "a new user has version {version} instead of 1");
        let is_ours = user.result.command_id == "cmd-001" && !user.result.replayed;
        ensure!(is_ours, "the reply is that of another command");
        Ok((user, asked))
    }

    fn ask_of_user(&self, user: &Done) -> AskedOfUser {
        let after = Some(user.after.clone());
        let profile = GetUserProfileRequest { user_id: user.id().to_owned(), after: after.clone() };
        let by_email = GetUserByEmailRequest { email: EMAIL.to_owned(), after };
        let (mut first, mut second) = (self.user_queries(), self.user_queries());
        AskedOfUser {
            profile: ask(async move { first.get_user_profile(calling(profile)).await }),
            by_email: ask(async move { second.get_user_by_email(calling(by_email)).await }),
        }
    }

    async fn stored_event(&mut self, running: &Running, user: &Done) -> anyhow::Result<()> {
        self.screen.step("Its event is in the event store")?;
        let stream = format!("default#user#{}", user.id()).parse()?;
        let table = running.event_store_table();
        self.screen.note(&format!("aws dynamodb query --table-name {table}  (AggregateId = {stream})"))?;
        let items = running.stored_events(&stream).await?;
        let [item] = items.as_slice() else {
            bail!("the event store has {} events of the user instead of 1", items.len());
        };
        for (attribute, expected) in [
            ("EventType", "UserCreated"),
            ("EventId", &user.result.event_id),
            ("CommandId", "cmd-001"),
            ("CorrelationId", "corr-001"),
        ] {
            let found = item.get(attribute).and_then(|value| value.as_s().ok());
            ensure!(found.is_some_and(|text| text == expected), "the event's {attribute} is not {expected}");
        }
        self.screen.stored_event(item.clone())
    }

    async fn order(&mut self, user_id: &str) -> anyhow::Result<(Done, AskedOfOrder)> {
        self.screen.step("An order is created, and its status updated")?;
        let request = laptop(user_id);
        self.screen.request(CREATE_ORDER, &request)?;
        let reply = accepted(CREATE_ORDER, self.orders.create_order(calling(request)).await)?;
        self.screen.reply(CREATE_ORDER, &reply)?;
        let created = Done::of(reply.result)?;

        let request = to_status(created.id(), OrderStatus::Processing);
        self.screen.request(UPDATE_ORDER_STATUS, &request)?;
        let reply = accepted(UPDATE_ORDER_STATUS, self.orders.update_order_status(calling(request)).await)?;
        let updated = Done::of(reply.result.clone())?;
        let asked = self.ask_of_order(user_id, &updated);
        self.screen.reply(UPDATE_ORDER_STATUS, &reply)?;
        let version = updated.after.version;
        ensure!(version == 2, "the updated order has version {version} instead of 2");
        Ok((updated, asked))
    }

    fn ask_of_order(&self, user_id: &str, order: &Done) -> AskedOfOrder {
        let after = || Some(order.after.clone());
        let one = GetOrderRequest { order_id: order.id().to_owned(), after: after() };
        let by_user =
            GetOrdersByUserRequest { user_id: user_id.to_owned(), after: after(), ..Default::default() };
        let by_status = GetOrdersByStatusRequest {
            status: OrderStatus::Processing.into(),
            after: after(),
            ..Default::default()
        };
        let totals = GetCustomerTotalsRequest { user_id: user_id.to_owned(), after: after() };
        let (mut first, mut second, mut third) =
            (self.order_queries(), self.order_queries(), self.order_queries());
        let mut customers = CustomerQueryServiceClient::new(self.queries.clone());
        AskedOfOrder {
            order: ask(async move { first.get_order(calling(one)).await }),
            by_user: ask(async move { second.get_orders_by_user(calling(by_user)).await }),
            by_status: ask(async move { third.get_orders_by_status(calling(by_status)).await }),
            totals: ask(async move { customers.get_customer_totals(calling(totals)).await }),
        }
    }

    async fn user_read_model(&mut self, user: &Done, asked: AskedOfUser) -> anyhow::Result<()> {
        self.screen.step("The read models show it")?;
        self.screen.note(
            "Each query went out when its last command had been answered, with `after` of that reply.",
        )?;

        let (reply, lag) = answered(GET_USER_PROFILE, asked.profile).await?;
        self.screen.readable(GET_USER_PROFILE, &reply, lag)?;
        check_profile(GET_USER_PROFILE, reply.user_profile.as_ref(), user)?;

        let (reply, lag) = answered(GET_USER_BY_EMAIL, asked.by_email).await?;
        self.screen.readable(GET_USER_BY_EMAIL, &reply, lag)?;
        check_profile(GET_USER_BY_EMAIL, reply.user_profile.as_ref(), user)
    }

    async fn order_read_models(
        &mut self,
        user: &Done,
        order: &Done,
        asked: AskedOfOrder,
    ) -> anyhow::Result<()> {
        let (reply, lag) = answered(GET_ORDER, asked.order).await?;
        self.screen.readable(GET_ORDER, &reply, lag)?;
        check_orders(GET_ORDER, reply.order.as_slice(), user, order)?;

        let (reply, lag) = answered(GET_ORDERS_BY_USER, asked.by_user).await?;
        self.screen.readable(GET_ORDERS_BY_USER, &reply, lag)?;
        check_orders(GET_ORDERS_BY_USER, &reply.orders, user, order)?;

        let (reply, lag) = answered(GET_ORDERS_BY_STATUS, asked.by_status).await?;
        self.screen.readable(GET_ORDERS_BY_STATUS, &reply, lag)?;
        check_orders(GET_ORDERS_BY_STATUS, &reply.orders, user, order)?;

        self.screen.note("A row over several aggregates, of all orders of the user:")?;
        let (reply, lag) = answered(GET_CUSTOMER_TOTALS, asked.totals).await?;
        self.screen.readable(GET_CUSTOMER_TOTALS, &reply, lag)?;
        let totals = reply.totals.context("no totals")?;
        ensure!(
            totals.user_id == user.id()
                && (totals.orders, totals.cancelled) == (1, 0)
                && totals.spent == [price()],
            "{GET_CUSTOMER_TOTALS} shows other totals than those of the one order"
        );
        Ok(())
    }

    async fn beyond(&mut self, user: &Done, order: &Done) -> anyhow::Result<()> {
        self.screen.step("Beyond the recipe: what is sent twice, and what is refused")?;
        self.screen.note("The first command again, as a client does that missed the reply:")?;
        let again = john();
        self.screen.request(CREATE_USER, &again)?;
        let reply = accepted(CREATE_USER, self.users.create_user(calling(again)).await)?;
        self.screen.reply(CREATE_USER, &reply)?;
        let first = CommandResult { replayed: true, ..user.result.clone() };
        let expected = CreateUserResponse { result: Some(first) };
        ensure!(reply == expected, "the replay has another reply than the original");

        self.screen.note("Another user with the same e-mail address:")?;
        let taken = CreateUserRequest {
            email: EMAIL.to_uppercase(),
            name: "Jane Roe".to_owned(),
            command_id: None,
            correlation_id: None,
        };
        self.screen.request(CREATE_USER, &taken)?;
        let status = refused(CREATE_USER, self.users.create_user(calling(taken)).await, Code::AlreadyExists)?;
        self.screen.refusal(&status)?;
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.as_str());
        ensure!(reason == Some("EMAIL_TAKEN"), "the reason is {reason:?} instead of EMAIL_TAKEN");

        self.screen.note("A status that an order in PROCESSING cannot go back to:")?;
        let back = to_status(order.id(), OrderStatus::Created);
        self.screen.request(UPDATE_ORDER_STATUS, &back)?;
        let result = self.orders.update_order_status(calling(back)).await;
        self.screen.refusal(&refused(UPDATE_ORDER_STATUS, result, Code::FailedPrecondition)?)?;

        self.screen.note("A request with several mistakes, of which all are named:")?;
        let bad = mistakes();
        self.screen.request(CREATE_ORDER, &bad)?;
        let result = self.orders.create_order(calling(bad)).await;
        let status = refused(CREATE_ORDER, result, Code::InvalidArgument)?;
        self.screen.refusal(&status)?;
        let details = status.get_error_details();
        let named = details.bad_request().map_or(0, |bad| bad.field_violations.len());
        ensure!(named == 4, "{named} mistakes are named instead of 4");
        Ok(())
    }
}

fn check_profile(method: &str, profile: Option<&UserProfile>, user: &Done) -> anyhow::Result<()> {
    let shows = profile.map(|profile| {
        (profile.user_id.as_str(), profile.email.as_str(), profile.name.as_str(), profile.version)
    });
    ensure!(
        shows == Some((user.id(), EMAIL, NAME, 1)),
        "{method} shows another user than the one that was created"
    );
    Ok(())
}

fn check_orders(method: &str, orders: &[OrderSummary], user: &Done, updated: &Done) -> anyhow::Result<()> {
    let [order] = orders else { bail!("{method} shows {} orders instead of 1", orders.len()) };
    ensure!(
        order.order_id == updated.id()
            && order.user_id == user.id()
            && order.status() == OrderStatus::Processing
            && order.total_amount == Some(price())
            && order.version == updated.after.version,
        "{method} shows another order than the one that was created and updated"
    );
    Ok(())
}
