//! The read models, and waiting until they have caught up.

use std::sync::atomic::AtomicBool;

use millrace_aws::AwsError;
use millrace_core::{
    AggregateType, Application, Invalid, Row, StreamId, TenantId, Versioned,
    ids::parse_uuid,
    projection::{ProjectionKind, ProjectionSpec},
    row::{RowKey, StoredRow},
};
use millrace_proto::query::ReadAfter;
use millrace_rows::ReadRows;
use millrace_server::{Call, Failure, Violations};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::{attempts::Attempts, stores::AnyRows};

/// The waiting time of queries with a token.
const READ_AFTER: &str = "read_after_seconds";

/// Describes the metrics to the recorder.
pub(crate) fn describe() {
    metrics::describe_histogram!(READ_AFTER, metrics::Unit::Seconds, "How long queries with a token waited.");
}

/// The least version of an aggregate that a reply must reflect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct After {
    pub(crate) stream: StreamId,
    pub(crate) version: u64,
}

impl After {
    /// Reads a request's token, if it has one.
    pub(crate) fn parse(
        violations: &mut Violations,
        application: &Application,
        tenant: &TenantId,
        after: Option<ReadAfter>,
    ) -> Option<Self> {
        let ReadAfter { aggregate_type, aggregate_id, version } = after?;
        let aggregate_type = registered(application, &aggregate_type);
        let aggregate_type = violations.field("after.aggregate_type", aggregate_type);
        let id = violations.field("after.aggregate_id", parse_uuid(&aggregate_id));
        if version == 0 {
            violations.add("after.version", "must be at least 1");
        }
        let stream = StreamId { tenant: tenant.clone(), aggregate_type: aggregate_type?, id: id? };
        Some(Self { stream, version })
    }
}

/// Reads the type of a registered aggregate.
pub(crate) fn registered(application: &Application, text: &str) -> Result<AggregateType, Invalid> {
    let known = text.parse().ok().and_then(|aggregate_type| application.aggregate(&aggregate_type));
    let known = known.map(|aggregate| aggregate.aggregate_type.clone());
    known.ok_or(Invalid("must be the type of an aggregate of this application"))
}

/// The rows of one projection.
pub(crate) struct ReadModel {
    pub(crate) spec: ProjectionSpec,
    pub(crate) rows: Box<dyn AnyRows>,
    /// Whether an adapter uses it.
    pub(crate) is_asked_for: AtomicBool,
}

impl ReadModel {
    pub(crate) fn new(spec: &ProjectionSpec, rows: impl ReadRows) -> Self {
        Self { spec: spec.clone(), rows: Box::new(rows), is_asked_for: AtomicBool::new(false) }
    }

    /// Whether each row belongs to one aggregate, and has its id and version.
    pub(crate) fn is_of_aggregates(&self) -> bool {
        match self.spec.kind {
            ProjectionKind::Blind | ProjectionKind::Fold => true,
            ProjectionKind::Aggregating(_) => false,
        }
    }

    /// Waits until the rows reflect `after`; strongly consistent. Returns the row of that aggregate, if each row
    /// belongs to one aggregate. Rows that are up to date at once cost one request.
    ///
    /// Fails with [`Failure::ReadModelBehind`] shortly before the caller stops waiting, so that the caller receives it.
    pub(crate) async fn caught_up(&self, call: &Call, after: &After) -> Result<Option<StoredRow>, Failure> {
        let start = Instant::now();
        let row = self.wait(call, after).await;
        metrics::histogram!(READ_AFTER).record(start.elapsed().as_secs_f64());
        row
    }

    async fn wait(&self, call: &Call, after: &After) -> Result<Option<StoredRow>, Failure> {
        let mut attempts = Attempts::until(call.deadline);
        let mut is_answered = false;
        loop {
            match timeout_at(attempts.end, self.look(&after.stream)).await {
                Ok(Ok((version, row))) if version >= after.version => return Ok(row),
                Ok(Ok(_)) => is_answered = true,
                Ok(Err(error)) => return Err(error.into()),
                Err(_) if is_answered => return Err(Failure::ReadModelBehind),
                Err(_) => return Err(AwsError::Unreachable("no read was answered in time".to_owned()).into()),
            }
            if !attempts.next().await {
                return Err(Failure::ReadModelBehind);
            }
        }
    }

    /// The version up to which the events of a stream are in the rows, and the stream's own row.
    async fn look(&self, stream: &StreamId) -> Result<(u64, Option<StoredRow>), AwsError> {
        if self.is_of_aggregates() {
            let key = RowKey { tenant: stream.tenant.clone(), id: stream.id.to_string() };
            let row = self.rows.get(&key).await?;
            Ok((row.as_ref().map_or(0, |row| row.version), row))
        } else {
            Ok((self.rows.applied_version(stream).await?, None))
        }
    }

    /// Checks whether rows can be read, by a row that does not exist.
    pub(crate) async fn probe(&self) -> Result<(), AwsError> {
        let nobody = RowKey { tenant: TenantId::default(), id: Uuid::nil().to_string() };
        self.rows.get(&nobody).await.map(drop)
    }
}

/// A row with its type; `None` if only a version is kept in the row's place.
pub(crate) fn typed<R: Row>(row: StoredRow) -> Result<Option<Versioned<R>>, AwsError> {
    let unusable = |error| AwsError::InvalidResponse(format!("a row of a {}: {error}", R::SCHEMA.resource));
    row.typed().map_err(unusable)
}
