//! The store in memory, for tests: the behaviour of DynamoDB without DynamoDB.

mod history;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millrace_aws::{AwsError, Place, Segment};
use millrace_core::StreamId;

use crate::{
    AppendError, AppendEvents, Begun, CommandBlock, Commit, Entry, IndexRange, LoadEvents, Page, ReadEvents,
    Replaces, ScanEvents, Scanned, ScannedItem, Snapshot, Snapshots, StoredEvent, Touched, consecutive,
    dynamo::{block_item, snapshot_item},
    following,
    plan::{Direction, Plan},
};

/// A store that lives as long as its clones, which share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    /// Every event, in the order in which it was appended.
    log: Vec<StoredEvent>,
    /// Where in the log the versions of each stream are.
    streams: BTreeMap<StreamId, BTreeMap<u64, usize>>,
    /// The holder of each key.
    holders: HashMap<String, StreamId>,
    snapshots: HashMap<(StreamId, u32), Snapshot>,
    /// By stream and place.
    blocks: HashMap<(StreamId, u64), CommandBlock>,
    /// The events that the index by type and time shows.
    index: Index,
    requests: u64,
}

/// The part of the log that the index by type and time shows.
#[derive(Debug, Clone, Copy, Default)]
enum Index {
    /// All of it.
    #[default]
    Whole,
    /// As much as there was when it was held.
    Held(usize),
    /// There is none.
    Absent,
}

impl MemoryStore {
    /// Everything that was appended, in that order.
    pub fn all(&self) -> Vec<StoredEvent> {
        self.look().log.clone()
    }

    /// How many requests DynamoDB would have had to answer.
    pub fn requests(&self) -> u64 {
        self.look().requests
    }

    /// Freezes the index by type and time at its present contents, whatever is appended, until it is released.
    pub fn hold_index(&self) {
        let mut contents = self.look();
        contents.index = Index::Held(contents.log.len());
    }

    /// Lets the index show everything again.
    pub fn release_index(&self) {
        self.look().index = Index::Whole;
    }

    /// Is from now on a store without the index by type and time.
    pub fn drop_index(&self) {
        self.look().index = Index::Absent;
    }

    fn look(&self) -> MutexGuard<'_, Contents> {
        // Nothing in here panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self) -> MutexGuard<'_, Contents> {
        let mut contents = self.look();
        contents.requests += 1;
        contents
    }
}

impl Contents {
    fn event(&self, stream: &StreamId, version: u64) -> Option<&StoredEvent> {
        self.log.get(*self.streams.get(stream)?.get(&version)?)
    }

    /// The events of a stream between two versions.
    fn entries(
        &self,
        stream: &StreamId,
        after: u64,
        before: u64,
    ) -> impl DoubleEndedIterator<Item = Entry> + '_ {
        let first = after.saturating_add(1);
        // A range that ends before it begins would panic.
        let range = first..before.max(first);
        let versions = self.streams.get(stream).into_iter();
        let places = versions.flat_map(move |versions| versions.range(range.clone()));
        places.filter_map(|(_, place)| self.log.get(*place).cloned().map(Entry::from))
    }

    /// The events that the index by type and time shows; `None` where there is no index.
    fn shown(&self) -> Option<&[StoredEvent]> {
        match self.index {
            Index::Whole => Some(&self.log),
            Index::Held(shown) => self.log.get(..shown),
            Index::Absent => None,
        }
    }

    /// The events of some streams after a place, in the order of the streams.
    fn after<'a>(
        &'a self,
        streams: impl Iterator<Item = (&'a StreamId, &'a BTreeMap<u64, usize>)>,
        from: Option<&MemoryPlace>,
    ) -> impl Iterator<Item = &'a StoredEvent> {
        let events = streams.flat_map(move |(stream, versions)| {
            let begun = from.filter(|from| from.stream == *stream);
            versions.range((
                begun.map_or(Bound::Unbounded, |from| Bound::Excluded(from.version)),
                Bound::Unbounded,
            ))
        });
        events.filter_map(|(_, place)| self.log.get(*place))
    }

    /// A page of events.
    fn scanned<'a>(events: impl Iterator<Item = &'a StoredEvent>) -> Scanned<MemoryPlace> {
        let events: Vec<_> = events.take(SCANNED).collect();
        let next = events
            .last()
            .filter(|_| events.len() == SCANNED)
            .map(|event| MemoryPlace { stream: event.envelope.stream(), version: event.envelope.version });
        let items = events.into_iter().map(|event| ScannedItem::Event(Box::new(event.clone()))).collect();
        Scanned { items, next, read_units: 1.0 }
    }

    /// Returns why a commit cannot be stored, in the order in which DynamoDB's reasons count.
    fn check(&self, commit: &Commit, plan: &Plan) -> Result<(), AppendError> {
        let mut taken = commit.events.iter().map(|event| self.event(&plan.stream, event.envelope.version));
        let first = taken.next().flatten();
        if first.is_some() || taken.any(|event| event.is_some()) {
            return Err(AppendError::Conflict { existing: first.cloned().map(Box::new) });
        }
        // Claims come before releases in a plan.
        for key in &plan.keys {
            if self.holders.get(key.text()).is_some_and(|holder| *holder != plan.stream) {
                let scope = key.scope;
                return Err(match key.direction {
                    Direction::Claim => AppendError::KeyTaken { scope },
                    Direction::Release => AppendError::Failed(AwsError::InvalidResponse(format!(
                        "a key of {scope} that the aggregate lets go is another's"
                    ))),
                });
            }
        }
        Ok(())
    }
}

