//! The whole path: from a command's reply until a query shows it, by way of stream, relay, bus, queue and projector.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures::FutureExt as _;
use millrace_proto::query::ReadAfter;
use millrace_tests::{AwsStack, FaultProxy, Replied as _, Traffic, aws_stack, process::Deployable};
use serde::{Deserialize, Serialize};
use shop::contracts::{
    command::{
        CreateUserRequest, UpdateUserProfileRequest, user_command_service_client::UserCommandServiceClient,
    },
    query::{GetUserProfileRequest, user_query_service_client::UserQueryServiceClient},
};
use tokio::{task::JoinSet, time::Instant};
use tonic::{Code, Request, transport::Channel};

use crate::{
    contender::{Outcome, Service},
    load::{Call, Latency, Times, as_f64, closed},
    user::{NAME, User},
};

/// The longest wait until a query shows the command.
const PATIENCE: Duration = Duration::from_secs(25);

/// The requests of commands, which the relay does not send while the stream is whole.
const OF_COMMANDS: [&str; 4] = ["PutItem", "TransactWriteItems", "Query", "GetItem"];

/// How long it took, at one rate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Lag {
    /// From the reply until a query showed it.
    pub(crate) lag: Latency,
    /// The relay's requests for an event, by operation.
    pub(crate) relay: BTreeMap<String, f64>,
    /// The projector's requests for an event, by operation.
    pub(crate) projector: BTreeMap<String, f64>,
}

impl Lag {
    /// The relay's requests for an event.
    pub(crate) fn relay_requests(&self) -> f64 {
        self.relay.values().sum()
    }

    /// The projector's requests for an event.
    pub(crate) fn projector_requests(&self) -> f64 {
        self.projector.values().sum()
    }
}

/// Millrace, whole, as processes, with users.
pub(crate) struct Path {
    command: Counted,
    projector: Counted,
    query: Service,
    users: Arc<Vec<String>>,
}

/// A process, and the wire by which it reaches AWS.
struct Counted {
    service: Service,
    wire: FaultProxy,
}

impl Counted {
    async fn start(deployable: Deployable, stack: &AwsStack) -> anyhow::Result<Self> {
        let wire = FaultProxy::before(stack.endpoint()).await?;
        let service = Service::start(deployable, stack, &[("AWS_ENDPOINT_URL", wire.url())]).await?;
        Ok(Self { service, wire })
    }
}

impl Path {
    /// Brings it up, with so many users.
    pub(crate) async fn new(users: usize) -> anyhow::Result<Self> {
        let stack = aws_stack().await?;
        let command = Counted::start(Deployable::CommandService, &stack).await?;
        let projector = Counted::start(Deployable::Projector, &stack).await?;
        let query = Service::start(Deployable::QueryService, &stack, &[]).await?;
        let mut commands = UserCommandServiceClient::new(command.service.channel());
        let (mut ids, mut newest) = (Vec::with_capacity(users), None);
        for _ in 0..users {
            let (email, name) = (User::new(0).email(), NAME.to_owned());
            let request = CreateUserRequest { email, name, ..Default::default() };
            let reply = commands.create_user(request).await?.reply();
            newest = reply.after();
            ids.push(reply.aggregate_id);
        }
        let path = Self { command, projector, query, users: Arc::new(ids) };
        readable(path.queries(), newest).await?;
        Ok(path)
    }

    fn commands(&self) -> UserCommandServiceClient<Channel> {
        UserCommandServiceClient::new(self.command.service.channel())
    }

    fn queries(&self) -> UserQueryServiceClient<Channel> {
        UserQueryServiceClient::new(self.query.channel())
    }

