//! The relay's port to the bus.

use std::future::Future;

use millrace_aws::AwsError;
pub use millrace_core::names::UNDECODABLE;
use millrace_core::{AggregateType, Envelope, TenantId, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::stream::Undecoded;

/// The most entries that one call takes (EventBridge API Reference, `PutEvents`).
pub const MAX_ENTRIES: usize = 10;

/// An upper bound for the bytes that the bus and its queues add to an entry: id, account, region and the like.
const WRAPPING: usize = 1024;

/// An event in the form of a bus entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The publisher.
    pub source: String,
    /// The event's type, or [`UNDECODABLE`].
    pub detail_type: String,
    /// The event's [`Envelope`] as JSON; with `"EventDataOmitted": true` where the data was left out.
    pub detail: String,
    /// The event's time.
    pub time: Timestamp,
}

/// An item that is no event of this release. It lacks most of an envelope's fields, so that no consumer takes it for
/// one.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AsItIs<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<&'a TenantId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregate_type: Option<&'a AggregateType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregate_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    undecodable: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<&'a Map<String, Value>>,
}

/// An event without its data, which the bus would not take, marked so for its consumers.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WithoutData<'a> {
    #[serde(flatten)]
    envelope: &'a Envelope,
    event_data_omitted: bool,
}

impl Entry {
    /// The entry of an event.
    pub fn of(envelope: &Envelope, source: &str) -> Result<Self, serde_json::Error> {
        let detail = match envelope.event_data {
            Some(_) => serde_json::to_string(envelope)?,
            None => serde_json::to_string(&WithoutData { envelope, event_data_omitted: true })?,
        };
        Ok(Self {
            source: source.to_owned(),
            detail_type: envelope.event_type.clone(),
            detail,
            time: envelope.timestamp,
        })
    }

    /// The entry of an item that could not be read as an event.
    pub fn undecoded(
        undecoded: &Undecoded,
        source: &str,
        time: Timestamp,
    ) -> Result<Self, serde_json::Error> {
        let Undecoded { reason, stream, aggregate_type, version, item } = undecoded;
        let detail = serde_json::to_string(&AsItIs {
            tenant_id: stream.as_ref().map(|stream| &stream.tenant),
            aggregate_type: aggregate_type.as_ref(),
            aggregate_id: stream.as_ref().map(|stream| stream.id),
            version: *version,
            undecodable: reason,
            item: item.as_ref(),
        })?;
        Ok(Self { source: source.to_owned(), detail_type: UNDECODABLE.to_owned(), detail, time })
    }

    /// The entry's bytes on the bus, never fewer than AWS counts (EventBridge User Guide, "Calculating PutEvents event
    /// entry size").
    pub fn size(&self) -> usize {
        const TIME: usize = 14;
        TIME + self.source.len() + self.detail_type.len() + self.detail.len() + WRAPPING
    }
}

/// Why an entry, or a call with all its entries, was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Rejection {
    /// The content is refused, and will be refused again.
    #[error("the bus refuses the content: {0}")]
    Content(AwsError),
    /// Any other error. The entries may have been accepted all the same.
    #[error(transparent)]
    Failed(#[from] AwsError),
}

/// Publishing.
pub trait EventBus: Clone + Send + Sync + 'static {
    /// Publishes up to [`MAX_ENTRIES`] entries. Returns for each, in order, whether it was accepted.
    fn put(
        &self,
        entries: &[Entry],
    ) -> impl Future<Output = Result<Vec<Result<(), Rejection>>, Rejection>> + Send;
}
