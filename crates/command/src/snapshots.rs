//! Snapshots of states: read where a stream is long, written behind the reply. No answer depends on them.

use std::{num::NonZeroU64, sync::Arc};

use millrace_aws::AwsError;
use millrace_core::{Aggregate, AggregateState, StreamId};
use millrace_event_store::{CommandBlock, Replaces, Snapshot, Snapshots};
use millrace_server::Failure;
use tokio::sync::Semaphore;

use crate::meters;

/// How many of a stream's newest events a load reads first. A stream without more is loaded in one request. DynamoDB
/// charges events whole: 24 of 550 bytes are 4 read units.
pub const FIRST_PAGE: u16 = 24;

/// How many of the events that a known state lacks are read at most before a snapshot is asked for. Among ten replicas
/// that take turns at random, one in 37,000 commands finds more.
pub const NEXT_PAGE: u16 = 100;

/// After how many events of a stream a snapshot is kept, unless the configuration says otherwise.
///
/// It is less than [`FIRST_PAGE`], so that the newest snapshot lies within the page that a load reads anyway; the difference
/// is how late a snapshot may be.
pub const EVERY: NonZeroU64 = NonZeroU64::new(16).expect("16 is not 0");

/// How many snapshots are written at a time. Further ones are left out: the aggregate's next snapshot makes up for it.
const MAX_WRITES: usize = 32;

/// Keeps snapshots of aggregates' states.
#[derive(Debug, Clone)]
pub struct Snapshotter<S> {
    store: S,
    every: NonZeroU64,
    writes: Arc<Semaphore>,
}

impl<S: Snapshots> Snapshotter<S> {
    /// Keeps a snapshot after every `every` events of a stream.
    pub fn new(store: S, every: NonZeroU64) -> Self {
        Self { store, every, writes: Arc::new(Semaphore::new(MAX_WRITES)) }
    }

    /// The state in the newest snapshot, if this release can read it, and what a snapshot of the same load may replace: an
    /// unreadable snapshot, but none that merely could not be fetched. The caller checks whether the state belongs to the
    /// stream.
    ///
    /// # Errors
    /// Throttling alone: reading the whole stream in place of its snapshot would make that worse.
    pub async fn newest<A: Aggregate>(
        &self,
        stream: &StreamId,
    ) -> Result<(Option<AggregateState<A>>, Replaces), Failure> {
        let (state, replaces, outcome) = match self.store.snapshot(stream, A::STATE_SCHEMA).await {
            Ok(Some(snapshot)) => match read(snapshot) {
                Some(state) => (Some(state), Replaces::Any, "read"),
                None => (None, Replaces::Any, "passed_over"),
            },
            Ok(None) => (None, Replaces::Any, "missing"),
            Err(error @ AwsError::Throttled(_)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%stream, %error, "a snapshot cannot be read; the events are read in its place");
                (None, Replaces::Older, "failed")
            }
        };
        meters::snapshot_read(outcome);
        Ok((state, replaces))
    }

    /// Whether a snapshot follows a commit that leads from one version to another. A stream that fits into a load's first
    /// page until its next snapshot needs none.
    pub fn is_due(&self, before: u64, after: u64) -> bool {
        after.saturating_add(self.every.get()) > FIRST_PAGE.into() && before / self.every < after / self.every
    }

    /// Writes a snapshot of a state in the background. A failure is logged and counted, and has no other consequence.
    pub fn keep<A: Aggregate>(&self, stream: &StreamId, state: &Arc<AggregateState<A>>, replaces: Replaces) {
        let Ok(permit) = self.writes.clone().try_acquire_owned() else {
            meters::snapshot_due("left_out");
            return;
        };
        let (store, stream, state) = (self.store.clone(), stream.clone(), state.clone());
        tokio::spawn(async move {
            let written = match snapshot_of(&stream, &state) {
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
            drop(permit);
        });
    }
}

impl<S: Snapshots> Snapshotter<S> {
    /// Writes a block of commands in the background. One that is not written is read from the stream where it is missed.
    pub(crate) fn keep_block(&self, block: CommandBlock) {
        let Ok(permit) = self.writes.clone().try_acquire_owned() else { return };
        let store = self.store.clone();
        tokio::spawn(async move {
            if let Err(error) = store.put_command_block(&block, Replaces::Older).await {
                tracing::warn!(stream = %block.stream, %error, "a block of commands cannot be written");
            }
            drop(permit);
        });
    }
}

fn snapshot_of<A: Aggregate>(stream: &StreamId, state: &AggregateState<A>) -> serde_json::Result<Snapshot> {
    Ok(Snapshot {
        stream: stream.clone(),
        version: state.version(),
        schema: A::STATE_SCHEMA,
        state: serde_json::to_value(state)?,
    })
}

fn read<A: Aggregate>(snapshot: Snapshot) -> Option<AggregateState<A>> {
    if snapshot.schema != A::STATE_SCHEMA {
        return None;
    }
    let state: AggregateState<A> = serde_json::from_value(snapshot.state).ok()?;
    (state.version() == snapshot.version).then_some(state)
}
