//! The template's policies against what is really asked of AWS: nothing is missing, and nothing is unused.
//!
//! Everything runs as a process behind a wire of its own, and is brought to make every kind of request that it can make.
//! The emulator checks no permissions, so what a policy lacks would show nowhere else before production.

use std::{collections::BTreeSet, path::PathBuf, process::Command, time::Duration};

use aws_sdk_dynamodb::{Client as Dynamodb, types::AttributeValue};
use futures::future::join_all;
use millrace_proto::{
    command::{
        UpdateOrderStatusRequest, UpdateUserProfileRequest,
        order_command_service_client::OrderCommandServiceClient,
        user_command_service_client::UserCommandServiceClient,
    },
    query::{
        GetOrderRequest, GetOrdersByStatusRequest, GetOrdersByUserRequest, GetUserByEmailRequest,
        GetUserProfileRequest, ReadAfter, SearchEventsRequest, WatchOrderRequest, WatchUserProfileRequest,
        history_service_client::HistoryServiceClient, order_query_service_client::OrderQueryServiceClient,
        user_query_service_client::UserQueryServiceClient,
    },
    types::OrderStatus,
};
use millrace_tests::{
    Access, Ground, Wire, eventually,
    process::{Deployable, Process, log_folder},
};
use yaml_rust2::{Yaml, YamlLoader};

use crate::{
    audit,
    calls::{laptop, patient, user},
    processes::{begin_to_terminate, end, ready},
};

const TEMPLATE: &str = include_str!("../../infra/template.yaml");

/// More events than a load reads without a snapshot.
const MANY: usize = 101;

/// The read models, each with the name of its key.
const ROWS: [(&str, &str); 2] = [("UserReadModelTable", "UserId"), ("OrderReadModelTable", "OrderId")];
const QUEUES: [(&str, &str); 2] =
    [("UserQueueUrl", "UserDeadLetterQueueUrl"), ("OrderQueueUrl", "OrderDeadLetterQueueUrl")];

// --- The policies -----------------------------------------------------------------------------------------------------

/// What one of the template's policies allows, by its logical name.
fn allowed(ground: &Ground, policy: &str) -> BTreeSet<Access> {
    let template = YamlLoader::load_from_str(TEMPLATE).unwrap().remove(0);
    let document = &template["Resources"][policy]["Properties"]["PolicyDocument"];
    let statements = document["Statement"].as_vec().unwrap_or_else(|| panic!("there is no {policy}"));
    let mut allowed = BTreeSet::new();
    for statement in statements {
        assert_eq!(statement["Effect"].as_str(), Some("Allow"));
        assert!(
            statement["Condition"].is_badvalue(),
            "a condition would have to be held against requests as well"
        );
        for action in texts(&statement["Action"]) {
            for resource in texts(&statement["Resource"]) {
                let resource = physical(ground, &resource);
                allowed.insert(Access { action: action.clone(), resource });
            }
        }
    }
    allowed
}

/// A text, or all of a list.
fn texts(yaml: &Yaml) -> Vec<String> {
    let all = yaml.as_vec().cloned().unwrap_or_else(|| vec![yaml.clone()]);
    all.iter().map(|text| text.as_str().unwrap_or_else(|| panic!("no text: {text:?}")).to_owned()).collect()
}

/// What a resource of a policy, such as `EventStoreTable.Arn` or `${EventStoreTable.Arn}/stream/*`, is called.
fn physical(ground: &Ground, resource: &str) -> String {
    let (logical, rest) = resource.split_once(".Arn").unwrap_or_else(|| panic!("no ARN: {resource}"));
    let (logical, rest) = (logical.trim_start_matches("${"), rest.trim_start_matches('}'));
    if logical == "EventBus" {
        return format!("event-bus/{}{rest}", ground.output("EventBusName"));
    }
    if logical.ends_with("Table") {
        return format!("table/{}{rest}", ground.output(logical));
    }
    let url = ground.output(&format!("{logical}Url"));
    format!("{}{rest}", url.rsplit('/').next().unwrap_or_default())
}

/// Whether a permission is for what was asked.
fn covers(permission: &Access, asked: &Access) -> bool {
    permission.action == asked.action
        && match permission.resource.strip_suffix('*') {
            Some(beginning) => asked.resource.starts_with(beginning),
            None => permission.resource == asked.resource,
        }
}

