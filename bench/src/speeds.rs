//! How fast commands and queries are: on the local AWS, and on the null endpoint, which measures only our own code.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use aws_sdk_dynamodb::{Client, types::AttributeValue};
use futures::FutureExt as _;
use millrace_tests::{FaultProxy, USERS, process::Deployable};
use serde::{Deserialize, Serialize};
use shop::contracts::query::{GetUserProfileRequest, user_query_service_client::UserQueryServiceClient};
use tonic::transport::Channel;
use uuid::Uuid;

use crate::{
    allocations::{self, Allocations},
    contender::{Kind, Outcome, Service, Shared},
    load::{Call, Latency, Speed, as_f64, by_the_clock, closed},
    machine::resident_mib,
    null::{self, Null},
    site::Site,
    user::User,
};

/// The name of Millrace over gRPC in tables.
pub(crate) const OVER_GRPC: &str = "Millrace, gRPC";

/// How fast a contender was in some circumstances.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) contender: String,
    /// How many clients there were, each with an aggregate of its own.
    pub(crate) clients: usize,
    /// The best of its rounds.
    pub(crate) speed: Speed,
}

/// A contender that is ready, and its service's process where it has one.
pub(crate) struct Ready {
    name: String,
    contender: Shared,
    users: Arc<Vec<User>>,
    service: Option<Service>,
}

impl Ready {
    async fn new(
        name: &str,
        contender: Shared,
        service: Option<Service>,
        clients: usize,
    ) -> anyhow::Result<Self> {
        let mut users = Vec::with_capacity(clients);
        for _ in 0..clients {
            users.push(contender.create().await.with_context(|| format!("{name}: a new user"))?);
        }
        Ok(Self { name: name.to_owned(), contender, users: Arc::new(users), service })
    }

    /// Each client's calls are about a user of its own.
    fn call(&self) -> Call {
        let (contender, users) = (self.contender.clone(), self.users.clone());
        Arc::new(move |client| {
            let (contender, user) = (contender.clone(), users[client % users.len()]);
            async move { contender.rename(&user).await }.boxed()
        })
    }

    async fn closed(&self, clients: usize, time: Duration) -> anyhow::Result<Speed> {
        let service = self.service.as_ref().map(Service::id);
        closed(&self.call(), clients, time, service).await.with_context(|| self.name.clone())
    }
}

/// All that are fast, and Millrace over gRPC, each with so many users of one event. No relay runs: it would take the
/// emulator's one processor from the contenders.
pub(crate) async fn ready(site: &Site, users: usize) -> anyhow::Result<Vec<Ready>> {
    let mut all = Vec::new();
    for kind in Kind::FAST {
        all.push(Ready::new(kind.name(), kind.open(site, &site.access()).await?, None, users).await?);
    }
    let service = Service::start(Deployable::CommandService, &site.stack, &[("RELAY", "off")]).await?;
    all.push(Ready::new(OVER_GRPC, Arc::new(service.contender()), Some(service), users).await?);
    Ok(all)
}

/// Every contender for some time, in rounds, so that the machine's other work falls on all alike; of each the best
/// round, since other work only takes away.
pub(crate) async fn rounds(
    all: &[Ready],
    clients: usize,
    rounds: usize,
    time: Duration,
    step: &dyn Fn(&str),
) -> anyhow::Result<Vec<Measured>> {
    let mut speeds: Vec<Vec<Speed>> = vec![Vec::new(); all.len()];
    for _ in 0..rounds {
        for (ready, speeds) in all.iter().zip(&mut speeds) {
            step(&format!("{} with {clients} clients", ready.name));
            speeds.push(ready.closed(clients, time).await?);
        }
    }
    let named = all.iter().zip(speeds).map(|(ready, speeds)| best(&ready.name, clients, speeds));
    named.collect()
}

