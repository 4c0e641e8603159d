//! Comparing rows with their events, and repairing them.
//!
//! Only for an operator's audit: these functions can set a row back and delete it, which [`WriteRows`] never does. So
//! they stand behind the feature `audit`, which the query service does not enable, and which the projector uses in its
//! audit command alone. On DynamoDB the permissions differ as well: a write is an `UpdateItem`, these are a `PutItem`
//! and a `DeleteItem`.

use std::{collections::BTreeSet, future::Future};

use millrace_aws::{AwsError, Place, Segment, item, printable};
use millrace_core::{
    Invalid, StreamId,
    ids::parse_uuid,
    projection::{Aggregation, RowUpdate},
    row::{Attributes, RowKey},
};
use serde_json::Value;

use crate::{
    ReadRows, WriteRows,
    layout::{Assignments, Layout, VERSION},
    provenance::{PROVENANCE, assignments},
    sum::{Summed, target},
};

/// The requested rows.
#[derive(Debug, Clone)]
pub struct FoundRows<R> {
    /// The existing ones, each with its stream.
    pub found: Vec<(StreamId, R)>,
    /// Those without an answer, as when AWS throttles or the answer would be too large: to be requested again. Those in
    /// neither list do not exist.
    pub left: Vec<StreamId>,
    /// The read units that AWS reports; 0 where it reports none.
    pub read_units: f64,
}

/// The meaning of a key of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListedRow {
    /// The row of a stream, or its part where rows sum up aggregates.
    Stream(StreamId),
    /// A row that sums up aggregates.
    Sum(RowKey),
    /// Nothing that this projection writes. The key, made fit for a line of a report.
    Unreadable(String),
}

/// Part of a scan of a table of rows.
#[derive(Debug, Clone)]
pub struct ListedRows<C> {
    /// The rows that it listed.
    pub listed: Vec<ListedRow>,
    /// Where to go on; `None` at the end. A page without rows need not be the last one.
    pub next: Option<C>,
    /// The read units that AWS reports; 0 where it reports none.
    pub read_units: f64,
}

/// A row that sums up aggregates, beside the sum of its parts.
#[derive(Debug, Clone)]
pub struct Sum<R> {
    /// The row's key.
    pub key: RowKey,
    /// The row; `None` where there is none, nor a version in its place.
    pub row: Option<R>,
    /// The sum of its parts; empty where it has none.
    pub expected: Attributes,
    /// How many parts it has.
    pub parts: u64,
    /// The attributes in which the row differs from that, sorted.
    pub differences: Vec<String>,
    /// The read units that AWS reports; 0 where it reports none.
    pub read_units: f64,
}

impl<R> Sum<R> {
    /// Compares a row, whose item is `found`, with the sum of its parts.
    pub(crate) fn new(
        layout: &Layout,
        key: &RowKey,
        row: Option<R>,
        found: &Attributes,
        sum: Summed,
        read_units: f64,
    ) -> Self {
        let differences = match (&row, sum.parts) {
            (None, 0) => Vec::new(),
            _ => Expected::sum(layout, key, &sum).differences(found),
        };
        let (key, Summed { parts, attributes: expected, .. }) = (key.clone(), sum);
        Self { key, row, expected, parts, differences, read_units }
    }
}

impl ListedRow {
    /// The meaning of a key of a table.
    pub(crate) fn of(layout: &Layout, key: &str) -> Self {
        if let Ok(stream) = layout.stream(key) {
            return Self::Stream(stream);
        }
        match key.parse() {
            Ok(sum) if layout.aggregation().is_some() => Self::Sum(sum),
            Ok(_) | Err(_) => Self::Unreadable(printable(key)),
        }
    }
}

impl Layout {
    /// The stream whose version an item has. Keys have one canonical form: an item under another one has no stream.
    pub(crate) fn stream(&self, key: &str) -> Result<StreamId, Invalid> {
        let sign = if self.aggregation().is_some() { '@' } else { '#' };
        let (tenant, id) = key.split_once(sign).ok_or(Invalid("must be the key of a stream"))?;
        let (tenant, id) = (tenant.parse()?, parse_uuid(id)?);
        let stream = StreamId { tenant, aggregate_type: self.source.clone(), id };
        if self.stream_key(&stream) == key { Ok(stream) } else { Err(Invalid("must be a canonical key")) }
    }
}

/// Reading stored rows, and replacing wrong ones. Each call is one request, except where its comment says more.
///
/// Where rows sum up aggregates, a stream's row is its part here.
pub trait AuditRows: WriteRows + ReadRows {
    /// A row as found, valid or not.
    type Row: Clone + Send + Sync + 'static;
    /// Where a scan is.
    type Cursor: Place;

    /// The rows of up to [`MAX_ROWS`](crate::MAX_ROWS) streams, each named once, strongly consistent.
    fn rows(
        &self,
        streams: &[StreamId],
    ) -> impl Future<Output = Result<FoundRows<Self::Row>, AwsError>> + Send;

    /// A row's version; `None` where it has no valid one.
    fn version(row: &Self::Row) -> Option<u64>;

    /// The attributes in which a row differs from the one that an update leaves where there was none; sorted, each
    /// once. A missing provenance is no difference, a wrong one is. Attributes beyond the row's schema are ignored.
    ///
    /// An update that does not start at version 0 is [`AwsError::Refused`].
    fn differences(&self, row: &Self::Row, expected: &RowUpdate) -> Result<Vec<String>, AwsError>;

