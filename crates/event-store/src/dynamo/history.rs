//! Looking back: streams from either end, and the index by type and time.

use std::ops::RangeInclusive;

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use millrace_aws::AwsError;
use millrace_core::{StreamId, Timestamp};

use super::{DynamoReader, DynamoStore, scan::scanned_item};
use crate::{
    Direction, Found, HistoryPage, Hit, Moment, ReadHistory, ScannedItem, Search,
    item::{AGGREGATE_ID, EVENT_TYPE_KEY, Item, TIMESTAMP, VERSION, event_type_key, number, text},
    merge::{Merge, Shown, Wanted},
    size::item_size,
};

pub(super) const INDEX: &str = "EventType-Timestamp-index";

/// How many shards of the index one call reads at the same time.
const SHARDS_AT_ONCE: usize = 16;

impl ReadHistory for DynamoReader {
    async fn history(
        &self,
        stream: &StreamId,
        versions: RangeInclusive<u64>,
        direction: Direction,
        limit: u16,
    ) -> Result<HistoryPage, AwsError> {
        // DynamoDB refuses a range that ends before it begins.
        if versions.is_empty() {
            return Ok(HistoryPage::default());
        }
        let query = self
            .client
            .query()
            .table_name(&*self.events)
            .consistent_read(true)
            .key_condition_expression("#stream = :stream AND #version BETWEEN :first AND :last")
            .expression_attribute_names("#stream", AGGREGATE_ID)
            .expression_attribute_names("#version", VERSION)
            .expression_attribute_values(":stream", text(stream))
            .expression_attribute_values(":first", number(versions.start()))
            .expression_attribute_values(":last", number(versions.end()))
            .limit(i32::from(limit).max(1));
        let output = directed(query, direction).send().await?;
        let more = output.last_evaluated_key().is_some_and(|key| !key.is_empty());
        let part = HistoryPage { items: output.items().iter().map(scanned_item).collect(), more };
        check(stream, &part, &versions, direction)?;
        Ok(part)
    }

    async fn search(&self, search: &Search, limit: u16) -> Result<Option<Found>, AwsError> {
        let Some(shards) = self.index_shards else { return Ok(None) };
        if search.times_left().is_empty() {
            return Ok(Some(Found::default()));
        }
        let mut merge = Merge::new(search, shards.get(), limit);
        // Ends, since each request moves its shard on, and a shard is only read for events that may be among the first.
        loop {
            let wanted = merge.wanted();
            if wanted.is_empty() {
                return Ok(Some(merge.found()));
            }
            let mut shown = stream::iter(wanted)
                .map(async |wanted| Ok::<_, AwsError>((wanted.shard, self.shard(search, wanted).await?)))
                .buffer_unordered(SHARDS_AT_ONCE);
            while let Some((shard, shown)) = shown.try_next().await? {
                merge.add(shard, shown);
            }
        }
    }
}

impl DynamoReader {
    /// One page of a shard's events that match the search.
    async fn shard(&self, search: &Search, wanted: Wanted<Item>) -> Result<Shown<Item>, AwsError> {
        let times = search.times_left();
        let query = self
            .client
            .query()
            .table_name(&*self.events)
            .index_name(INDEX)
            .key_condition_expression("#hash = :hash AND #time BETWEEN :first AND :last")
            .expression_attribute_names("#hash", EVENT_TYPE_KEY)
            .expression_attribute_names("#time", TIMESTAMP)
            .expression_attribute_values(
                ":hash",
                text(event_type_key(&search.tenant, &search.event_type, wanted.shard)),
            )
            .expression_attribute_values(":first", text(times.start()))
            .expression_attribute_values(":last", text(times.end()))
            .set_exclusive_start_key(wanted.from)
            .limit(i32::try_from(wanted.limit).unwrap_or(i32::MAX));
        let output = directed(query, search.direction).send().await?;
        let hits = output.items().iter().filter_map(|item| hit(item, search)).collect();
        let next = output.last_evaluated_key.filter(|key| !key.is_empty());
        let next = next.map(|key| match key.get(TIMESTAMP).and_then(|time| time.as_s().ok()).cloned() {
            Some(time) => Ok((key, time)),
            None => Err(AwsError::InvalidResponse(format!("a page of {INDEX} ends at a key without a time"))),
        });
        Ok(Shown { hits, next: next.transpose()? })
    }
}

fn directed(query: QueryFluentBuilder, direction: Direction) -> QueryFluentBuilder {
    query.scan_index_forward(direction == Direction::OldestFirst)
}