/// The round with the most calls a second, and the least processor time that a round needed for one.
fn best(contender: &str, clients: usize, rounds: Vec<Speed>) -> anyhow::Result<Measured> {
    let least = |of: fn(&Speed) -> Option<f64>| rounds.iter().filter_map(of).min_by(f64::total_cmp);
    let (cpu, service) = (least(|speed| Some(speed.cpu_micros)), least(|speed| speed.service_cpu_micros));
    let fastest = rounds.into_iter().max_by(|a, b| a.per_second.total_cmp(&b.per_second));
    let mut speed = fastest.context("a contender without a round")?;
    speed.cpu_micros = cpu.unwrap_or(speed.cpu_micros);
    speed.service_cpu_micros = service;
    Ok(Measured { contender: contender.to_owned(), clients, speed })
}

/// How long answers take at a rate that all can keep.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Answered {
    pub(crate) contender: String,
    pub(crate) latency: Latency,
}

/// The latency of every contender at one rate.
pub(crate) async fn latencies(
    all: &[Ready],
    per_second: u32,
    time: Duration,
    step: &dyn Fn(&str),
) -> anyhow::Result<Vec<Answered>> {
    let mut answered = Vec::new();
    for ready in all {
        step(&format!("{} at {per_second} commands a second", ready.name));
        let latency = by_the_clock(&ready.call(), ready.users.len(), per_second, time).await?;
        answered.push(Answered { contender: ready.name.clone(), latency });
    }
    Ok(answered)
}

/// Sixteen clients on one aggregate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Contention {
    pub(crate) contender: String,
    pub(crate) commands: u64,
    pub(crate) refused: u64,
    pub(crate) requests_a_command: f64,
}

/// How many clients are at one aggregate.
pub(crate) const AT_ONE: usize = 16;

/// The cost of contention for a contender, as so many replicas that share nothing but the tables.
pub(crate) async fn contention(
    site: &Site,
    kind: Kind,
    replicas: usize,
    time: Duration,
) -> anyhow::Result<Contention> {
    let wire = FaultProxy::before(site.stack.endpoint()).await?;
    let access = site.access().by(wire.url());
    let mut contenders = Vec::new();
    for _ in 0..replicas {
        contenders.push(kind.open(site, &access).await?);
    }
    let user = contenders[0].create().await?;
    for contender in &contenders {
        contender.rename(&user).await?;
    }
    let contenders = Arc::new(contenders);
    let call: Call = Arc::new(move |client| {
        let contender = contenders[client % contenders.len()].clone();
        async move { contender.rename(&user).await }.boxed()
    });
    let speed = closed(&call, AT_ONE, time, None).await?;
    let traffic = wire.take();
    // Those that made connections are among the requests, and among the commands.
    let commands = speed.calls + as_count(AT_ONE) + 1 + as_count(replicas);
    let requests = traffic.values().map(|of| of.requests).sum::<u64>();
    let name =
        if replicas == 1 { kind.name().to_owned() } else { format!("{}, {replicas} replicas", kind.name()) };
    Ok(Contention {
        contender: name,
        commands: speed.calls,
        refused: speed.conflicts,
        requests_a_command: as_f64(requests) / as_f64(commands),
    })
}

fn as_count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// The capacity of our own code.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ceiling {
    pub(crate) contender: String,
    pub(crate) speed: Speed,
    /// None where the work is done in another process, which does not count.
    pub(crate) allocations: Option<Allocations>,
    /// The memory of the process after the run, in MiB, where it is the contender's alone.
    pub(crate) memory_mib: Option<f64>,
}

/// The contenders that can be measured on an endpoint that remembers nothing: `event-store-adapter-rs` refuses it.
const ON_NULL: [Kind; 5] = [Kind::Floor, Kind::Recipe, Kind::Cqrs, Kind::CqrsAggregate, Kind::Millrace];