    /// The part of a segment's keys that follows a place. Not strongly consistent: a row that was written a moment ago
    /// may be missed.
    fn list(
        &self,
        segment: Segment,
        from: Option<&Self::Cursor>,
    ) -> impl Future<Output = Result<ListedRows<Self::Cursor>, AwsError>> + Send;

    /// Replaces a row by the one that an update leaves where there was none, if it still has the version that it was
    /// found at; says whether it had.
    ///
    /// A part takes its contribution with it, and brings the new one, where the found part can be read; so that takes
    /// more requests. Where it cannot be read, [`replace_sum`](Self::replace_sum) has to follow.
    ///
    /// An update that does not start at version 0, or of another row, is [`AwsError::Refused`].
    fn replace(
        &self,
        row: &Self::Row,
        with: &RowUpdate,
    ) -> impl Future<Output = Result<bool, AwsError>> + Send;

    /// Deletes a row, if it still has the version that it was found at; says whether it had. A part takes its
    /// contribution with it, as in [`replace`](Self::replace).
    fn delete(&self, row: &Self::Row) -> impl Future<Output = Result<bool, AwsError>> + Send;

    /// About how many rows there are, parts among them: AWS counts them every six hours or so (DynamoDB API Reference,
    /// `TableDescription`).
    fn count(&self) -> impl Future<Output = Result<u64, AwsError>> + Send;

    /// A row that sums up aggregates, beside the sum of its parts. A read of the row, then two requests for each
    /// hundred of its parts.
    ///
    /// Parts are found by an index that lags behind them. So a difference means something only where a second call, a
    /// while later, finds it in the same version of the row.
    fn sum(&self, key: &RowKey) -> impl Future<Output = Result<Sum<Self::Row>, AwsError>> + Send;

    /// Replaces a row by the sum of its parts, if it still has the version that it was found at; says whether it had.
    /// That version is newer afterwards.
    fn replace_sum(&self, sum: &Sum<Self::Row>) -> impl Future<Output = Result<bool, AwsError>> + Send;
}

/// An item as it should be.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) key: String,
    /// Every attribute besides the key.
    pub(crate) item: Attributes,
    /// The attributes that it is compared by.
    names: BTreeSet<String>,
}

impl Expected {
    /// The item that an update leaves where there was none.
    pub(crate) fn of(layout: &Layout, update: &RowUpdate) -> Result<Self, AwsError> {
        let attributes = made(update)?;
        let mut all = match layout.aggregation() {
            Some(aggregation) => {
                let target = target(aggregation, &update.stream.tenant, &attributes);
                layout.part(&attributes, target.map_err(refused)?.as_ref())
            }
            None => layout.put(&update.key, &attributes),
        };
        all.insert(VERSION.to_owned(), Some(update.to_version.into()));
        all.extend(assignments(&update.provenance));
        Ok(Self::from(layout.stream_key(&update.stream), all))
    }

    /// The row that parts add up to, without its version and its provenance.
    fn sum(layout: &Layout, key: &RowKey, sum: &Summed) -> Self {
        Self::from(key.to_string(), layout.summed(key, sum))
    }

    fn from(key: String, assignments: Assignments) -> Self {
        Self { key, names: assignments.keys().cloned().collect(), item: values(assignments) }
    }

    /// The attributes in which an item differs. An attribute of it that cannot be read is `null`.
    pub(crate) fn differences(&self, found: &Attributes) -> Vec<String> {
        let differs = |name: &&String| match (found.get(*name), self.item.get(*name)) {
            (Some(found), Some(expected)) => stored(found) != stored(expected),
            (None, Some(_)) => !PROVENANCE.contains(&name.as_str()),
            // The trace of another event than the newest, for one.
            (Some(_), None) => true,
            (None, None) => false,
        };
        self.names.iter().filter(differs).cloned().collect()
    }
}

/// A value as it comes back from where it is stored: a number's notation does not.
fn stored(value: &Value) -> Option<Value> {
    item::json(&item::attribute(value))
}

/// The attributes that an update leaves where there was no row.
pub(crate) fn made(update: &RowUpdate) -> Result<Attributes, AwsError> {
    if update.from_version > 0 {
        return Err(AwsError::Refused("an update that does not make its row".to_owned()));
    }
    update.change.resolve(&Attributes::new()).map_err(refused)
}

pub(crate) fn refused(error: impl ToString) -> AwsError {
    AwsError::Refused(error.to_string())
}

/// The sum of all parts of a row.
pub(crate) fn sum_of<'a>(
    aggregation: &Aggregation,
    key: &RowKey,
    parts: impl IntoIterator<Item = &'a Attributes>,
    sum: Summed,
) -> Result<Summed, AwsError> {
    let add = |sum: Summed, part| sum.with(aggregation, key, &Attributes::new(), part);
    parts.into_iter().try_fold(sum, add).map_err(|error| AwsError::InvalidResponse(error.to_string()))
}

pub(crate) fn sums_nothing() -> AwsError {
    AwsError::Refused("rows of this projection sum up nothing".to_owned())
}

/// The values that attributes are given.
pub(crate) fn values(assignments: Assignments) -> Attributes {
    assignments.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}