impl ReadEvents for MemoryStore {
    async fn page(&self, stream: &StreamId, after: u64, limit: u16) -> Result<Page, AwsError> {
        let limit = usize::from(limit.max(1));
        let contents = self.request();
        let versions = contents.streams.get(stream);
        let newer = versions.into_iter().flat_map(|v| v.range((Bound::Excluded(after), Bound::Unbounded)));
        let events: Vec<_> =
            newer.take(limit).filter_map(|(_, place)| contents.log.get(*place).cloned()).collect();
        // Like DynamoDB, which stops at the limit without a look at the next item.
        let more = events.len() == limit;
        Page::checked(stream, after, events, more)
    }
}

/// How many entries a request returns at most; on DynamoDB they are as many as fit into 1 MB.
const MAX_ENTRIES: usize = 500;

impl LoadEvents for MemoryStore {
    async fn newest(&self, stream: &StreamId, after: u64, limit: u16) -> Result<Vec<Entry>, AwsError> {
        let contents = self.request();
        let newer = contents.entries(stream, after, u64::MAX).rev().take(usize::from(limit.max(1)));
        let mut entries: Vec<_> = newer.collect();
        entries.reverse();
        consecutive(stream, entries)
    }

    async fn between(&self, stream: &StreamId, after: u64, before: u64) -> Result<Vec<Entry>, AwsError> {
        let contents = self.request();
        following(stream, after, contents.entries(stream, after, before).take(MAX_ENTRIES).collect())
    }
}

/// How many events a page of a scan holds: few, so that most streams do not fit into one.
const SCANNED: usize = 7;

/// The last event of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlace {
    /// Its stream.
    pub stream: StreamId,
    /// Its version.
    pub version: u64,
}

impl Place for MemoryPlace {
    fn to_text(&self) -> String {
        format!("{} {}", self.version, self.stream)
    }

    fn from_text(text: &str) -> Option<Self> {
        let (version, stream) = text.split_once(' ')?;
        Some(Self { stream: stream.parse().ok()?, version: version.parse().ok()? })
    }
}

/// Whether a stream lies in a segment.
fn is_in(segment: Segment, stream: &StreamId) -> bool {
    stream.id.as_u128() % u128::from(segment.of.get()) == u128::from(segment.number)
}

impl ScanEvents for MemoryStore {
    type Place = MemoryPlace;

    async fn scan(
        &self,
        segment: Segment,
        from: Option<&MemoryPlace>,
    ) -> Result<Scanned<MemoryPlace>, AwsError> {
        let contents = self.request();
        let first = from.map_or(Bound::Unbounded, |from| Bound::Included(&from.stream));
        let streams = contents.streams.range((first, Bound::Unbounded));
        let streams = streams.filter(|(stream, _)| is_in(segment, stream));
        Ok(Contents::scanned(contents.after(streams, from)))
    }

    async fn look(
        &self,
        stream: &StreamId,
        from: Option<&MemoryPlace>,
    ) -> Result<Scanned<MemoryPlace>, AwsError> {
        let contents = self.request();
        Ok(Contents::scanned(contents.after(contents.streams.get_key_value(stream).into_iter(), from)))
    }

