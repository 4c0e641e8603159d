//! The relay's ports in memory, for tests and simulations. Clones share their content.
//!
//! Calls take no time and never fail; a test wraps them to add delays or failures.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millrace_aws::{AwsError, Segment};
use millrace_core::{Envelope, StreamId, Timestamp};

use super::{
    bus::{Entry, EventBus, MAX_ENTRIES, Rejection},
    leases::{LOOKER, Lease, LeaseTable, Leases, Parent, RefillJob, Replica, segment_of},
    refill::{Refill, RefillPage},
    stream::{
        Content, FULL_PAGE, Position, Record, Records, Sequence, Shard, ShardId, ShardStream, Shards,
        StreamError,
    },
    time::hash_of,
};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream. It begins with one open shard, `shard-0`.
#[derive(Debug, Clone)]
pub struct MemoryStream(Arc<Mutex<Stream>>);

#[derive(Debug, Default)]
struct Stream {
    /// By their numbers.
    shards: BTreeMap<u64, MemoryShard>,
    /// The numbers of the open ones, by the starts of their ranges.
    open: BTreeMap<u64, u64>,
    sequence: u64,
    named: u64,
    /// Cursors with an older time have expired.
    time: u64,
}

#[derive(Debug)]
struct MemoryShard {
    shard: Shard,
    /// The hashes of the aggregates in the shard.
    range: (u64, u64),
    closed: bool,
    records: Vec<Record>,
    /// How many records before the first remaining one were dropped.
    dropped: usize,
}

/// A place in a [`MemoryStream`].
#[derive(Debug, Clone)]
pub struct MemoryCursor {
    shard: ShardId,
    index: usize,
    time: u64,
}

impl Default for MemoryStream {
    fn default() -> Self {
        let stream = Self(Arc::default());
        lock(&stream.0).open(None, (0, u64::MAX));
        stream
    }
}

impl MemoryStream {
    /// Adds an event to the open shard of its aggregate.
    pub fn append(&self, envelope: Envelope) {
        let aggregate = hash_of(envelope.stream());
        self.push(aggregate, Content::Event(Box::new(envelope)));
    }

    /// Adds a record to the open shard whose range holds `hash`.
    pub fn push(&self, hash: u64, content: Content) {
        let mut stream = lock(&self.0);
        stream.sequence += 1;
        let sequence = Sequence(format!("{:021}", stream.sequence));
        let number = stream.open.range(..=hash).next_back().map(|(_, number)| *number);
        if let Some(shard) = number.and_then(|number| stream.shards.get_mut(&number)) {
            shard.records.push(Record { sequence, content });
        }
    }

    /// Closes an open shard and opens two children, each with half of its range.
    pub fn split(&self, parent: &ShardId) {
        let mut stream = lock(&self.0);
        let place = number_of(parent);
        let Some(shard) = place.and_then(|place| stream.shards.get_mut(&place)).filter(|shard| !shard.closed)
        else {
            return;
        };
        shard.closed = true;
        let (low, high) = shard.range;
        let middle = low + (high - low) / 2;
        stream.open.remove(&low);
        stream.open(Some(parent.clone()), (low, middle));
        stream.open(Some(parent.clone()), (middle + 1, high));
    }

    /// The open shards.
    pub fn open_shards(&self) -> Vec<ShardId> {
        lock(&self.0).shards.values().filter(|s| !s.closed).map(|s| s.shard.id.clone()).collect()
    }

    /// All shards, closed ones too.
    pub fn listed(&self) -> Vec<Shard> {
        lock(&self.0).shards.values().map(|s| s.shard.clone()).collect()
    }

    /// The records that a shard still has.
    pub fn records(&self, shard: &ShardId) -> Vec<Record> {
        lock(&self.0).shard(shard).map(|shard| shard.records.clone()).unwrap_or_default()
    }

    /// Drops all records of all shards, as their age or an emulator's restart does.
    pub fn drop_records(&self) {
        for shard in lock(&self.0).shards.values_mut() {
            shard.dropped += shard.records.len();
            shard.records.clear();
        }
    }

