//! Reading rows by indexes.

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use millrace_aws::{
    AwsError,
    item::{Item, attribute, text},
};
use millrace_core::{
    TenantId,
    row::{LookupSchema, Position, StoredRow},
};

use super::{
    DynamoRows,
    merge::{Gap, Merge, Shown, share},
};
use crate::{
    ListPage, ListQuery, MAX_EXAMINED, MAX_FOUND,
    layout::index_key,
    list::{Bounds, newest_first},
};

/// How many keys of an index one call reads at the same time. Each returns 1 MB at most.
const KEYS_AT_ONCE: usize = 16;

/// How many rows are looked at first for those that pass a filter. Most lists have no more, and are done with one request;
/// for one that has many, it is enough for a page of 20 where every fifth row passes.
const FIRST_EXAMINED: u16 = 100;

impl DynamoRows {
    pub(super) async fn found(
        &self,
        lookup: &LookupSchema,
        tenant: &TenantId,
        value: &str,
    ) -> Result<Vec<StoredRow>, AwsError> {
        let hash = index_key(tenant, value, None);
        let query = self.index(lookup.name, &lookup.hash_attribute(), hash).limit(MAX_FOUND.into());
        let items = query.key_condition_expression("#hash = :hash").send().await?.items.unwrap_or_default();
        let rows = items.iter().map(|item| self.row(item)).collect::<Result<_, _>>()?;
        Ok(newest_first(rows, lookup.order_by.as_ref()))
    }

    pub(super) async fn listed(
        &self,
        query: &ListQuery,
        before: Option<&Position>,
        limit: u16,
    ) -> Result<ListPage, AwsError> {
        let keys = self.keys(query);
        let count = u16::try_from(keys.len()).unwrap_or(u16::MAX);
        let (first, further) = if query.filter.is_some() {
            let first = share(limit.max(FIRST_EXAMINED), count);
            (first, Some(MAX_EXAMINED.saturating_sub(first.saturating_mul(count))))
        } else {
            (share(limit, count), None)
        };
        let shown = stream::iter(keys.iter().cloned().enumerate())
            .map(async |(key, hash)| Ok((key, self.show(query, hash, before, first).await?)))
            .buffer_unordered(KEYS_AT_ONCE);
        let mut merge = shown
            .try_fold(Merge::new(limit), async |mut merge, (key, shown)| {
                merge.add(key, shown);
                Ok::<_, AwsError>(merge)
            })
            .await?;
        if let Some(Gap { key, below, missing }) = merge.gap()
            && let Some(hash) = keys.into_iter().nth(key)
            && further != Some(0)
        {
            merge.add(key, self.show(query, hash, Some(&below), further.unwrap_or(missing)).await?);
        }
        Ok(merge.page())
    }

    /// The hashes of the keys that a list consists of.
    fn keys(&self, query: &ListQuery) -> Vec<String> {
        let key = |shard| index_key(&query.tenant, &query.value, shard);
        if query.list.sharded {
            (0..self.layout.shards.read.get()).map(|shard| key(Some(shard))).collect()
        } else {
            vec![key(None)]
        }
    }

    /// The rows that one key has of a list below a place, from `limit` of its entries; one request.
    async fn show(
        &self,
        list: &ListQuery,
        hash: String,
        before: Option<&Position>,
        limit: u16,
    ) -> Result<Shown, AwsError> {
        let Some(bounds) = Bounds::of(list.times, before) else { return Ok(Shown::default()) };
        let range = list.list.range_attribute();
        let mut query = self.index(list.list.name, &list.list.hash_attribute(), hash);
        // An index takes one condition on its range key.
        let condition = match (&bounds.from, &bounds.to) {
            (Some(_), Some(_)) => "#hash = :hash AND #range BETWEEN :from AND :to",
            (Some(_), None) => "#hash = :hash AND #range >= :from",
            (None, Some(_)) => "#hash = :hash AND #range < :to",
            (None, None) => "#hash = :hash",
        };
        // `BETWEEN` includes the place itself, and returns its row.
        let limit = limit.saturating_add((bounds.from.is_some() && before.is_some()).into());
        if bounds.from.is_some() || bounds.to.is_some() {
            query = query.expression_attribute_names("#range", &range);
        }
        for (name, bound) in [(":from", bounds.from), (":to", bounds.to)] {
            if let Some(bound) = bound {
                query = query.expression_attribute_values(name, text(bound));
            }
        }
        if let Some(filter) = &list.filter {
            query = query
                .filter_expression("#filter = :filter")
                .expression_attribute_names("#filter", filter.attribute)
                .expression_attribute_values(":filter", attribute(&filter.value));
        }
        let reply = query
            .key_condition_expression(condition)
            .scan_index_forward(false)
            .limit(limit.into())
            .send()
            .await?;
        let place = |item: &Item| position(item, &range);
        let rows = reply.items().iter().map(|item| Ok((place(item)?, self.row(item)?)));
        let mut rows: Vec<_> = rows.collect::<Result<_, AwsError>>()?;
        rows.retain(|(place, _)| Some(place) != before);
        let end = reply.last_evaluated_key.filter(|key| !key.is_empty());
        Ok(Shown { rows, end: end.as_ref().map(place).transpose()? })
    }

    /// One key of an index.
    fn index(&self, name: &str, attribute: &str, hash: String) -> QueryFluentBuilder {
        let query = self.client.query().table_name(&*self.table).index_name(name);
        query.expression_attribute_names("#hash", attribute).expression_attribute_values(":hash", text(hash))
    }
}

fn position(item: &Item, range: &str) -> Result<Position, AwsError> {
    let position = item.get(range).and_then(|value| value.as_s().ok()).and_then(|text| text.parse().ok());
    position.ok_or_else(|| AwsError::InvalidResponse(format!("a row's {range} is missing or cannot be read")))
}
