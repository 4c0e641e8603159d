//! What is true in the end: the event store, read whole, and what follows from it. Nothing of the projector's is used.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use millrace_domain::{Aggregate, Root, StreamId, order::Order, user::User};
use millrace_event_store::{Entry, StoredEvent, stored_from_item};
use millrace_proto::codec::EventCodec;

use crate::{
    Ground,
    history::ensure_says,
    load::{Errand, Fate},
    workload::Reply,
};

mod rows;
#[cfg(test)]
mod tests;

pub use rows::{ReadModel, Row, Rows, Sightings, differences};

/// An item of a table.
type Item = std::collections::HashMap<String, AttributeValue>;

/// Every event, by stream and version.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Truth {
    streams: BTreeMap<StreamId, Vec<StoredEvent>>,
}

/// Who holds which key: the keys of the table of unique keys with the streams' names.
pub type Holders = BTreeMap<String, String>;

impl Truth {
    /// What a ground's event store holds. Fails where it breaks a promise.
    pub async fn read(ground: &Ground) -> anyhow::Result<Self> {
        let items = scan(ground, "EventStoreTable").await?;
        Self::of(items.iter().map(stored_from_item).collect::<Result<Vec<_>, _>>()?)
    }

    /// What these events come to, in whatever order they are. Fails where they break a promise: I3 that versions are 1,
    /// 2, 3 …, I2 that a command is done once, that each event follows from those before it, and that no event is
    /// another one.
    pub fn of(events: impl IntoIterator<Item = StoredEvent>) -> anyhow::Result<Self> {
        let mut streams: BTreeMap<StreamId, Vec<StoredEvent>> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for event in events {
            ensure!(
                ids.insert(event.envelope.event_id),
                "two events have the id {}",
                event.envelope.event_id
            );
            streams.entry(event.envelope.stream()).or_default().push(event);
        }
        for (stream, events) in &mut streams {
            events.sort_by_key(|event| event.envelope.version);
            let mut commands = BTreeSet::new();
            for (version, event) in (1..).zip(events.iter()) {
                let envelope = &event.envelope;
                ensure!(envelope.version == version, "I3: {stream} has no version {version}");
                let command = envelope.command_id.as_str();
                ensure!(commands.insert(command), "I2: {stream} has the command {command} twice");
            }
        }
        let truth = Self { streams };
        truth.holders()?;
        Ok(truth)
    }

    /// How many events there are.
    pub fn events(&self) -> usize {
        self.streams.values().map(Vec::len).sum()
    }

    /// The events of each stream.
    pub fn streams(&self) -> &BTreeMap<StreamId, Vec<StoredEvent>> {
        &self.streams
    }

    /// Fails unless errands came to what their clients were told: I1 that what was acknowledged is there, I2 that it is
    /// there once, and that what was refused is not there, nor anything else.
    pub fn check_errands(&self, errands: &[Errand]) -> anyhow::Result<()> {
        let mut by_command: BTreeMap<(&str, &str), Vec<&StoredEvent>> = BTreeMap::new();
        for event in self.streams.values().flatten() {
            let key = (event.envelope.tenant_id.as_str(), event.envelope.command_id.as_str());
            by_command.entry(key).or_default().push(event);
        }
        for errand in errands {
            let events = by_command.remove(&(errand.tenant.as_str(), errand.command_id.as_str()));
            let events = events.unwrap_or_default();
            ensure!(events.len() <= 1, "I2: {errand:?} was done {} times", events.len());
            let event = events.first().copied();
            check_errand(errand, event).with_context(|| format!("{errand:?}, and its event is {event:?}"))?;
        }
        ensure!(
            by_command.is_empty(),
            "there are events of commands that nobody sent: {:?}",
            by_command.keys()
        );
        Ok(())
    }

    /// Who holds which key, by the fold of the events. Fails where two hold the same (I6).
    pub fn holders(&self) -> anyhow::Result<Holders> {
        let mut holders = Holders::new();
        for (stream, events) in &self.streams {
            let keys = match stream.aggregate_type.as_str() {
                "user" => fold::<User>(events).with_context(|| stream.to_string())?.unique_keys(),
                "order" => fold::<Order>(events).with_context(|| stream.to_string())?.unique_keys(),
                other => anyhow::bail!("there are no aggregates of the type {other}"),
            };
            for key in keys {
                let name = format!("{}#{}#{}", stream.tenant, key.scope, key.value);
                let other = holders.insert(name, stream.to_string());
                ensure!(other.is_none(), "I6: {stream} holds what {other:?} holds");
            }
        }
        Ok(holders)
    }
}

fn check_errand(errand: &Errand, event: Option<&StoredEvent>) -> anyhow::Result<()> {
    if let Some(event) = event {
        ensure_says(event, &errand.body)?;
        let version = event.envelope.version;
        ensure!(errand.body.creates() == (version == 1), "it stands at version {version}");
        let expected = errand.body.expected();
        ensure!(expected.is_none_or(|e| e + 1 == version), "it was to follow version {expected:?}");
    }
    match (&errand.fate, event) {
        (Fate::Acknowledged(reply), Some(event)) => {
            let Reply { aggregate_id, version, event_id, command_id: _, replayed } = reply;
            let envelope = &event.envelope;
            ensure!(*aggregate_id == envelope.aggregate_id.to_string(), "I1: it is of another aggregate");
            ensure!(*version == envelope.version, "I1: it is of another version");
            ensure!(*event_id == envelope.event_id.to_string(), "I1: it is another one");
            ensure!(!replayed || errand.attempts > 1, "I2: the first answer is said to be a replay");
        }
        (Fate::Acknowledged(_), None) => anyhow::bail!("I1: what was acknowledged is not there"),
        // An earlier attempt may have taken effect after the last one was refused.
        (Fate::Refused(_), Some(_)) => ensure!(errand.attempts > 1, "what was refused is there"),
        (Fate::Refused(_) | Fate::Open, None) | (Fate::Open, Some(_)) => {}
    }
    Ok(())
}

/// The state that events lead to, each following from those before it.
fn fold<A: Aggregate<Event: EventCodec>>(events: &[StoredEvent]) -> anyhow::Result<Root<A>> {
    events.iter().try_fold(Root::default(), |root: Root<A>, event| {
        Ok(root.apply(&Entry::from(event.clone()).recorded()?)?)
    })
}

/// Who holds which key, as a ground's table of unique keys says.
pub async fn keys(ground: &Ground) -> anyhow::Result<Holders> {
    let items = scan(ground, "UniqueKeyTable").await?;
    let text = |item: &Item, name: &str| {
        let value = item.get(name).and_then(|value| value.as_s().ok()).cloned();
        value.with_context(|| format!("a unique key without {name}"))
    };
    items.iter().map(|item| Ok((text(item, "Key")?, text(item, "AggregateId")?))).collect()
}

/// All items of a table of a ground, strongly consistent.
async fn scan(ground: &Ground, output: &str) -> anyhow::Result<Vec<Item>> {
    let dynamodb = ground.aws().await.dynamodb();
    let mut items = Vec::new();
    let mut from = None;
    loop {
        let scan = dynamodb.scan().table_name(ground.output(output)).consistent_read(true);
        let page = scan.set_exclusive_start_key(from).send().await?;
        items.extend(page.items.unwrap_or_default());
        from = page.last_evaluated_key.filter(|key| !key.is_empty());
        if from.is_none() {
            return Ok(items);
        }
    }
}
