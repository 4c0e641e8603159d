//! `millrace demo`: a user and an order on their way through Millrace, each step checked and shown.
//!
//! The first four steps and the last are those by which the recipe that Millrace grew from is validated; the fifth
//! shows what that recipe lacks.

mod calling;
mod metrics;
mod screen;
mod shown;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use millrace_local::Account;
use millrace_proto::{
    Money,
    command::{
        CreateOrderRequest, CreateOrderResponse, CreateUserRequest, CreateUserResponse,
        UpdateOrderStatusRequest, UpdateOrderStatusResponse,
        order_command_service_client::OrderCommandServiceClient,
        user_command_service_client::UserCommandServiceClient,
    },
    query::{
        GetOrderRequest, GetOrderResponse, GetOrdersByStatusRequest, GetOrdersByStatusResponse,
        GetOrdersByUserRequest, GetOrdersByUserResponse, GetUserByEmailRequest, GetUserByEmailResponse,
        GetUserProfileRequest, GetUserProfileResponse, OrderSummary, ReadAfter, UserProfile,
        order_query_service_client::OrderQueryServiceClient,
        user_query_service_client::UserQueryServiceClient,
    },
    types::{OrderItem, OrderStatus},
};
use tokio::time::sleep;
use tonic::{Code, transport::Channel};
use tonic_types::StatusExt;

use crate::{
    cli::UpArgs,
    demo::{
        calling::{Asked, PATIENCE, accepted, answered, ask, calling, connect, refused},
        screen::Screen,
    },
    stdout::print,
    up::{self, Millrace},
};

const CREATE_USER: &str = "millrace.command.v1.UserCommandService/CreateUser";
const CREATE_ORDER: &str = "millrace.command.v1.OrderCommandService/CreateOrder";
const UPDATE_ORDER_STATUS: &str = "millrace.command.v1.OrderCommandService/UpdateOrderStatus";
const GET_USER_PROFILE: &str = "millrace.query.v1.UserQueryService/GetUserProfile";
const GET_USER_BY_EMAIL: &str = "millrace.query.v1.UserQueryService/GetUserByEmail";
const GET_ORDER: &str = "millrace.query.v1.OrderQueryService/GetOrder";
const GET_ORDERS_BY_USER: &str = "millrace.query.v1.OrderQueryService/GetOrdersByUser";
const GET_ORDERS_BY_STATUS: &str = "millrace.query.v1.OrderQueryService/GetOrdersByStatus";

const EMAIL: &str = "john.doe@example.com";
const NAME: &str = "John Doe";

/// How many events the walk leaves: the user's creation, the order's, its change of status.
const EVENTS: f64 = 3.0;

const POLL: Duration = Duration::from_millis(20);

pub(crate) async fn run() -> anyhow::Result<()> {
    // In the AWS of the caller, an account that is new, and so without data, too.
    match up::with(UpArgs::default(), Account::unique, walk).await? {
        Some(()) => Ok(()),
        None => bail!("the demo was interrupted"),
    }
}

async fn walk(millrace: &Millrace) -> anyhow::Result<()> {
    let start = Instant::now();
    print(&millrace.places())?;
    let mut walk = Walk::connect(millrace).await?;
    let (user, asked_of_user) = walk.create_user().await?;
    walk.stored_event(millrace, &user).await?;
    let (order, asked_of_order) = walk.order(&user.aggregate_id).await?;
    walk.user_read_model(&user, asked_of_user).await?;
    walk.order_read_model(&user, &order, asked_of_order).await?;
    walk.beyond(&user, &order).await?;
    walk.event_flow(millrace).await?;
    walk.screen.end(&format!("All of it was as it should be, in {:.1} s.", start.elapsed().as_secs_f64()))
}

struct AskedOfUser {
    profile: Asked<GetUserProfileResponse>,
    by_email: Asked<GetUserByEmailResponse>,
}

struct AskedOfOrder {
    order: Asked<GetOrderResponse>,
    by_user: Asked<GetOrdersByUserResponse>,
    by_status: Asked<GetOrdersByStatusResponse>,
}

struct Walk {
    screen: Screen,
    users: UserCommandServiceClient<Channel>,
    orders: OrderCommandServiceClient<Channel>,
    user_queries: UserQueryServiceClient<Channel>,
    order_queries: OrderQueryServiceClient<Channel>,
}

impl Walk {
    async fn connect(millrace: &Millrace) -> anyhow::Result<Self> {
        let commands = connect(&millrace.command_service.grpc).await?;
        let queries = connect(&millrace.query_service.grpc).await?;
        Ok(Self {
            screen: Screen::new()?,
            users: UserCommandServiceClient::new(commands.clone()),
            orders: OrderCommandServiceClient::new(commands),
            user_queries: UserQueryServiceClient::new(queries.clone()),
            order_queries: OrderQueryServiceClient::new(queries),
        })
    }

