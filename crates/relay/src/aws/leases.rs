//! Leases on DynamoDB.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    operation::update_item::{UpdateItemError, builders::UpdateItemFluentBuilder},
    types::{AttributeValue, ReturnValue},
};
use millrace_aws::AwsError;
use millrace_core::Timestamp;
use millrace_server::FailureLogThrottle;
use tracing::error;

use crate::{
    leases::{
        Checkpoint, LOOKER, Lease, LeaseTable, Leases, Parent, Progress, RefillJob, Replica, segment_of,
    },
    stream::ShardId,
};

type Item = HashMap<String, AttributeValue>;

const SHARD_ID: &str = "ShardId";
const OWNER: &str = "Owner";
const FENCE: &str = "Fence";
const EXPIRES_AT: &str = "ExpiresAt";
const CHECKPOINT: &str = "Checkpoint";
const CHECKPOINT_TIME: &str = "CheckpointTime";
const PARENT: &str = "Parent";
const UNLISTED: &str = "Unlisted";

const COMPLETE_AT: &str = "CompleteAt";

/// The checkpoint of a refill's segment. Its name differs from a shard's so that a release without refills does not
/// take the item for a lease.
const SCANNED: &str = "Scanned";

const SINCE: &str = "Since";
const SEGMENTS: &str = "Segments";

/// The condition of a write by a lease's owner.
const OURS: &str = "#owner = :owner AND #fence = :fence";

/// The prefix of a replica's key. No shard has it: a stream's label contains no `#`.
const REPLICA: &str = "replica#";

/// The key of the item with [`LeaseTable::complete_at`].
const COMPLETE: &str = "complete#";

/// The lease table. An item is a lease (`ShardId`, `Owner`, `Fence`, `ExpiresAt` in milliseconds since 1970,
/// `Checkpoint`, `CheckpointTime`, `Parent` = `NONE` or a shard, `Unlisted` if so) or a replica (`ShardId` = `replica#<owner>`, `ExpiresAt`). One item notes when every
/// shard last had its lease (`ShardId` = `complete#`, `CompleteAt` in milliseconds since 1970). A refill has an item
/// (`ShardId` = `refill#<number>`, `Since`, `Segments`) and a lease for each segment, with `Scanned` in place
/// of `Checkpoint`.
#[derive(Debug, Clone)]
pub struct DynamoLeases {
    client: Client,
    table: String,
    /// For items that cannot be read.
    unreadable: Arc<Mutex<FailureLogThrottle>>,
}

