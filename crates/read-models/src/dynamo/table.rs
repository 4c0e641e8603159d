//! The three requests that a read model makes: get, update, query.

use std::{collections::HashMap, sync::Arc};

use aws_sdk_dynamodb::{
    Client,
    operation::update_item::{UpdateItemError, builders::UpdateItemFluentBuilder},
    types::{AttributeValue, KeysAndAttributes, ReturnConsumedCapacity, ReturnValuesOnConditionCheckFailure},
};
use millrace_aws::{AwsError, units};

use super::{
    item::{Item, text, whole},
    provenance::attributes,
};
use crate::{Change, Consistency, Key, Many, Written, list::Places};

/// The attribute that holds a row's version.
pub(super) const VERSION: &str = "Version";

/// A table of rows, each under a hash key.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) client: Client,
    pub(super) name: Arc<str>,
    pub(super) key: &'static str,
}

/// What a request for many rows brought.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The rows that there are.
    pub(super) found: Vec<Item>,
    /// The keys that there was no answer for.
    pub(super) left: Vec<Item>,
    /// The read units that AWS says it took; 0 where it does not say.
    #[cfg_attr(not(any(test, feature = "audit")), allow(dead_code, reason = "only an audit adds them up"))]
    pub(super) read_units: f64,
}

impl Found {
    /// The same by keys: what was asked for, by the text of its key in the attribute `name`, and how a row is read.
    pub(super) fn by_key<I: Clone, R>(
        self,
        name: &str,
        asked: &HashMap<String, Key<I>>,
        read: impl Fn(&Item) -> Result<R, AwsError>,
    ) -> Result<Many<I, R>, AwsError> {
        let key = |item: &Item| {
            let key = asked.get(text(item, name)?).cloned();
            key.ok_or_else(|| AwsError::Nonsense("a row that was not asked for".to_owned()))
        };
        let found = self.found.iter().map(|item| Ok((key(item)?, read(item))));
        Ok(Many {
            found: found.collect::<Result<_, AwsError>>()?,
            left: self.left.iter().map(key).collect::<Result<_, _>>()?,
            read_units: self.read_units,
        })
    }
}

/// One key of an index, and which of its items.
pub(super) struct Range {
    pub(super) index: &'static str,
    pub(super) hash: (&'static str, String),
    /// Only those whose range keys are within these bounds.
    pub(super) within: Option<(&'static str, Places)>,
    /// Only those that have this value in an attribute. What has another is read all the same.
    pub(super) with: Option<(&'static str, String)>,
}

/// Items of an index, from the greatest range key down.
#[derive(Debug, Default)]
pub(super) struct Indexed {
    pub(super) items: Vec<Item>,
    /// The keys of the last item that was looked at, where there may be more.
    pub(super) end: Option<Item>,
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

    /// The rows under keys, of which there are at most [`MOST_ROWS`](crate::MOST_ROWS), each named once.
    pub(super) async fn get_many(
        &self,
        keys: impl IntoIterator<Item = String>,
        consistency: Consistency,
    ) -> Result<Found, AwsError> {
        let keys: Vec<Item> = keys.into_iter().map(|key| self.key(key)).collect();
        if keys.is_empty() {
            return Ok(Found::default());
        }
        let wanted = KeysAndAttributes::builder()
            .set_keys(Some(keys))
            .consistent_read(consistency == Consistency::Strong)
            .build()
            .map_err(|error| AwsError::Refused(error.to_string()))?;
        let reply = self
            .client
            .batch_get_item()
            .request_items(&*self.name, wanted)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send()
            .await?;
        let read_units = reply.consumed_capacity().iter().map(|used| units(Some(used))).sum();
        let mut left = reply.unprocessed_keys.unwrap_or_default();
        let left = left.remove(&*self.name).map(|keys| keys.keys).unwrap_or_default();
        let found = reply.responses.unwrap_or_default().remove(&*self.name).unwrap_or_default();
        Ok(Found { found, left, read_units })
    }

    /// The key of a row, as an item.
    pub(super) fn key(&self, key: String) -> Item {
        HashMap::from([(self.key.to_owned(), AttributeValue::S(key))])
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

    /// The first items of a range, of which so many are looked at, or fewer where they have 1 MB (DynamoDB API Reference,
    /// `Query`); one request.
    pub(super) async fn query(&self, range: Range, limit: u16) -> Result<Indexed, AwsError> {
        let (hash, value) = range.hash;
        let mut query = self
            .client
            .query()
            .table_name(&*self.name)
            .index_name(range.index)
            .scan_index_forward(false)
            .limit(limit.into())
            .expression_attribute_names("#hash", hash)
            .expression_attribute_values(":hash", AttributeValue::S(value));
        let mut condition = "#hash = :hash".to_owned();
        if let Some((attribute, Places { from, to })) = range.within {
            // An index takes one condition on its range key.
            condition += match (&from, &to) {
                (Some(_), Some(_)) => " AND #range BETWEEN :from AND :to",
                (Some(_), None) => " AND #range >= :from",
                (None, Some(_)) => " AND #range <= :to",
                (None, None) => "",
            };
            let bounds = [(":from", from), (":to", to)];
            for (name, bound) in bounds.into_iter().filter_map(|(name, bound)| Some((name, bound?))) {
                query = query
                    .expression_attribute_names("#range", attribute)
                    .expression_attribute_values(name, AttributeValue::S(bound));
            }
        }
        if let Some((attribute, value)) = range.with {
            query = query
                .filter_expression("#with = :with")
                .expression_attribute_names("#with", attribute)
                .expression_attribute_values(":with", AttributeValue::S(value));
        }
        let page = query.key_condition_expression(condition).send().await?;
        let end = page.last_evaluated_key.filter(|key| !key.is_empty());
        Ok(Indexed { items: page.items.unwrap_or_default(), end })
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
