//! States of aggregates in memory. They save reads; no answer depends on them.

use std::{
    fmt,
    io::{self, Write},
    mem::size_of,
    sync::Arc,
};

use millrace_core::{Aggregate, AggregateState, StreamId};
use quick_cache::{Weighter, sync::Cache};

use crate::meters;

/// The states of one kind of aggregate that were used lately, bounded by the memory that they take.
pub struct StateCache<A> {
    states: Arc<Cache<StreamId, Cached<A>, Weight>>,
    known: Arc<Cache<StreamId, ()>>,
}

/// A state in the cache.
struct Cached<A> {
    state: Arc<AggregateState<A>>,
    /// The size of the aggregate's own state, by its serialized form, and the version at which it was measured.
    size: u64,
    measured_at: u64,
}

/// The weight of an entry: about the bytes that it takes in memory.
#[derive(Clone)]
struct Weight;

/// About the bytes that a key and the cache's own entry take.
const ENTRY_BYTES: usize = 256;

/// About the bytes that an entry in the set of known aggregates takes.
const KNOWN_BYTES: usize = 256;

/// A state's size is measured anew when its stream has grown by an eighth, and after this many events at the latest: to
/// measure it is to serialize it.
const MEASURED_EVERY: u64 = 16;

impl<A: Aggregate> Cached<A> {
    /// A state to be kept in place of `before`.
    fn new(state: Arc<AggregateState<A>>, before: Option<Self>) -> Self {
        let is_recent = |before: &Self| {
            let grown = state.version().saturating_sub(before.measured_at);
            grown <= (before.measured_at / 8).min(MEASURED_EVERY)
        };
        match before.filter(is_recent) {
            Some(Self { size, measured_at, .. }) => Self { state, size, measured_at },
            None => Self { size: serialized_size(&*state), measured_at: state.version(), state },
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

impl<A: Aggregate> StateCache<A> {
    /// An empty cache of at most about `bytes` of memory. An eighth of it remembers which aggregates exist.
    pub fn new(bytes: u64) -> Self {
        let room = |bytes: u64, each: usize| usize::try_from(bytes).unwrap_or(usize::MAX) / each;
        let (known, states) = (bytes / 8, bytes - bytes / 8);
        Self {
            states: Arc::new(Cache::with_weighter(room(states, 4 * ENTRY_BYTES).max(1), states, Weight)),
            known: Arc::new(Cache::new(room(known, KNOWN_BYTES).max(1))),
        }
    }

    /// The state that was kept last, which may be old.
    pub fn get(&self, stream: &StreamId) -> Option<Arc<AggregateState<A>>> {
        let cached = self.states.get(stream);
        meters::state_asked(cached.is_some());
        cached.map(|cached| cached.state)
    }

    /// Keeps a state, unless the cache has a newer one.
    pub fn keep(&self, stream: &StreamId, state: Arc<AggregateState<A>>) {
        let before = self.states.peek(stream);
        if before.as_ref().is_none_or(|before| before.state.version() < state.version()) {
            self.states.insert(stream.clone(), Cached::new(state, before));
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

    /// The weight of all states, in bytes.
    pub fn weight(&self) -> u64 {
        self.states.weight()
    }
}

impl<A> Clone for StateCache<A> {
    fn clone(&self) -> Self {
        Self { states: self.states.clone(), known: self.known.clone() }
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
        cache.keep(&stream(), state);
        cache.weight()
    }

    #[test]
    fn an_older_state_does_not_replace_a_newer_one() {
        let cache = StateCache::new(1 << 20);
        for (kept, version) in [(2, 2), (1, 2), (3, 3)] {
            cache.keep(&stream(), state(kept, 1, 1));
            assert_eq!(cache.get(&stream()).unwrap().version(), version, "after {kept}");
        }
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
            cache.keep(&stream(), state);
            let behind = (version / 8).min(MEASURED_EVERY) * 110;
            assert!(
                (exact - behind..=exact).contains(&cache.weight()),
                "{version}: {exact} {}",
                cache.weight()
            );
        }
    }
}
