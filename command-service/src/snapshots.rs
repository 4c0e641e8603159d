//! Snapshots of states: read where a stream is long, written behind the reply. Nothing rests on them.

use std::{num::NonZeroU64, sync::Arc};

use millrace_aws::AwsError;
use millrace_domain::{Aggregate, Root, StreamId};
use millrace_event_store::{Replaces, Snapshot, Snapshots};
use millrace_runtime::Failure;
use tokio::sync::Semaphore;

use crate::{loader::FIRST_PAGE, meters};

/// After how many events of a stream a snapshot is kept, unless the configuration says otherwise.
///
/// Less than [`FIRST_PAGE`], so that the newest snapshot lies within the page that a load reads anyway, and as much
/// less as snapshots may be late.
pub const EVERY: NonZeroU64 = NonZeroU64::new(80).expect("80 is not 0");

/// How many snapshots are written at a time. What comes beyond is left out: the next one of the same aggregate makes up
/// for it.
const WRITTEN_AT_ONCE: usize = 32;

/// Keeps snapshots of aggregates' states.
#[derive(Debug, Clone)]
pub struct Snapshotter<S> {
    store: S,
    every: NonZeroU64,
    room: Arc<Semaphore>,
}

impl<S: Snapshots> Snapshotter<S> {
    /// Keeps a snapshot after every so many events of a stream.
    pub fn new(store: S, every: NonZeroU64) -> Self {
        Self { store, every, room: Arc::new(Semaphore::new(WRITTEN_AT_ONCE)) }
    }

    /// The state in the newest snapshot, if there is one that this release can read. The caller has to see whether it
    /// belongs to the stream.
    ///
    /// Only throttling is passed on: to read a whole stream in place of its snapshot is no answer to that.
    pub async fn newest<A: Aggregate>(&self, stream: &StreamId) -> Result<Option<Root<A>>, Failure> {
        let (root, outcome) = match self.store.snapshot(stream).await {
            Ok(Some(snapshot)) => match read(snapshot) {
                Some(root) => (Some(root), "read"),
                None => (None, "passed_over"),
            },
            Ok(None) => (None, "missing"),
            Err(error @ AwsError::Throttled(_)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%stream, %error, "a snapshot cannot be read; the events are read in its place");
                (None, "failed")
            }
        };
        meters::snapshot_read(outcome);
        Ok(root)
    }

    /// Whether a commit that leads from one version to another is followed by a snapshot. A stream that one page of a
    /// load holds needs none.
    pub fn is_due(&self, before: u64, after: u64) -> bool {
        after >= FIRST_PAGE.into() && before / self.every < after / self.every
    }

    /// Writes a snapshot of a state, later: nobody waits for it, and nobody minds if it fails.
    pub fn keep<A: Aggregate>(&self, stream: &StreamId, root: &Arc<Root<A>>, replaces: Replaces) {
        let Ok(place) = self.room.clone().try_acquire_owned() else {
            meters::snapshot_due("left_out");
            return;
        };
        let (store, stream, root) = (self.store.clone(), stream.clone(), root.clone());
        tokio::spawn(async move {
            let written = match snapshot_of(&stream, &root) {
                Ok(snapshot) => {
                    store.put_snapshot(&snapshot, replaces).await.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            let outcome = match written {
                Ok(true) => "written",
                Ok(false) => "outrun",
                Err(error) => {
                    tracing::warn!(%stream, %error, "a snapshot cannot be written");
                    "failed"
                }
            };
            meters::snapshot_due(outcome);
            drop(place);
        });
    }
}

fn snapshot_of<A: Aggregate>(stream: &StreamId, root: &Root<A>) -> serde_json::Result<Snapshot> {
    Ok(Snapshot {
        stream: stream.clone(),
        version: root.version(),
        schema: A::STATE_SCHEMA,
        state: serde_json::to_value(root)?,
    })
}

fn read<A: Aggregate>(snapshot: Snapshot) -> Option<Root<A>> {
    if snapshot.schema != A::STATE_SCHEMA {
        return None;
    }
    let root: Root<A> = serde_json::from_value(snapshot.state).ok()?;
    (root.version() == snapshot.version).then_some(root)
}
