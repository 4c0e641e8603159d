//! The template's policies against the real requests to AWS: nothing is missing, and nothing is unused.
//!
//! Everything runs as a process behind a wire of its own, and is brought to make every kind of request that it can make.
//! The emulator checks no permissions, so a gap in a policy would show nowhere else before production.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use aws_sdk_dynamodb::{Client as Dynamodb, types::AttributeValue};
use futures::future::join_all;
use millrace_core::ProjectionName;
use millrace_proto::query::{SearchEventsRequest, history_service_client::HistoryServiceClient};
use millrace_server::clock;
use millrace_tests::{
    Access, AwsStack, FaultProxy, ORDERS, PROJECTIONS, Replied as _, USERS, aws_stack, eventually,
    process::{Deployable, Process, log_folder},
    queues::Queues,
};
use shop::{
    contracts::{
        command::{
            UpdateOrderStatusRequest, UpdateUserProfileRequest,
            order_command_service_client::OrderCommandServiceClient,
            user_command_service_client::UserCommandServiceClient,
        },
        query::{
            BatchGetCustomerTotalsRequest, GetCustomerTotalsRequest, GetOrderRequest,
            GetOrdersByStatusRequest, GetOrdersByUserRequest, GetUserByEmailRequest, GetUserProfileRequest,
            WatchOrderRequest, WatchUserProfileRequest,
            customer_query_service_client::CustomerQueryServiceClient,
            order_query_service_client::OrderQueryServiceClient,
            user_query_service_client::UserQueryServiceClient,
        },
        types::OrderStatus,
    },
    order::Order,
    user::User,
};
use yaml_rust2::{Yaml, YamlLoader};

use crate::{
    audit,
    calls::{after as token, delete_row, laptop, patient, user},
    past::{Past, at},
    processes::{begin_to_terminate, end, ready},
};

/// More events than a load reads without a snapshot.
const MANY: usize = 25;

/// More events than the commands of the last minutes are kept for in one block.
const BUSY: usize = 520;

// --- The policies -----------------------------------------------------------------------------------------------------

/// The permissions of a rendered policy, by its logical name; a large one comes in several parts.
fn allowed(stack: &AwsStack, policy: &str) -> BTreeSet<Access> {
    let mut allowed = BTreeSet::new();
    for template in millrace_local::description(&stack.application).render().unwrap().in_order() {
        let template = YamlLoader::load_from_str(template.body()).unwrap().remove(0);
        for (name, resource) in template["Resources"].as_hash().unwrap() {
            let name = name.as_str().unwrap().trim_end_matches(|digit: char| digit.is_ascii_digit());
            if name == policy {
                let statements = &resource["Properties"]["PolicyDocument"]["Statement"];
                statements.as_vec().unwrap().iter().for_each(|each| allowed.extend(permissions(stack, each)));
            }
        }
    }
    assert!(!allowed.is_empty(), "there is no {policy}");
    allowed
}

/// A statement's permissions.
fn permissions(stack: &AwsStack, statement: &Yaml) -> Vec<Access> {
    assert_eq!(statement["Effect"].as_str(), Some("Allow"));
    assert!(
        statement["Condition"].is_badvalue(),
        "a condition would have to be held against requests as well"
    );
    let each = |action: &Yaml, resource: &Yaml| Access {
        action: action.as_str().unwrap().to_owned(),
        resource: physical(stack, resource["Fn::Sub"].as_str().unwrap()),
    };
    let (actions, resources) =
        (statement["Action"].as_vec().unwrap(), statement["Resource"].as_vec().unwrap());
    actions.iter().flat_map(|action| resources.iter().map(move |resource| each(action, resource))).collect()
}

/// The name of the resource of an ARN such as `arn:…:table/${Prefix}-events`.
fn physical(stack: &AwsStack, arn: &str) -> String {
    let arn = arn.replace("${AWS::", "${").replace("${Prefix}", stack.stack.prefix());
    arn.splitn(6, ':').last().unwrap().to_owned()
}

/// A table as a resource.
fn table(table: String) -> String {
    format!("table/{table}")
}

/// Whether a permission is for this request.
fn covers(permission: &Access, asked: &Access) -> bool {
    permission.action == asked.action
        && match permission.resource.strip_suffix('*') {
            Some(beginning) => asked.resource.starts_with(beginning),
            None => permission.resource == asked.resource,
        }
}

