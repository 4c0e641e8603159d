//! Millrace's event store.
//!
//! Small traits stand for its operations: [`ReadEvents`] reads events, [`LoadEvents`] loads them for a fold,
//! [`ReadHistory`] looks back, [`ScanEvents`] reads all of them for a check, [`AppendEvents`] and [`Snapshots`] are the
//! command side's. [`DynamoReader`] and [`DynamoStore`] implement them on DynamoDB, [`MemoryStore`] in memory. Behind
//! the feature `contract` stands the suite that all of them pass.
//!
//! ```
//! use millrace_core::{CommandDigest, Envelope, StreamId};
//! use millrace_event_store::{AppendError, AppendEvents, Commit, MemoryStore, ReadEvents, StoredEvent};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let stream: StreamId = "acme#counter#00000000-0000-0000-0000-000000000001".parse()?;
//! let envelope = Envelope {
//!     event_id: millrace_core::EventId(stream.id),
//!     tenant_id: stream.tenant.clone(),
//!     aggregate_type: stream.aggregate_type.clone(),
//!     aggregate_id: stream.id,
//!     version: 1,
//!     event_type: "Increased".to_owned(),
//!     schema_version: 1,
//!     timestamp: "2026-11-23T12:00:00Z".parse()?,
//!     event_data: Some(serde_json::from_str(r#"{ "by": 3 }"#)?),
//!     command_id: "add-three".parse()?,
//!     correlation_id: "add-three".parse()?,
//!     causation_id: "add-three".parse()?,
//!     trace_parent: None,
//! };
//! let event = StoredEvent { envelope, command_digest: CommandDigest(3) };
//! let commit = Commit { events: vec![event.clone()], claims: vec![], releases: vec![] };
//!
//! let store = MemoryStore::default();
//! store.append(&commit).await?;
//! assert_eq!(store.page(&stream, 0, 10).await?.events, [event]);
//! // Version 1 is taken.
//! assert!(matches!(store.append(&commit).await, Err(AppendError::Conflict { .. })));
//! # Ok(())
//! # }
//! ```

mod command_block;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod dynamo;
mod history;
mod item;
mod memory;
mod merge;
mod plan;
mod scan;
mod size;
mod snapshot;
mod stored;
#[cfg(test)]
mod testing;

use std::future::Future;

pub use command_block::{BLOCK_VERSIONS, CommandBlock, KEPT_BLOCKS, MAX_BLOCKS};
pub use dynamo::{DynamoReader, DynamoStore, Tables};
pub use history::{Direction, Found, HistoryPage, Hit, Moment, ReadHistory, Search};
pub use item::{ItemError, event_type_key, stored_from_item, stored_from_stream_image};
pub use memory::{MemoryPlace, MemoryStore};
use millrace_aws::AwsError;
use millrace_core::{StreamId, UniqueKey};
pub use scan::{Begun, IndexRange, MAX_STREAMS, ScanEvents, Scanned, ScannedItem, Touched, UnreadableItem};
pub use snapshot::{Replaces, Snapshot, Snapshots};
pub use stored::{Entry, StoredEvent};

/// Part of a stream, in order.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The events, by version, without gaps.
    pub events: Vec<StoredEvent>,
    /// Whether more may follow the last one.
    pub more: bool,
}

impl Page {
    /// The page of `stream` that follows version `after`, if these events are that page. A gap would be folded into a
    /// state that the history never had, so it is an error, as are events of another stream.
    fn checked(
        stream: &StreamId,
        after: u64,
        events: Vec<StoredEvent>,
        more: bool,
    ) -> Result<Self, AwsError> {
        if more && events.is_empty() {
            return Err(AwsError::InvalidResponse(format!(
                "stream {stream} has more after version {after}, but shows none"
            )));
        }
        let mut newest = after;
        for event in &events {
            let version = event.envelope.version;
            if newest.checked_add(1) != Some(version) || event.envelope.stream() != *stream {
                return Err(gap(stream, newest, version));
            }
            newest = version;
        }
        Ok(Self { events, more })
    }
}

/// Reading streams, strongly consistent: a call sees every earlier append.
pub trait ReadEvents: Clone + Send + Sync + 'static {
    /// The events of a stream that are newer than version `after`, from the oldest on: at most `limit` of them, and at
    /// least one where there is one. One request; a page may hold a part of the events, as reported in [`Page::more`].
    /// A gap in the stream is an error.
    fn page(
        &self,
        stream: &StreamId,
        after: u64,
        limit: u16,
    ) -> impl Future<Output = Result<Page, AwsError>> + Send;
}