/// Whether a part can be continued: its versions are in the range and in order, and it is not an empty one with more
/// behind it.
fn check(
    stream: &StreamId,
    part: &HistoryPage,
    versions: &RangeInclusive<u64>,
    direction: Direction,
) -> Result<(), AwsError> {
    let all: Vec<u64> = part.items.iter().map(ScannedItem::version).collect();
    let in_order = all.windows(2).all(|pair| direction.order(&pair[0], &pair[1]).is_lt());
    if in_order && all.iter().all(|version| versions.contains(version)) && !(part.more && all.is_empty()) {
        Ok(())
    } else {
        Err(AwsError::InvalidResponse(format!(
            "part of stream {stream} has the versions {all:?}, more: {}",
            part.more
        )))
    }
}

/// The hit of an item of the index, with its weight. `None` if its key is not one that an event of the tenant has: no
/// event stands there.
fn hit(item: &Item, search: &Search) -> Option<(Hit, usize)> {
    let attribute = |name| item.get(name).and_then(|value| value.as_s().ok());
    let stream: StreamId = attribute(AGGREGATE_ID)?.parse().ok()?;
    let time = attribute(TIMESTAMP)?;
    let at: Timestamp = time.parse().ok()?;
    let found = scanned_item(item);
    let moment = Moment { at, stream, version: found.version() };
    // A time in another form would have another place in the index.
    let is_place = moment.version > 0 && moment.stream.tenant == search.tenant && at.to_string() == *time;
    is_place.then(|| (Hit { moment, item: found }, item_size(item)))
}

impl ReadHistory for DynamoStore {
    async fn history(
        &self,
        stream: &StreamId,
        versions: RangeInclusive<u64>,
        direction: Direction,
        limit: u16,
    ) -> Result<HistoryPage, AwsError> {
        self.reader.history(stream, versions, direction, limit).await
    }

    async fn search(&self, search: &Search, limit: u16) -> Result<Option<Found>, AwsError> {
        self.reader.search(search, limit).await
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use aws_sdk_dynamodb::types::AttributeValue;

    use super::*;
    use crate::{item::item_of, testing::any_event};

    fn search(tenant: &str) -> Search {
        Search {
            tenant: tenant.parse().unwrap(),
            event_type: "UserCreated".to_owned(),
            times: Timestamp::from_unix_micros(0)..=Timestamp::from_unix_micros(i64::MAX),
            direction: Direction::OldestFirst,
            beyond: None,
        }
    }

    fn event(version: u64) -> (Item, String) {
        let event = any_event(version);
        let data = event.envelope.event_data.clone().unwrap_or_default();
        (item_of(&event, &data, NonZeroU32::new(4)), event.envelope.tenant_id.to_string())
    }

    #[test]
    fn an_entry_of_the_index_is_placed_by_its_key_whatever_else_is_wrong_with_it() {
        let (mut item, tenant) = event(7);
        item.insert("SchemaVersion".to_owned(), text("no number"));
        let (hit, weight) = hit(&item, &search(&tenant)).unwrap();
        assert_eq!((hit.moment.version, weight), (7, item_size(&item)));
        assert!(matches!(hit.item, ScannedItem::Unreadable(other) if other.version == 7));
    }

    #[test]
    fn an_entry_under_a_key_that_no_event_of_the_tenant_has_is_none() {
        let (item, tenant) = event(7);
        let with = |name: &str, value: AttributeValue| {
            let mut item = item.clone();
            item.insert(name.to_owned(), value);
            hit(&item, &search(&tenant))
        };
        assert!(hit(&item, &search(&tenant)).is_some());
        assert!(hit(&item, &search("other")).is_none());
        assert!(with(AGGREGATE_ID, text("somebody")).is_none());
        assert!(with(VERSION, number("1.5")).is_none());
        assert!(with(TIMESTAMP, text("2026-11-23T12:00:00Z")).is_none());
        assert!(with(TIMESTAMP, text("soon")).is_none());
    }

    #[test]
    fn a_part_that_cannot_be_read_on_from_is_nonsense() {
        let part = |versions: &[u64], more| HistoryPage {
            items: versions.iter().map(|version| ScannedItem::Event(Box::new(any_event(*version)))).collect(),
            more,
        };
        let stream = crate::testing::any_stream();
        let check = |part: HistoryPage, direction| check(&stream, &part, &(2..=9), direction);
        assert!(check(part(&[2, 4, 9], true), Direction::OldestFirst).is_ok());
        assert!(check(part(&[9, 4, 2], true), Direction::NewestFirst).is_ok());
        assert!(check(part(&[], false), Direction::OldestFirst).is_ok());
        for (versions, more) in
            [(&[][..], true), (&[1, 2], false), (&[9, 10], false), (&[3, 3], false), (&[3, 2], false)]
        {
            assert!(check(part(versions, more), Direction::OldestFirst).is_err(), "{versions:?}");
        }
    }
}
