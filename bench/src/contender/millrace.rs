//! Millrace in this process: its event store and its handling of commands, from the message of a call to that of a reply.

use std::time::Duration;

use anyhow::bail;
use command_service::Users;
use futures::{FutureExt as _, future::BoxFuture};
use millrace_command::{CommandHandler, CommandHandlerConfig, StateCache, snapshots};
use millrace_core::{
    Aggregate as _, CommandDigest, CommandId, Envelope, EventCodec as _, EventId, StreamId, Timestamp,
};
use millrace_event_store::{AppendEvents as _, Commit, DynamoStore, Snapshots as _, StoredEvent};
use millrace_tests::Replied as _;
use shop::{
    contracts::command::{
        CreateUserRequest, UpdateUserProfileRequest, user_command_service_server::UserCommandService as _,
    },
    user::{UserCreated, UserEvent, UserProfileUpdated},
};
use tonic::{Code, Request};
use uuid::Uuid;

use super::contract::{Contender, Outcome};
use crate::user::{NAME, User, another_name, now};

/// The memory that the states of this process may take, as by default.
const STATES: u64 = 32 << 20;

/// A replica of the command service without a port.
pub(crate) struct Millrace {
    users: Users<DynamoStore>,
}

impl Millrace {
    pub(crate) fn new(store: DynamoStore) -> Self {
        let config = CommandHandlerConfig {
            clock: now,
            jitter: rand::random::<f64>,
            snapshot_every: snapshots::EVERY,
        };
        Self { users: Users(CommandHandler::new(store, StateCache::new(STATES), config)) }
    }
}

/// The time of a history's events: a stream of many events within minutes is loaded with the commands of these minutes.
fn an_hour_ago() -> Timestamp {
    Timestamp::from_unix_micros(now().unix_micros() - 3_600_000_000)
}

/// The request that gives a user the name.
pub(super) fn renaming(user: &User) -> UpdateUserProfileRequest {
    UpdateUserProfileRequest {
        user_id: user.id.to_string(),
        name: Some(another_name()),
        command_id: Some(Uuid::new_v4().to_string()),
        ..Default::default()
    }
}

/// The request that creates a user.
pub(super) fn creation() -> CreateUserRequest {
    CreateUserRequest { email: User::new(0).email(), name: NAME.to_owned(), ..Default::default() }
}

/// A reply's outcome.
pub(super) fn outcome<T>(reply: Result<T, tonic::Status>) -> anyhow::Result<Outcome> {
    match reply {
        Ok(_) => Ok(Outcome::Done),
        Err(status) if status.code() == Code::Aborted => Ok(Outcome::Conflict),
        Err(status) => Err(status.into()),
    }
}

impl Contender for Millrace {
    fn create(&self) -> BoxFuture<'_, anyhow::Result<User>> {
        async {
            let reply = self.users.create_user(Request::new(creation())).await?.reply();
            Ok(User { id: reply.aggregate_id.parse()?, length: 1 })
        }
        .boxed()
    }

    fn rename<'a>(&'a self, user: &'a User) -> BoxFuture<'a, anyhow::Result<Outcome>> {
        async { outcome(self.users.update_user_profile(Request::new(renaming(user))).await) }.boxed()
    }
}

/// Events of a stream, as the service would have stored them.
pub(crate) fn history(stream: &StreamId, versions: impl Iterator<Item = u64>) -> Vec<StoredEvent> {
    versions.map(|version| event(stream, version)).collect()
}

fn event(stream: &StreamId, version: u64) -> StoredEvent {
    let name = NAME.to_owned().try_into().expect("a name");
    let event = match version {
        1 => UserEvent::UserCreated(UserCreated {
            email: format!("{}@example.com", stream.id).try_into().expect("an address"),
            name,
        }),
        _ => UserEvent::UserProfileUpdated(UserProfileUpdated { email: None, name: Some(name) }),
    };
    let encoded = event.encode();
    let command_id: CommandId = Uuid::new_v4().to_string().parse().expect("an id");
    let envelope = Envelope {
        event_id: EventId(Uuid::now_v7()),
        tenant_id: stream.tenant.clone(),
        aggregate_type: stream.aggregate_type.clone(),
        aggregate_id: stream.id,
        version,
        event_type: encoded.event_type.into(),
        schema_version: encoded.schema_version,
        timestamp: an_hour_ago(),
        event_data: Some(encoded.data),
        command_id: command_id.clone(),
        correlation_id: command_id.clone(),
        causation_id: command_id,
        trace_parent: Some(millrace_server::TraceParent::new_root().to_string()),
    };
    StoredEvent { envelope, command_digest: CommandDigest(Uuid::new_v4().as_u128()) }
}

/// Stores a user's events through the store itself, the last of a long stream through the service, so that there is the
/// snapshot that there would be.
pub(super) async fn seed(store: &DynamoStore, user: &User) -> anyhow::Result<()> {
    /// The most that one commit holds.
    const COMMIT: u64 = 100;
    let every = snapshots::EVERY.get();
    let by_service = if user.length > u64::from(snapshots::FIRST_PAGE) { every + 20 } else { 0 };
    let past_service = user.length - by_service;
    for first in (1..=past_service).step_by(100) {
        let events = history(&user.stream(), first..=(first + COMMIT - 1).min(past_service));
        store.append(&Commit { events, claims: Vec::new(), releases: Vec::new() }).await?;
    }
    let service = Millrace::new(store.clone());
    for _ in 0..by_service {
        service.rename(user).await?;
    }
    if by_service == 0 {
        return Ok(());
    }
    for _ in 0..500 {
        let kept = store.snapshot(&user.stream(), shop::user::User::STATE_SCHEMA).await?;
        if kept.is_some_and(|kept| kept.version == user.length / every * every) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("the snapshot of a user of {} events was not kept", user.length)
}