    async fn touched(
        &self,
        range: &IndexRange,
        from: Option<&MemoryPlace>,
    ) -> Result<Touched<MemoryPlace>, AwsError> {
        let contents = self.request();
        let Some(shown) = contents.shown() else {
            return Err(AwsError::Refused("the table does not have the specified index".to_owned()));
        };
        let after = from.and_then(|from| contents.event(&from.stream, from.version)).map(StoredEvent::moment);
        let mut events: Vec<_> = shown
            .iter()
            .filter(|event| {
                let envelope = &event.envelope;
                envelope.tenant_id == range.tenant
                    && envelope.event_type == range.event_type
                    && envelope.timestamp >= range.since
                    && is_in(range.shard, &envelope.stream())
                    && after.as_ref().is_none_or(|after| event.moment() > *after)
            })
            .collect();
        events.sort_by_key(|event| event.moment());
        let Scanned { items, next, read_units } = Contents::scanned(events.into_iter());
        let stream = |item| match item {
            ScannedItem::Event(event) => Some(event.envelope.stream()),
            ScannedItem::Unreadable(other) => other.stream,
        };
        Ok(Touched { streams: items.into_iter().filter_map(stream).collect(), next, read_units })
    }

    async fn begun(&self, streams: &[StreamId]) -> Result<Begun, AwsError> {
        let contents = self.request();
        let begun = streams.iter().filter(|stream| contents.event(stream, 1).is_some()).cloned().collect();
        Ok(Begun { begun, left: Vec::new(), read_units: 1.0 })
    }

    async fn count(&self) -> Result<u64, AwsError> {
        Ok(u64::try_from(self.request().log.len()).unwrap_or(u64::MAX))
    }
}

impl AppendEvents for MemoryStore {
    async fn append(&self, commit: &Commit) -> Result<(), AppendError> {
        let plan = Plan::of(commit, None)?;
        let mut contents = self.request();
        contents.check(commit, &plan)?;
        for event in &commit.events {
            let place = contents.log.len();
            contents.streams.entry(plan.stream.clone()).or_default().insert(event.envelope.version, place);
            contents.log.push(event.clone());
        }
        for key in &plan.keys {
            match key.direction {
                Direction::Claim => contents.holders.insert(key.text().to_owned(), plan.stream.clone()),
                Direction::Release => contents.holders.remove(key.text()),
            };
        }
        Ok(())
    }
}

impl Snapshots for MemoryStore {
    async fn snapshot(&self, stream: &StreamId, schema: u32) -> Result<Option<Snapshot>, AwsError> {
        Ok(self.request().snapshots.get(&(stream.clone(), schema)).cloned())
    }

    async fn put_snapshot(&self, snapshot: &Snapshot, replaces: Replaces) -> Result<bool, AwsError> {
        // Called for its refusal of a snapshot that is too large.
        snapshot_item(snapshot)?;
        let mut contents = self.request();
        let key = (snapshot.stream.clone(), snapshot.schema);
        let kept = contents.snapshots.get(&key);
        let put = match replaces {
            Replaces::Older => kept.is_none_or(|kept| kept.version < snapshot.version),
            Replaces::Any => true,
        };
        if put {
            contents.snapshots.insert(key, snapshot.clone());
        }
        Ok(put)
    }

    async fn command_blocks(
        &self,
        stream: &StreamId,
        numbers: &[u64],
    ) -> Result<Vec<CommandBlock>, AwsError> {
        let contents = self.request();
        let block = |number: &u64| {
            let kept = contents.blocks.get(&(stream.clone(), CommandBlock::slot(*number)));
            kept.filter(|kept| kept.number == *number).cloned()
        };
        Ok(numbers.iter().filter_map(block).collect())
    }

    async fn put_command_block(&self, block: &CommandBlock, replaces: Replaces) -> Result<bool, AwsError> {
        // Called for its refusal of a block that is made wrong.
        block_item(block)?;
        let mut contents = self.request();
        let key = (block.stream.clone(), CommandBlock::slot(block.number));
        let put = match replaces {
            Replaces::Older => contents.blocks.get(&key).is_none_or(|kept| kept.number < block.number),
            Replaces::Any => true,
        };
        if put {
            contents.blocks.insert(key, block.clone());
        }
        Ok(put)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{contract, testing::any_event};

    #[tokio::test(flavor = "multi_thread")]
    async fn the_memory_store_keeps_the_contract() {
        contract::run_all(&MemoryStore::default()).await;
    }

    #[tokio::test]
    async fn a_look_at_the_memory_shows_events_in_the_order_of_their_arrival() {
        let store = MemoryStore::default();
        let events = [any_event(1), any_event(2)];
        for event in &events {
            let commit = Commit { events: vec![event.clone()], claims: vec![], releases: vec![] };
            store.append(&commit).await.unwrap();
        }
        assert_eq!(store.all(), events);
        assert_eq!(store.requests(), 2);
    }
}
