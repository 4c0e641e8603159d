//! Events of users that are stored past the service, so that their times are known.

use millrace_aws::Aws;
use millrace_domain::{
    Aggregate as _, CommandDigest, CommandId, EventId, StreamId, TenantId, Timestamp, UserId,
    user::{User, UserEvent},
};
use millrace_event_store::{AppendEvents as _, Commit, DynamoStore, StoredEvent};
use millrace_proto::{Envelope, codec::EventCodec as _};
use millrace_tests::Ground;
use uuid::Uuid;

use crate::replica::{SHARDS, store};

/// What was stored.
pub(crate) struct Past {
    store: DynamoStore,
    users: u128,
    pub(crate) all: Vec<StoredEvent>,
}

impl Past {
    /// Nothing so far, in the event store of a ground.
    pub(crate) fn of(ground: &Ground, aws: &Aws) -> Self {
        Self { store: store(ground, aws, Some(SHARDS)), users: 0, all: Vec::new() }
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

/// The time that lies some microseconds after the start of what is stored.
pub(crate) fn at(micros: i64) -> Timestamp {
    Timestamp::from_unix_micros(1_800_000_000_000_000 + micros)
}

fn event(stream: &StreamId, version: u64, micros: i64) -> StoredEvent {
    let (user_id, name) = (UserId(stream.id), format!("John {version}").try_into().unwrap());
    let email = "john@example.com".to_owned().try_into().unwrap();
    let event = match version {
        1 => UserEvent::UserCreated { user_id, email, name, created_at: at(micros) },
        _ => UserEvent::UserProfileUpdated { user_id, email: None, name: Some(name), updated_at: at(micros) },
    };
    let encoded = event.encode();
    let id: CommandId = Uuid::new_v4().to_string().parse().unwrap();
    let envelope = Envelope {
        event_id: EventId(Uuid::now_v7()),
        tenant_id: stream.tenant.clone(),
        aggregate_type: stream.aggregate_type.clone(),
        aggregate_id: stream.id,
        version,
        event_type: encoded.event_type.into(),
        schema_version: encoded.schema_version,
        timestamp: at(micros),
        event_data: Some(encoded.data),
        command_id: id.clone(),
        correlation_id: id.clone(),
        causation_id: id,
        trace_parent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
    };
    StoredEvent { envelope, command_digest: CommandDigest(version.into()) }
}
