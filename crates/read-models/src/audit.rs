//! Holding rows against what they should be, and putting them right.
//!
//! For an operator's audit and for nobody else: what stands here can set a row back and take it away, which
//! [`WriteRows`] never does. So it stands behind the feature `audit`, which the query service does not ask for, and the
//! projector uses it in that command alone. On DynamoDB the two also differ in what they must be permitted: a change is
//! an `UpdateItem`, these are a `PutItem` and a `DeleteItem`.

use std::future::Future;

use millrace_aws::{AwsError, Segment};
use millrace_domain::StreamId;

use crate::{Change, WriteRows};

/// Rows that were asked for.
#[derive(Debug, Clone)]
pub struct FoundRows<R> {
    /// Those that there are, each with its stream.
    pub found: Vec<(StreamId, R)>,
    /// Those that there was no answer for, as when AWS throttles or the answer would be too large: to be asked for
    /// again. Those that are in neither list do not exist.
    pub left: Vec<StreamId>,
    /// The read units that AWS says it took; 0 where it does not say.
    pub read_units: f64,
}

/// Part of a scan of a table of rows.
#[derive(Debug, Clone)]
pub struct ListedRows<P> {
    /// The streams whose rows they are; a row whose key names none shows its key, made fit for a line of a report.
    pub listed: Vec<Result<StreamId, String>>,
    /// Where to go on; `None` at the end. A page without rows need not be the last one.
    pub next: Option<P>,
    /// The read units that AWS says it took; 0 where it does not say.
    pub read_units: f64,
}

/// Reading rows as they are, and replacing those that are wrong. Each call is one request.
pub trait AuditRows<C: Change>: WriteRows<C> {
    /// A row as it was found, whatever it holds.
    type Row: Clone + Send + Sync + 'static;
    /// Where a scan is.
    type Place: Clone + Send + Sync + 'static;

    /// The rows of up to [`MOST_ROWS`](crate::MOST_ROWS) streams, each named once, strongly consistent.
    fn rows(
        &self,
        streams: &[StreamId],
    ) -> impl Future<Output = Result<FoundRows<Self::Row>, AwsError>> + Send;

    /// A row's version; `None` where it holds none that could be one.
    fn version(row: &Self::Row) -> Option<u64>;

    /// In which attributes a row differs from the one that a change leaves where there was none; sorted, each once. Where
    /// a row does not say what made it, it does not differ by that; where it says it wrongly, it does. What a row holds
    /// beyond the attributes that this release writes is passed over.
    ///
    /// A change that does not start at version 0 is [`AwsError::Refused`].
    fn differences(&self, row: &Self::Row, expected: &C) -> Result<Vec<&'static str>, AwsError>;

    /// The part of a segment's rows that follows a place. Not strongly consistent: a row that was written a moment ago
    /// may be missed.
    fn list(
        &self,
        segment: Segment,
        from: Option<&Self::Place>,
    ) -> impl Future<Output = Result<ListedRows<Self::Place>, AwsError>> + Send;

    /// Replaces a row by the one that a change leaves where there was none, if it still has the version that it was
    /// found at; says whether it had.
    ///
    /// A change that does not start at version 0, or of another row, is [`AwsError::Refused`].
    fn replace(&self, row: &Self::Row, with: &C) -> impl Future<Output = Result<bool, AwsError>> + Send;

    /// Takes a row away, if it still has the version that it was found at; says whether it had.
    fn delete(&self, row: &Self::Row) -> impl Future<Output = Result<bool, AwsError>> + Send;

    /// About how many rows there are: AWS counts them every six hours or so (DynamoDB API Reference,
    /// `TableDescription`).
    fn count(&self) -> impl Future<Output = Result<u64, AwsError>> + Send;
}
