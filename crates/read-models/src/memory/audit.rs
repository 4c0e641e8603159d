//! What an audit asks of rows in memory.

use millrace_aws::{AwsError, Segment};
use millrace_domain::{Aggregate as _, AggregateType, StreamId, TenantId, order::Order, user::User};
use uuid::Uuid;

use super::{MemoryOrders, MemoryUsers, Row, Shared};
use crate::{
    AuditRows, Change, FoundRows, ListedRows, OrderChange, OrderRow, Provenance, UserChange, UserRow, flawed,
};

/// How many rows a page of a scan lists: few, so that most tables do not fit into one.
const LISTED: usize = 7;

/// A row that can be held against what it should be.
pub(super) trait Audited: Row {
    const KIND: AggregateType;

    fn provenance(&self) -> Option<&Provenance>;

    /// Every value besides the key and the provenance, by the name that it has on DynamoDB.
    fn values(&self) -> Vec<(&'static str, String)>;
}

impl Audited for UserRow {
    const KIND: AggregateType = User::TYPE;

    fn provenance(&self) -> Option<&Provenance> {
        self.provenance.as_ref()
    }

    fn values(&self) -> Vec<(&'static str, String)> {
        vec![
            ("CreatedAt", self.created_at.to_string()),
            ("Email", self.email.as_str().to_owned()),
            ("EmailKey", self.email.normalised().to_string()),
            ("Name", self.name.as_str().to_owned()),
            ("UpdatedAt", self.updated_at.to_string()),
            ("Version", self.version.to_string()),
        ]
    }
}

impl Audited for OrderRow {
    const KIND: AggregateType = Order::TYPE;

    fn provenance(&self) -> Option<&Provenance> {
        self.provenance.as_ref()
    }

    fn values(&self) -> Vec<(&'static str, String)> {
        vec![
            ("CreatedAt", self.created_at.to_string()),
            ("CreatedKey", self.position().to_string()),
            ("Currency", self.basket.total().currency().as_str().to_owned()),
            ("Items", format!("{:?}", self.basket.items())),
            ("Status", self.status.as_str().to_owned()),
            ("StatusKey", self.status.as_str().to_owned()),
            ("TotalAmount", self.basket.total().to_decimal()),
            ("UpdatedAt", self.updated_at.to_string()),
            ("UserId", self.user_id.to_string()),
            ("Version", self.version.to_string()),
        ]
    }
}

macro_rules! audited {
    ($rows:ident, $change:ident, $row:ident) => {
        impl AuditRows<$change> for $rows {
            type Row = $row;
            type Place = usize;

            async fn rows(&self, streams: &[StreamId]) -> Result<FoundRows<$row>, AwsError> {
                Ok(self.0.found(streams))
            }

            fn version(row: &$row) -> Option<u64> {
                Some(row.version)
            }

            fn differences(&self, row: &$row, expected: &$change) -> Result<Vec<&'static str>, AwsError> {
                made(expected, || expected.applied_to(None)).map(|expected| differences(row, &expected))
            }

            async fn list(
                &self,
                segment: Segment,
                from: Option<&usize>,
            ) -> Result<ListedRows<usize>, AwsError> {
                Ok(self.0.list(segment, from))
            }

            async fn replace(&self, row: &$row, with: &$change) -> Result<bool, AwsError> {
                self.0.replace(row, made(with, || with.applied_to(None))?)
            }

            async fn delete(&self, row: &$row) -> Result<bool, AwsError> {
                Ok(self.0.delete(row))
            }

            async fn count(&self) -> Result<u64, AwsError> {
                Ok(self.0.count())
            }
        }
    };
}

audited!(MemoryUsers, UserChange, UserRow);
audited!(MemoryOrders, OrderChange, OrderRow);

/// The row of a change that makes one.
fn made<R>(change: &impl Change, row: impl FnOnce() -> Result<R, AwsError>) -> Result<R, AwsError> {
    if change.from() > 0 { Err(flawed("it does not make its row")) } else { row() }
}

fn differences<R: Audited>(row: &R, expected: &R) -> Vec<&'static str> {
    let values = row.values().into_iter().zip(expected.values());
    let differing = values.filter(|(found, expected)| found != expected).map(|(found, _)| found.0);
    let mut names: Vec<_> = differing.collect();
    if let (Some(found), Some(expected)) = (row.provenance(), expected.provenance()) {
        let of_provenance = [
            ("CausationId", found.causation_id == expected.causation_id),
            ("CorrelationId", found.correlation_id == expected.correlation_id),
            ("EventId", found.event_id == expected.event_id),
            ("TraceParent", found.trace_parent.is_none() || found.trace_parent == expected.trace_parent),
        ];
        names.extend(of_provenance.into_iter().filter(|(_, same)| !same).map(|(name, _)| name));
    }
    names.sort_unstable();
    names
}

impl<R: Audited> Shared<R> {
    fn found(&self, streams: &[StreamId]) -> FoundRows<R> {
        let table = self.table();
        let row = |stream: &StreamId| {
            let row = table.rows.get(&(stream.tenant.clone(), stream.id))?;
            Some((stream.clone(), row.clone()))
        };
        FoundRows { found: streams.iter().filter_map(row).collect(), left: Vec::new(), read_units: 1.0 }
    }

    fn list(&self, segment: Segment, from: Option<&usize>) -> ListedRows<usize> {
        let table = self.table();
        let ours = |id: &Uuid| id.as_u128() % u128::from(segment.of.get()) == u128::from(segment.number);
        let from = from.copied().unwrap_or_default();
        let keys = table.rows.keys().filter(|(_, id)| ours(id)).skip(from).take(LISTED);
        let stream = |(tenant, id): &(TenantId, Uuid)| {
            Ok(StreamId { tenant: tenant.clone(), aggregate_type: R::KIND, id: *id })
        };
        let listed: Vec<_> = keys.map(stream).collect();
        let next = (listed.len() == LISTED).then_some(from + LISTED);
        ListedRows { listed, next, read_units: 1.0 }
    }

    fn replace(&self, row: &R, with: R) -> Result<bool, AwsError> {
        if row.key() != with.key() {
            return Err(flawed("it is of another row"));
        }
        let mut table = self.table();
        match table.rows.get(&row.key()) {
            Some(kept) if kept.version() == row.version() => {
                table.put(with);
                Ok(true)
            }
            Some(_) | None => Ok(false),
        }
    }

    fn delete(&self, row: &R) -> bool {
        let mut table = self.table();
        let unchanged = table.rows.get(&row.key()).is_some_and(|kept| kept.version() == row.version());
        if unchanged {
            table.rows.remove(&row.key());
        }
        unchanged
    }

    fn count(&self) -> u64 {
        u64::try_from(self.table().rows.len()).unwrap_or(u64::MAX)
    }
}
