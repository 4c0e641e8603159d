//! States of aggregates in memory. They save reads; no answer depends on them.

use std::{
    fmt,
    io::{self, Write},
    mem::size_of,
    sync::Arc,
};

use millrace_core::{Aggregate, AggregateState, StreamId};
use quick_cache::{Weighter, sync::Cache};

use crate::{meters, recent::RecentCommands};

/// The states of one kind of aggregate that were used lately, bounded by the memory that they take.
pub struct StateCache<A> {
    states: Arc<Cache<StreamId, Cached<A>, Weight>>,
    known: Arc<Cache<StreamId, ()>>,
    recent: Arc<Cache<StreamId, CachedRecent, Weight>>,
}

/// The commands of the last minutes, and the bytes that they took when they were kept: a weight must not change.
#[derive(Clone)]
struct CachedRecent {
    commands: Arc<RecentCommands>,
    bytes: u64,
}

/// A state in the cache.
struct Cached<A> {
    state: Arc<AggregateState<A>>,
    /// The size of the aggregate's own state, by its serialized form, and the version at which it was measured.
    size: u64,
    measured_at: u64,
    /// How many more commands read the end of the stream before they decide.
    reads_first: u8,
}

/// A state from the cache.
#[derive(Debug)]
pub struct CachedState<A> {
    /// The state, which may be old.
    pub state: Arc<AggregateState<A>>,
    /// Whether other replicas write this aggregate too, so that the state is probably old.
    pub is_shared: bool,
}

/// The weight of an entry: about the bytes that it takes in memory.
#[derive(Clone)]
struct Weight;

/// About the bytes that a key and the cache's own entry take.
const ENTRY_BYTES: usize = 256;

/// About the bytes that an entry in the set of known aggregates takes.
const KNOWN_BYTES: usize = 256;

/// The least room for the commands of the last minutes, beside that for states: those of one aggregate take up to 4 MB, and
/// if they did not fit, each command would load them.
const RECENT_BYTES: u64 = 8 << 20;

/// A state's size is measured anew when its stream has grown by an eighth, and after this many events at the latest: to
/// measure it is to serialize it.
const MEASURED_EVERY: u64 = 16;

/// After events of other replicas, so many reads in a row must find nothing new before the state is trusted again. With
/// fewer, chance alone ends the reads too often where two replicas take turns at random.
const READS_FIRST: u8 = 4;

impl<A: Aggregate> Cached<A> {
    /// A state to be kept in place of `before`.
    fn new(state: Arc<AggregateState<A>>, before: Option<Self>, reads_first: u8) -> Self {
        let is_recent = |before: &Self| {
            let grown = state.version().saturating_sub(before.measured_at);
            grown <= (before.measured_at / 8).min(MEASURED_EVERY)
        };
        match before.filter(is_recent) {
            Some(Self { size, measured_at, .. }) => Self { state, size, measured_at, reads_first },
            None => Self { size: serialized_size(&*state), measured_at: state.version(), state, reads_first },
        }
    }
}

impl<A> Clone for Cached<A> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), ..*self }
    }
}

/// The bytes of the aggregate's state as JSON: so no aggregate has to report its size.
fn serialized_size<A: Aggregate>(state: &AggregateState<A>) -> u64 {
    struct Counter(u64);
    impl Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // A state that cannot be serialized has no snapshots either, which is logged; it weighs the part written so far.
    let _ = serde_json::to_writer(&mut counter, &state.state());
    counter.0
}

impl<A: Aggregate> Weighter<StreamId, Cached<A>> for Weight {
    fn weight(&self, _: &StreamId, cached: &Cached<A>) -> u64 {
        let fixed = size_of::<AggregateState<A>>() + ENTRY_BYTES + cached.state.remembered_bytes();
        cached.size.saturating_add(u64::try_from(fixed).unwrap_or(u64::MAX))
    }
}

impl Weighter<StreamId, CachedRecent> for Weight {
    fn weight(&self, _: &StreamId, cached: &CachedRecent) -> u64 {
        cached.bytes
    }
}

impl<A: Aggregate> StateCache<A> {
    /// An empty cache of at most about `bytes` of memory. An eighth of it remembers which aggregates exist. Beside it, the
    /// commands of the last minutes of busy aggregates take up to a quarter as much, or 8 MiB.
    pub fn new(bytes: u64) -> Self {
        let room = |bytes: u64, each: usize| usize::try_from(bytes).unwrap_or(usize::MAX) / each;
        let (known, states) = (bytes / 8, bytes - bytes / 8);
        Self {
            states: Arc::new(Cache::with_weighter(room(states, 4 * ENTRY_BYTES).max(1), states, Weight)),
            known: Arc::new(Cache::new(room(known, KNOWN_BYTES).max(1))),
            // Expecting few makes it one shard, in which one entry may take all the room.
            recent: Arc::new(Cache::with_weighter(1, (bytes / 4).max(RECENT_BYTES), Weight)),
        }
    }

    /// The state that was kept last.
    pub fn get(&self, stream: &StreamId) -> Option<CachedState<A>> {
        let cached = self.states.get(stream);
        meters::state_asked(cached.is_some());
        cached.map(|cached| CachedState { state: cached.state, is_shared: cached.reads_first > 0 })
    }

    /// Keeps a state, unless the cache has a newer one. All events up to `others` were there already when this replica
    /// looked: if the cache does not have them, other replicas write the aggregate too.
    pub fn keep(&self, stream: &StreamId, others: u64, state: Arc<AggregateState<A>>) {
        let before = self.states.peek(stream);
        let known = before.as_ref().map(|before| before.state.version());
        if known.is_none_or(|known| known < state.version()) {
            let reads_first = match &before {
                Some(before) if before.state.version() < others => READS_FIRST,
                Some(before) => before.reads_first,
                None => 0,
            };
            self.states.insert(stream.clone(), Cached::new(state, before, reads_first));
        }
    }

