//! Loading: from the cache, or from the end of the stream back to a snapshot.

use std::sync::Arc;

use millrace_core::{Aggregate, AggregateState, CommittedEvent, EventCodec, StreamId};
use millrace_event_store::{Entry, LoadEvents, Replaces, Snapshots, StoredEvent};
use millrace_server::Failure;

use crate::{
    recent::RecentEvent,
    snapshots::{FIRST_PAGE, NEXT_PAGE, Snapshotter},
    state_cache::{CachedState, StateCache},
};

/// Brings aggregates' states up to date.
#[derive(Debug, Clone)]
pub struct Loader<A, S> {
    pub(crate) store: S,
    pub(crate) cache: StateCache<A>,
    snapshots: Snapshotter<S>,
}

/// A loaded state.
#[derive(Debug)]
pub struct Loaded<A> {
    /// The state.
    pub state: Arc<AggregateState<A>>,
    /// Whether it was read from the store for this command, so that it was the newest when the command came.
    pub is_current: bool,
}

impl<A, S> Loader<A, S>
where
    A: Aggregate<Event: EventCodec>,
    S: LoadEvents + Snapshots,
{
    /// Loads from `store`, by way of the cache and of snapshots.
    pub fn new(store: S, cache: StateCache<A>, snapshots: Snapshotter<S>) -> Self {
        Self { store, cache, snapshots }
    }

    /// The state in the cache, which may be old, or else the newest. The newest as well if other replicas write the
    /// aggregate too.
    pub async fn load(&self, stream: &StreamId) -> Result<Loaded<A>, Failure> {
        match self.cache.get(stream) {
            // A state that other replicas have probably outdated costs a read. An append that fails costs more.
            Some(CachedState { state, is_shared: true }) => self.refresh(stream, state).await,
            Some(CachedState { state, is_shared: false }) => Ok(Loaded { state, is_current: false }),
            None => self.refresh(stream, Arc::default()).await,
        }
    }

    /// Brings a state up to date, and keeps it.
    ///
    /// The end of the stream is read first: all of a short stream, and all that a nearly current state lacks. Where it does
    /// not reach back to the state, a snapshot bridges the rest.
    pub async fn refresh(
        &self,
        stream: &StreamId,
        state: Arc<AggregateState<A>>,
    ) -> Result<Loaded<A>, Failure> {
        let page = if state.version() == 0 { FIRST_PAGE } else { NEXT_PAGE };
        let end = self.store.newest(stream, state.version(), page).await?;
        let Some(first) = end.first().map(|entry| entry.version) else {
            self.cache.confirm(stream, &state);
            return Ok(Loaded { state, is_current: true });
        };
        let state = if first == state.version() + 1 {
            self.advance(stream, &state, &end)?
        } else {
            self.bridge(stream, Arc::unwrap_or_clone(state), first, &end).await?
        };
        self.cache.keep(stream, state.version(), state.clone());
        Ok(Loaded { state, is_current: true })
    }

    /// Whether an aggregate exists. Aggregates never cease to exist, so a yes from the cache stays true.
    pub async fn exists(&self, stream: &StreamId) -> Result<bool, Failure> {
        if self.cache.is_known(stream) {
            return Ok(true);
        }
        let exists = !self.store.newest(stream, 0, 1).await?.is_empty();
        if exists {
            self.cache.know(stream);
        }
        Ok(exists)
    }

    /// The state after events that follow a known one.
    pub(crate) fn advance(
        &self,
        stream: &StreamId,
        known: &AggregateState<A>,
        events: &[Entry],
    ) -> Result<Arc<AggregateState<A>>, Failure> {
        let state = fold(known.clone(), events)?;
        // The replica that has added the last event of a block keeps the block.
        self.remember(stream, known, &state, events.iter().map(RecentEvent::from));
        Ok(Arc::new(state))
    }

    /// Keeps the state after a commit on the state `before`.
    pub fn keep(
        &self,
        stream: &StreamId,
        before: &AggregateState<A>,
        state: Arc<AggregateState<A>>,
        events: &[StoredEvent],
    ) {
        for block in self.remember(stream, before, &state, events.iter().map(RecentEvent::from)) {
            self.snapshots.keep_block(block);
        }
        if self.snapshots.is_due(before.version(), state.version()) {
            self.snapshots.keep(stream, &state, Replaces::Older);
        }
        self.cache.keep(stream, before.version(), state);
    }

    /// The newest state of a stream whose end, from version `first` on, does not follow the known state.
    async fn bridge(
        &self,
        stream: &StreamId,
        known: AggregateState<A>,
        first: u64,
        end: &[Entry],
    ) -> Result<Arc<AggregateState<A>>, Failure> {
        let mut state = known;
        let mut bridged = true;
        let newer = |kept: &AggregateState<A>| state.version() < kept.version();
        let (kept, mut replaces) = self.snapshots.newest::<A>(stream).await?;
        if let Some(kept) = kept.filter(newer) {
            let from_kept;
            let entries = if kept.version() >= first {
                end
            } else {
                bridged = false;
                from_kept = self.store.between(stream, kept.version() - 1, first).await?;
                &from_kept
            };
            // A snapshot counts only if the stream has the very event that it ends with: a table that was restored to an
            // earlier time may have another history.
            if entries.iter().any(|e| e.version == kept.version() && kept.last_event() == Some(e.event_id)) {
                state = fold(kept, entries)?;
                replaces = Replaces::Older;
            }
        }
        while state.version() + 1 < first {
            if !bridged {
                // A long load may outlast its caller's patience. The next one begins where this one ended.
                let progress = Arc::new(state);
                self.snapshots.keep(stream, &progress, replaces);
                state = Arc::unwrap_or_clone(progress);
            }
            bridged = false;
            let between = self.store.between(stream, state.version(), first).await?;
            if between.is_empty() {
                return Err(Failure::Internal(format!("nothing is between {} and {first}", state.version())));
            }
            state = fold(state, &between)?;
        }
        let state = Arc::new(fold(state, end)?);
        if !bridged {
            // The next load finds a better snapshot, even where the present one claims to be newer.
            self.snapshots.keep(stream, &state, replaces);
        }
        Ok(state)
    }
}

