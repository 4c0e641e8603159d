//! Reading every stored event, for a comparison of the store with another source.
//!
//! Elsewhere an item that is no event fails the read, since nothing may be folded over it. Here it is returned apart
//! from the events, with its place, so that one such item does not keep all others from being checked.

use std::{collections::HashSet, future::Future};

use millrace_aws::{AwsError, Place, Segment};
use millrace_core::{StreamId, TenantId, Timestamp};

use crate::{ItemError, ReadEvents, StoredEvent};

/// The most streams that one call of [`ScanEvents::begun`] is asked about (DynamoDB API Reference, `BatchGetItem`).
pub const MAX_STREAMS: usize = 100;

/// An item of the store's table.
#[derive(Debug, Clone)]
pub enum ScannedItem {
    /// An event.
    Event(Box<StoredEvent>),
    /// An item that is no event.
    Unreadable(UnreadableItem),
}

/// An item of the store's table that is no event.
#[derive(Debug, Clone)]
pub struct UnreadableItem {
    /// The stream that its key names, if it does name one.
    pub stream: Option<StreamId>,
    /// Its stored key, fit for a line of a report: without control characters, and of bounded length.
    pub key: String,
    /// Its version; 0 where its key has no valid one.
    pub version: u64,
    /// Why it is no event.
    pub error: ItemError,
}

/// Part of a scan, or of a stream.
#[derive(Debug, Clone)]
pub struct Scanned<P> {
    /// The items. Those of a stream come together and by version as a rule; a caller that depends on it must check.
    pub items: Vec<ScannedItem>,
    /// Where to go on; `None` at the end. A page without items need not be the last one.
    pub next: Option<P>,
    /// The read units that AWS reports; 0 where it reports none.
    pub read_units: f64,
}

/// Which streams there are.
#[derive(Debug, Clone)]
pub struct Begun {
    /// Those with a first event.
    pub begun: HashSet<StreamId>,
    /// Those without an answer, as when the store throttles: to be read again.
    pub left: Vec<StreamId>,
    /// The read units that AWS reports; 0 where it reports none.
    pub read_units: f64,
}

/// Part of the index by type and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexRange {
    /// The tenant of the events.
    pub tenant: TenantId,
    /// Their type.
    pub event_type: String,
    /// The shard of the index, among all of them.
    pub shard: Segment,
    /// Only events of this time or later.
    pub since: Timestamp,
}

/// The aggregates of a part of the index.
#[derive(Debug, Clone)]
pub struct Touched<P> {
    /// The stream of each event, by the events' times.
    pub streams: Vec<StreamId>,
    /// Where to go on; `None` at the end. A page without streams need not be the last one.
    pub next: Option<P>,
    /// The read units that AWS reports; 0 where it reports none.
    pub read_units: f64,
}

/// Reading the whole store. Each call is one request.
pub trait ScanEvents: ReadEvents {
    /// Where a scan is.
    type Place: Place;

    /// The part of a segment that follows a place, strongly consistent by the page: a stream that was passed may have
    /// grown since.
    fn scan(
        &self,
        segment: Segment,
        from: Option<&Self::Place>,
    ) -> impl Future<Output = Result<Scanned<Self::Place>, AwsError>> + Send;

    /// The part of a stream that follows a place, by version, strongly consistent. Unlike [`ReadEvents::page`] it shows
    /// gaps, and items that are no events.
    fn look(
        &self,
        stream: &StreamId,
        from: Option<&Self::Place>,
    ) -> impl Future<Output = Result<Scanned<Self::Place>, AwsError>> + Send;

    /// The aggregates with events in a range of the index by type and time, from a place on. The index lags behind the
    /// streams.
    fn touched(
        &self,
        range: &IndexRange,
        from: Option<&Self::Place>,
    ) -> impl Future<Output = Result<Touched<Self::Place>, AwsError>> + Send;

    /// Which of up to [`MAX_STREAMS`] streams, each named once, have their first event. Not strongly consistent: one
    /// that was stored a moment ago may be missed.
    fn begun(&self, streams: &[StreamId]) -> impl Future<Output = Result<Begun, AwsError>> + Send;

    /// About how many events there are: AWS counts them every six hours or so (DynamoDB API Reference,
    /// `TableDescription`).
    fn count(&self) -> impl Future<Output = Result<u64, AwsError>> + Send;
}