    /// Drops the shards that are closed, with their records.
    pub fn drop_closed_shards(&self) {
        lock(&self.0).shards.retain(|_, shard| !shard.closed);
    }

    /// Drops everything and begins again with one new shard.
    pub fn replace(&self) {
        let mut stream = lock(&self.0);
        stream.shards.clear();
        stream.open.clear();
        stream.open(None, (0, u64::MAX));
    }

    /// Makes all cursors expire.
    pub fn expire_cursors(&self) {
        lock(&self.0).time += 1;
    }
}

impl Stream {
    fn open(&mut self, parent: Option<ShardId>, range: (u64, u64)) {
        let id = ShardId::from(format!("shard-{}", self.named));
        let shard = Shard { id, parent };
        let shard = MemoryShard { shard, range, closed: false, records: Vec::new(), dropped: 0 };
        self.open.insert(range.0, self.named);
        self.shards.insert(self.named, shard);
        self.named += 1;
    }

    fn shard(&self, id: &ShardId) -> Result<&MemoryShard, StreamError> {
        number_of(id).and_then(|number| self.shards.get(&number)).ok_or(StreamError::Gone)
    }
}

fn number_of(shard: &ShardId) -> Option<u64> {
    shard.as_str().strip_prefix("shard-")?.parse().ok()
}

impl ShardStream for MemoryStream {
    type Cursor = MemoryCursor;

    async fn shards(&self, from: Option<&ShardId>) -> Result<Shards, AwsError> {
        const PAGE: usize = 100;
        let stream = lock(&self.0);
        let from = from.and_then(number_of).map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = stream.shards.range((from, Bound::Unbounded)).map(|(_, shard)| &shard.shard);
        let shards: Vec<Shard> = rest.by_ref().take(PAGE).cloned().collect();
        let next = shards.last().filter(|_| rest.next().is_some()).map(|last| last.id.clone());
        Ok(Shards { shards, next })
    }

    async fn children(&self, shard: &ShardId) -> Result<Vec<Shard>, AwsError> {
        let stream = lock(&self.0);
        let Some(number) = number_of(shard) else { return Ok(Vec::new()) };
        let younger = stream.shards.range((Bound::Excluded(number), Bound::Unbounded));
        let is_child = |child: &&MemoryShard| child.shard.parent.as_ref() == Some(shard);
        // A split opens two, one after the other.
        let found = younger.map(|(_, child)| child).filter(is_child).take(2);
        Ok(found.map(|child| child.shard.clone()).collect())
    }

    async fn open(&self, shard: &ShardId, position: &Position) -> Result<MemoryCursor, StreamError> {
        let stream = lock(&self.0);
        let found = stream.shard(shard)?;
        let index = match position {
            Position::TrimHorizon => found.dropped,
            Position::After(sequence) => {
                let at =
                    found.records.iter().position(|r| r.sequence == *sequence).ok_or(StreamError::Trimmed)?;
                found.dropped + at + 1
            }
        };
        Ok(MemoryCursor { shard: shard.clone(), index, time: stream.time })
    }

    async fn read(&self, cursor: &MemoryCursor) -> Result<Records<MemoryCursor>, StreamError> {
        let stream = lock(&self.0);
        if cursor.time != stream.time {
            return Err(StreamError::Expired);
        }
        let shard = stream.shard(&cursor.shard)?;
        let skip = cursor.index.checked_sub(shard.dropped).ok_or(StreamError::Trimmed)?;
        let records: Vec<Record> = shard.records.iter().skip(skip).take(FULL_PAGE).cloned().collect();
        let index = cursor.index + records.len();
        let ended = shard.closed && index >= shard.dropped + shard.records.len();
        Ok(Records { records, next: (!ended).then(|| MemoryCursor { index, ..cursor.clone() }) })
    }
}