    /// Keeps a state that was found to be the newest.
    pub fn confirm(&self, stream: &StreamId, state: &Arc<AggregateState<A>>) {
        match self.states.peek(stream) {
            Some(kept) if kept.state.version() < state.version() => {
                self.keep(stream, state.version(), state.clone());
            }
            Some(kept) if kept.reads_first > 0 => {
                let reads_first = kept.reads_first - 1;
                self.states.insert(stream.clone(), Cached { reads_first, ..kept });
            }
            Some(_) | None => {}
        }
    }

    /// Whether the aggregate is known to exist.
    pub fn is_known(&self, stream: &StreamId) -> bool {
        self.known.get(stream).is_some() || self.states.peek(stream).is_some()
    }

    /// Remembers that the aggregate exists.
    pub fn know(&self, stream: &StreamId) {
        self.known.insert(stream.clone(), ());
    }

    /// The commands of the last minutes, as they were kept last.
    pub(crate) fn recent(&self, stream: &StreamId) -> Option<Arc<RecentCommands>> {
        self.recent.get(stream).map(|cached| cached.commands)
    }

    /// Keeps the commands of the last minutes.
    pub(crate) fn keep_recent(&self, stream: &StreamId, commands: &Arc<RecentCommands>) {
        let bytes = commands.bytes();
        let is_kept = |kept: CachedRecent| Arc::ptr_eq(&kept.commands, commands) && kept.bytes == bytes;
        if !self.recent.peek(stream).is_some_and(is_kept) {
            self.recent.insert(stream.clone(), CachedRecent { commands: commands.clone(), bytes });
        }
    }

    /// The weight of all states, in bytes.
    pub fn weight(&self) -> u64 {
        self.states.weight()
    }
}

impl<A> Clone for StateCache<A> {
    fn clone(&self) -> Self {
        Self { states: self.states.clone(), known: self.known.clone(), recent: self.recent.clone() }
    }
}

impl<A> fmt::Debug for StateCache<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateCache")
    }
}

#[cfg(test)]
mod tests {
    use millrace_core::TenantId;
    use uuid::Uuid;

    use super::*;
    use crate::testing::{Note, noted};

    fn stream() -> StreamId {
        StreamId { tenant: TenantId::default(), aggregate_type: Note::TYPE, id: Uuid::from_u128(1) }
    }

    /// A note with a number of commands, with ids and texts of the given lengths.
    fn state(commands: u64, id_length: usize, text_length: usize) -> Arc<AggregateState<Note>> {
        let commands = (1..=commands).map(|n| (format!("{n:0id_length$}"), "x".repeat(text_length)));
        Arc::new(noted(commands))
    }

    fn weight(state: Arc<AggregateState<Note>>) -> u64 {
        let cache = StateCache::new(1 << 20);
        cache.keep(&stream(), 0, state);
        cache.weight()
    }

    #[test]
    fn an_older_state_does_not_replace_a_newer_one() {
        let cache = StateCache::new(1 << 20);
        for (kept, version) in [(2, 2), (1, 2), (3, 3)] {
            cache.keep(&stream(), 0, state(kept, 1, 1));
            assert_eq!(cache.get(&stream()).unwrap().state.version(), version, "after {kept}");
        }
    }

    #[test]
    fn a_state_is_shared_from_events_of_others_until_four_looks_find_none() {
        let cache = StateCache::new(1 << 20);
        let keep = |others, version| cache.keep(&stream(), others, state(version, 1, 1));
        let is_shared = || cache.get(&stream()).unwrap().is_shared;
        keep(3, 3);
        assert!(!is_shared(), "a first load shows nothing of others");
        keep(3, 4);
        assert!(!is_shared(), "a commit on the kept state");
        keep(5, 6);
        assert!(is_shared(), "a commit on an event that was not kept");
        keep(6, 7);
        for look in 0..4 {
            assert!(is_shared(), "after {look} looks and a commit");
            cache.confirm(&stream(), &state(7, 1, 1));
        }
        assert!(!is_shared());
        cache.confirm(&stream(), &state(8, 1, 1));
        assert!(is_shared() && cache.get(&stream()).unwrap().state.version() == 8);
    }

    #[test]
    fn a_state_weighs_what_it_remembers_and_what_it_holds() {
        let one = weight(state(1, 10, 1));
        let (many, long) = (weight(state(128, 10, 1)), weight(state(128, 110, 1)));
        assert!((300..1_000).contains(&one), "{one}");
        // A fingerprint, a version and a time for each command, and the note's own text; of the ids only the last.
        assert!((127 * 24..127 * 32).contains(&(many - one)), "{one} {many}");
        assert_eq!(long - many, 100);
        assert_eq!(weight(state(1, 10, 100_001)) - one, 100_000);
    }

    #[test]
    fn a_growing_state_is_weighed_within_an_eighth_of_its_events() {
        let cache = StateCache::new(1 << 30);
        // Each event adds a hundred characters.
        for version in 1..=300_u64 {
            let state = state(version, 3, 100);
            let exact = weight(state.clone());
            cache.keep(&stream(), 0, state);
            let behind = (version / 8).min(MEASURED_EVERY) * 110;
            assert!(
                (exact - behind..=exact).contains(&cache.weight()),
                "{version}: {exact} {}",
                cache.weight()
            );
        }
    }
}
