//! The read models, and waiting until they have caught up.

use millrace_aws::AwsError;
use millrace_domain::{OrderId, TenantId, UserId};
use millrace_proto::query::ReadAfter;
use millrace_read_models::{OrderRow, ReadOrders, ReadUsers, UserRow};
use millrace_runtime::{Call, Failure, Violations};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::attempts::Attempts;

/// What an answer must not be older than: an aggregate, of either kind, at a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct After {
    /// The aggregate.
    pub aggregate_id: Uuid,
    /// Its version.
    pub version: u64,
}

impl After {
    /// Reads a request's token, if it has one.
    pub(crate) fn parse(wrong: &mut Violations, after: Option<ReadAfter>) -> Option<Self> {
        let after = after?;
        // A user's id and an order's are read alike.
        let id: Option<UserId> = wrong.field("after.aggregate_id", after.aggregate_id.parse());
        if after.version == 0 {
            wrong.add("after.version", "must be at least 1");
        }
        Some(Self { aggregate_id: id?.0, version: after.version })
    }
}

/// A kind of read model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Users' profiles.
    User,
    /// Order summaries.
    Order,
}

impl Kind {
    fn other(self) -> Self {
        match self {
            Self::User => Self::Order,
            Self::Order => Self::User,
        }
    }
}

/// A row that was waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A user's.
    User(UserRow),
    /// An order's.
    Order(OrderRow),
}

impl Row {
    fn version(&self) -> u64 {
        match self {
            Self::User(row) => row.version,
            Self::Order(row) => row.version,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::User(_) => Kind::User,
            Self::Order(_) => Kind::Order,
        }
    }
}

/// Both read models: a query about one may have to wait for the other.
#[derive(Debug, Clone)]
pub struct Models<U, O> {
    /// Users' profiles.
    pub users: U,
    /// Order summaries.
    pub orders: O,
}

impl<U: ReadUsers, O: ReadOrders> Models<U, O> {
    /// The read models.
    pub fn new(users: U, orders: O) -> Self {
        Self { users, orders }
    }

    /// The row of the aggregate that `after` names, as soon as it is at least that new; strongly consistent. Fails with
    /// [`Failure::ReadModelBehind`] shortly before the caller stops waiting, so that the caller learns of it.
    ///
    /// The token does not say what the aggregate is, so it is looked for in the model that the query is about, and while
    /// it has no row there, every other time also in the other. A row that is fresh at once costs one request.
    pub async fn caught_up(&self, call: &Call, after: After, about: Kind) -> Result<Row, Failure> {
        let start = Instant::now();
        let row = self.wait(call, after, about).await;
        metrics::histogram!("read_after_seconds").record(start.elapsed().as_secs_f64());
        row
    }

    async fn wait(&self, call: &Call, after: After, about: Kind) -> Result<Row, Failure> {
        let mut attempts = Attempts::until(call.deadline);
        let (mut known, mut both, mut answered) = (None, true, false);
        loop {
            let look =
                self.look(&call.tenant, after.aggregate_id, known.unwrap_or(about), known.is_none() && both);
            match timeout_at(attempts.end, look).await {
                Ok(Ok(Some(row))) if row.version() >= after.version => return Ok(row),
                Ok(Ok(row)) => known = known.or(row.map(|row| row.kind())),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) if answered => return Err(Failure::ReadModelBehind),
                Err(_) => return Err(AwsError::Unreachable("no read was answered in time".to_owned()).into()),
            }
            answered = true;
            both = !both;
            if !attempts.next().await {
                return Err(Failure::ReadModelBehind);
            }
        }
    }

    /// The row of an aggregate of one kind or, where there is none, of the other, if that is to be looked for.
    async fn look(
        &self,
        tenant: &TenantId,
        id: Uuid,
        kind: Kind,
        both: bool,
    ) -> Result<Option<Row>, AwsError> {
        match self.row(tenant, id, kind).await? {
            None if both => self.row(tenant, id, kind.other()).await,
            found => Ok(found),
        }
    }

    async fn row(&self, tenant: &TenantId, id: Uuid, kind: Kind) -> Result<Option<Row>, AwsError> {
        Ok(match kind {
            Kind::User => self.users.get(tenant, UserId(id)).await?.map(Row::User),
            Kind::Order => self.orders.get(tenant, OrderId(id)).await?.map(Row::Order),
        })
    }
}