/// Fails where a policy lacks a permission that was used, or has one that was not.
fn assert_fits(stack: &AwsStack, policy: &str, asked: &BTreeSet<Access>) {
    let allowed = allowed(stack, policy);
    let missing: Vec<_> =
        asked.iter().filter(|asked| !allowed.iter().any(|each| covers(each, asked))).collect();
    let unused: Vec<_> =
        allowed.iter().filter(|each| !asked.iter().any(|asked| covers(each, asked))).collect();
    assert!(missing.is_empty() && unused.is_empty(), "{policy}: missing {missing:#?}, unused {unused:#?}");
}

// --- The work --------------------------------------------------------------------------------------------------------

/// A stack, and hands on its AWS that belong to none of the deployables.
struct Site {
    stack: AwsStack,
    logs: PathBuf,
    dynamodb: Dynamodb,
    queues: Queues,
}

impl Site {
    /// A deployable or a command behind a wire.
    fn behind(&self, proxy: &FaultProxy, mut command: Command) -> Command {
        command.env("AWS_ENDPOINT_URL", proxy.url());
        command
    }

    /// Starts a deployable behind a wire. It gives a message up after two attempts.
    async fn start(&self, name: &str, proxy: &FaultProxy, deployable: Deployable) -> Process {
        let mut command = self.behind(proxy, deployable.command(&self.stack));
        command.env("MAX_ATTEMPTS", "2");
        ready(command, &self.logs.join(format!("{name}.log"))).await
    }

    async fn proxy(&self) -> FaultProxy {
        FaultProxy::before(self.stack.endpoint()).await.unwrap()
    }

    /// Has the relay find its place in the stream trimmed, as after a day without it.
    async fn trim(&self) {
        let leases = self.stack.relay_leases();
        let scan = self.dynamodb.scan().table_name(&leases).consistent_read(true);
        let items = scan.send().await.unwrap().items.unwrap_or_default();
        for lease in items.iter().filter(|item| item.contains_key("Checkpoint")) {
            let update =
                self.dynamodb.update_item().table_name(&leases).key("ShardId", lease["ShardId"].clone());
            let update = update.update_expression("SET Checkpoint = :c");
            let oldest = AttributeValue::S("000000000000000000001".to_owned());
            update.expression_attribute_values(":c", oldest).send().await.unwrap();
        }
    }

    /// Sets a row's version to one that it never had.
    async fn set_version(&self, projection: ProjectionName, key: &str, version: &str) {
        let update = self.dynamodb.update_item().table_name(self.stack.rows(projection));
        let update = update.key("Key", AttributeValue::S(key.to_owned()));
        let update = update.update_expression("SET Version = :v");
        let update = update.expression_attribute_values(":v", AttributeValue::N(version.to_owned()));
        update.send().await.unwrap();
    }
}

/// Commands to one replica.
struct Commands {
    users: UserCommandServiceClient<tonic::transport::Channel>,
    orders: OrderCommandServiceClient<tonic::transport::Channel>,
}

impl Commands {
    fn of(running: &Process) -> Self {
        let channel = running.channel();
        Self {
            users: UserCommandServiceClient::new(channel.clone()),
            orders: OrderCommandServiceClient::new(channel.clone()),
        }
    }

    async fn create_user(&mut self, email: &str) -> String {
        self.users.create_user(user(email)).await.unwrap().reply().aggregate_id
    }

    async fn create_order(&mut self, user: &str) -> String {
        self.orders.create_order(laptop(user)).await.unwrap().reply().aggregate_id
    }

    async fn set_status(&mut self, order: &str, status: OrderStatus) -> u64 {
        let request =
            UpdateOrderStatusRequest { order_id: order.into(), status: status.into(), ..Default::default() };
        self.orders.update_order_status(request).await.unwrap().reply().version
    }

