//! An audit's requests to a table.

use std::{collections::HashMap, error::Error};

use aws_sdk_dynamodb::{
    error::{ProvideErrorMetadata, SdkError},
    operation::{delete_item::DeleteItemError, put_item::PutItemError, update_item::UpdateItemError},
    types::{AttributeValue, Delete, Put, ReturnConsumedCapacity, TransactWriteItem},
};
use millrace_aws::{
    AwsError, Segment,
    item::{Item, attribute, parsed, string, text, whole},
    units,
};
use millrace_core::{
    StreamId, TenantId,
    projection::{ProjectionError, RowUpdate},
    row::{Attributes, RowKey},
};

use super::{
    DynamoRows, ItemBatch,
    expression::Change,
    incomplete, key,
    parts::{ATTEMPTS, PAUSES, part},
    readable, unreadable,
};
use crate::{
    AuditRows, Consistency, FoundRows, ListedRow, ListedRows, MAX_ROWS, Sum, WriteError,
    audit::{Expected, made, refused, sum_of, sums_nothing},
    layout::{KEY, TARGET, TARGET_INDEX, VERSION},
    sum::{PartChange, Summed},
};

/// A row or a part as found on DynamoDB.
#[derive(Debug, Clone)]
pub struct DynamoRow(Item);

impl AuditRows for DynamoRows {
    type Row = DynamoRow;
    type Cursor = Item;

    async fn rows(&self, streams: &[StreamId]) -> Result<FoundRows<DynamoRow>, AwsError> {
        let keys = streams.iter().map(|stream| self.layout.stream_key(stream));
        let ItemBatch { found, left, read_units } = self.items(keys, Consistency::Strong).await?;
        let stream = |item: &Item| {
            let key = string(item, KEY).map_err(unreadable)?;
            let foreign = |_| AwsError::InvalidResponse("a row that was not asked for".to_owned());
            self.layout.stream(&key).map_err(foreign)
        };
        let left = left.iter().map(stream).collect::<Result<_, _>>()?;
        let found = found.into_iter().map(|item| Ok((stream(&item)?, DynamoRow(item))));
        Ok(FoundRows { found: found.collect::<Result<_, AwsError>>()?, left, read_units })
    }

    fn version(row: &DynamoRow) -> Option<u64> {
        whole(&row.0, VERSION).ok().filter(|version| *version > 0)
    }

    fn differences(&self, row: &DynamoRow, expected: &RowUpdate) -> Result<Vec<String>, AwsError> {
        Ok(Expected::of(&self.layout, expected)?.differences(&readable(&row.0, |_| true)))
    }

    async fn list(&self, segment: Segment, from: Option<&Item>) -> Result<ListedRows<Item>, AwsError> {
        let reply = self
            .client
            .scan()
            .table_name(&*self.table)
            .projection_expression("#key")
            .expression_attribute_names("#key", KEY)
            .segment(segment.number())
            .total_segments(segment.total())
            .set_exclusive_start_key(from.cloned())
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send()
            .await?;
        let keys = reply.items().iter().map(|item| string(item, KEY).unwrap_or_default());
        Ok(ListedRows {
            listed: keys.map(|key| ListedRow::of(&self.layout, &key)).collect(),
            read_units: units(reply.consumed_capacity()),
            next: reply.last_evaluated_key.filter(|key| !key.is_empty()),
        })
    }

    async fn replace(&self, row: &DynamoRow, with: &RowUpdate) -> Result<bool, AwsError> {
        let expected = Expected::of(&self.layout, with)?;
        if string(&row.0, KEY).map_err(unreadable)? != expected.key {
            return Err(refused("it is of another row"));
        }
        let put = Changed::Put(item(expected));
        if self.layout.aggregation().is_some() {
            return self.change_part(row, &with.stream.tenant, &made(with)?, &put).await;
        }
        self.change(row, &put).await
    }

    async fn delete(&self, row: &DynamoRow) -> Result<bool, AwsError> {
        let place = string(&row.0, KEY).map_err(unreadable)?;
        let delete = Changed::Delete(key(place.clone()));
        if self.layout.aggregation().is_some() {
            let stream = self.layout.stream(&place).map_err(refused)?;
            return self.change_part(row, &stream.tenant, &Attributes::new(), &delete).await;
        }
        self.change(row, &delete).await
    }

    async fn count(&self) -> Result<u64, AwsError> {
        let reply = self.client.describe_table().table_name(&*self.table).send().await?;
        let count = reply.table().and_then(|table| table.item_count()).unwrap_or_default();
        Ok(u64::try_from(count).unwrap_or_default())
    }

