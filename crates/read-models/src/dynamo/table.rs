//! The three requests that a read model makes: get, update, query.

use std::{collections::HashMap, sync::Arc};

use aws_sdk_dynamodb::{
    Client,
    operation::update_item::{UpdateItemError, builders::UpdateItemFluentBuilder},
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure},
};
use millrace_aws::AwsError;

use super::{
    item::{Item, whole},
    provenance::attributes,
};
use crate::{Change, Written};

/// The attribute that holds a row's version.
pub(super) const VERSION: &str = "Version";

/// The most pages that a list is read in. A page ends at 1 MB at the latest and an item has at most 400 KB, so this is
/// enough for 128 orders even if each were as large as an item can be.
const MOST_PAGES: usize = 64;

/// A table of rows, each under a hash key.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) client: Client,
    pub(super) name: Arc<str>,
    pub(super) key: &'static str,
}

/// Part of an index, from the greatest range key down.
pub(super) struct Range {
    pub(super) index: &'static str,
    pub(super) hash: (&'static str, String),
    /// Only what has a smaller range key than this one.
    pub(super) below: Option<(&'static str, String)>,
}

impl Table {
    pub(super) fn new(client: Client, name: impl Into<Arc<str>>, key: &'static str) -> Self {
        Self { client, name: name.into(), key }
    }

    /// The row under a key, strongly consistent.
    pub(super) async fn get(&self, key: String) -> Result<Option<Item>, AwsError> {
        let get = self.client.get_item().table_name(&*self.name).consistent_read(true);
        Ok(get.key(self.key, AttributeValue::S(key)).send().await?.item)
    }

    /// Sets attributes of the row under a key, with the change's version and provenance, if the row is where the change
    /// starts.
    pub(super) async fn update(
        &self,
        key: String,
        change: &impl Change,
        set: Vec<(&'static str, AttributeValue)>,
    ) -> Result<Written, AwsError> {
        let mut update =
            self.client.update_item().table_name(&*self.name).key(self.key, AttributeValue::S(key));
        update = match change.from() {
            0 => update
                .condition_expression("attribute_not_exists(#key)")
                .expression_attribute_names("#key", self.key),
            from => update
                .condition_expression("#version = :from")
                .expression_attribute_names("#version", VERSION)
                .expression_attribute_values(":from", AttributeValue::N(from.to_string())),
        };
        let version = (VERSION, AttributeValue::N(change.to().to_string()));
        let set = set.into_iter().chain([version]).map(|(attribute, value)| (attribute, Some(value)));
        let sent = assign(update, set.chain(attributes(change.provenance())))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let error = match sent {
            Ok(_) => return Ok(Written::Applied),
            Err(error) => error,
        };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                failed.item().map_or(Ok(0), |row| whole(row, VERSION)).map(Written::Found)
            }
            Some(_) | None => Err(error.into()),
        }
    }

    /// The first `limit` items of part of an index.
    pub(super) async fn query(&self, range: &Range, limit: u16) -> Result<Vec<Item>, AwsError> {
        let mut items: Vec<Item> = Vec::new();
        let mut from: Option<HashMap<String, AttributeValue>> = None;
        for _ in 0..MOST_PAGES {
            let missing = usize::from(limit).saturating_sub(items.len());
            if missing == 0 {
                return Ok(items);
            }
            let page = self.page(range, missing, from).await?;
            items.extend(page.0);
            from = page.1;
            if from.is_none() {
                return Ok(items);
            }
        }
        Err(AwsError::Nonsense(format!("a list of {limit} rows does not end after {MOST_PAGES} pages")))
    }

    async fn page(
        &self,
        range: &Range,
        limit: usize,
        from: Option<Item>,
    ) -> Result<(Vec<Item>, Option<Item>), AwsError> {
        let (hash, value) = &range.hash;
        let mut query = self
            .client
            .query()
            .table_name(&*self.name)
            .index_name(range.index)
            .scan_index_forward(false)
            .limit(i32::try_from(limit).unwrap_or(i32::MAX))
            .set_exclusive_start_key(from)
            .expression_attribute_names("#hash", *hash)
            .expression_attribute_values(":hash", AttributeValue::S(value.clone()));
        query = match &range.below {
            None => query.key_condition_expression("#hash = :hash"),
            Some((attribute, value)) => query
                .key_condition_expression("#hash = :hash AND #range < :below")
                .expression_attribute_names("#range", *attribute)
                .expression_attribute_values(":below", AttributeValue::S(value.clone())),
        };
        let page = query.send().await?;
        Ok((page.items.unwrap_or_default(), page.last_evaluated_key.filter(|key| !key.is_empty())))
    }
}

/// Lets an update set attributes to their values, of which there is at least one, and remove those without one.
fn assign(
    mut update: UpdateItemFluentBuilder,
    attributes: impl IntoIterator<Item = (&'static str, Option<AttributeValue>)>,
) -> UpdateItemFluentBuilder {
    let (mut set, mut removed) = (Vec::new(), Vec::new());
    for (n, (attribute, value)) in attributes.into_iter().enumerate() {
        // Names stand apart from the expression, since many of them are words that DynamoDB reserves.
        update = update.expression_attribute_names(format!("#n{n}"), attribute);
        match value {
            Some(value) => {
                update = update.expression_attribute_values(format!(":v{n}"), value);
                set.push(format!("#n{n} = :v{n}"));
            }
            None => removed.push(format!("#n{n}")),
        }
    }
    let mut expression = format!("SET {}", set.join(", "));
    if !removed.is_empty() {
        expression = format!("{expression} REMOVE {}", removed.join(", "));
    }
    update.update_expression(expression)
}