    /// Gives a user a name; the read-after token that came of it.
    fn rename(
        &self,
        number: usize,
    ) -> impl Future<Output = anyhow::Result<Option<ReadAfter>>> + Send + 'static {
        let (mut users, user_id) = (self.commands(), self.users[number % self.users.len()].clone());
        async move {
            let name = Some(NAME.to_owned());
            let request = UpdateUserProfileRequest { user_id, name, ..Default::default() };
            Ok(users.update_user_profile(request).await?.reply().after())
        }
    }

    /// So many commands a second by the clock.
    pub(crate) async fn at(&self, per_second: u32, time: Duration) -> anyhow::Result<Lag> {
        let counts = self.counts().await;
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        let commands = time.as_secs_f64() * f64::from(per_second);
        let mut number = 0_u32;
        while f64::from(number) < commands {
            let due = began + Duration::from_secs_f64(f64::from(number) / f64::from(per_second));
            tokio::time::sleep_until(due).await;
            let (rename, queries) = (self.rename(usize::try_from(number).unwrap_or(0)), self.queries());
            tasks.spawn(async move {
                let after = rename.await?;
                let replied = Instant::now();
                readable(queries, after).await?;
                anyhow::Ok(replied.elapsed())
            });
            number += 1;
        }
        let mut times = Times::new()?;
        while let Some(ended) = tasks.join_next().await {
            times.note(ended??);
        }
        let seconds = began.elapsed().as_secs_f64();
        self.told(times.told(f64::from(per_second), seconds), counts).await
    }

    /// One command after the other, each when the one before can be read: the stack has nothing else to do.
    pub(crate) async fn idle(&self, commands: usize) -> anyhow::Result<Lag> {
        let counts = self.counts().await;
        let began = Instant::now();
        let mut times = Times::new()?;
        for number in 0..commands {
            let after = self.rename(number).await?;
            let replied = Instant::now();
            readable(self.queries(), after).await?;
            times.note(replied.elapsed());
        }
        self.told(times.told(0.0, began.elapsed().as_secs_f64()), counts).await
    }

    /// Sixteen clients, each calling again at once after its reply: the cost of an event then, and the last one's lag.
    pub(crate) async fn loaded(&self, time: Duration) -> anyhow::Result<Lag> {
        const CLIENTS: usize = 16;
        let counts = self.counts().await;
        let (users, ids) = (self.commands(), self.users.clone());
        let call: Call = Arc::new(move |client| {
            let (mut users, user_id) = (users.clone(), ids[client % ids.len()].clone());
            async move {
                let name = Some(NAME.to_owned());
                let request = UpdateUserProfileRequest { user_id, name, ..Default::default() };
                users.update_user_profile(request).await?;
                Ok(Outcome::Done)
            }
            .boxed()
        });
        let speed = closed(&call, CLIENTS, time, None).await?;
        let replied = Instant::now();
        for client in 0..CLIENTS {
            let after = self.rename(client).await?;
            readable(self.queries(), after).await?;
        }
        let mut times = Times::new()?;
        times.note(replied.elapsed());
        let mut lag = times.told(0.0, 1.0);
        (lag.answers, lag.per_second) = (speed.calls + 2 * 16, speed.per_second);
        self.told(lag, counts).await
    }

    /// The traffic until now, once nothing is on its way any more.
    async fn counts(&self) -> [BTreeMap<String, Traffic>; 2] {
        // The projector deletes messages after it has written rows.
        tokio::time::sleep(Duration::from_millis(500)).await;
        [&self.command, &self.projector].map(|counted| counted.wire.traffic())
    }

    async fn told(&self, lag: Latency, before: [BTreeMap<String, Traffic>; 2]) -> anyhow::Result<Lag> {
        let [relay, projector] = self.counts().await;
        let [relay_before, projector_before] = before;
        let each = |after: BTreeMap<String, Traffic>, before: BTreeMap<String, Traffic>| {
            let sent = after.into_iter().map(move |(name, traffic)| {
                let count = traffic.requests - before.get(&name).map_or(0, |before| before.requests);
                (name, as_f64(count) / as_f64(lag.answers.max(1)))
            });
            sent.filter(|(_, count)| *count > 0.0).collect::<BTreeMap<_, _>>()
        };
        let (mut relay, mut projector) = (each(relay, relay_before), each(projector, projector_before));
        relay.retain(|name, _| !OF_COMMANDS.contains(&name.as_str()));
        // Of time, not of events: the depths of queues, every 15 s.
        projector.remove("GetQueueAttributes");
        Ok(Lag { lag, relay, projector })
    }
}

/// Waits until a query shows the version of a command's read-after token.
async fn readable(
    mut queries: UserQueryServiceClient<Channel>,
    after: Option<ReadAfter>,
) -> anyhow::Result<()> {
    let user_id = after.as_ref().context("a reply without a token")?.aggregate_id.clone();
    let end = Instant::now() + PATIENCE;
    loop {
        let query = GetUserProfileRequest { user_id: user_id.clone(), after: after.clone() };
        let mut request = Request::new(query);
        request.set_timeout(end.saturating_duration_since(Instant::now()));
        match queries.get_user_profile(request).await {
            // The emulator has one processor, and may be too busy to answer in time. Callers try again, as they are told to.
            Err(status) if status.code() == Code::Unavailable && Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            answer => return answer.map(drop).context("a command was not readable in time"),
        }
    }
}