/// All of them on the null endpoint, with 64 clients.
pub(crate) async fn ceilings(
    site: &Arc<Site>,
    rounds_of_each: usize,
    time: Duration,
    step: &dyn Fn(&str),
) -> anyhow::Result<Vec<Ceiling>> {
    let null = Null::start()?;
    let mut all = Vec::new();
    for kind in ON_NULL {
        let contender = kind.open(site, &site.access().by(null.url())).await?;
        all.push(Ready::new(kind.name(), contender, None, 64).await?);
    }
    let changed = [("AWS_ENDPOINT_URL", null.url()), ("RELAY", "off")];
    let service = Service::start(Deployable::CommandService, &site.stack, &changed).await?;
    let id = service.id();
    all.push(Ready::new(OVER_GRPC, Arc::new(service.contender()), Some(service), 64).await?);
    let measured = rounds(&all, 64, rounds_of_each, time, step).await?;
    let memory = resident_mib(id)?;
    let mut ceilings = Vec::new();
    for measured in measured {
        let kind = ON_NULL.into_iter().find(|kind| kind.name() == measured.contender);
        let allocations = match kind {
            Some(kind) => Some(allocations::count(site, kind, null.url()).await?),
            None => None,
        };
        let memory_mib = kind.is_none().then_some(memory);
        ceilings.push(Ceiling {
            contender: measured.contender,
            speed: measured.speed,
            allocations,
            memory_mib,
        });
    }
    Ok(ceilings)
}

/// A query by key: the bare GetItem, and the query service over gRPC, at some endpoint.
pub(crate) async fn queries(
    site: &Site,
    url: &str,
    rounds_of_each: usize,
    time: Duration,
    step: &dyn Fn(&str),
) -> anyhow::Result<Vec<Measured>> {
    const CLIENTS: usize = 16;
    let client = site.access().bare();
    let table = site.stack.rows(USERS);
    // The row that the null endpoint has.
    let id = null::ROW_OF;
    client.put_item().table_name(&table).set_item(Some(row(id))).send().await?;
    let bare = get_item(site.access().by(url).bare(), table, id);
    let service = Service::start(Deployable::QueryService, &site.stack, &[("AWS_ENDPOINT_URL", url)]).await?;
    let query = get_user(&service.channel(), id);
    let (mut of_bare, mut of_query) = (Vec::new(), Vec::new());
    for _ in 0..rounds_of_each {
        step("queries: bare GetItem");
        of_bare.push(closed(&bare, CLIENTS, time, None).await?);
        step("queries: GetUserProfile");
        of_query.push(closed(&query, CLIENTS, time, Some(service.id())).await?);
    }
    Ok(vec![best(Kind::Floor.name(), CLIENTS, of_bare)?, best(OVER_GRPC, CLIENTS, of_query)?])
}

fn get_item(client: Client, table: String, id: Uuid) -> Call {
    Arc::new(move |_| {
        let get = client.get_item().table_name(&table).key("Key", text(format!("default#{id}")));
        async move {
            get.send().await?.item.context("the row is not there")?;
            Ok(Outcome::Done)
        }
        .boxed()
    })
}

fn get_user(channel: &Channel, id: Uuid) -> Call {
    let client = UserQueryServiceClient::new(channel.clone());
    Arc::new(move |_| {
        let mut client = client.clone();
        let request = GetUserProfileRequest { user_id: id.to_string(), after: None };
        async move {
            client.get_user_profile(request).await?;
            Ok(Outcome::Done)
        }
        .boxed()
    })
}

fn text(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

/// A row as the projector writes it.
fn row(id: Uuid) -> std::collections::HashMap<String, AttributeValue> {
    let at = crate::user::now();
    [
        ("Key", text(format!("default#{id}"))),
        ("Email", text("john.doe@example.com")),
        ("ByEmailKey", text("default#john.doe@example.com")),
        ("Name", text(crate::user::NAME)),
        ("CreatedAt", text(at)),
        ("UpdatedAt", text(at)),
        ("Version", AttributeValue::N("2".to_owned())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
