//! Loading: from the cache, or from the end of the stream back to a snapshot.

use std::sync::Arc;

use millrace_core::{Aggregate, AggregateState, CommittedEvent, EventCodec, StreamId};
use millrace_event_store::{Entry, LoadEvents, Replaces, Snapshots};
use millrace_server::Failure;

use crate::{
    snapshots::{FIRST_PAGE, Snapshotter},
    state_cache::StateCache,
};

/// Brings aggregates' states up to date.
#[derive(Debug, Clone)]
pub struct Loader<A, S> {
    store: S,
    cache: StateCache<A>,
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

    /// The state in the cache, which may be old, or else the newest.
    pub async fn load(&self, stream: &StreamId) -> Result<Loaded<A>, Failure> {
        match self.cache.get(stream) {
            Some(state) => Ok(Loaded { state, is_current: false }),
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
        let end = self.store.newest(stream, state.version(), FIRST_PAGE).await?;
        let Some(first) = end.first().map(|entry| entry.version) else {
            return Ok(Loaded { state, is_current: true });
        };
        let known = Arc::unwrap_or_clone(state);
        let state = if first == known.version() + 1 {
            Arc::new(fold(known, &end)?)
        } else {
            self.bridge(stream, known, first, &end).await?
        };
        self.cache.keep(stream, state.clone());
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

    /// Keeps the state after a commit on version `before`.
    pub fn keep(&self, stream: &StreamId, before: u64, state: Arc<AggregateState<A>>) {
        if self.snapshots.is_due(before, state.version()) {
            self.snapshots.keep(stream, &state, Replaces::Older);
        }
        self.cache.keep(stream, state);
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
        let mut replaces = Replaces::Any;
        let newer = |kept: &AggregateState<A>| state.version() < kept.version();
        if let Some(kept) = self.snapshots.newest::<A>(stream).await?.filter(newer) {
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
        let recorded: CommittedEvent<A::Event> = entry.recorded().map_err(|error| broken(&error))?;
        state.apply(&recorded).map_err(|error| broken(&error))
    })
}