/// Fails where a policy lacks what was asked, or allows what was not.
fn assert_fits(ground: &Ground, policy: &str, asked: &BTreeSet<Access>) {
    let allowed = allowed(ground, policy);
    let missing: Vec<_> =
        asked.iter().filter(|asked| !allowed.iter().any(|each| covers(each, asked))).collect();
    let unused: Vec<_> =
        allowed.iter().filter(|each| !asked.iter().any(|asked| covers(each, asked))).collect();
    assert!(missing.is_empty() && unused.is_empty(), "{policy}: missing {missing:#?}, unused {unused:#?}");
}

// --- What is done -----------------------------------------------------------------------------------------------------

/// A ground, and hands on its AWS that belong to none of the deployables.
struct Site {
    ground: Ground,
    logs: PathBuf,
    dynamodb: Dynamodb,
    sqs: aws_sdk_sqs::Client,
}

impl Site {
    /// A deployable or a command behind a wire.
    fn behind(&self, wire: &Wire, mut command: Command) -> Command {
        command.env("AWS_ENDPOINT_URL", wire.url());
        command
    }

    /// Starts a deployable behind a wire. It gives up soon what fails.
    async fn start(&self, name: &str, wire: &Wire, deployable: Deployable) -> Process {
        let mut command = self.behind(wire, deployable.command(&self.ground));
        command.env("MAX_ATTEMPTS", "2");
        ready(command, &self.logs.join(format!("{name}.log"))).await
    }

    async fn wire(&self) -> Wire {
        Wire::before(self.ground.endpoint()).await.unwrap()
    }

    async fn send(&self, queue: &str, body: &str) {
        let message = self.sqs.send_message().queue_url(self.ground.output(queue)).message_body(body);
        message.send().await.unwrap();
    }

    async fn letters(&self, queue: &str) -> usize {
        use aws_sdk_sqs::types::QueueAttributeName::ApproximateNumberOfMessages as Messages;
        let attributes = self.sqs.get_queue_attributes().queue_url(self.ground.output(queue));
        let found = attributes.attribute_names(Messages).send().await.unwrap().attributes.unwrap_or_default();
        found.get(&Messages).and_then(|count| count.parse().ok()).unwrap_or_default()
    }

    /// Takes an aggregate's row away.
    async fn delete_row(&self, (table, key): (&str, &str), id: &str) {
        let delete = self.dynamodb.delete_item().table_name(self.ground.output(table));
        delete.key(key, AttributeValue::S(format!("default#{id}"))).send().await.unwrap();
    }

    /// Has the relay find its place in the stream trimmed, as after a day without it.
    async fn trim(&self) {
        let leases = self.ground.output("RelayLeaseTable");
        let scan = self.dynamodb.scan().table_name(leases).consistent_read(true);
        let items = scan.send().await.unwrap().items.unwrap_or_default();
        for lease in items.iter().filter(|item| item.contains_key("Checkpoint")) {
            let update =
                self.dynamodb.update_item().table_name(leases).key("ShardId", lease["ShardId"].clone());
            let update = update.update_expression("SET Checkpoint = :c");
            let oldest = AttributeValue::S("000000000000000000001".to_owned());
            update.expression_attribute_values(":c", oldest).send().await.unwrap();
        }
    }

    /// Sets a row's version to what it never was.
    async fn set_version(&self, (table, key): (&str, &str), id: &str, version: &str) {
        let update = self.dynamodb.update_item().table_name(self.ground.output(table));
        let update = update.key(key, AttributeValue::S(format!("default#{id}")));
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
        self.users.create_user(user(email)).await.unwrap().into_inner().aggregate_id
    }

    async fn create_order(&mut self, user: &str) -> String {
        self.orders.create_order(laptop(user)).await.unwrap().into_inner().aggregate_id
    }

    async fn set_status(&mut self, order: &str, status: OrderStatus) -> u64 {
        let request =
            UpdateOrderStatusRequest { order_id: order.into(), status: status.into(), ..Default::default() };
        self.orders.update_order_status(request).await.unwrap().into_inner().version
    }

