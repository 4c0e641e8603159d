//! Replicas of the command service over one store, and the clients that a plan has.

use std::{
    collections::HashMap,
    num::NonZeroU64,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use command_service::{Orders, Users};
use futures::future::join;
use millrace_command::{CommandHandler, CommandHandlerConfig, StateCache};
use millrace_core::StreamId;
use millrace_event_store::{AppendEvents, Snapshots};
use millrace_server::call::TENANT_KEY;
use shop::contracts::command::{
    order_command_service_server::OrderCommandService as _,
    user_command_service_server::UserCommandService as _,
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Code, Request, Status};

use super::{Body, Cast, Plan, Sent, Step, Way};
use crate::{
    Replied as _, Reply,
    disturbed::{Disturbed, Teller, chance, clock},
};

/// The outcome of a call.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// A reply.
    Answered(Reply),
    /// An error.
    Failed(Status),
    /// The client went away before there was either.
    Abandoned,
}

/// A call that a client made. Times are those of the store's [`Teller`].
#[derive(Debug, Clone)]
pub struct Call {
    /// The command.
    pub sent: Sent,
    /// A time before the call.
    pub begun: u64,
    /// A time after it.
    pub ended: u64,
    /// Its outcome.
    pub outcome: Outcome,
}

/// A replica of the command service: caches of its own over a store that it shares.
#[derive(Debug)]
pub(super) struct Replica<S> {
    users: Users<S>,
    orders: Orders<S>,
}

impl<S: AppendEvents + Snapshots> Replica<S> {
    pub(super) fn new(store: &S, roomy: bool, snapshot_every: u64) -> Self {
        let bytes = if roomy { 1 << 20 } else { 0 };
        let snapshot_every = NonZeroU64::new(snapshot_every).unwrap_or(NonZeroU64::MIN);
        let config = CommandHandlerConfig { clock, jitter: chance, snapshot_every };
        let users = CommandHandler::new(store.clone(), StateCache::new(bytes), config);
        let orders = CommandHandler::new(store.clone(), StateCache::new(bytes), config);
        Self { users: Users(users.clone()), orders: Orders { orders, users } }
    }

    pub(super) async fn send(&self, sent: &Sent, loud: bool) -> Result<Reply, Status> {
        let command_id = Some(sent.command_id.clone());
        let id = |id: String| if loud { id.to_uppercase() } else { id };
        match sent.body.clone() {
            Body::CreateUser(mut body) => {
                body.command_id = command_id;
                Ok(self.users.create_user(request(sent, body)?).await?.reply())
            }
            Body::UpdateUser(mut body) => {
                body.user_id = id(body.user_id);
                body.command_id = command_id;
                Ok(self.users.update_user_profile(request(sent, body)?).await?.reply())
            }
            Body::CreateOrder(mut body) => {
                body.user_id = id(body.user_id);
                body.command_id = command_id;
                Ok(self.orders.create_order(request(sent, body)?).await?.reply())
            }
            Body::SetStatus(mut body) => {
                body.order_id = id(body.order_id);
                body.command_id = command_id;
                Ok(self.orders.update_order_status(request(sent, body)?).await?.reply())
            }
        }
    }
}

fn request<T>(sent: &Sent, message: T) -> Result<Request<T>, Status> {
    let mut request = Request::new(message);
    let tenant = sent.stream.tenant.as_str().parse();
    request.metadata_mut().insert(TENANT_KEY, tenant.map_err(|_| Status::internal("no metadata"))?);
    Ok(request)
}

/// The replicas, and the outcome of every call to them.
pub struct Fleet<S> {
    cast: Arc<Cast>,
    store: Disturbed<S>,
    replicas: Vec<Replica<Disturbed<S>>>,
    calls: Mutex<Vec<Call>>,
    newest: Mutex<HashMap<StreamId, u64>>,
    snapshot_every: u64,
}

impl<S: AppendEvents + Snapshots> Fleet<S> {
    /// The plan's replicas over a store, into which its long history is written.
    pub async fn new(plan: &Plan, cast: Arc<Cast>, store: Disturbed<S>) -> anyhow::Result<Self> {
        let replica = |roomy: &bool| Replica::new(&store, *roomy, plan.snapshot_every);
        let replicas = plan.replicas.iter().map(replica).collect();
        let mut calls = Vec::new();
        let mut newest = HashMap::new();
        for (sent, event) in cast.history(plan.user_events, plan.order_events) {
            store.seed(calls.len(), event).await?;
            let reply = Reply {
                aggregate_type: sent.stream.aggregate_type.to_string(),
                aggregate_id: sent.stream.id.to_string(),
                version: event.envelope.version,
                event_id: event.envelope.event_id.to_string(),
                command_id: sent.command_id.clone(),
                replayed: false,
            };
            newest.insert(sent.stream.clone(), reply.version);
            let outcome = Outcome::Answered(reply);
            let (begun, ended) = (0, store.teller().now());
            calls.push(Call { sent: sent.clone(), begun, ended, outcome });
        }
        let (calls, newest) = (Mutex::new(calls), Mutex::new(newest));
        Ok(Self { cast, store, replicas, calls, newest, snapshot_every: plan.snapshot_every })
    }

