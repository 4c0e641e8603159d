//! What an audit asks of a table.

use std::{collections::HashMap, error::Error};

use aws_sdk_dynamodb::{
    error::{ProvideErrorMetadata, SdkError},
    operation::{delete_item::DeleteItemError, put_item::PutItemError},
    types::{AttributeValue, ReturnConsumedCapacity},
};
use millrace_aws::{AwsError, Segment, printable, units};
use millrace_domain::{AggregateType, StreamId};

use super::{
    DynamoOrders, DynamoUsers,
    item::{Item, plain, tenant_and_id, tenant_key, text, unreadable, whole},
    provenance::{PROVENANCE, attributes},
    table::{Found, Table, VERSION},
};
use crate::{AuditRows, Change, Consistency, FoundRows, ListedRows, OrderChange, UserChange, flawed};

/// Rows of one kind in a table.
pub(super) trait InTable<C> {
    /// The kind of aggregate that a row shows.
    const KIND: AggregateType;

    /// The table.
    fn table(&self) -> &Table;

    /// What a change that makes its row sets in it, besides the version and the provenance.
    fn set(&self, change: &C) -> Result<Vec<(&'static str, AttributeValue)>, AwsError>;
}

/// A row as it was found on DynamoDB.
#[derive(Debug, Clone)]
pub struct DynamoRow(Item);

// Not for all that is `InTable`: nobody else could implement the trait then.
macro_rules! audited {
    ($rows:ty, $change:ty) => {
        impl AuditRows<$change> for $rows {
            type Row = DynamoRow;
            type Place = Item;

            async fn rows(&self, streams: &[StreamId]) -> Result<FoundRows<DynamoRow>, AwsError> {
                self.table().rows(streams, &Self::KIND).await
            }

            fn version(row: &DynamoRow) -> Option<u64> {
                whole(&row.0, VERSION).ok().filter(|version| *version > 0)
            }

            fn differences(
                &self,
                row: &DynamoRow,
                expected: &$change,
            ) -> Result<Vec<&'static str>, AwsError> {
                Expected::of(self, expected).map(|expected| expected.differences(&row.0))
            }

            async fn list(
                &self,
                segment: Segment,
                from: Option<&Item>,
            ) -> Result<ListedRows<Item>, AwsError> {
                self.table().list(segment, from, &Self::KIND).await
            }

            async fn replace(&self, row: &DynamoRow, with: &$change) -> Result<bool, AwsError> {
                self.table().replace(row, Expected::of(self, with)?).await
            }

            async fn delete(&self, row: &DynamoRow) -> Result<bool, AwsError> {
                self.table().delete(row).await
            }

            async fn count(&self) -> Result<u64, AwsError> {
                self.table().count().await
            }
        }
    };
}

audited!(DynamoUsers, UserChange);
audited!(DynamoOrders, OrderChange);

/// The row that a change leaves where there was none.
pub(super) struct Expected {
    key: String,
    /// Every attribute besides the key.
    attributes: HashMap<&'static str, AttributeValue>,
}

impl Expected {
    pub(super) fn of<C: Change>(rows: &impl InTable<C>, change: &C) -> Result<Self, AwsError> {
        if change.from() > 0 {
            return Err(flawed("it does not make its row"));
        }
        let stream = change.stream();
        let mut all: HashMap<_, _> = rows.set(change)?.into_iter().collect();
        all.insert(VERSION, AttributeValue::N(change.to().to_string()));
        let made_by = attributes(change.provenance());
        all.extend(made_by.into_iter().filter_map(|(name, value)| Some((name, value?))));
        Ok(Self { key: tenant_key(&stream.tenant, stream.id), attributes: all })
    }

    /// The row as an item of its table.
    pub(super) fn item(self, table: &Table) -> Item {
        let attributes = self.attributes.into_iter().map(|(name, value)| (name.to_owned(), value));
        attributes.chain(table.key(self.key)).collect()
    }

    fn differences(&self, row: &Item) -> Vec<&'static str> {
        let differs = |name: &&'static str| match (row.get(*name), self.attributes.get(name)) {
            (Some(found), Some(expected)) => !same(found, expected),
            (None, Some(_)) => !PROVENANCE.contains(name),
            // The trace of another event than the newest.
            (Some(_), None) => true,
            (None, None) => false,
        };
        let mut names: Vec<_> = self.attributes.keys().copied().chain(PROVENANCE).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(differs);
        names
    }
}

