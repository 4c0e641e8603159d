//! `event-store-adapter-rs` ("esa"): without snapshots, and with one every ten commands or every command.

use aws_sdk_dynamodb::{Client, primitives::Blob, types::AttributeValue};
use chrono::{DateTime, Utc};
use event_store_adapter_rs::{
    AggregateId, DynamoDbOptions, DynamoDbTables, EventEnvelope, EventStoreError, EventStoreForDynamoDB,
    SnapshotEnvelope,
};
use futures::{FutureExt as _, future::BoxFuture};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    contract::{Contender, Outcome},
    items::{Item, item, number, text, write_all},
};
use crate::{
    site::{ADAPTER_HEADS, ADAPTER_HISTORY_INDEX, ADAPTER_JOURNAL, ADAPTER_SNAPSHOTS},
    user::{Event, State, User},
};

/// A user by this library.
pub(crate) struct Adapter {
    store: EventStoreForDynamoDB<UserId, State, Payload>,
    /// After how many events a snapshot is written with the event.
    every: Option<u64>,
}

#[derive(Debug, Clone)]
struct UserId(Uuid);

impl AggregateId for UserId {
    fn type_name(&self) -> String {
        "user".to_owned()
    }

    fn value(&self) -> String {
        self.0.to_string()
    }
}

/// An event with the ids that Millrace keeps with every event, and this library wherever its user puts them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    event_id: Uuid,
    command_id: Uuid,
    correlation_id: Uuid,
    event: Event,
}

impl Payload {
    fn of(user: &User, version: u64) -> Self {
        Self {
            event_id: Uuid::new_v4(),
            command_id: Uuid::new_v4(),
            correlation_id: Uuid::new_v4(),
            event: Event::of(user, version),
        }
    }
}

impl Adapter {
    pub(crate) async fn open(client: Client, every: Option<u64>) -> anyhow::Result<Self> {
        let tables = DynamoDbTables {
            journal_table_name: ADAPTER_JOURNAL.to_owned(),
            snapshot_table_name: ADAPTER_SNAPSHOTS.to_owned(),
            head_table_name: ADAPTER_HEADS.to_owned(),
            snapshot_history_index_name: ADAPTER_HISTORY_INDEX.to_owned(),
        };
        let store = EventStoreForDynamoDB::open(client, tables, DynamoDbOptions::default()).await?;
        Ok(Self { store, every })
    }

    /// As its README's repository does: the newest snapshot, the events after it if there are any, then the next event.
    async fn append(&self, user: &User) -> anyhow::Result<Outcome> {
        let id = UserId(user.id);
        let (state, head) = match self.store.get_latest_snapshot_by_id(&id).await? {
            None => (State::default(), 0),
            Some(read) => {
                let (snapshot, head) = read.into_parts();
                let (state, from) = match snapshot {
                    Some(snapshot) => (snapshot.aggregate().clone(), snapshot.seq_nr()),
                    None => (State::default(), 0),
                };
                let newer = if head > from {
                    self.store.get_events_by_id_since_seq_nr(&id, from + 1).await?
                } else {
                    Vec::new()
                };
                (newer.into_iter().fold(state, |state, event| state.after(event.into_payload().event)), head)
            }
        };
        let version = head + 1;
        let payload = Payload::of(user, version);
        let after = state.after(payload.event.clone());
        let event = EventEnvelope::new(id, version, now(), payload).with_manifest("user-event/v1");
        let stored = if self.every.is_some_and(|every| version.is_multiple_of(every)) {
            let snapshot = SnapshotEnvelope::new(after, version).with_manifest("user/v1");
            self.store.persist_event_and_snapshot(event, snapshot).await
        } else {
            self.store.persist_event(event).await
        };
        match stored {
            Ok(()) => Ok(Outcome::Done),
            Err(EventStoreError::OptimisticLock { .. }) => Ok(Outcome::Conflict),
            Err(error) => Err(error.into()),
        }
    }
}

impl Contender for Adapter {
    fn create(&self) -> BoxFuture<'_, anyhow::Result<User>> {
        async {
            let user = User::new(1);
            self.append(&user).await?;
            Ok(user)
        }
        .boxed()
    }

    fn rename<'a>(&'a self, user: &'a User) -> BoxFuture<'a, anyhow::Result<Outcome>> {
        self.append(user).boxed()
    }
}

fn now() -> DateTime<Utc> {
    std::time::SystemTime::now().into()
}

/// Stores a user's events, the head, and the snapshot that there would be.
pub(super) async fn seed(client: &Client, user: &User, every: Option<u64>) -> anyhow::Result<()> {
    let key = text(format!("user-{user}"));
    let at = now().timestamp_nanos_opt().unwrap_or_default();
    let of_event = |version| -> Item {
        item([
            ("seq_nr", number(version)),
            ("occurred_at", number(at)),
            ("manifest", text("user-event/v1")),
            ("payload", json(&Payload::of(user, version))),
        ])
    };
    let events = (1..=user.length).map(|version| {
        let mut event = of_event(version);
        event.insert("aid".to_owned(), key.clone());
        event
    });
    write_all(client, ADAPTER_JOURNAL, events).await?;
    let newest = AttributeValue::L(vec![AttributeValue::M(of_event(user.length))]);
    let head = item([
        ("aid", key.clone()),
        ("type_name", text("user")),
        ("seq_nr", number(user.length)),
        ("events", newest),
    ]);
    client.put_item().table_name(ADAPTER_HEADS).set_item(Some(head)).send().await?;
    let version = every.map_or(0, |every| user.length / every * every);
    if version > 0 {
        let state = State::default().after(Event::of(user, 1)).after(Event::of(user, 2));
        let snapshot = item([
            ("aid", key),
            ("skey", number(0)),
            ("seq_nr", number(version)),
            ("manifest", text("user/v1")),
            ("payload", json(&state)),
            ("last_updated_at", number(at / 1_000_000)),
        ]);
        client.put_item().table_name(ADAPTER_SNAPSHOTS).set_item(Some(snapshot)).send().await?;
    }
    Ok(())
}

fn json(value: &impl Serialize) -> AttributeValue {
    AttributeValue::B(Blob::new(serde_json::to_vec(value).expect("strings and ids are JSON")))
}