    /// Lets the plan's clients do all their steps, at once.
    pub async fn run(self: &Arc<Self>, plan: &Plan) -> anyhow::Result<()> {
        let mut clients = JoinSet::new();
        for steps in plan.clients.clone() {
            let (fleet, commands) = (self.clone(), plan.commands.clone());
            clients.spawn(async move {
                for step in steps {
                    let command = &commands[step.command % commands.len()];
                    let sent = fleet.cast.sent(command, |stream| look(&fleet.newest).get(stream).copied());
                    sleep(step.pause).await;
                    fleet.step(&step, &sent).await;
                }
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended?;
        }
        Ok(())
    }

    /// Sends every command once more, and asks for each address's holder; all to a replica that knows nothing yet.
    pub async fn retry_all(&self) {
        let cold = Replica::new(&self.store, false, self.snapshot_every);
        for (sent, loud) in self.all_sent().iter().zip([false, true].into_iter().cycle()) {
            self.call(&cold, sent, loud).await;
        }
        for probe in &self.cast.probes {
            self.call(&cold, probe, false).await;
        }
    }

    /// Every call, those that wrote the long history first.
    pub fn calls(&self) -> Vec<Call> {
        look(&self.calls).clone()
    }

    /// The store.
    pub fn store(&self) -> &Disturbed<S> {
        &self.store
    }

    /// Each command that a client sent, once.
    fn all_sent(&self) -> Vec<Sent> {
        let mut all: Vec<Sent> = Vec::new();
        let calls = look(&self.calls);
        for call in calls.iter().filter(|call| call.begun > 0) {
            if !all.contains(&call.sent) {
                all.push(call.sent.clone());
            }
        }
        all
    }

    async fn step(&self, step: &Step, sent: &Sent) {
        let first = match step.way {
            Way::Once => self.send(step.replica, sent, step.loud).await,
            Way::Twice(further) => {
                let first = self.send(step.replica, sent, step.loud);
                let second = self.send(step.replica + further, sent, !step.loud);
                join(first, second).await.0
            }
            Way::Abandoned(after) => {
                let _ = timeout(after, self.send(step.replica, sent, step.loud)).await;
                self.send(step.replica + 1, sent, step.loud).await
            }
        };
        let mut outcome = first;
        for retry in 1..=usize::from(step.retries) {
            if !may_pass(&outcome) {
                break;
            }
            sleep(Duration::from_millis(3)).await;
            outcome = self.send(step.replica + retry, sent, step.loud).await;
        }
    }

    async fn send(&self, replica: usize, sent: &Sent, loud: bool) -> Outcome {
        self.call(&self.replicas[replica % self.replicas.len()], sent, loud).await
    }

    async fn call(&self, replica: &Replica<Disturbed<S>>, sent: &Sent, loud: bool) -> Outcome {
        let teller: &Teller = self.store.teller();
        let begun = teller.tick();
        let number = {
            let mut calls = look(&self.calls);
            calls.push(Call { sent: sent.clone(), begun, ended: u64::MAX, outcome: Outcome::Abandoned });
            calls.len() - 1
        };
        let _left = Leaving { calls: &self.calls, teller, number };
        let outcome = match Teller::of_call(number, replica.send(sent, loud)).await {
            Ok(reply) => {
                let mut newest = look(&self.newest);
                let version = newest.entry(sent.stream.clone()).or_default();
                *version = reply.version.max(*version);
                Outcome::Answered(reply)
            }
            Err(status) => Outcome::Failed(status),
        };
        let call = &mut look(&self.calls)[number];
        (call.ended, call.outcome) = (teller.tick(), outcome.clone());
        outcome
    }
}

/// Notes the end of a call whose client goes away.
struct Leaving<'a> {
    calls: &'a Mutex<Vec<Call>>,
    teller: &'a Teller,
    number: usize,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let call = &mut look(self.calls)[self.number];
        if matches!(call.outcome, Outcome::Abandoned) {
            call.ended = self.teller.tick();
        }
    }
}

/// Whether the same call may have another outcome.
fn may_pass(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Answered(_) => false,
        Outcome::Failed(status) => matches!(
            status.code(),
            Code::Unavailable | Code::ResourceExhausted | Code::Aborted | Code::DeadlineExceeded
        ),
        Outcome::Abandoned => true,
    }
}

fn look<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
