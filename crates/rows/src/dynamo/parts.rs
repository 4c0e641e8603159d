//! Writing rows that sum up aggregates: a part and the rows that it contributes to, in one transaction.

use std::time::Duration;

use aws_sdk_dynamodb::{
    error::SdkError,
    operation::transact_write_items::TransactWriteItemsError,
    types::{CancellationReason, TransactWriteItem},
};
use futures::future::try_join_all;
use millrace_aws::{
    AwsError,
    item::{Item, value, whole},
};
use millrace_core::{
    Backoff,
    projection::{Aggregation, RowUpdate},
    row::{Attributes, RowKey},
};
use uuid::Uuid;

use super::{
    DynamoRows,
    expression::{Change, changed, stamped},
    key, unreadable, version,
    write::Updated,
};
use crate::{
    WriteError, WriteOutcome,
    layout::{ABSENT, Assignments, PART, PARTS},
    sum::{PartChange, Summed},
};

/// How often a write tries against other writers of its row before it gives up.
pub(super) const ATTEMPTS: u32 = 12;

/// The pauses between these attempts. A transaction takes some ten milliseconds.
pub(super) const PAUSES: Backoff =
    Backoff { first: Duration::from_millis(10), longest: Duration::from_millis(500) };

impl DynamoRows {
    /// Writes an update of a part.
    ///
    /// The transaction succeeds only while part and rows have the versions that were read. So whatever made it fail,
    /// the versions that the next attempt reads tell whether to try again.
    pub(super) async fn write_part(
        &self,
        aggregation: &Aggregation,
        update: &RowUpdate,
    ) -> Result<WriteOutcome, WriteError> {
        for attempt in 1..=ATTEMPTS {
            if let Some(outcome) = self.try_part(aggregation, update).await? {
                return Ok(outcome);
            }
            tokio::time::sleep(PAUSES.after(attempt, rand::random())).await;
        }
        Err(WriteError::Contended)
    }

    /// One attempt; `None` where others were faster.
    async fn try_part(
        &self,
        aggregation: &Aggregation,
        update: &RowUpdate,
    ) -> Result<Option<WriteOutcome>, WriteError> {
        let place = self.layout.stream_key(&update.stream);
        let item = self.item(&place).await?;
        let found = version(item.as_ref())?;
        if found != update.from_version {
            return Ok(Some(WriteOutcome::VersionMismatch(found)));
        }
        let before = part(item.as_ref())?;
        let after = update.change.resolve(&before)?;
        let change = PartChange::new(aggregation, &update.stream.tenant, before, after)?;
        let assignments = changed(self.layout.part(&change.after, change.to.as_ref()), item.as_ref());
        let part = Change::new(stamped(assignments, update.to_version, update), found);
        let rows = self
            .row_changes(aggregation, &change, |assignments, version| stamped(assignments, version, update));
        let rows = rows.await?;
        let is_done = if rows.is_empty() {
            matches!(self.update(place, part).await?, Updated::Done)
        } else {
            let part = part.in_transaction(&self.table, key(place))?;
            self.transact(std::iter::once(part).chain(rows).collect()).await?
        };
        Ok(is_done.then_some(WriteOutcome::Applied))
    }

    /// The changes of the rows that a part contributes to, each under the condition that the row is as it was read.
    pub(super) async fn row_changes(
        &self,
        aggregation: &Aggregation,
        change: &PartChange,
        stamp: impl Fn(Assignments, u64) -> Assignments,
    ) -> Result<Vec<TransactWriteItem>, WriteError> {
        let rows = change.rows().into_iter().map(async |row| {
            let item = self.item(row).await?;
            let before = self.summed(row, item.as_ref())?;
            let from = before.version;
            let after = change.apply(aggregation, row, before)?;
            let assignments = changed(self.layout.summed(row, &after), item.as_ref());
            let change = Change::new(stamp(assignments, after.version), from);
            Ok(change.in_transaction(&self.table, key(row.to_string()))?)
        });
        try_join_all(rows).await
    }

