//! Appending: one conditional put, or one transaction.

use std::{collections::HashMap, pin::pin};

use aws_sdk_dynamodb::{
    error::SdkError,
    operation::{
        put_item::PutItemError,
        transact_write_items::{TransactWriteItemsError, TransactWriteItemsOutput},
    },
    types::{AttributeValue, Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem},
};
use millrace_aws::{AwsError, answered};
use uuid::Uuid;

use super::{DynamoStore, cancelled};
use crate::{
    AppendError, AppendEvents, Commit,
    item::{AGGREGATE_ID, Item, text},
    plan::{Direction, KEY, KeyChange, Plan},
};

/// Holds while no event has the version. The condition is evaluated on the one item with that stream and version.
const VERSION_IS_FREE: &str = "attribute_not_exists(AggregateId)";
/// Holds while no other aggregate has the key.
const KEY_IS_FREE_OR_OURS: &str = "attribute_not_exists(#key) OR #holder = :me";

impl AppendEvents for DynamoStore {
    async fn append(&self, commit: &Commit) -> Result<(), AppendError> {
        let mut plan = Plan::of(commit, self.reader.index_shards)?;
        let sent = pin!(async {
            if plan.keys.is_empty()
                && plan.events.len() == 1
                && let Some(event) = plan.events.pop()
            {
                return self.put(event).await;
            }
            self.transact(plan).await
        });
        let (stored, was_answered) = answered(sent).await;
        stored.map_err(|error| if was_answered { error } else { in_doubt(error) })
    }
}

/// The error to report after an unanswered attempt. That attempt may still take effect, whatever the reply to the last
/// one.
fn in_doubt(error: AppendError) -> AppendError {
    match error {
        AppendError::KeyTaken { .. }
        | AppendError::Contended
        | AppendError::Conflict { existing: None }
        | AppendError::Failed(AwsError::Throttled(_)) => AppendError::Failed(AwsError::Unreachable(format!(
            "an attempt was not answered, and the last one failed: {error}"
        ))),
        // The version is taken: by that attempt, or for it as for all others.
        AppendError::Conflict { existing: Some(_) }
        // It was not sent.
        | AppendError::TooLarge { .. }
        | AppendError::Failed(AwsError::Unreachable(_) | AwsError::Refused(_) | AwsError::InvalidResponse(_)) => error,
    }
}

impl DynamoStore {
    /// Half the write units of a transaction, and one round within DynamoDB instead of two.
    async fn put(&self, event: Item) -> Result<(), AppendError> {
        let put = self.reader.client.put_item().table_name(&*self.reader.events).set_item(Some(event));
        let sent = put
            .condition_expression(VERSION_IS_FREE)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let Err(error) = sent else { return Ok(()) };
        // Conditions first: the text of an `AwsError` would contain the returned item.
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(failed)) => {
                Err(cancelled::conflict(failed.item()))
            }
            Some(
                PutItemError::TransactionConflictException(_)
                | PutItemError::ReplicatedWriteConflictException(_),
            ) => Err(AppendError::Contended),
            Some(_) | None => Err(AppendError::Failed(error.into())),
        }
    }

    async fn transact(&self, plan: Plan) -> Result<(), AppendError> {
        let me = text(&plan.stream);
        // If the reply to this request is lost, the SDK's next attempt gets the success of the first. A commit that its
        // writer sends again is another request, and may differ.
        let token = Uuid::new_v4().to_string();
        // The reasons of a cancelled transaction come in this order.
        let places: Vec<_> = cancelled::places(&plan).collect();
        let events = plan.events.into_iter().map(|item| self.put_event(item));
        let keys = plan.keys.into_iter().map(|key| self.change_key(key, &me));
        let actions = events.chain(keys).collect::<Result<Vec<_>, AwsError>>()?;
        let transaction = self.reader.client.transact_write_items().set_transact_items(Some(actions));
        let sent = transaction.client_request_token(token).send().await;
        outcome(&places, sent)
    }

    fn put_event(&self, item: Item) -> Result<TransactWriteItem, AwsError> {
        let put = Put::builder()
            .table_name(&*self.reader.events)
            .set_item(Some(item))
            .condition_expression(VERSION_IS_FREE)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        Ok(TransactWriteItem::builder().put(put.build().map_err(incomplete)?).build())
    }

    fn change_key(&self, mut change: KeyChange, me: &AttributeValue) -> Result<TransactWriteItem, AwsError> {
        let names = HashMap::from(
            [("#key", KEY), ("#holder", AGGREGATE_ID)].map(|(a, b)| (a.to_owned(), b.to_owned())),
        );
        let action = TransactWriteItem::builder();
        match change.direction {
            Direction::Claim => {
                let put = Put::builder()
                    .table_name(&*self.unique_keys)
                    .set_item(Some(change.item))
                    .condition_expression(KEY_IS_FREE_OR_OURS)
                    .set_expression_attribute_names(Some(names))
                    .expression_attribute_values(":me", me.clone());
                Ok(action.put(put.build().map_err(incomplete)?).build())
            }
            Direction::Release => {
                change.item.retain(|name, _| name == KEY);
                let delete = Delete::builder()
                    .table_name(&*self.unique_keys)
                    .set_key(Some(change.item))
                    .condition_expression(KEY_IS_FREE_OR_OURS)
                    .set_expression_attribute_names(Some(names))
                    .expression_attribute_values(":me", me.clone());
                Ok(action.delete(delete.build().map_err(incomplete)?).build())
            }
        }
    }
}

/// The outcome of a transaction.
fn outcome(
    places: &[cancelled::Place],
    sent: Result<TransactWriteItemsOutput, SdkError<TransactWriteItemsError>>,
) -> Result<(), AppendError> {
    let Err(error) = sent else { return Ok(()) };
    match error.as_service_error() {
        Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
            Err(cancelled::verdict(places, cancelled.cancellation_reasons()))
        }
        // An earlier, unanswered attempt is still under way.
        Some(TransactWriteItemsError::TransactionInProgressException(_)) => Err(AppendError::Contended),
        // Another request had the same token by coincidence. This one was rejected ("DynamoDB rejected the request":
        // API Reference, TransactWriteItems), and can be sent with another token.
        Some(TransactWriteItemsError::IdempotentParameterMismatchException(_)) => {
            tracing::warn!("two transactions have one token");
            Err(AppendError::Contended)
        }
        Some(_) | None => Err(AppendError::Failed(error.into())),
    }
}

fn incomplete(error: impl ToString) -> AwsError {
    AwsError::Refused(error.to_string())
}
