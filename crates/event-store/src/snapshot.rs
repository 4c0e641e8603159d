//! Snapshots: folds of streams, kept to save reads.

use std::future::Future;

use millrace_aws::AwsError;
use millrace_core::StreamId;
use serde_json::Value;

use crate::CommandBlock;

/// The state of an aggregate at a version. Discardable: the stream rebuilds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The aggregate's stream.
    pub stream: StreamId,
    /// The version of the last event in it.
    pub version: u64,
    /// The schema by which `state` was written.
    pub schema: u32,
    /// The state.
    pub state: Value,
}

/// Which snapshots a snapshot takes the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaces {
    /// Those of an older version.
    Older,
    /// Any: the caller found the stored snapshot useless.
    Any,
}

/// Keeping the newest snapshot of each stream and schema: two releases side by side each have their own. Beside them, the
/// blocks of commands of streams that many commands meet.
pub trait Snapshots: Clone + Send + Sync + 'static {
    /// The snapshot of a stream by a schema. One that cannot be read counts as none.
    fn snapshot(
        &self,
        stream: &StreamId,
        schema: u32,
    ) -> impl Future<Output = Result<Option<Snapshot>, AwsError>> + Send;

    /// Keeps a snapshot, unless one of its schema exists that it does not replace. Returns whether it was kept.
    fn put_snapshot(
        &self,
        snapshot: &Snapshot,
        replaces: Replaces,
    ) -> impl Future<Output = Result<bool, AwsError>> + Send;

    /// Those of a stream's blocks with these numbers that are kept; at most [`MAX_BLOCKS`](crate::MAX_BLOCKS) are asked
    /// for. One that cannot be read counts as none. The caller checks whether they belong to the stream's history.
    fn command_blocks(
        &self,
        stream: &StreamId,
        numbers: &[u64],
    ) -> impl Future<Output = Result<Vec<CommandBlock>, AwsError>> + Send;

    /// Keeps a block, unless its place has one that it does not replace: the same one or a later one, if it replaces
    /// [`Replaces::Older`]. Returns whether it was kept.
    fn put_command_block(
        &self,
        block: &CommandBlock,
        replaces: Replaces,
    ) -> impl Future<Output = Result<bool, AwsError>> + Send;
}
