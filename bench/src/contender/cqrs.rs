//! `cqrs-es` with `dynamo-es`: events only, with a snapshot every ten events, and with its aggregate store.

use std::{collections::HashMap, convert::Infallible};

use aws_sdk_dynamodb::{Client, primitives::Blob, types::AttributeValue};
use cqrs_es::{Aggregate, AggregateError, DomainEvent, event_sink::EventSink};
use dynamo_es::{DynamoCqrs, dynamodb_aggregate_cqrs, dynamodb_cqrs, dynamodb_snapshot_cqrs};
use futures::{FutureExt as _, future::BoxFuture};
use uuid::Uuid;

use super::{
    contract::{Contender, Outcome},
    items::{Item, item, number, text, write_all},
};
use crate::{
    site::{CQRS_EVENTS, CQRS_SNAPSHOTS},
    user::{Event, State, User, now},
};

/// A user by this framework.
pub(crate) struct Cqrs {
    framework: DynamoCqrs<State>,
}

/// Its command: adds the user's first event, or one that gives a name.
pub(crate) struct Command(Event);

impl DomainEvent for Event {
    fn event_type(&self) -> String {
        self.name().to_owned()
    }

    fn event_version(&self) -> String {
        "1".to_owned()
    }
}

impl Aggregate for State {
    const TYPE: &'static str = "user";
    type Command = Command;
    type Event = Event;
    type Error = Infallible;
    type Services = ();

    async fn handle(&mut self, command: Command, (): &(), sink: &EventSink<Self>) -> Result<(), Infallible> {
        sink.write(command.0, self).await;
        Ok(())
    }

    fn apply(&mut self, event: Event) {
        *self = std::mem::take(self).after(event);
    }
}

impl Cqrs {
    /// Every command folds all events. They are read in one page, so beyond a megabyte of them every command is a
    /// conflict; the size of the channel that the library's README names against that is for replays alone.
    pub(crate) fn events(client: Client) -> Self {
        Self { framework: dynamodb_cqrs(client, Vec::new(), ()) }
    }

    /// A snapshot every ten events.
    pub(crate) fn snapshots(client: Client) -> Self {
        Self { framework: dynamodb_snapshot_cqrs(client, Vec::new(), 10, ()) }
    }

    /// A snapshot with every command.
    pub(crate) fn aggregates(client: Client) -> Self {
        Self { framework: dynamodb_aggregate_cqrs(client, Vec::new(), ()) }
    }

    async fn execute(&self, user: &User, version: u64) -> anyhow::Result<Outcome> {
        let command = Command(Event::of(user, version));
        match self.framework.execute_with_metadata(&user.id.to_string(), command, metadata()).await {
            Ok(()) => Ok(Outcome::Done),
            Err(AggregateError::AggregateConflict) => Ok(Outcome::Conflict),
            Err(error) => Err(error.into()),
        }
    }
}

impl Contender for Cqrs {
    fn create(&self) -> BoxFuture<'_, anyhow::Result<User>> {
        async {
            let user = User::new(1);
            self.execute(&user, 1).await?;
            Ok(user)
        }
        .boxed()
    }

    fn rename<'a>(&'a self, user: &'a User) -> BoxFuture<'a, anyhow::Result<Outcome>> {
        self.execute(user, 2).boxed()
    }
}

/// The metadata that Millrace keeps with every event, and this framework wherever its user puts it.
fn metadata() -> HashMap<String, String> {
    let ids = ["commandId", "correlationId", "eventId"].map(|name| (name, Uuid::new_v4().to_string()));
    let all = ids.into_iter().chain([("timestamp", now().to_string())]);
    all.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Stores a user's events, and the snapshot that there would be of them.
pub(super) async fn seed(client: &Client, user: &User, every: Option<u64>) -> anyhow::Result<()> {
    let key = text(format!("user:{user}"));
    let events = (1..=user.length).map(|version| stored(user, &key, version));
    write_all(client, CQRS_EVENTS, events).await?;
    let snapshot = every.map(|every| (user.length / every * every, user.length / every));
    if let Some((version, number_of_snapshot)) = snapshot.filter(|(version, _)| *version > 0) {
        let state = State::default().after(Event::of(user, 1)).after(Event::of(user, 2));
        let snapshot = item([
            ("AggregateTypeAndId", key),
            ("AggregateType", text("user")),
            ("AggregateId", text(user)),
            ("CurrentSequence", number(version)),
            ("CurrentSnapshot", number(number_of_snapshot)),
            ("Payload", json(&state)),
        ]);
        client.put_item().table_name(CQRS_SNAPSHOTS).set_item(Some(snapshot)).send().await?;
    }
    Ok(())
}

fn stored(user: &User, key: &AttributeValue, version: u64) -> Item {
    let event = Event::of(user, version);
    item([
        ("AggregateTypeAndId", key.clone()),
        ("AggregateIdSequence", number(version)),
        ("AggregateType", text("user")),
        ("AggregateId", text(user)),
        ("EventVersion", text("1")),
        ("EventType", text(event.name())),
        ("Payload", json(&event)),
        ("Metadata", json(&metadata())),
    ])
}

fn json(value: &impl serde::Serialize) -> AttributeValue {
    AttributeValue::B(Blob::new(serde_json::to_vec(value).expect("a map of strings is JSON")))
}
