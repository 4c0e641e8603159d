//! The read models, and waiting until they have caught up.

use std::time::Duration;

use millrace_aws::AwsError;
use millrace_domain::{OrderId, TenantId, UserId};
use millrace_proto::query::ReadAfter;
use millrace_read_models::{OrderRow, ReadOrders, ReadUsers, UserRow};
use millrace_runtime::{Call, Failure, Violations};
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

/// How long a caller who named no deadline is kept waiting.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest of the caller's time that is left for the answer to travel, and the least part of it.
const TRAVEL: Duration = Duration::from_millis(50);
const TRAVEL_PART: u32 = 10;

/// The pause after the first look, and the longest one. Each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

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
    /// it has no row there, also in the other. A row that is fresh at once costs one request.
    pub async fn caught_up(&self, call: &Call, after: After, about: Kind) -> Result<Row, Failure> {
        let start = Instant::now();
        let row = timeout_at(give_up_at(start, call.deadline), self.poll(&call.tenant, after, about)).await;
        metrics::histogram!("read_after_seconds").record(start.elapsed().as_secs_f64());
        match row {
            Ok(row) => Ok(row?),
            Err(_) => Err(Failure::ReadModelBehind),
        }
    }

    async fn poll(&self, tenant: &TenantId, after: After, about: Kind) -> Result<Row, AwsError> {
        let mut pause = FIRST_PAUSE;
        let mut known = None;
        loop {
            let row = match known {
                Some(kind) => self.row(tenant, after.aggregate_id, kind).await?,
                None => match self.row(tenant, after.aggregate_id, about).await? {
                    None => self.row(tenant, after.aggregate_id, about.other()).await?,
                    found => found,
                },
            };
            if let Some(row) = row {
                if row.version() >= after.version {
                    return Ok(row);
                }
                known = Some(row.kind());
            }
            // Those who wait for the same row do not keep step.
            sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn row(&self, tenant: &TenantId, id: Uuid, kind: Kind) -> Result<Option<Row>, AwsError> {
        Ok(match kind {
            Kind::User => self.users.get(tenant, UserId(id)).await?.map(Row::User),
            Kind::Order => self.orders.get(tenant, OrderId(id)).await?.map(Row::Order),
        })
    }
}

/// When waiting is of no more use.
fn give_up_at(now: Instant, deadline: Option<Instant>) -> Instant {
    match deadline {
        None => now + PATIENCE,
        Some(deadline) => {
            let left = deadline.saturating_duration_since(now);
            now + (left - TRAVEL.min(left / TRAVEL_PART))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_before_the_caller_stops_waiting() {
        let now = Instant::now();
        let waits = |deadline: Duration| give_up_at(now, Some(now + deadline)) - now;
        assert_eq!(give_up_at(now, None) - now, Duration::from_secs(2));
        assert_eq!(waits(Duration::from_secs(10)), Duration::from_millis(9_950));
        assert_eq!(waits(Duration::from_millis(100)), Duration::from_millis(90));
        assert_eq!(waits(Duration::ZERO), Duration::ZERO);
        assert_eq!(give_up_at(now + PATIENCE, Some(now)), now + PATIENCE);
    }
}