/// Leases.
#[derive(Debug, Clone, Default)]
pub struct MemoryLeases(Arc<Mutex<LeaseMaps>>);

#[derive(Debug, Default)]
struct LeaseMaps {
    leases: BTreeMap<ShardId, Lease>,
    replicas: BTreeMap<String, Replica>,
    refills: BTreeMap<u64, RefillJob>,
    complete_at: Option<Timestamp>,
}

impl MemoryLeases {
    /// Changes a lease if it exists and passes the check; returns the new lease.
    fn change(
        &self,
        shard: &ShardId,
        check: impl FnOnce(&Lease) -> bool,
        change: impl FnOnce(&mut Lease),
    ) -> Option<Lease> {
        let mut maps = lock(&self.0);
        let lease = maps.leases.get_mut(shard).filter(|lease| check(lease))?;
        change(lease);
        Some(lease.clone())
    }

    fn write(&self, lease: &Lease, owner: Option<String>, check: impl FnOnce(&Lease) -> bool) -> bool {
        let ours = |there: &Lease| there.owner == lease.owner && there.fence == lease.fence && check(there);
        let write = |there: &mut Lease| {
            (there.owner, there.expires_at, there.progress) =
                (owner, lease.expires_at, lease.progress.clone());
        };
        self.change(&lease.shard, ours, write).is_some()
    }
}

impl Leases for MemoryLeases {
    async fn list(&self) -> Result<LeaseTable, AwsError> {
        let maps = lock(&self.0);
        let looker = ShardId::from(LOOKER);
        let leases = maps.leases.values().filter(|lease| lease.shard != looker).cloned();
        let (segments, leases) = leases.partition(|lease| segment_of(&lease.shard).is_some());
        Ok(LeaseTable {
            leases,
            segments,
            looker: maps.leases.get(&looker).cloned(),
            refills: maps.refills.values().copied().collect(),
            replicas: maps.replicas.values().cloned().collect(),
            complete_at: maps.complete_at,
        })
    }

    async fn create(&self, lease: &Lease) -> Result<bool, AwsError> {
        let mut maps = lock(&self.0);
        let is_new = !maps.leases.contains_key(&lease.shard);
        if is_new {
            maps.leases.insert(lease.shard.clone(), lease.clone());
        }
        Ok(is_new)
    }

    async fn take(
        &self,
        seen: &Lease,
        owner: &str,
        expires_at: Timestamp,
    ) -> Result<Option<Lease>, AwsError> {
        let same = |there: &Lease| there.fence == seen.fence && there.expires_at == seen.expires_at;
        Ok(self.change(&seen.shard, same, |lease| {
            lease.owner = Some(owner.to_owned());
            lease.fence += 1;
            lease.expires_at = expires_at;
        }))
    }

    async fn keep(&self, lease: &Lease) -> Result<bool, AwsError> {
        Ok(self.write(lease, lease.owner.clone(), |there| there.expires_at <= lease.expires_at))
    }

    async fn release(&self, lease: &Lease) -> Result<bool, AwsError> {
        Ok(self.write(lease, None, |_| true))
    }

    async fn correct(&self, lease: &Lease) -> Result<(), AwsError> {
        self.change(
            &lease.shard,
            |_| true,
            |there| {
                if lease.parent != Parent::Unknown {
                    there.parent = lease.parent.clone();
                }
                there.is_unlisted = lease.is_unlisted;
            },
        );
        Ok(())
    }

    async fn forget(&self, seen: &Lease) -> Result<(), AwsError> {
        let mut maps = lock(&self.0);
        if maps.leases.get(&seen.shard).is_some_and(|there| there.fence == seen.fence) {
            maps.leases.remove(&seen.shard);
        }
        Ok(())
    }

    async fn announce(&self, replica: &Replica) -> Result<(), AwsError> {
        lock(&self.0).replicas.insert(replica.owner.clone(), replica.clone());
        Ok(())
    }

