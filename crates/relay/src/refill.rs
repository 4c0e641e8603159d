//! The event store's table, as the relay sees it when the stream has lost what was not yet relayed.

use std::future::Future;

use millrace_aws::AwsError;
use millrace_core::Timestamp;

use super::stream::Content;

/// Part of a refill.
#[derive(Debug, Clone)]
pub struct RefillPage<T> {
    /// Events, in no order beyond that of versions within an aggregate.
    pub contents: Vec<Content>,
    /// Where to go on; `None` after the last page. A page without events need not be the last one.
    pub next: Option<T>,
}

/// Reading the table for events of a certain time.
pub trait Refill: Clone + Send + Sync + 'static {
    /// Where a reader is.
    type Token: Clone + Send + Sync;

    /// A page of all events whose time is `since` or later, strongly consistent.
    fn page(
        &self,
        since: Timestamp,
        from: Option<&Self::Token>,
    ) -> impl Future<Output = Result<RefillPage<Self::Token>, AwsError>> + Send;
}