    /// A row that parts add up to.
    fn summed(&self, key: &RowKey, item: Option<&Item>) -> Result<Summed, WriteError> {
        let Some(item) = item else { return Ok(Summed::default()) };
        Ok(Summed {
            version: version(Some(item))?,
            parts: whole(item, PARTS).map_err(unreadable)?,
            attributes: self.attributes(key, item)?,
        })
    }

    /// Carries a transaction out; `false` where something has come in between, or may have.
    pub(super) async fn transact(&self, actions: Vec<TransactWriteItem>) -> Result<bool, AwsError> {
        let sent = self
            .client
            .transact_write_items()
            .set_transact_items(Some(actions))
            // If the reply is lost, the SDK's next attempt gets the success of the first.
            .client_request_token(Uuid::new_v4().to_string())
            .send()
            .await;
        match sent {
            Ok(_) => Ok(true),
            Err(error) => may_try_again(error).map(|()| false),
        }
    }
}

/// The part in an item, empty where there is none.
pub(super) fn part(item: Option<&Item>) -> Result<Attributes, AwsError> {
    match item {
        Some(item) if !item.contains_key(ABSENT) => {
            let part = value(item, PART).map_err(unreadable)?;
            Ok(Attributes::from_iter([(PART.to_owned(), part)]))
        }
        Some(_) | None => Ok(Attributes::new()),
    }
}

/// `Ok` where a failed transaction is to be tried again after another read; else its error.
fn may_try_again(error: SdkError<TransactWriteItemsError>) -> Result<(), AwsError> {
    match error.as_service_error() {
        Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
            verdict(cancelled.cancellation_reasons())
        }
        // An earlier attempt of the SDK is still under way, or another transaction has the same token.
        Some(
            TransactWriteItemsError::TransactionInProgressException(_)
            | TransactWriteItemsError::IdempotentParameterMismatchException(_),
        ) => Ok(()),
        Some(_) | None => Err(error.into()),
    }
}

/// The verdict over the reasons of a cancelled transaction, whatever their order (DynamoDB API Reference,
/// `TransactionCanceledException`). A cancellation without reasons may have any.
fn verdict(reasons: &[CancellationReason]) -> Result<(), AwsError> {
    let codes = || reasons.iter().filter_map(CancellationReason::code).filter(|code| *code != "None");
    let mut others =
        codes().filter(|code| !matches!(*code, "ConditionalCheckFailed" | "TransactionConflict"));
    let is_lost = codes().any(|code| matches!(code, "ConditionalCheckFailed" | "TransactionConflict"));
    match others.next() {
        Some(code) if !is_lost => {
            // Codes only: AWS's messages about values may quote them.
            let text = format!("transaction cancelled: {code}");
            let is_throttling = code == "ProvisionedThroughputExceeded" || AwsError::is_throttling(code);
            Err(if is_throttling { AwsError::Throttled(text) } else { AwsError::Refused(text) })
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(codes: &[&str]) -> Result<(), AwsError> {
        let reasons = codes.iter().map(|code| CancellationReason::builder().code(*code).build());
        verdict(&reasons.collect::<Vec<_>>())
    }

    #[test]
    fn whatever_may_come_of_another_writer_is_tried_again() {
        for codes in [
            &["ConditionalCheckFailed", "None"][..],
            &["None", "ConditionalCheckFailed"],
            &["TransactionConflict"],
            &["ThrottlingError", "ConditionalCheckFailed"],
            &["None", "None"],
            &[],
        ] {
            assert!(of(codes).is_ok(), "{codes:?}");
        }
        assert!(verdict(&[CancellationReason::builder().build()]).is_ok());
    }

    #[test]
    fn what_will_not_pass_by_itself_is_an_error() {
        for code in ["ProvisionedThroughputExceeded", "ThrottlingError", "RequestLimitExceeded"] {
            assert!(matches!(of(&["None", code]), Err(AwsError::Throttled(_))), "{code}");
        }
        for code in ["ValidationError", "AccessDenied", "ItemCollectionSizeLimitExceeded", "SomethingNew"] {
            assert!(matches!(of(&[code]), Err(AwsError::Refused(_))), "{code}");
        }
    }
}