    async fn sum(&self, key: &RowKey) -> Result<Sum<DynamoRow>, AwsError> {
        let aggregation = self.layout.aggregation().ok_or_else(sums_nothing)?;
        // The row first: a part that changes after this changes the row's version as well.
        let row = self.item(key).await?;
        let (mut sum, mut read_units, mut from) = (Summed::default(), 0.0, None);
        loop {
            let page = self.parts_of(key, from).await?;
            sum = sum_of(aggregation, key, &page.parts, sum)?;
            read_units += page.read_units;
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        let found = row.as_ref().map(|item| readable(item, |_| true)).unwrap_or_default();
        Ok(Sum::new(&self.layout, key, row.map(DynamoRow), &found, sum, read_units))
    }

    async fn replace_sum(&self, sum: &Sum<DynamoRow>) -> Result<bool, AwsError> {
        let found = sum.row.as_ref().and_then(Self::version).unwrap_or_default();
        let row =
            Summed { version: found.saturating_add(1), parts: sum.parts, attributes: sum.expected.clone() };
        let mut assignments = self.layout.summed(&sum.key, &row);
        assignments.insert(VERSION.to_owned(), Some(row.version.into()));
        let mut change = Change::new(assignments, 0);
        if let Some(row) = &sum.row {
            let unchanged = Unchanged::of(row);
            change.condition = unchanged.expression.to_owned();
            change.names.extend(unchanged.names);
            change.values.extend(unchanged.values.into_iter().flatten());
        }
        let sent = self
            .client
            .update_item()
            .table_name(&*self.table)
            .set_key(Some(key(sum.key.to_string())))
            .update_expression(change.update)
            .condition_expression(change.condition)
            .set_expression_attribute_names(Some(change.names))
            .set_expression_attribute_values(Some(change.values))
            .send()
            .await;
        done(sent, |error: &UpdateItemError| {
            error.is_conditional_check_failed_exception() || error.is_transaction_conflict_exception()
        })
    }
}

/// The change of an item.
enum Changed {
    /// It is replaced by this.
    Put(Item),
    /// The item under this key is deleted.
    Delete(Item),
}

/// Some parts of a row.
struct PartPage {
    parts: Vec<Attributes>,
    next: Option<Item>,
    read_units: f64,
}

impl DynamoRows {
    /// Changes an item, if it still has the version that it was found at.
    async fn change(&self, row: &DynamoRow, change: &Changed) -> Result<bool, AwsError> {
        let unchanged = Unchanged::of(row);
        match change {
            Changed::Put(item) => {
                let put = self.client.put_item().table_name(&*self.table).set_item(Some(item.clone()));
                let sent = put
                    .condition_expression(unchanged.expression)
                    .set_expression_attribute_names(Some(unchanged.names))
                    .set_expression_attribute_values(unchanged.values)
                    .send();
                done(sent.await, |error: &PutItemError| {
                    error.is_conditional_check_failed_exception() || error.is_transaction_conflict_exception()
                })
            }
            Changed::Delete(key) => {
                let delete = self.client.delete_item().table_name(&*self.table).set_key(Some(key.clone()));
                let sent = delete
                    .condition_expression(unchanged.expression)
                    .set_expression_attribute_names(Some(unchanged.names))
                    .set_expression_attribute_values(unchanged.values)
                    .send();
                done(sent.await, |error: &DeleteItemError| {
                    error.is_conditional_check_failed_exception() || error.is_transaction_conflict_exception()
                })
            }
        }
    }

    /// Changes a part and the rows that it contributes to; the part alone where it cannot be read.
    async fn change_part(
        &self,
        row: &DynamoRow,
        tenant: &TenantId,
        after: &Attributes,
        change: &Changed,
    ) -> Result<bool, AwsError> {
        let aggregation = self.layout.aggregation().ok_or_else(sums_nothing)?;
        let place = string(&row.0, KEY).map_err(unreadable)?;
        for attempt in 1..=ATTEMPTS {
            let found = self.item(&place).await?;
            if found.as_ref().and_then(|item| item.get(VERSION)) != row.0.get(VERSION) || found.is_none() {
                return Ok(false);
            }
            let rows = async {
                let part = PartChange::new(aggregation, tenant, part(Some(&row.0))?, after.clone())?;
                self.row_changes(aggregation, &part, |mut assignments, version| {
                    assignments.insert(VERSION.to_owned(), Some(version.into()));
                    assignments
                })
                .await
            };
            let rows = match rows.await {
                Ok(rows) => rows,
                Err(error) if is_unreadable(&error) => Vec::new(),
                Err(WriteError::Aws(error)) => return Err(error),
                Err(error) => return Err(refused(error)),
            };
            if rows.is_empty() {
                return self.change(row, change).await;
            }
            let part = self.in_transaction(row, change)?;
            if self.transact(std::iter::once(part).chain(rows).collect()).await? {
                return Ok(true);
            }
            tokio::time::sleep(PAUSES.after(attempt, rand::random())).await;
        }
        Err(AwsError::Throttled("other writers keep changing the row".to_owned()))
    }

