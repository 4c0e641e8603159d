//! Events of users that are stored past the service, so that their times are known.

use millrace_aws::Aws;
use millrace_core::{
    Aggregate as _, CommandDigest, CommandId, Envelope, EventId, StreamId, TenantId, Timestamp,
};
use millrace_event_store::{AppendEvents as _, Commit, DynamoStore, StoredEvent};
use millrace_testing::recorded;
use millrace_tests::AwsStack;
use shop::user::{User, UserCreated, UserEvent, UserProfileUpdated};
use uuid::Uuid;

use crate::replica::{SHARDS, store};

/// A store and all its events.
pub(crate) struct Past {
    store: DynamoStore,
    users: u128,
    pub(crate) all: Vec<StoredEvent>,
}

impl Past {
    /// Nothing so far, in the event store of a stack.
    pub(crate) fn of(stack: &AwsStack, aws: &Aws) -> Self {
        Self { store: store(stack, aws, Some(SHARDS)), users: 0, all: Vec::new() }
    }

    /// A user with an event at each of these times, in microseconds. Each is of the next shard of the index.
    pub(crate) async fn user(&mut self, times: &[i64]) -> StreamId {
        self.users += 1;
        let id = Uuid::from_u128(self.users);
        let stream = StreamId { tenant: TenantId::default(), aggregate_type: User::TYPE, id };
        let events: Vec<_> =
            (1..).zip(times).map(|(version, micros)| event(&stream, version, *micros)).collect();
        for part in events.chunks(100) {
            let commit = Commit { events: part.to_vec(), claims: vec![], releases: vec![] };
            self.store.append(&commit).await.unwrap();
        }
        self.all.extend(events);
        stream
    }
}

/// The time some microseconds after the first event.
pub(crate) fn at(micros: i64) -> Timestamp {
    Timestamp::from_unix_micros(1_800_000_000_000_000 + micros)
}

fn event(stream: &StreamId, version: u64, micros: i64) -> StoredEvent {
    let name = format!("John {version}").try_into().unwrap();
    let email = "john@example.com".to_owned().try_into().unwrap();
    let event = match version {
        1 => UserEvent::UserCreated(UserCreated { email, name }),
        _ => UserEvent::UserProfileUpdated(UserProfileUpdated { email: None, name: Some(name) }),
    };
    as_by_the_service(recorded(stream, version, at(micros), &event))
}

/// An event with a trace and ids as long as a service's: its size decides its cost.
pub(crate) fn as_by_the_service(recorded: Envelope) -> StoredEvent {
    let id: CommandId = Uuid::new_v4().to_string().parse().unwrap();
    let envelope = Envelope {
        event_id: EventId(Uuid::now_v7()),
        command_id: id.clone(),
        correlation_id: id.clone(),
        causation_id: id,
        trace_parent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        ..recorded
    };
    StoredEvent { envelope, command_digest: CommandDigest(Uuid::new_v4().as_u128()) }
}