/// The state after those of the entries that are new to it.
pub(crate) fn fold<A: Aggregate<Event: EventCodec>>(
    state: AggregateState<A>,
    entries: &[Entry],
) -> Result<AggregateState<A>, Failure> {
    let newer = entries.iter().skip_while(|entry| entry.version <= state.version()).collect::<Vec<_>>();
    newer.into_iter().try_fold(state, |state, entry| {
        let broken = |error: &dyn std::error::Error| {
            Failure::Internal(format!("event {} of its stream: {error}", entry.event_id))
        };
        let recorded: CommittedEvent<A::Event> = entry.recorded().map_err(|error| {
            if error.is_of_newer_release() {
                Failure::NewerRelease { version: entry.version, reason: error.to_string() }
            } else {
                broken(&error)
            }
        })?;
        state.apply(&recorded).map_err(|error| broken(&error))
    })
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use millrace_aws::AwsError;
    use millrace_core::{CommandDigest, EventId, TenantId, Timestamp};
    use millrace_event_store::{CommandBlock, MemoryStore, Snapshot};
    use serde_json::{Map, json};
    use tokio::time::{sleep, timeout};
    use uuid::Uuid;

    use super::*;
    use crate::{snapshots, testing::Other};

    const LENGTH: u64 = 1_000_000;

    fn stream() -> StreamId {
        StreamId { tenant: TenantId::default(), aggregate_type: Other::TYPE, id: Uuid::from_u128(1) }
    }

    /// A stream whose events are made on request: 2,000 a request, after 20 ms.
    #[derive(Clone, Default)]
    struct Long {
        snapshots: MemoryStore,
        loaded: Arc<AtomicU64>,
        /// Whether snapshots can be read; they can be written either way.
        unreadable: bool,
    }

    impl Long {
        /// Loads with a cold cache, for a second at most.
        async fn load(&self) -> Option<Arc<AggregateState<Other>>> {
            let snapshots = Snapshotter::new(self.clone(), snapshots::EVERY);
            let loader = Loader::<Other, _>::new(self.clone(), StateCache::new(0), snapshots);
            let loaded = timeout(Duration::from_secs(1), loader.refresh(&stream(), Arc::default())).await;
            loaded.ok().map(|loaded| loaded.unwrap().state)
        }

        async fn entries(&self, versions: impl Iterator<Item = u64> + Send) -> Result<Vec<Entry>, AwsError> {
            sleep(Duration::from_millis(20)).await;
            let entry = |version: u64| Entry {
                version,
                event_id: EventId(Uuid::from_u128(version.into())),
                event_type: "Written".to_owned(),
                schema_version: 1,
                data: Map::from_iter([("text".to_owned(), "".into())]),
                command_id: version.to_string().parse().unwrap(),
                command_digest: CommandDigest(1),
                at: Timestamp::from_unix_micros(0),
            };
            let entries: Vec<_> = versions.map(entry).collect();
            self.loaded.fetch_add(entries.len().try_into().unwrap(), Ordering::SeqCst);
            Ok(entries)
        }
    }

    impl LoadEvents for Long {
        async fn newest(&self, _: &StreamId, after: u64, limit: u16) -> Result<Vec<Entry>, AwsError> {
            self.entries((after + 1).max(LENGTH + 1 - u64::from(limit))..=LENGTH).await
        }

        async fn between(&self, _: &StreamId, after: u64, before: u64) -> Result<Vec<Entry>, AwsError> {
            self.entries((after + 1..before).take(2_000)).await
        }
    }

    impl Snapshots for Long {
        async fn snapshot(&self, stream: &StreamId, schema: u32) -> Result<Option<Snapshot>, AwsError> {
            if self.unreadable {
                return Err(AwsError::Unreachable("no answer".into()));
            }
            self.snapshots.snapshot(stream, schema).await
        }

        async fn put_snapshot(&self, snapshot: &Snapshot, replaces: Replaces) -> Result<bool, AwsError> {
            self.snapshots.put_snapshot(snapshot, replaces).await
        }

        async fn command_blocks(&self, _: &StreamId, _: &[u64]) -> Result<Vec<CommandBlock>, AwsError> {
            Ok(Vec::new())
        }

        async fn put_command_block(&self, _: &CommandBlock, _: Replaces) -> Result<bool, AwsError> {
            Ok(false)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_of_a_million_events_finishes_over_several_tries() {
        let store = Long::default();
        let mut tries = 1;
        let state = loop {
            if let Some(state) = store.load().await {
                break state;
            }
            tries += 1;
            assert!(tries < 20, "no progress");
        };
        assert_eq!(state.version(), LENGTH);
        assert!(tries > 5, "{tries}");
        // Each try reads at most one page again.
        let loaded = store.loaded.load(Ordering::SeqCst);
        assert!(loaded < LENGTH + tries * 2_100, "{loaded}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_progress_of_a_load_replaces_no_newer_snapshot_that_was_out_of_reach() {
        let store = Long { unreadable: true, ..Long::default() };
        let better =
            Snapshot { stream: stream(), version: LENGTH, schema: Other::STATE_SCHEMA, state: json!({}) };
        assert!(store.put_snapshot(&better, Replaces::Older).await.unwrap());
        assert!(store.load().await.is_none());
        assert_eq!(store.snapshots.snapshot(&stream(), Other::STATE_SCHEMA).await.unwrap(), Some(better));
    }
}
