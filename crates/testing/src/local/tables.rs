//! An application's tables, read whole and past its own code.

use std::collections::HashMap;

use anyhow::Context as _;
use aws_sdk_dynamodb::types::AttributeValue;
use millrace_core::row::{Attributes, Provenance, RowKey, StoredRow};
use millrace_event_store::stored_from_item;
use serde_json::{Map, Number, Value};

use super::AwsStack;
use crate::oracle::{FoundRows, Holders, Oracle, RowPlace};

type Item = HashMap<String, AttributeValue>;

/// The oracle of the whole event store.
///
/// # Errors
/// If the table cannot be read, an item is no event, or the events break a promise.
pub async fn read_oracle(stack: &AwsStack) -> anyhow::Result<Oracle> {
    let items = scan(stack, &stack.events()).await?;
    let events =
        items.iter().map(|item| Ok(stored_from_item(item)?.envelope)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Oracle::new(&stack.application, events)?)
}

/// The holders of unique keys, from their table.
///
/// # Errors
/// If the table cannot be read.
pub async fn read_holders(stack: &AwsStack) -> anyhow::Result<Holders> {
    let items = scan(stack, &stack.unique_keys()).await?;
    let text = |item: &Item, name: &str| {
        let value = item.get(name).and_then(|value| value.as_s().ok()).cloned();
        value.with_context(|| format!("a unique key without {name}"))
    };
    items.iter().map(|item| Ok((text(item, "Key")?, text(item, "AggregateId")?))).collect()
}

/// Every item of every projection's table, each as of some moment of the call: to be compared with [`Oracle::items`].
///
/// # Errors
/// If a table cannot be read, or no store of rows could have written an item.
pub async fn read_rows(stack: &AwsStack) -> anyhow::Result<FoundRows> {
    let mut rows = FoundRows::new();
    for projection in stack.application.projections() {
        for item in scan(stack, &stack.rows(projection.name)).await? {
            let mut item = json(&item)?;
            let key = item.remove("Key").and_then(|key| key.as_str().map(str::to_owned));
            let key = key.with_context(|| format!("an item of {} without a key", projection.name))?;
            let (row, is_part) =
                found(&key, item).with_context(|| format!("the item {key} of {}", projection.name))?;
            let place = RowPlace { projection: projection.name, key: row.key.clone(), is_part };
            rows.insert(place, row);
        }
    }
    Ok(rows)
}

/// A row, and whether it is a part.
fn found(key: &str, mut item: Attributes) -> anyhow::Result<(StoredRow, bool)> {
    let sign = key.find(['#', '@']).context("its key names no tenant")?;
    let is_part = key[sign..].starts_with('@');
    let key = RowKey { tenant: key[..sign].parse()?, id: key[sign + 1..].to_owned() };
    let version = item.remove("Version").and_then(|version| version.as_u64()).context("it has no version")?;
    let mut text = |name: &str| match item.remove(name) {
        Some(Value::String(text)) => Some(text),
        // Left where a difference shows it.
        Some(other) => {
            item.insert(name.to_owned(), other);
            None
        }
        None => None,
    };
    let ids = (text("EventId"), text("CorrelationId"), text("CausationId"), text("TraceParent"));
    let provenance = match ids {
        (Some(event), Some(correlation), Some(causation), trace_parent) => Some(Provenance {
            event_id: event.parse()?,
            correlation_id: correlation.parse()?,
            causation_id: causation.parse()?,
            trace_parent,
        }),
        _ => None,
    };
    Ok((StoredRow { key, version, attributes: item, provenance }, is_part))
}

fn json(item: &Item) -> anyhow::Result<Map<String, Value>> {
    item.iter().map(|(name, value)| Ok((name.clone(), plain(value)?))).collect()
}

fn plain(value: &AttributeValue) -> anyhow::Result<Value> {
    Ok(match value {
        AttributeValue::S(text) => Value::String(text.clone()),
        AttributeValue::N(number) => Value::Number(serde_json::from_str::<Number>(number)?),
        AttributeValue::Bool(truth) => Value::Bool(*truth),
        AttributeValue::Null(_) => Value::Null,
        AttributeValue::L(list) => Value::Array(list.iter().map(plain).collect::<anyhow::Result<_>>()?),
        AttributeValue::M(map) => Value::Object(json(map)?),
        AttributeValue::B(_) | AttributeValue::Bs(_) | AttributeValue::Ns(_) | AttributeValue::Ss(_) | _ => {
            anyhow::bail!("rows have no attributes such as {value:?}")
        }
    })
}

/// All items of a table, strongly consistent.
async fn scan(stack: &AwsStack, table: &str) -> anyhow::Result<Vec<Item>> {
    let dynamodb = stack.aws().await.dynamodb();
    let scan = dynamodb.scan().table_name(table).consistent_read(true);
    Ok(scan.into_paginator().items().send().collect::<Result<_, _>>().await?)
}