impl DynamoLeases {
    /// The table called `table`.
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        Self { client, table: table.into(), unreadable: Arc::default() }
    }

    /// Puts an item, unless its key exists.
    async fn put_new(&self, item: Item) -> Result<bool, AwsError> {
        let call = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(#shard)")
            .expression_attribute_names("#shard", SHARD_ID);
        match call.send().await {
            Ok(_) => Ok(true),
            Err(error)
                if error.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) =>
            {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes an item.
    async fn delete(&self, key: String) -> Result<(), AwsError> {
        self.client.delete_item().table_name(&self.table).key(SHARD_ID, text(key)).send().await?;
        Ok(())
    }

    /// A write of expiry and progress, on the condition that owner and fence are still the lease's.
    fn update(&self, lease: &Lease, expression: &str) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(&self.table)
            .key(SHARD_ID, text(&lease.shard))
            .update_expression(expression)
            .condition_expression(OURS)
            .expression_attribute_names("#owner", OWNER)
            .expression_attribute_names("#fence", FENCE)
            .expression_attribute_names("#expires", EXPIRES_AT)
            .expression_attribute_names("#checkpoint", checkpoint_name(&lease.shard))
            .expression_attribute_names("#time", CHECKPOINT_TIME)
            .expression_attribute_values(":owner", text(lease.owner.as_deref().unwrap_or_default()))
            .expression_attribute_values(":fence", number(lease.fence))
            .expression_attribute_values(":expires", number(millis(lease.expires_at)))
            .expression_attribute_values(":checkpoint", text(lease.progress.checkpoint.to_text()))
            .expression_attribute_values(":time", text(lease.progress.time))
    }
}

impl Leases for DynamoLeases {
    async fn list(&self) -> Result<LeaseTable, AwsError> {
        let mut table = LeaseTable::default();
        let mut unreadable = None;
        let mut pages =
            self.client.scan().table_name(&self.table).consistent_read(true).into_paginator().items().send();
        while let Some(item) = pages.next().await {
            let item = item?;
            match row(&item) {
                Ok(Row::Lease(lease)) if segment_of(&lease.shard).is_some() => table.segments.push(lease),
                Ok(Row::Lease(lease)) if lease.shard.as_str() == LOOKER => table.looker = Some(lease),
                Ok(Row::Lease(lease)) => table.leases.push(lease),
                Ok(Row::Refill(refill)) => table.refills.push(refill),
                Ok(Row::Replica(replica)) => table.replicas.push(replica),
                Ok(Row::Complete(at)) => table.complete_at = Some(at),
                // A person has edited the table. The other shards' leases are still read.
                Err(attribute) => unreadable = Some(attribute),
            }
        }
        let mut throttle = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        match unreadable {
            None => throttle.succeeded(),
            Some(attribute) if throttle.failed().is_some() => {
                error!(attribute, "an item of the lease table cannot be read; its shard may not be relayed");
            }
            Some(_) => {}
        }
        Ok(table)
    }

    async fn create(&self, lease: &Lease) -> Result<bool, AwsError> {
        self.put_new(lease_item(lease)).await
    }

    async fn take(
        &self,
        seen: &Lease,
        owner: &str,
        expires_at: Timestamp,
    ) -> Result<Option<Lease>, AwsError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(SHARD_ID, text(&seen.shard))
            .update_expression("SET #owner = :owner, #expires = :expires, #fence = :next")
            .condition_expression("#fence = :fence AND #expires = :seen")
            .expression_attribute_names("#owner", OWNER)
            .expression_attribute_names("#fence", FENCE)
            .expression_attribute_names("#expires", EXPIRES_AT)
            .expression_attribute_values(":owner", text(owner))
            .expression_attribute_values(":expires", number(millis(expires_at)))
            .expression_attribute_values(":seen", number(millis(seen.expires_at)))
            .expression_attribute_values(":fence", number(seen.fence))
            .expression_attribute_values(":next", number(seen.fence.saturating_add(1)))
            .return_values(ReturnValue::AllNew);
        match call.send().await {
            Ok(reply) => match row(&reply.attributes.unwrap_or_default()) {
                Ok(Row::Lease(lease)) => Ok(Some(lease)),
                Ok(Row::Replica(_) | Row::Complete(_) | Row::Refill(_)) => {
                    Err(AwsError::InvalidResponse("a lease that is none".to_owned()))
                }
                Err(attribute) => Err(AwsError::InvalidResponse(format!("a lease with a bad {attribute}"))),
            },
            Err(error) if condition_failed(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn keep(&self, lease: &Lease) -> Result<bool, AwsError> {
        const KEEP: &str = "SET #expires = :expires, #checkpoint = :checkpoint, #time = :time";
        let update = self.update(lease, KEEP);
        let update = update.condition_expression(format!("{OURS} AND #expires <= :expires"));
        held(update.send().await.map(drop))
    }

    async fn release(&self, lease: &Lease) -> Result<bool, AwsError> {
        const RELEASE: &str =
            "SET #expires = :expires, #checkpoint = :checkpoint, #time = :time REMOVE #owner";
        held(self.update(lease, RELEASE).send().await.map(drop))
    }

    async fn correct(&self, lease: &Lease) -> Result<(), AwsError> {
        let mut call = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(SHARD_ID, text(&lease.shard))
            .condition_expression("attribute_exists(#shard)")
            .expression_attribute_names("#shard", SHARD_ID)
            .expression_attribute_names("#unlisted", UNLISTED);
        let mut set = Vec::new();
        if let Some(parent) = lease.parent.to_text() {
            call = call
                .expression_attribute_names("#parent", PARENT)
                .expression_attribute_values(":parent", text(parent));
            set.push("#parent = :parent");
        }
        if lease.is_unlisted {
            call = call.expression_attribute_values(":unlisted", AttributeValue::Bool(true));
            set.push("#unlisted = :unlisted");
        }
        let set = if set.is_empty() { String::new() } else { format!("SET {}", set.join(", ")) };
        let remove = if lease.is_unlisted { "" } else { " REMOVE #unlisted" };
        held(call.update_expression(set + remove).send().await.map(drop)).map(drop)
    }

    async fn forget(&self, seen: &Lease) -> Result<(), AwsError> {
        let call = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(SHARD_ID, text(&seen.shard))
            .condition_expression("#fence = :fence")
            .expression_attribute_names("#fence", FENCE)
            .expression_attribute_values(":fence", number(seen.fence));
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error)
                if error.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) =>
            {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn announce(&self, replica: &Replica) -> Result<(), AwsError> {
        let call = self
            .client
            .put_item()
            .table_name(&self.table)
            .item(SHARD_ID, text(replica_key(&replica.owner)))
            .item(EXPIRES_AT, number(millis(replica.expires_at)));
        call.send().await?;
        Ok(())
    }

    async fn note_complete(&self, at: Timestamp) -> Result<(), AwsError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(SHARD_ID, text(COMPLETE))
            .update_expression("SET #at = :at")
            .condition_expression("attribute_not_exists(#at) OR #at < :at")
            .expression_attribute_names("#at", COMPLETE_AT)
            .expression_attribute_values(":at", number(millis(at)));
        match call.send().await {
            Err(error) if !condition_failed(&error) => Err(error.into()),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn begin_refill(&self, refill: &RefillJob) -> Result<bool, AwsError> {
        self.put_new(refill_item(refill)).await
    }

    async fn end_refill(&self, refill: &RefillJob) -> Result<(), AwsError> {
        self.delete(refill.key()).await
    }

    async fn withdraw(&self, owner: &str) -> Result<(), AwsError> {
        self.delete(replica_key(owner)).await
    }
}

fn held<R>(result: Result<(), SdkError<UpdateItemError, R>>) -> Result<bool, AwsError>
where
    AwsError: From<SdkError<UpdateItemError, R>>,
{
    match result {
        Ok(()) => Ok(true),
        Err(error) if condition_failed(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn condition_failed<R>(error: &SdkError<UpdateItemError, R>) -> bool {
    error.as_service_error().is_some_and(UpdateItemError::is_conditional_check_failed_exception)
}

enum Row {
    Lease(Lease),
    Replica(Replica),
    Complete(Timestamp),
    Refill(RefillJob),
}

fn checkpoint_name(shard: &ShardId) -> &'static str {
    if segment_of(shard).is_some() { SCANNED } else { CHECKPOINT }
}

fn refill_item(refill: &RefillJob) -> Item {
    let RefillJob { number: _, since, segments } = refill;
    [(SHARD_ID, text(refill.key())), (SINCE, text(since)), (SEGMENTS, number(segments))]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

fn lease_item(lease: &Lease) -> Item {
    let owner = lease.owner.as_ref().map(|owner| (OWNER, text(owner)));
    let parent = lease.parent.to_text().map(|parent| (PARENT, text(parent)));
    let unlisted = lease.is_unlisted.then_some((UNLISTED, AttributeValue::Bool(true)));
    [
        (SHARD_ID, text(&lease.shard)),
        (FENCE, number(lease.fence)),
        (EXPIRES_AT, number(millis(lease.expires_at))),
        (checkpoint_name(&lease.shard), text(lease.progress.checkpoint.to_text())),
        (CHECKPOINT_TIME, text(lease.progress.time)),
    ]
    .into_iter()
    .chain(owner)
    .chain(parent)
    .chain(unlisted)
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// The row in an item, or the attribute that cannot be read.
fn row(item: &Item) -> Result<Row, &'static str> {
    let key = string(item, SHARD_ID)?;
    if key == COMPLETE {
        return time(item, COMPLETE_AT).map(Row::Complete);
    }
    if let Some(number) = RefillJob::number_of(key) {
        let since = string(item, SINCE)?.parse().map_err(|_| SINCE)?;
        return Ok(Row::Refill(RefillJob { number, since, segments: whole(item, SEGMENTS)? }));
    }
    let expires_at = time(item, EXPIRES_AT)?;
    if let Some(owner) = key.strip_prefix(REPLICA) {
        return Ok(Row::Replica(Replica { owner: owner.to_owned(), expires_at }));
    }
    let optional = |name| if item.contains_key(name) { string(item, name).map(Some) } else { Ok(None) };
    let owner = optional(OWNER)?.map(str::to_owned);
    let parent = Parent::from_text(optional(PARENT)?);
    let shard = ShardId::from(key);
    let checkpoint = Checkpoint::from_text(string(item, checkpoint_name(&shard))?);
    let time = string(item, CHECKPOINT_TIME)?.parse().map_err(|_| CHECKPOINT_TIME)?;
    Ok(Row::Lease(Lease {
        shard,
        owner,
        fence: whole(item, FENCE)?,
        expires_at,
        progress: Progress { checkpoint, time },
        parent,
        is_unlisted: item.contains_key(UNLISTED),
    }))
}

fn string<'a>(item: &'a Item, name: &'static str) -> Result<&'a str, &'static str> {
    item.get(name).and_then(|value| value.as_s().ok()).map(String::as_str).ok_or(name)
}

fn whole<T: std::str::FromStr>(item: &Item, name: &'static str) -> Result<T, &'static str> {
    item.get(name).and_then(|value| value.as_n().ok()).and_then(|digits| digits.parse().ok()).ok_or(name)
}

/// A time stored as milliseconds since 1970.
fn time(item: &Item, name: &'static str) -> Result<Timestamp, &'static str> {
    let millis: i64 = whole(item, name)?;
    Ok(Timestamp::from_unix_micros(millis.saturating_mul(1000)))
}

fn replica_key(owner: &str) -> String {
    format!("{REPLICA}{owner}")
}

fn millis(time: Timestamp) -> i64 {
    time.unix_micros().div_euclid(1000)
}

fn text(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Position, Sequence};

    #[test]
    fn a_lease_survives_its_item() {
        for checkpoint in [
            Checkpoint::At(Position::TrimHorizon),
            Checkpoint::At(Position::After(Sequence("0042".to_owned()))),
            Checkpoint::ShardEnd,
        ] {
            for owner in [None, Some("a".to_owned())] {
                let progress =
                    Progress { checkpoint: checkpoint.clone(), time: Timestamp::from_unix_micros(5) };
                let expires_at = Timestamp::from_unix_micros(7_000);
                for shard in ["l/s", "refill#7/0/32"].map(ShardId::from) {
                    let (owner, progress) = (owner.clone(), progress.clone());
                    let parent = Parent::Shard(ShardId::from("l/p"));
                    let lease = Lease {
                        shard,
                        owner,
                        fence: 3,
                        expires_at,
                        progress,
                        parent,
                        is_unlisted: checkpoint == Checkpoint::ShardEnd,
                    };
                    assert!(matches!(row(&lease_item(&lease)), Ok(Row::Lease(read)) if read == lease));
                }
            }
        }
    }

    #[test]
    fn a_refill_survives_its_item_and_names_its_segments() {
        let since = Timestamp::from_unix_micros(5);
        let refill = RefillJob { number: 12, since, segments: 32.try_into().unwrap() };
        assert!(matches!(row(&refill_item(&refill)), Ok(Row::Refill(read)) if read == refill));
        let numbers: Vec<_> = refill.segments().filter_map(|shard| segment_of(&shard)).collect();
        assert_eq!(numbers.iter().map(|segment| segment.number).collect::<Vec<_>>(), Vec::from_iter(0..32));
        assert!(numbers.iter().all(|segment| segment.of == refill.segments));
    }

    #[test]
    fn an_item_that_is_no_lease_is_named_by_its_bad_attribute() {
        let mut item = lease_item(&Lease {
            shard: ShardId::from("s"),
            owner: None,
            fence: 1,
            expires_at: Timestamp::from_unix_micros(0),
            progress: Progress { checkpoint: Checkpoint::ShardEnd, time: Timestamp::from_unix_micros(0) },
            parent: Parent::None,
            is_unlisted: false,
        });
        item.insert(FENCE.to_owned(), text("one"));
        assert!(matches!(row(&item), Err(FENCE)));
    }
}
