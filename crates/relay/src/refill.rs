//! The event store's table, which the relay reads when the stream has lost unrelayed records.

use std::future::Future;

use millrace_aws::{AwsError, Segment};
use millrace_core::Timestamp;

use super::stream::{Content, Sequence};

/// A page of a refill.
#[derive(Debug, Clone)]
pub struct RefillPage {
    /// Events, in no order beyond that of versions within an aggregate.
    pub contents: Vec<Content>,
    /// The start of the next page; `None` after the last page. A page without events need not be the last one.
    pub next: Option<Sequence>,
}

/// Reading the table for events of a certain time.
pub trait Refill: Clone + Send + Sync + 'static {
    /// A page of all events of a segment whose time is `since` or later, strongly consistent.
    fn page(
        &self,
        since: Timestamp,
        segment: Segment,
        from: Option<&Sequence>,
    ) -> impl Future<Output = Result<RefillPage, AwsError>> + Send;
}
