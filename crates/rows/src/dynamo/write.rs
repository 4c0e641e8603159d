//! Writing rows that are the aggregates' own: one conditional update, with a read before it where the update folds.

use aws_sdk_dynamodb::{operation::update_item::UpdateItemError, types::ReturnValuesOnConditionCheckFailure};
use millrace_aws::AwsError;
use millrace_core::projection::{ProjectionError, RowChange, RowUpdate};

use super::{
    DynamoRows,
    expression::{Change, changed, stamped},
    key, version,
};
use crate::{WriteError, WriteOutcome, WriteRows, layout::Assignments};

/// The outcome of a conditional update.
pub(super) enum Updated {
    Done,
    /// The condition does not hold for the item, which has this version; 0 where there is none.
    Refused(u64),
    /// A transaction is at the item.
    Contended,
}

impl WriteRows for DynamoRows {
    async fn write(&self, update: &RowUpdate) -> Result<WriteOutcome, WriteError> {
        self.layout.check(update)?;
        if let Some(aggregation) = self.layout.aggregation() {
            return self.write_part(aggregation, update).await;
        }
        match &update.change {
            RowChange::Put(attributes) => {
                self.write_row(update, self.layout.put(&update.key, attributes), false).await
            }
            RowChange::Set(set) if update.from_version == 0 => {
                self.write_row(update, self.layout.put(&update.key, set), false).await
            }
            RowChange::Set(set) => {
                self.write_row(update, self.layout.set(&update.key, set), !set.is_empty()).await
            }
            RowChange::Fold(_) => self.write_fold(update).await,
        }
    }
}

impl DynamoRows {
    async fn write_fold(&self, update: &RowUpdate) -> Result<WriteOutcome, WriteError> {
        let item = self.item(&update.key).await?;
        let found = version(item.as_ref())?;
        if found != update.from_version {
            return Ok(WriteOutcome::VersionMismatch(found));
        }
        let before = item.as_ref().map(|item| self.attributes(&update.key, item)).transpose()?;
        let after = update.change.resolve(&before.unwrap_or_default())?;
        let assignments = changed(self.layout.put(&update.key, &after), item.as_ref());
        self.write_row(update, assignments, false).await
    }

    async fn write_row(
        &self,
        update: &RowUpdate,
        mut assignments: Assignments,
        needs_row: bool,
    ) -> Result<WriteOutcome, WriteError> {
        let from = update.from_version;
        if from == 0 {
            assignments.retain(|_, value| value.is_some());
        }
        let change = Change::new(stamped(assignments, update.to_version, update), from);
        let change = if needs_row { change.of_a_row() } else { change };
        match self.update(update.key.to_string(), change).await? {
            Updated::Done => Ok(WriteOutcome::Applied),
            Updated::Refused(found) if found == from => Err(ProjectionError::NoRow.into()),
            Updated::Refused(found) => Ok(WriteOutcome::VersionMismatch(found)),
            Updated::Contended => Err(WriteError::Contended),
        }
    }

    /// Changes the item under a key, if the condition holds.
    pub(super) async fn update(&self, of: String, change: Change) -> Result<Updated, AwsError> {
        let sent = self
            .client
            .update_item()
            .table_name(&*self.table)
            .set_key(Some(key(of)))
            .update_expression(change.update)
            .condition_expression(change.condition)
            .set_expression_attribute_names(Some(change.names))
            .set_expression_attribute_values(Some(change.values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let Err(error) = sent else { return Ok(Updated::Done) };
        // Conditions first: the text of an `AwsError` would contain the returned item.
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                version(failed.item()).map(Updated::Refused)
            }
            Some(UpdateItemError::TransactionConflictException(_)) => Ok(Updated::Contended),
            Some(_) | None => Err(error.into()),
        }
    }
}
