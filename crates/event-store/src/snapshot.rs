//! Snapshots: folds of streams, kept to save reads.

use std::future::Future;

use millrace_aws::AwsError;
use millrace_core::StreamId;
use serde_json::Value;

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

/// Keeping the newest snapshot of each stream and schema: two releases side by side each have their own.
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
}
