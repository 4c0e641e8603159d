//! A commit, checked and ready to be sent.

use std::{collections::HashSet, num::NonZeroU32};

use millrace_aws::AwsError;
use millrace_core::{StreamId, UniqueKey};

use crate::{
    AppendError, Commit,
    item::{AGGREGATE_ID, Item, item_of, text},
    size::item_size,
};

/// The largest item (DynamoDB Developer Guide, "Quotas").
pub(crate) const ITEM_BYTES: usize = 400 * 1024;
/// The longest partition key (the same page).
const KEY_BYTES: usize = 2048;
/// The most actions of one transaction (DynamoDB API Reference, TransactWriteItems).
const ACTIONS: usize = 100;
/// The largest sum of a transaction's items (the same page).
const TRANSACTION_BYTES: usize = 4 * 1024 * 1024;

/// The attribute that is a unique key.
pub(crate) const KEY: &str = "Key";

/// The items that a commit writes.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The stream.
    pub(crate) stream: StreamId,
    /// The events as new items, in order; at least one.
    pub(crate) events: Vec<Item>,
    /// The keys that change hands.
    pub(crate) keys: Vec<KeyChange>,
}

/// A key that changes hands.
#[derive(Debug)]
pub(crate) struct KeyChange {
    /// The item: the key, `<tenant>#<scope>#<value>`, and the aggregate.
    pub(crate) item: Item,
    /// The key's scope.
    pub(crate) scope: &'static str,
    /// Claim or release.
    pub(crate) direction: Direction,
}

/// The direction in which a key changes hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The aggregate acquires it.
    Claim,
    /// The aggregate releases it.
    Release,
}

impl Plan {
    /// The plan of a commit that is well made and within the limits.
    pub(crate) fn of(commit: &Commit, index_shards: Option<NonZeroU32>) -> Result<Self, AppendError> {
        if commit.events.len() + commit.claims.len() + commit.releases.len() > ACTIONS {
            return Err(AppendError::TooLarge { limit: "100 events and keys" });
        }
        let stream = checked_stream(commit)?;
        let mut events = Vec::with_capacity(commit.events.len());
        for event in &commit.events {
            let data = event.envelope.event_data.as_ref().ok_or_else(|| refused("an event has no data"))?;
            events.push(item_of(event, data, index_shards));
        }
        let claims = commit.claims.iter().map(|key| KeyChange::of(&stream, key, Direction::Claim));
        let releases = commit.releases.iter().map(|key| KeyChange::of(&stream, key, Direction::Release));
        let plan = Self { keys: claims.chain(releases).collect(), stream, events };
        plan.check_sizes()?;
        Ok(plan)
    }

    fn check_sizes(&self) -> Result<(), AppendError> {
        let mut sum = 0;
        for item in &self.events {
            let size = item_size(item);
            if size > ITEM_BYTES {
                return Err(AppendError::TooLarge { limit: "400 KB an event" });
            }
            sum += size;
        }
        for key in &self.keys {
            if key.text().len() > KEY_BYTES {
                return Err(AppendError::TooLarge { limit: "2,048 bytes a unique key" });
            }
            sum += item_size(&key.item);
        }
        if sum > TRANSACTION_BYTES {
            return Err(AppendError::TooLarge { limit: "4 MB in all" });
        }
        Ok(())
    }
}

impl KeyChange {
    fn of(stream: &StreamId, key: &UniqueKey, direction: Direction) -> Self {
        let name = format!("{}#{}#{}", stream.tenant, key.scope, key.value);
        let item =
            [(KEY, text(name)), (AGGREGATE_ID, text(stream))].map(|(name, value)| (name.to_owned(), value));
        Self { item: item.into(), scope: key.scope, direction }
    }

    /// The key, as the table has it.
    pub(crate) fn text(&self) -> &str {
        self.item.get(KEY).and_then(|key| key.as_s().ok()).map_or("", String::as_str)
    }
}

/// The one stream of a commit whose events follow each other and whose keys are named once.
fn checked_stream(commit: &Commit) -> Result<StreamId, AppendError> {
    let stream = commit.events.first().ok_or_else(|| refused("a commit without events"))?.envelope.stream();
    let mut before: Option<u64> = None;
    for event in &commit.events {
        let version = event.envelope.version;
        let follows = before.map_or(version >= 1, |before| before.checked_add(1) == Some(version));
        if !follows || event.envelope.stream() != stream {
            return Err(refused("the events of a commit do not follow each other in one stream"));
        }
        before = Some(version);
    }
    let mut named = HashSet::new();
    if !commit.claims.iter().chain(&commit.releases).all(|key| named.insert((key.scope, &key.value))) {
        return Err(refused("a commit names a key twice"));
    }
    Ok(stream)
}

/// A commit that the caller made wrong.
fn refused(why: &str) -> AppendError {
    AppendError::Failed(AwsError::Refused(why.to_owned()))
}