    fn in_transaction(&self, row: &DynamoRow, change: &Changed) -> Result<TransactWriteItem, AwsError> {
        let unchanged = Unchanged::of(row);
        let action = TransactWriteItem::builder();
        match change {
            Changed::Put(item) => {
                let put = Put::builder()
                    .table_name(&*self.table)
                    .set_item(Some(item.clone()))
                    .condition_expression(unchanged.expression)
                    .set_expression_attribute_names(Some(unchanged.names))
                    .set_expression_attribute_values(unchanged.values);
                Ok(action.put(put.build().map_err(incomplete)?).build())
            }
            Changed::Delete(key) => {
                let delete = Delete::builder()
                    .table_name(&*self.table)
                    .set_key(Some(key.clone()))
                    .condition_expression(unchanged.expression)
                    .set_expression_attribute_names(Some(unchanged.names))
                    .set_expression_attribute_values(unchanged.values);
                Ok(action.delete(delete.build().map_err(incomplete)?).build())
            }
        }
    }

    /// The parts of a row that the index shows from a place on, read afresh; two requests, or more while AWS throttles.
    async fn parts_of(&self, row: &RowKey, from: Option<Item>) -> Result<PartPage, AwsError> {
        let shown = self
            .client
            .query()
            .table_name(&*self.table)
            .index_name(TARGET_INDEX)
            .key_condition_expression("#target = :target")
            .expression_attribute_names("#target", TARGET)
            .expression_attribute_values(":target", text(row))
            .set_exclusive_start_key(from)
            .limit(i32::try_from(MAX_ROWS).unwrap_or(i32::MAX))
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send()
            .await?;
        let mut read_units = units(shown.consumed_capacity());
        let keys = shown.items().iter().map(|item| string(item, KEY).map_err(unreadable));
        let mut left = keys.collect::<Result<Vec<_>, _>>()?;
        let mut parts = Vec::new();
        for attempt in 1..=ATTEMPTS {
            let batch = self.items(left, Consistency::Strong).await?;
            read_units += batch.read_units;
            for item in batch.found {
                // The index may show a part that has moved.
                if parsed::<_, RowKey>(&item, TARGET).is_ok_and(|target| target == *row) {
                    parts.push(part(Some(&item))?);
                }
            }
            let keys = batch.left.iter().map(|item| string(item, KEY).map_err(unreadable));
            left = keys.collect::<Result<_, _>>()?;
            if left.is_empty() {
                let next = shown.last_evaluated_key.filter(|key| !key.is_empty());
                return Ok(PartPage { parts, next, read_units });
            }
            tokio::time::sleep(PAUSES.after(attempt, rand::random())).await;
        }
        Err(AwsError::Throttled("parts of a row are not answered".to_owned()))
    }
}

/// An item as it should be.
pub(super) fn item(expected: Expected) -> Item {
    let attributes = expected.item.iter().map(|(name, value)| (name.clone(), attribute(value)));
    attributes.chain(key(expected.key)).collect()
}

/// The condition that an item is there, with the version that it was found at, whatever that was.
struct Unchanged {
    expression: &'static str,
    names: HashMap<String, String>,
    values: Option<HashMap<String, AttributeValue>>,
}

impl Unchanged {
    fn of(row: &DynamoRow) -> Self {
        let names = [("#key", KEY), ("#version", VERSION)];
        let names = names.map(|(name, attribute)| (name.to_owned(), attribute.to_owned())).into();
        match row.0.get(VERSION) {
            Some(found) => Self {
                expression: "attribute_exists(#key) AND #version = :found",
                names,
                values: Some([(":found".to_owned(), found.clone())].into()),
            },
            None => Self {
                expression: "attribute_exists(#key) AND attribute_not_exists(#version)",
                names,
                values: None,
            },
        }
    }
}

/// Whether a conditional write was done: not where the item has changed, or a transaction is changing it.
fn done<T, E: ProvideErrorMetadata + Error + Send + Sync + 'static>(
    sent: Result<T, SdkError<E>>,
    is_conflict: fn(&E) -> bool,
) -> Result<bool, AwsError> {
    match sent {
        Ok(_) => Ok(true),
        Err(error) if error.as_service_error().is_some_and(is_conflict) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether a part or a row is unreadable: then no fold can compute the change.
fn is_unreadable(error: &WriteError) -> bool {
    match error {
        WriteError::Aws(error) => matches!(error, AwsError::InvalidResponse(_)),
        WriteError::Projection(ProjectionError::Unusable(_)) => true,
        WriteError::Projection(_) | WriteError::Contended => false,
    }
}