/// Reading streams into states, strongly consistent: a call sees every earlier append. One request each.
pub trait LoadEvents: Clone + Send + Sync + 'static {
    /// The newest events of a stream that are newer than version `after`, oldest first: at most `limit`, and at least
    /// one where there is one. Events between `after` and the first of them were left out; among them there is no gap,
    /// or the call fails.
    fn newest(
        &self,
        stream: &StreamId,
        after: u64,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<Entry>, AwsError>> + Send;

    /// The events of a stream that are newer than `after` and older than `before`, from the oldest on: as many as one
    /// request returns, and at least one where there is one. A gap is an error.
    fn between(
        &self,
        stream: &StreamId,
        after: u64,
        before: u64,
    ) -> impl Future<Output = Result<Vec<Entry>, AwsError>> + Send;
}

/// Entries, if none is left out among them; a gap would be folded into a state that the history never had.
fn consecutive(stream: &StreamId, entries: Vec<Entry>) -> Result<Vec<Entry>, AwsError> {
    match entries.windows(2).find(|pair| pair[0].version.checked_add(1) != Some(pair[1].version)) {
        None => Ok(entries),
        Some(pair) => Err(gap(stream, pair[0].version, pair[1].version)),
    }
}

/// Entries, if they follow version `after` without a gap.
fn following(stream: &StreamId, after: u64, entries: Vec<Entry>) -> Result<Vec<Entry>, AwsError> {
    match entries.first() {
        Some(first) if after.checked_add(1) != Some(first.version) => Err(gap(stream, after, first.version)),
        Some(_) | None => consecutive(stream, entries),
    }
}

fn gap(stream: &StreamId, from: u64, to: u64) -> AwsError {
    AwsError::InvalidResponse(format!("stream {stream} goes from version {from} to {to}"))
}

/// Adding to streams.
pub trait AppendEvents: LoadEvents {
    /// Stores a commit whole or not at all.
    ///
    /// That no version is taken twice is the store's care; that none is left out, the writer's: a commit follows the
    /// newest event of its stream. The same commit once more changes nothing; it either succeeds again or conflicts
    /// with its own event.
    fn append(&self, commit: &Commit) -> impl Future<Output = Result<(), AppendError>> + Send;
}

/// The additions of one command: events that follow each other in one stream, and the keys that change hands with them.
///
/// A commit that breaks the rules of its fields is refused ([`AwsError::Refused`]) and not sent.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The events, at least one, with consecutive versions of one stream. The version before the first is the newest
    /// that the writer knows. Every event has its data, and an id that no other commit has used.
    pub events: Vec<StoredEvent>,
    /// Keys that the stream's aggregate claims. It may hold them already.
    pub claims: Vec<UniqueKey>,
    /// Keys that it releases. It may have done so already. Each key occurs once in both lists.
    pub releases: Vec<UniqueKey>,
}

/// Why a commit was not stored.
///
/// All but [`Failed`](Self::Failed) are final: no attempt at the append has stored the commit, and no late one will.
/// With [`Conflict`](Self::Conflict) that holds for all but the commit whose event has the version.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// Another event has the version of the commit's first event.
    #[error("the stream is at a newer version")]
    Conflict {
        /// That event, where the store returned it. It can be the commit's own, stored by an attempt whose reply was
        /// lost. Where it is absent, the caller loads the newer events.
        existing: Option<Box<StoredEvent>>,
    },
    /// Another aggregate of the tenant holds a key. The version may be taken as well.
    #[error("a unique key is taken")]
    KeyTaken {
        /// The key's scope, such as `user.email`.
        scope: &'static str,
    },
    /// Another commit on the same items was under way. To be tried again.
    #[error("another commit was under way on the same items")]
    Contended,
    /// The commit exceeds a limit of the store and was not sent.
    #[error("the commit exceeds a limit: {limit}")]
    TooLarge {
        /// The limit, in words.
        limit: &'static str,
    },
    /// The store failed. The commit may have been stored all the same, or may be later; not where AWS throttles.
    #[error(transparent)]
    Failed(#[from] AwsError),
}
