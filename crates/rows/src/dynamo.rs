//! Rows on DynamoDB.

#[cfg(any(test, feature = "audit"))]
mod audit;
mod expression;
mod lists;
#[cfg(any(test, feature = "contract"))]
mod load;
mod merge;
mod parts;
mod write;

use std::{collections::HashMap, sync::Arc};

use aws_sdk_dynamodb::{
    Client,
    types::{AttributeValue, KeysAndAttributes, ReturnConsumedCapacity},
};
use millrace_aws::{
    AwsError,
    item::{Item, ItemError, json, parsed, string, text, value, whole},
    units,
};
use millrace_core::{
    StreamId, TenantId,
    projection::ProjectionSpec,
    row::{Attributes, LookupSchema, Position, RowKey, StoredRow},
};
use serde_json::Value;

#[cfg(any(test, feature = "audit"))]
pub use self::audit::DynamoRow;
use crate::{
    Consistency, IndexShards, ListPage, ListQuery, ReadRows, RowBatch,
    layout::{ABSENT, KEY, Layout, VERSION},
    provenance::{PROVENANCE, provenance},
};

/// The rows of one projection in a table of DynamoDB.
#[derive(Debug, Clone)]
pub struct DynamoRows {
    client: Client,
    table: Arc<str>,
    layout: Layout,
}

/// Items requested by their keys.
#[derive(Debug, Default)]
struct ItemBatch {
    found: Vec<Item>,
    /// The keys without an answer.
    left: Vec<Item>,
    read_units: f64,
}

impl DynamoRows {
    /// The rows in a table.
    pub fn new(
        client: Client,
        table: impl Into<Arc<str>>,
        spec: &ProjectionSpec,
        shards: IndexShards,
    ) -> Self {
        Self { client, table: table.into(), layout: Layout::new(spec, shards) }
    }

    /// The item under a key, strongly consistent.
    async fn item(&self, key: impl ToString) -> Result<Option<Item>, AwsError> {
        let get = self.client.get_item().table_name(&*self.table).consistent_read(true);
        Ok(get.key(KEY, text(key)).send().await?.item)
    }

    /// The items under keys, of which there are at most [`MAX_ROWS`](crate::MAX_ROWS), each named once.
    async fn items(
        &self,
        keys: impl IntoIterator<Item = String>,
        consistency: Consistency,
    ) -> Result<ItemBatch, AwsError> {
        let keys: Vec<_> = keys.into_iter().map(key).collect();
        if keys.is_empty() {
            return Ok(ItemBatch::default());
        }
        let wanted = KeysAndAttributes::builder()
            .set_keys(Some(keys))
            .consistent_read(consistency == Consistency::Strong)
            .build()
            .map_err(incomplete)?;
        let reply = self
            .client
            .batch_get_item()
            .request_items(&*self.table, wanted)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send()
            .await?;
        let read_units = reply.consumed_capacity().iter().map(|used| units(Some(used))).sum();
        let mut left = reply.unprocessed_keys.unwrap_or_default();
        let left = left.remove(&*self.table).map(|keys| keys.keys).unwrap_or_default();
        let found = reply.responses.unwrap_or_default().remove(&*self.table).unwrap_or_default();
        Ok(ItemBatch { found, left, read_units })
    }

    /// The row in an item.
    fn row(&self, item: &Item) -> Result<StoredRow, AwsError> {
        let key: RowKey = parsed(item, KEY).map_err(unreadable)?;
        Ok(StoredRow {
            version: version(Some(item))?,
            attributes: self.attributes(&key, item)?,
            provenance: provenance(&readable(item, |name| PROVENANCE.contains(&name))),
            key,
        })
    }

    /// The row's attributes in an item, its id among them; none where there is no row.
    fn attributes(&self, key: &RowKey, item: &Item) -> Result<Attributes, AwsError> {
        let mut attributes = Attributes::new();
        if item.contains_key(ABSENT) {
            return Ok(attributes);
        }
        for name in self.layout.schema.attributes.iter().filter(|name| item.contains_key(**name)) {
            attributes.insert((*name).to_owned(), value(item, name).map_err(unreadable)?);
        }
        attributes.insert(self.layout.schema.id.to_owned(), Value::String(key.id.clone()));
        Ok(attributes)
    }
}

impl ReadRows for DynamoRows {
    async fn get(&self, key: &RowKey) -> Result<Option<StoredRow>, AwsError> {
        self.item(key).await?.map(|item| self.row(&item)).transpose()
    }

    async fn get_many(&self, keys: &[RowKey], consistency: Consistency) -> Result<RowBatch, AwsError> {
        let asked: HashMap<_, _> = keys.iter().map(|key| (key.to_string(), key)).collect();
        let ItemBatch { found, left, read_units } = self.items(asked.keys().cloned(), consistency).await?;
        let key = |item: &Item| {
            let key = asked.get(&string(item, KEY).map_err(unreadable)?).copied();
            key.cloned().ok_or_else(|| AwsError::InvalidResponse("a row that was not asked for".to_owned()))
        };
        let found = found.iter().map(|item| Ok((key(item)?, self.row(item))));
        Ok(RowBatch {
            found: found.collect::<Result<_, AwsError>>()?,
            left: left.iter().map(key).collect::<Result<_, _>>()?,
            read_units,
        })
    }

    async fn applied_version(&self, stream: &StreamId) -> Result<u64, AwsError> {
        let get = self.client.get_item().table_name(&*self.table).consistent_read(true);
        let get = get.projection_expression("#version").expression_attribute_names("#version", VERSION);
        let found = get.key(KEY, text(self.layout.stream_key(stream))).send().await?.item;
        version(found.as_ref())
    }

    async fn lookup(
        &self,
        lookup: &'static LookupSchema,
        tenant: &TenantId,
        value: &str,
    ) -> Result<Vec<StoredRow>, AwsError> {
        self.found(lookup, tenant, value).await
    }

    async fn page(
        &self,
        query: &ListQuery,
        before: Option<&Position>,
        limit: u16,
    ) -> Result<ListPage, AwsError> {
        self.listed(query, before, limit).await
    }
}

/// A key as an item.
fn key(key: String) -> Item {
    HashMap::from([(KEY.to_owned(), AttributeValue::S(key))])
}

/// The version in an item; 0 where there is no item.
fn version(item: Option<&Item>) -> Result<u64, AwsError> {
    item.map_or(Ok(0), |item| whole(item, VERSION)).map_err(unreadable)
}

/// Some attributes of an item; `null` for one that cannot be read.
fn readable(item: &Item, chosen: impl Fn(&str) -> bool) -> Attributes {
    let chosen = item.iter().filter(|(name, _)| chosen(name));
    chosen.map(|(name, value)| (name.clone(), json(value).unwrap_or_default())).collect()
}

fn unreadable(error: ItemError) -> AwsError {
    AwsError::InvalidResponse(format!("a row cannot be read: {error}"))
}

fn incomplete(error: impl ToString) -> AwsError {
    AwsError::Refused(error.to_string())
}