    async fn create_user(&mut self) -> anyhow::Result<(CreateUserResponse, AskedOfUser)> {
        self.screen.step("A user is created")?;
        let request = john();
        self.screen.request(CREATE_USER, &request)?;
        let user = accepted(CREATE_USER, self.users.create_user(calling(request)).await)?;
        let asked = self.ask_of_user(&user);
        self.screen.reply(CREATE_USER, &user)?;
        ensure!(user.version == 1, "a new user has version {} instead of 1", user.version);
        ensure!(user.command_id == "cmd-001" && !user.replayed, "the reply is that of another command");
        Ok((user, asked))
    }

    fn ask_of_user(&self, user: &CreateUserResponse) -> AskedOfUser {
        let after = Some(ReadAfter { aggregate_id: user.aggregate_id.clone(), version: user.version });
        let profile = GetUserProfileRequest { user_id: user.aggregate_id.clone(), after: after.clone() };
        let by_email = GetUserByEmailRequest { email: EMAIL.to_owned(), after };
        let (mut first, mut second) = (self.user_queries.clone(), self.user_queries.clone());
        AskedOfUser {
            profile: ask(async move { first.get_user_profile(calling(profile)).await }),
            by_email: ask(async move { second.get_user_by_email(calling(by_email)).await }),
        }
    }

    async fn stored_event(&mut self, millrace: &Millrace, user: &CreateUserResponse) -> anyhow::Result<()> {
        self.screen.step("Its event is in the event store")?;
        let table = millrace.env.get("EVENT_STORE_TABLE").context("the stack has no event store")?;
        let key = format!("default#user#{}", user.aggregate_id);
        self.screen.note(&format!("aws dynamodb query --table-name {table}  (AggregateId = {key})"))?;
        let found = aws_sdk_dynamodb::Client::new(&millrace.config)
            .query()
            .table_name(table)
            .key_condition_expression("AggregateId = :id")
            .expression_attribute_values(":id", AttributeValue::S(key))
            .consistent_read(true)
            .send()
            .await
            .context("the event store cannot be queried")?;
        let [item] = found.items() else {
            bail!("the event store has {} events of the user instead of 1", found.items().len());
        };
        for (attribute, expected) in [
            ("EventType", "UserCreated"),
            ("EventId", &user.event_id),
            ("CommandId", "cmd-001"),
            ("CorrelationId", "corr-001"),
        ] {
            ensure!(text(item, attribute) == Some(expected), "the event's {attribute} is not {expected}");
        }
        self.screen.shown(&shown::event(item.clone())?)
    }

    async fn order(&mut self, user_id: &str) -> anyhow::Result<(UpdateOrderStatusResponse, AskedOfOrder)> {
        self.screen.step("An order is created, and its status updated")?;
        let request = laptop(user_id);
        self.screen.request(CREATE_ORDER, &request)?;
        let created: CreateOrderResponse =
            accepted(CREATE_ORDER, self.orders.create_order(calling(request)).await)?;
        self.screen.reply(CREATE_ORDER, &created)?;

        let request = to_status(&created.aggregate_id, OrderStatus::Processing);
        self.screen.request(UPDATE_ORDER_STATUS, &request)?;
        let updated = accepted(UPDATE_ORDER_STATUS, self.orders.update_order_status(calling(request)).await)?;
        let asked = self.ask_of_order(user_id, &updated);
        self.screen.reply(UPDATE_ORDER_STATUS, &updated)?;
        ensure!(updated.version == 2, "the updated order has version {} instead of 2", updated.version);
        Ok((updated, asked))
    }

    fn ask_of_order(&self, user_id: &str, order: &UpdateOrderStatusResponse) -> AskedOfOrder {
        let after = Some(ReadAfter { aggregate_id: order.aggregate_id.clone(), version: order.version });
        let one = GetOrderRequest { order_id: order.aggregate_id.clone(), after: after.clone() };
        let by_user = GetOrdersByUserRequest {
            user_id: user_id.to_owned(),
            after: after.clone(),
            ..Default::default()
        };
        let by_status =
            GetOrdersByStatusRequest { status: OrderStatus::Processing.into(), after, ..Default::default() };
        let client = || self.order_queries.clone();
        let (mut first, mut second, mut third) = (client(), client(), client());
        AskedOfOrder {
            order: ask(async move { first.get_order(calling(one)).await }),
            by_user: ask(async move { second.get_orders_by_user(calling(by_user)).await }),
            by_status: ask(async move { third.get_orders_by_status(calling(by_status)).await }),
        }
    }