    async fn update(&mut self, user: &str, email: Option<String>, name: Option<String>) -> u64 {
        let request = UpdateUserProfileRequest { user_id: user.into(), email, name, ..Default::default() };
        self.users.update_user_profile(request).await.unwrap().into_inner().version
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_policy_allows_what_is_done_and_nothing_else() {
    let ground = Ground::new().await.unwrap();
    let aws = ground.aws().await;
    let logs = log_folder("permissions").unwrap();
    let site = Site { dynamodb: aws.dynamodb(), sqs: aws.sqs(Duration::ZERO), logs, ground };
    let (commands_wire, projector_wire, queries_wire) =
        (site.wire().await, site.wire().await, site.wire().await);
    let first = site.start("first", &commands_wire, Deployable::CommandService).await;
    let projector = site.start("projector", &projector_wire, Deployable::Projector).await;
    let queries = site.start("queries", &queries_wire, Deployable::QueryService).await;

    // Commands: an address that is let go, and a stream that is longer than a load without a snapshot.
    let mut commands = Commands::of(&first);
    let john = commands.create_user("john@example.com").await;
    let order = commands.create_order(&john).await;
    commands.update(&john, Some("jack@example.com".into()), None).await;
    for number in 0..MANY {
        commands.update(&john, None, Some(format!("John {number}"))).await;
    }
    let reading = async || commands_wire.traffic().contains_key("GetRecords").then_some(());
    eventually("a relay that reads", reading).await;
    begin_to_terminate(&first).await;
    assert_eq!(end(first).await, Some(0));
    site.trim().await;
    let second = site.start("second", &commands_wire, Deployable::CommandService).await;
    let refill = physical(&site.ground, "EventStoreTable.Arn");
    let refill = Access { action: "dynamodb:Scan".into(), resource: refill };
    eventually("a refill", async || commands_wire.accesses().contains(&refill).then_some(())).await;
    let mut commands = Commands::of(&second);
    let version = commands.update(&john, None, Some("Jack".into())).await;
    ask(&queries, &john, &order, version).await;
    watch(&site, &queries, &queries_wire, &john, &order).await;

    // The projector: a row that has to be filled from the event store.
    site.delete_row(ROWS[1], &order).await;
    let version = commands.set_status(&order, OrderStatus::Processing).await;
    let mut orders = OrderQueryServiceClient::new(queries.channel().clone());
    let after = Some(ReadAfter { aggregate_id: order.clone(), version });
    orders.get_order(patient(GetOrderRequest { order_id: order.clone(), after })).await.unwrap();
    let redrive_wire = site.wire().await;
    redrive(&site, &redrive_wire).await;

    let mut spoiled = Vec::new();
    for number in 0..3 {
        spoiled.push(rows(&mut commands, &queries, &format!("jane{number}@example.com")).await);
    }
    for running in [second, projector, queries] {
        begin_to_terminate(&running).await;
        assert_eq!(end(running).await, Some(0));
    }
    let audit_wire = site.wire().await;
    repair(&site, &audit_wire, &spoiled).await;

    assert_fits(&site.ground, "CommandServicePolicy", &commands_wire.accesses());
    assert_fits(&site.ground, "ProjectorPolicy", &projector_wire.accesses());
    assert_fits(&site.ground, "QueryServicePolicy", &queries_wire.accesses());
    assert_fits(&site.ground, "RedrivePolicy", &redrive_wire.accesses());
    assert_fits(&site.ground, "AuditPolicy", &audit_wire.accesses());
}

/// Asks every kind of query.
async fn ask(queries: &Process, user: &str, order: &str, version: u64) {
    let channel = queries.channel();
    let (user_id, order_id) = (user.to_owned(), order.to_owned());
    let mut users = UserQueryServiceClient::new(channel.clone());
    let after = Some(ReadAfter { aggregate_id: user_id.clone(), version });
    users.get_user_profile(patient(GetUserProfileRequest { user_id: user_id.clone(), after })).await.unwrap();
    let by_email = GetUserByEmailRequest { email: "jack@example.com".into(), ..Default::default() };
    users.get_user_by_email(patient(by_email)).await.unwrap();
    let mut orders = OrderQueryServiceClient::new(channel.clone());
    let after = Some(ReadAfter { aggregate_id: order_id.clone(), version: 1 });
    orders.get_order(patient(GetOrderRequest { order_id: order_id.clone(), after })).await.unwrap();
    let by_user = GetOrdersByUserRequest { user_id: user_id.clone(), ..Default::default() };
    orders.get_orders_by_user(patient(by_user)).await.unwrap();
    let by_status = GetOrdersByStatusRequest { status: OrderStatus::Created.into(), ..Default::default() };
    orders.get_orders_by_status(patient(by_status)).await.unwrap();
    let search = SearchEventsRequest { event_type: "OrderCreated".into(), ..Default::default() };
    HistoryServiceClient::new(channel.clone()).search_events(patient(search)).await.unwrap();
}

/// Watches a row of each read model until it was looked at again.
async fn watch(site: &Site, queries: &Process, wire: &Wire, user: &str, order: &str) {
    let mut users = UserQueryServiceClient::new(queries.channel().clone());
    let watched = WatchUserProfileRequest { user_id: user.into(), ..Default::default() };
    let mut watched_user = users.watch_user_profile(watched).await.unwrap().into_inner();
    let mut orders = OrderQueryServiceClient::new(queries.channel().clone());
    let watched = WatchOrderRequest { order_id: order.into(), ..Default::default() };
    let mut watched_order = orders.watch_order(watched).await.unwrap().into_inner();
    assert!(
        watched_user.message().await.unwrap().is_some() && watched_order.message().await.unwrap().is_some()
    );
    for (table, _) in ROWS {
        let again = physical(&site.ground, &format!("{table}.Arn"));
        let again = Access { action: "dynamodb:BatchGetItem".into(), resource: again };
        eventually("another look", async || wire.accesses().contains(&again).then_some(())).await;
    }
}

/// Sends messages that are none, and what became of them back.
async fn redrive(site: &Site, wire: &Wire) {
    let dead = async || {
        for (_, letters) in QUEUES {
            eventually("a dead letter", async || (site.letters(letters).await == 1).then_some(())).await;
        }
    };
    for (queue, _) in QUEUES {
        site.send(queue, "no JSON").await;
    }
    dead().await;
    let redriven = audit::command(&site.ground, &["redrive"]);
    let redriven = audit::ended(site.behind(wire, redriven)).await;
    // They fail again, which it may see.
    assert!(matches!(redriven.code, Some(0 | 1)), "{redriven:?}");
    dead().await;
}

/// Creates a user and an order, and waits until both are in their rows.
async fn rows(commands: &mut Commands, queries: &Process, email: &str) -> [String; 2] {
    let user_id = commands.create_user(email).await;
    let order_id = commands.create_order(&user_id).await;
    let after = Some(ReadAfter { aggregate_id: order_id.clone(), version: 1 });
    let order = GetOrderRequest { order_id: order_id.clone(), after };
    OrderQueryServiceClient::new(queries.channel().clone()).get_order(patient(order)).await.unwrap();
    let after = Some(ReadAfter { aggregate_id: user_id.clone(), version: 1 });
    let user = GetUserProfileRequest { user_id: user_id.clone(), after };
    UserQueryServiceClient::new(queries.channel().clone()).get_user_profile(patient(user)).await.unwrap();
    [user_id, order_id]
}

/// Spoils a user's row and an order's in each way, and has an audit put all of it right.
async fn repair(site: &Site, wire: &Wire, spoiled: &[[String; 2]]) {
    let [missing, ahead, orphaned] = spoiled else { panic!("three of each") };
    for (place, rows) in ROWS.into_iter().enumerate() {
        site.delete_row(rows, &missing[place]).await;
        site.set_version(rows, &ahead[place], "9").await;
    }
    let streams = ["user", "order"].into_iter().zip(orphaned);
    join_all(streams.map(|(kind, id)| {
        let delete = site.dynamodb.delete_item().table_name(site.ground.output("EventStoreTable"));
        let delete = delete.key("AggregateId", AttributeValue::S(format!("default#{kind}#{id}")));
        delete.key("Version", AttributeValue::N("1".into())).send()
    }))
    .await;
    let audit = audit::command(&site.ground, &["audit", "--repair", "--grace", "0"]);
    let audited = audit::ended(site.behind(wire, audit)).await;
    assert_eq!((audited.code, audited.lines.len()), (Some(0), 6), "{audited:?}");
}