    async fn note_complete(&self, at: Timestamp) -> Result<(), AwsError> {
        let mut maps = lock(&self.0);
        maps.complete_at = maps.complete_at.max(Some(at));
        Ok(())
    }

    async fn begin_refill(&self, refill: &RefillJob) -> Result<bool, AwsError> {
        let mut maps = lock(&self.0);
        let is_new = !maps.refills.contains_key(&refill.number);
        if is_new {
            maps.refills.insert(refill.number, *refill);
        }
        Ok(is_new)
    }

    async fn end_refill(&self, refill: &RefillJob) -> Result<(), AwsError> {
        lock(&self.0).refills.remove(&refill.number);
        Ok(())
    }

    async fn withdraw(&self, owner: &str) -> Result<(), AwsError> {
        lock(&self.0).replicas.remove(owner);
        Ok(())
    }
}

/// A bus that accepts everything.
#[derive(Debug, Clone, Default)]
pub struct MemoryBus(Arc<Mutex<Vec<Entry>>>);

impl MemoryBus {
    /// All entries accepted so far, in order.
    pub fn entries(&self) -> Vec<Entry> {
        lock(&self.0).clone()
    }

    /// The events in them.
    pub fn events(&self) -> Vec<Envelope> {
        lock(&self.0).iter().filter_map(|entry| serde_json::from_str(&entry.detail).ok()).collect()
    }
}

impl EventBus for MemoryBus {
    async fn put(&self, entries: &[Entry]) -> Result<Vec<Result<(), Rejection>>, Rejection> {
        if entries.is_empty() || entries.len() > MAX_ENTRIES {
            return Err(Rejection::Content(AwsError::Refused("a call takes 1 to 10 entries".to_owned())));
        }
        lock(&self.0).extend_from_slice(entries);
        Ok(entries.iter().map(|_| Ok(())).collect())
    }
}

/// The event store's table. Like DynamoDB's, a scan goes by the hash of the stream and then by version, so events added
/// meanwhile may come before or after the scan's position.
#[derive(Debug, Clone, Default)]
pub struct MemoryTable(Arc<Mutex<BTreeMap<TablePlace, (Timestamp, Content)>>>);

/// An item's place in a [`MemoryTable`].
type TablePlace = (u64, String, u64);

impl MemoryTable {
    /// Adds an event.
    pub fn append(&self, envelope: Envelope) {
        let (stream, version, time) = (envelope.stream(), envelope.version, envelope.timestamp);
        self.push(&stream, version, time, Content::Event(Box::new(envelope)));
    }

    /// Adds an item.
    pub fn push(&self, stream: &StreamId, version: u64, time: Timestamp, content: Content) {
        lock(&self.0).insert((hash_of(stream), stream.to_string(), version), (time, content));
    }
}

impl Refill for MemoryTable {
    async fn page(
        &self,
        since: Timestamp,
        segment: Segment,
        from: Option<&Sequence>,
    ) -> Result<RefillPage, AwsError> {
        const PAGE: usize = 25;
        let from = from.and_then(place).map_or(Bound::Unbounded, Bound::Excluded);
        let table = lock(&self.0);
        let of_segment =
            |place: &TablePlace| place.0 % u64::from(segment.of.get()) == u64::from(segment.number);
        let rest = table.range((from, Bound::Unbounded)).filter(|(place, _)| of_segment(place));
        let page: Vec<_> = rest.take(PAGE).collect();
        let last = page.last().filter(|_| page.len() == PAGE);
        let next = last.map(|((hash, stream, version), _)| Sequence(format!("{hash} {version} {stream}")));
        let wanted = page.into_iter().filter(|(_, (time, _))| *time >= since);
        let contents = wanted.map(|(_, (_, content))| content.clone()).collect();
        Ok(RefillPage { contents, next })
    }
}

/// The place that the text of a page's `next` names.
fn place(Sequence(text): &Sequence) -> Option<TablePlace> {
    let mut parts = text.splitn(3, ' ');
    let (hash, version) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((hash, parts.next()?.to_owned(), version))
}