/// Whether two values are the same, however their numbers are written.
fn same(a: &AttributeValue, b: &AttributeValue) -> bool {
    match (a, b) {
        (AttributeValue::N(a), AttributeValue::N(b)) => {
            a == b || plain(a).is_some_and(|a| plain(b) == Some(a))
        }
        (AttributeValue::L(a), AttributeValue::L(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (AttributeValue::M(a), AttributeValue::M(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// A condition on a row: its expression, the attributes that it names, and the values.
struct Unchanged {
    expression: &'static str,
    names: HashMap<String, String>,
    values: Option<HashMap<String, AttributeValue>>,
}

impl Table {
    async fn rows(
        &self,
        streams: &[StreamId],
        kind: &AggregateType,
    ) -> Result<FoundRows<DynamoRow>, AwsError> {
        let keys = streams.iter().map(|stream| tenant_key(&stream.tenant, stream.id));
        let Found { found, left, read_units } = self.get_many(keys, Consistency::Strong).await?;
        let left = left.iter().map(|key| self.stream(key, kind)).collect::<Result<_, _>>()?;
        let found = found.into_iter().map(|item| Ok((self.stream(&item, kind)?, DynamoRow(item))));
        Ok(FoundRows { found: found.collect::<Result<_, AwsError>>()?, left, read_units })
    }

    async fn list(
        &self,
        segment: Segment,
        from: Option<&Item>,
        kind: &AggregateType,
    ) -> Result<ListedRows<Item>, AwsError> {
        let reply = self
            .client
            .scan()
            .table_name(&*self.name)
            .projection_expression("#key")
            .expression_attribute_names("#key", self.key)
            .segment(segment.number())
            .total_segments(segment.total())
            .set_exclusive_start_key(from.cloned())
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send()
            .await?;
        let listed = reply.items().iter().map(|item| {
            self.stream(item, kind).map_err(|_| printable(text(item, self.key).unwrap_or_default()))
        });
        Ok(ListedRows {
            listed: listed.collect(),
            read_units: units(reply.consumed_capacity()),
            next: reply.last_evaluated_key.filter(|key| !key.is_empty()),
        })
    }

    async fn replace(&self, row: &DynamoRow, with: Expected) -> Result<bool, AwsError> {
        if text(&row.0, self.key)? != with.key {
            return Err(flawed("it is of another row"));
        }
        let unchanged = self.unchanged(row);
        let sent = self
            .client
            .put_item()
            .table_name(&*self.name)
            .set_item(Some(with.item(self)))
            .condition_expression(unchanged.expression)
            .set_expression_attribute_names(Some(unchanged.names))
            .set_expression_attribute_values(unchanged.values)
            .send()
            .await;
        done(sent, PutItemError::is_conditional_check_failed_exception)
    }

    async fn delete(&self, row: &DynamoRow) -> Result<bool, AwsError> {
        let unchanged = self.unchanged(row);
        let sent = self
            .client
            .delete_item()
            .table_name(&*self.name)
            .set_key(Some(self.key(text(&row.0, self.key)?.to_owned())))
            .condition_expression(unchanged.expression)
            .set_expression_attribute_names(Some(unchanged.names))
            .set_expression_attribute_values(unchanged.values)
            .send()
            .await;
        done(sent, DeleteItemError::is_conditional_check_failed_exception)
    }

    async fn count(&self) -> Result<u64, AwsError> {
        let reply = self.client.describe_table().table_name(&*self.name).send().await?;
        let count = reply.table().and_then(|table| table.item_count()).unwrap_or_default();
        Ok(u64::try_from(count).unwrap_or_default())
    }

    /// That a row is there, with the version that it was found at, whatever that was.
    fn unchanged(&self, row: &DynamoRow) -> Unchanged {
        let names = [("#key", self.key), ("#version", VERSION)];
        let names = names.map(|(name, attribute)| (name.to_owned(), attribute.to_owned())).into();
        match row.0.get(VERSION) {
            Some(found) => Unchanged {
                expression: "attribute_exists(#key) AND #version = :found",
                names,
                values: Some([(":found".to_owned(), found.clone())].into()),
            },
            None => Unchanged {
                expression: "attribute_exists(#key) AND attribute_not_exists(#version)",
                names,
                values: None,
            },
        }
    }

    /// The stream whose row it is. Its key is written in one way only: a row under another one is nobody's.
    fn stream(&self, item: &Item, kind: &AggregateType) -> Result<StreamId, AwsError> {
        let (tenant, id) = tenant_and_id(item, self.key)?;
        if text(item, self.key)? == tenant_key(&tenant, id) {
            Ok(StreamId { tenant, aggregate_type: kind.clone(), id })
        } else {
            Err(unreadable(self.key))
        }
    }
}

/// Whether a conditional write was done.
fn done<T, E: ProvideErrorMetadata + Error + Send + Sync + 'static>(
    sent: Result<T, SdkError<E>>,
    is_condition: fn(&E) -> bool,
) -> Result<bool, AwsError> {
    match sent {
        Ok(_) => Ok(true),
        Err(error) if error.as_service_error().is_some_and(is_condition) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> AttributeValue {
        AttributeValue::N(text.to_owned())
    }

    #[test]
    fn numbers_are_the_same_however_they_are_written() {
        let line =
            |price| AttributeValue::L(vec![AttributeValue::M([("Price".to_owned(), number(price))].into())]);
        for (a, b) in [("100", "1E+2"), ("999.990", "999.99"), ("0", "0.0")] {
            assert!(same(&number(a), &number(b)) && same(&line(a), &line(b)), "{a} and {b}");
        }
        for (a, b) in [("100", "10"), ("x", "100"), ("-1", "1")] {
            assert!(!same(&number(a), &number(b)) && !same(&line(a), &line(b)), "{a} and {b}");
        }
        assert!(!same(&number("1"), &AttributeValue::S("1".to_owned())));
        assert!(!same(&AttributeValue::L(vec![]), &line("1")));
    }

    #[test]
    fn a_row_differs_by_a_wrong_provenance_and_not_by_a_missing_one() {
        let expected = Expected {
            key: "default#1".to_owned(),
            attributes: attributes(&crate::dynamo::provenance::tests::some())
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)))
                .chain([("Name", AttributeValue::S("John".to_owned()))])
                .filter(|(name, _)| *name != "TraceParent")
                .collect(),
        };
        let named: Item = [("Name".to_owned(), AttributeValue::S("John".to_owned()))].into();
        assert_eq!(expected.differences(&named), [""; 0]);
        assert_eq!(expected.differences(&Item::new()), ["Name"]);
        let mut wrong = named.clone();
        wrong.extend(PROVENANCE.map(|name| (name.to_owned(), number("7"))));
        wrong.insert("OfANewerRelease".to_owned(), number("7"));
        assert_eq!(expected.differences(&wrong), ["CausationId", "CorrelationId", "EventId", "TraceParent"]);
    }
}