    async fn user_read_model(&mut self, user: &CreateUserResponse, asked: AskedOfUser) -> anyhow::Result<()> {
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

    async fn order_read_model(
        &mut self,
        user: &CreateUserResponse,
        order: &UpdateOrderStatusResponse,
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
        check_orders(GET_ORDERS_BY_STATUS, &reply.orders, user, order)
    }

    async fn beyond(
        &mut self,
        user: &CreateUserResponse,
        order: &UpdateOrderStatusResponse,
    ) -> anyhow::Result<()> {
        self.screen.step("Beyond the recipe: what is sent twice, and what is refused")?;
        self.screen.note("The first command again, as a client does that missed the reply:")?;
        let again = john();
        self.screen.request(CREATE_USER, &again)?;
        let reply = accepted(CREATE_USER, self.users.create_user(calling(again)).await)?;
        self.screen.reply(CREATE_USER, &reply)?;
        let expected = CreateUserResponse { replayed: true, ..user.clone() };
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
        let back = to_status(&order.aggregate_id, OrderStatus::Created);
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

    /// The recipe looks for log groups here; counters say more.
    async fn event_flow(&mut self, millrace: &Millrace) -> anyhow::Result<()> {
        self.screen.step("The events went from the store over the bus to the read models")?;
        let deadline = Instant::now() + PATIENCE;
        let (relay, projector) = loop {
            let relay = metrics::read(&millrace.command_service.metrics).await?;
            let projector = metrics::read(&millrace.projector.metrics).await?;
            let published = metrics::sum(&relay, "relay_published_total");
            let applied = metrics::sum(&projector, "projector_events_applied_total");
            // Events are counted after the fact, which may have been seen before.
            if published >= EVENTS && applied >= EVENTS {
                break (relay, projector);
            }
            ensure!(
                Instant::now() < deadline,
                "of {EVENTS} events, {published} were counted as published and {applied} as applied"
            );
            sleep(POLL).await;
        };
        let mut rows = Vec::new();
        for (samples, part) in [(&relay, "relay_"), (&projector, "projector_")] {
            // What has not happened is counted as well, and of no interest here.
            let is_told =
                |name: &str, value| name.starts_with(part) && name.ends_with("_total") && value > 0.0;
            for sample in samples.iter().filter(|sample| is_told(&sample.name, sample.value)) {
                rows.push((format!("{}{}", sample.name, sample.labels), sample.value.to_string()));
            }
            let lag = format!("{part}lag_seconds");
            let count = metrics::sum(samples, &format!("{lag}_count"));
            let sum = metrics::sum(samples, &format!("{lag}_sum"));
            if count > 0.0 {
                rows.push((lag, format!("{:.3} on average", sum / count)));
            }
        }
        self.screen.table(&rows)?;
        let dead = metrics::sum(&projector, "projector_dead_letters_total");
        ensure!(dead == 0.0, "{dead} events went to a dead-letter queue");
        Ok(())
    }
}

fn text<'a>(item: &'a HashMap<String, AttributeValue>, attribute: &str) -> Option<&'a str> {
    item.get(attribute)?.as_s().ok().map(String::as_str)
}

fn check_profile(
    method: &str,
    profile: Option<&UserProfile>,
    user: &CreateUserResponse,
) -> anyhow::Result<()> {
    let shows = profile.map(|profile| {
        (profile.user_id.as_str(), profile.email.as_str(), profile.name.as_str(), profile.version)
    });
    ensure!(
        shows == Some((user.aggregate_id.as_str(), EMAIL, NAME, 1)),
        "{method} shows another user than the one that was created"
    );
    Ok(())
}

fn check_orders(
    method: &str,
    orders: &[OrderSummary],
    user: &CreateUserResponse,
    updated: &UpdateOrderStatusResponse,
) -> anyhow::Result<()> {
    let [order] = orders else { bail!("{method} shows {} orders instead of 1", orders.len()) };
    ensure!(
        order.order_id == updated.aggregate_id
            && order.user_id == user.aggregate_id
            && order.status() == OrderStatus::Processing
            && order.total_amount == Some(price())
            && order.version == updated.version,
        "{method} shows another order than the one that was created and updated"
    );
    Ok(())
}

fn john() -> CreateUserRequest {
    CreateUserRequest {
        email: EMAIL.to_owned(),
        name: NAME.to_owned(),
        command_id: Some("cmd-001".to_owned()),
        correlation_id: Some("corr-001".to_owned()),
    }
}

/// 999.99 USD.
fn price() -> Money {
    Money { currency_code: "USD".to_owned(), units: 999, nanos: 990_000_000 }
}

fn laptop(user_id: &str) -> CreateOrderRequest {
    CreateOrderRequest {
        user_id: user_id.to_owned(),
        items: vec![OrderItem { product: "laptop".to_owned(), quantity: 1, price: Some(price()) }],
        total_amount: Some(price()),
        command_id: None,
        correlation_id: None,
    }
}

fn to_status(order_id: &str, status: OrderStatus) -> UpdateOrderStatusRequest {
    UpdateOrderStatusRequest { order_id: order_id.to_owned(), status: status.into(), ..Default::default() }
}

/// An order of which the user's id, the product, the quantity and the price are bad.
fn mistakes() -> CreateOrderRequest {
    let price = Money { currency_code: "dollars".to_owned(), units: -1, nanos: 0 };
    let item = OrderItem { product: String::new(), quantity: 0, price: Some(price) };
    CreateOrderRequest { user_id: "nobody".to_owned(), items: vec![item], ..Default::default() }
}