    async fn update(&mut self, user: &str, email: Option<String>, name: Option<String>) -> u64 {
        let request = UpdateUserProfileRequest { user_id: user.into(), email, name, ..Default::default() };
        self.users.update_user_profile(request).await.unwrap().reply().version
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_policy_allows_what_is_done_and_nothing_else() {
    let stack = aws_stack().await.unwrap();
    let aws = stack.aws().await;
    let logs = log_folder("permissions").unwrap();
    let site = Site { dynamodb: aws.dynamodb(), queues: Queues::of(&stack).await, logs, stack };
    let (commands_proxy, projector_proxy, queries_proxy) =
        (site.proxy().await, site.proxy().await, site.proxy().await);
    let first = site.start("first", &commands_proxy, Deployable::CommandService).await;
    let projector = site.start("projector", &projector_proxy, Deployable::Projector).await;
    let queries = site.start("queries", &queries_proxy, Deployable::QueryService).await;

    // Commands: an address that is let go, and a stream that is longer than a load without a snapshot.
    let mut commands = Commands::of(&first);
    let john = commands.create_user("john@example.com").await;
    let order = commands.create_order(&john).await;
    commands.update(&john, Some("jack@example.com".into()), None).await;
    for number in 0..MANY {
        commands.update(&john, None, Some(format!("John {number}"))).await;
    }
    // A user who was busy a moment ago, for the next process to ask for the commands of the last minutes.
    let now = clock::now().unix_micros() - at(0).unix_micros();
    let busy = Past::of(&site.stack, &aws).user(&[now; BUSY]).await.id.to_string();
    let reading = async || commands_proxy.traffic().contains_key("GetRecords").then_some(());
    eventually("a relay that reads", reading).await;
    begin_to_terminate(&first).await;
    assert_eq!(end(first).await, Some(0));
    site.trim().await;
    let second = site.start("second", &commands_proxy, Deployable::CommandService).await;
    let refill = table(site.stack.events());
    let refill = Access { action: "dynamodb:Scan".into(), resource: refill };
    eventually("a refill", async || commands_proxy.accesses().contains(&refill).then_some(())).await;
    let mut commands = Commands::of(&second);
    commands.update(&busy, None, Some("Jill".into())).await;
    let version = commands.update(&john, None, Some("Jack".into())).await;
    ask(&queries, &john, &order, version).await;
    watch(&site, &queries, &queries_proxy, &john, &order).await;

    // The projector: a row that has to be filled from the event store.
    delete_row(&site.stack, ORDERS, &order).await;
    let version = commands.set_status(&order, OrderStatus::Processing).await;
    let mut orders = OrderQueryServiceClient::new(queries.channel().clone());
    let after = token::<Order>(&order, version);
    orders.get_order(patient(GetOrderRequest { order_id: order.clone(), after })).await.unwrap();
    let redrive_proxy = site.proxy().await;
    redrive(&site, &redrive_proxy).await;

    let mut spoiled = Vec::new();
    for number in 0..3 {
        spoiled.push(rows(&mut commands, &queries, &format!("jane{number}@example.com")).await);
    }
    for running in [second, projector, queries] {
        begin_to_terminate(&running).await;
        assert_eq!(end(running).await, Some(0));
    }
    let audit_proxy = site.proxy().await;
    repair(&site, &audit_proxy, &spoiled).await;

    assert_fits(&site.stack, "CommandServicePolicy", &commands_proxy.accesses());
    assert_fits(&site.stack, "ProjectorPolicy", &projector_proxy.accesses());
    assert_fits(&site.stack, "QueryServicePolicy", &queries_proxy.accesses());
    assert_fits(&site.stack, "RedrivePolicy", &redrive_proxy.accesses());
    assert_fits(&site.stack, "AuditPolicy", &audit_proxy.accesses());
}

/// Asks every kind of query.
async fn ask(queries: &Process, user: &str, order: &str, version: u64) {
    let channel = queries.channel();
    let (user_id, order_id) = (user.to_owned(), order.to_owned());
    let mut users = UserQueryServiceClient::new(channel.clone());
    let after = token::<User>(&user_id, version);
    users.get_user_profile(patient(GetUserProfileRequest { user_id: user_id.clone(), after })).await.unwrap();
    let by_email = GetUserByEmailRequest { email: "jack@example.com".into(), ..Default::default() };
    users.get_user_by_email(patient(by_email)).await.unwrap();
    let mut orders = OrderQueryServiceClient::new(channel.clone());
    let after = token::<Order>(&order_id, 1);
    orders.get_order(patient(GetOrderRequest { order_id: order_id.clone(), after })).await.unwrap();
    let by_user = GetOrdersByUserRequest { user_id: user_id.clone(), ..Default::default() };
    orders.get_orders_by_user(patient(by_user)).await.unwrap();
    let by_status = GetOrdersByStatusRequest { status: OrderStatus::Created.into(), ..Default::default() };
    orders.get_orders_by_status(patient(by_status)).await.unwrap();
    let totals = GetCustomerTotalsRequest { user_id: user_id.clone(), after: token::<Order>(&order_id, 1) };
    let mut customers = CustomerQueryServiceClient::new(channel.clone());
    customers.get_customer_totals(patient(totals)).await.unwrap();
    let batch = BatchGetCustomerTotalsRequest { user_ids: vec![user_id.clone()], ..Default::default() };
    customers.batch_get_customer_totals(patient(batch)).await.unwrap();
    let search = SearchEventsRequest { event_type: "OrderCreated".into(), ..Default::default() };
    HistoryServiceClient::new(channel.clone()).search_events(patient(search)).await.unwrap();
}

/// Watches a row of each read model until it was looked at again.
async fn watch(site: &Site, queries: &Process, proxy: &FaultProxy, user: &str, order: &str) {
    let mut users = UserQueryServiceClient::new(queries.channel().clone());
    let watched = WatchUserProfileRequest { user_id: user.into(), ..Default::default() };
    let mut watched_user = users.watch_user_profile(watched).await.unwrap().into_inner();
    let mut orders = OrderQueryServiceClient::new(queries.channel().clone());
    let watched = WatchOrderRequest { order_id: order.into(), ..Default::default() };
    let mut watched_order = orders.watch_order(watched).await.unwrap().into_inner();
    assert!(
        watched_user.message().await.unwrap().is_some() && watched_order.message().await.unwrap().is_some()
    );
    for projection in [USERS, ORDERS] {
        let again = table(site.stack.rows(projection));
        let again = Access { action: "dynamodb:BatchGetItem".into(), resource: again };
        eventually("another look", async || proxy.accesses().contains(&again).then_some(())).await;
    }
}

/// Sends invalid messages, and redrives their dead letters.
async fn redrive(site: &Site, proxy: &FaultProxy) {
    let dead = async || {
        for projection in PROJECTIONS {
            let letters = site.stack.dead_letters(projection);
            let one = async || (site.queues.counts(&letters).await == (1, 0)).then_some(());
            eventually("a dead letter", one).await;
        }
    };
    for projection in PROJECTIONS {
        site.queues.send(&site.stack.queue(projection), &["no JSON"]).await;
    }
    dead().await;
    // The first run leaves the letters, and shows them again.
    let left = audit::command(&site.stack, &["redrive", "--reason", "another"]);
    assert_eq!(audit::ended(site.behind(proxy, left)).await.code, Some(0));
    let redriven = audit::command(&site.stack, &["redrive"]);
    let redriven = audit::ended(site.behind(proxy, redriven)).await;
    // They fail again, perhaps before it ends.
    assert!(matches!(redriven.code, Some(0 | 1)), "{redriven:?}");
    dead().await;
}

/// Creates a user and an order, and waits until both are in their rows.
async fn rows(commands: &mut Commands, queries: &Process, email: &str) -> [String; 2] {
    let user_id = commands.create_user(email).await;
    let order_id = commands.create_order(&user_id).await;
    let after = token::<Order>(&order_id, 1);
    let order = GetOrderRequest { order_id: order_id.clone(), after };
    OrderQueryServiceClient::new(queries.channel().clone()).get_order(patient(order)).await.unwrap();
    let after = token::<User>(&user_id, 1);
    let user = GetUserProfileRequest { user_id: user_id.clone(), after };
    UserQueryServiceClient::new(queries.channel().clone()).get_user_profile(patient(user)).await.unwrap();
    [user_id, order_id]
}

/// Spoils a user's row and an order's in each way, and has an audit put all of it right.
async fn repair(site: &Site, proxy: &FaultProxy, spoiled: &[[String; 2]]) {
    let [missing, ahead, orphaned] = spoiled else { panic!("three of each") };
    // A user's row, an order's, and that of the user's totals, with its part.
    let [user, order] = ahead;
    let ahead = [format!("default#{user}"), format!("default#{order}"), format!("default@{order}")];
    for ((projection, place), ahead) in PROJECTIONS.into_iter().zip([0, 1, 0]).zip(ahead) {
        delete_row(&site.stack, projection, &missing[place]).await;
        site.set_version(projection, &ahead, "9").await;
    }
    let streams = ["user", "order"].into_iter().zip(orphaned);
    join_all(streams.map(|(kind, id)| {
        let delete = site.dynamodb.delete_item().table_name(site.stack.events());
        let delete = delete.key("AggregateId", AttributeValue::S(format!("default#{kind}#{id}")));
        delete.key("Version", AttributeValue::N("1".into())).send()
    }))
    .await;
    let audit = audit::command(&site.stack, &["audit", "--repair", "--grace", "0"]);
    let audited = audit::ended(site.behind(proxy, audit)).await;
    // Three of each projection.
    assert_eq!((audited.code, audited.lines.len()), (Some(0), 9), "{audited:?}");
    let recent =
        audit::command(&site.stack, &["audit", "--since", "2026-01-01T00:00:00Z", "--tenant", "default"]);
    let recent = audit::ended(site.behind(proxy, recent)).await;
    assert_eq!((recent.code, recent.lines.len()), (Some(0), 0), "{recent:?}");
}
