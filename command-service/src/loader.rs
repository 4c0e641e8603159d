//! Loading: from the cache, or from the end of the stream back to a snapshot.

use std::sync::Arc;

use millrace_domain::{Aggregate, Recorded, Root, StreamId};
use millrace_event_store::{Entry, LoadEvents, Replaces, Snapshots};
use millrace_proto::codec::EventCodec;
use millrace_runtime::Failure;

use crate::{snapshots::Snapshotter, states::States};

/// How many of a stream's newest events a load asks for first. A stream that has no more is loaded in one request.
pub const FIRST_PAGE: u16 = 100;

/// Brings aggregates' states up to date.
#[derive(Debug, Clone)]
pub struct Loader<A, S> {
    store: S,
    states: States<A>,
    snapshots: Snapshotter<S>,
}

/// A root, and whether it is known to have been the newest one when the command came.
#[derive(Debug)]
pub struct Loaded<A> {
    /// The root.
    pub root: Arc<Root<A>>,
    /// Whether it was read from the store for this command.
    pub fresh: bool,
}

impl<A, S> Loader<A, S>
where
    A: Aggregate<Event: EventCodec>,
    S: LoadEvents + Snapshots,
{
    /// Loads from `store`, by way of the cache and of snapshots.
    pub fn new(store: S, states: States<A>, snapshots: Snapshotter<S>) -> Self {
        Self { store, states, snapshots }
    }

    /// The state in the cache, which may be old, or else the newest.
    pub async fn load(&self, stream: &StreamId) -> Result<Loaded<A>, Failure> {
        match self.states.get(stream) {
            Some(root) => Ok(Loaded { root, fresh: false }),
            None => self.refresh(stream, Arc::default()).await,
        }
    }

    /// The root with all events that are newer, which is kept.
    ///
    /// The end of the stream is read first: it holds all that a short stream has, and all that is new to a root that
    /// is nearly up to date. Where it does not reach back to the root, a snapshot bridges the rest.
    pub async fn refresh(&self, stream: &StreamId, root: Arc<Root<A>>) -> Result<Loaded<A>, Failure> {
        let end = self.store.newest(stream, root.version(), FIRST_PAGE).await?;
        let Some(first) = end.first().map(|entry| entry.version) else {
            return Ok(Loaded { root, fresh: true });
        };
        let known = Arc::unwrap_or_clone(root);
        let root = if first == known.version() + 1 {
            Arc::new(fold(known, &end)?)
        } else {
            self.bridge(stream, known, first, &end).await?
        };
        self.states.keep(stream, root.clone());
        Ok(Loaded { root, fresh: true })
    }

    /// Whether an aggregate exists. Aggregates never cease to exist, so a yes from the cache is one for good.
    pub async fn exists(&self, stream: &StreamId) -> Result<bool, Failure> {
        if self.states.is_known(stream) {
            return Ok(true);
        }
        let exists = !self.store.newest(stream, 0, 1).await?.is_empty();
        if exists {
            self.states.know(stream);
        }
        Ok(exists)
    }

    /// The state after a commit, which follows version `before`.
    pub fn keep(&self, stream: &StreamId, before: u64, root: Arc<Root<A>>) {
        if self.snapshots.is_due(before, root.version()) {
            self.snapshots.keep(stream, &root, Replaces::Older);
        }
        self.states.keep(stream, root);
    }

    /// The root at the end of a stream whose end, from version `first` on, does not follow what is known.
    async fn bridge(
        &self,
        stream: &StreamId,
        known: Root<A>,
        first: u64,
        end: &[Entry],
    ) -> Result<Arc<Root<A>>, Failure> {
        let mut root = known;
        let mut bridged = true;
        let mut replaces = Replaces::Any;
        let newer = |kept: &Root<A>| root.version() < kept.version();
        if let Some(kept) = self.snapshots.newest::<A>(stream).await?.filter(newer) {
            let from_kept;
            let entries = if kept.version() >= first {
                end
            } else {
                bridged = false;
                from_kept = self.store.between(stream, kept.version() - 1, first).await?;
                &from_kept
            };
            // A snapshot is believed where the stream has the very event that it ends with: a table that was restored
            // to an earlier time may have another history.
            if entries.iter().any(|e| e.version == kept.version() && kept.last_event() == Some(e.event_id)) {
                root = fold(kept, entries)?;
                replaces = Replaces::Older;
            }
        }
        while root.version() + 1 < first {
            bridged = false;
            let between = self.store.between(stream, root.version(), first).await?;
            if between.is_empty() {
                return Err(Failure::Internal(format!("nothing is between {} and {first}", root.version())));
            }
            root = fold(root, &between)?;
        }
        let root = Arc::new(fold(root, end)?);
        if !bridged {
            // The next load finds a better one, even where the one that is there says to be newer.
            self.snapshots.keep(stream, &root, replaces);
        }
        Ok(root)
    }
}

/// The root after those of the entries that it does not hold yet.
pub(crate) fn fold<A: Aggregate<Event: EventCodec>>(
    root: Root<A>,
    entries: &[Entry],
) -> Result<Root<A>, Failure> {
    let newer = entries.iter().skip_while(|entry| entry.version <= root.version()).collect::<Vec<_>>();
    newer.into_iter().try_fold(root, |root, entry| {
        let broken = |error: &dyn std::error::Error| {
            Failure::Internal(format!("event {} of its stream: {error}", entry.event_id))
        };
        let recorded: Recorded<A::Event> = entry.recorded().map_err(|error| broken(&error))?;
        root.apply(&recorded).map_err(|error| broken(&error))
    })
}
