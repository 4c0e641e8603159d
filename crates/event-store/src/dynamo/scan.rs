//! Scans.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes, ReturnConsumedCapacity};
use millrace_aws::{AwsError, Segment, printable, units};
use millrace_core::StreamId;

use super::{DynamoReader, history::INDEX};
use crate::{
    Begun, IndexRange, ScanEvents, Scanned, ScannedItem, Touched, UnreadableItem,
    item::{
        AGGREGATE_ID, EVENT_TYPE_KEY, Item, TIMESTAMP, VERSION, event_type_key, number, stored_from_item,
        text,
    },
};

/// A table's key, as the place of a scan.
type Key = HashMap<String, AttributeValue>;

impl ScanEvents for DynamoReader {
    type Place = Key;

    async fn scan(&self, segment: Segment, from: Option<&Key>) -> Result<Scanned<Key>, AwsError> {
        let reply = self
            .client
            .scan()
            .table_name(&*self.events)
            .consistent_read(true)
            .segment(segment.number())
            .total_segments(segment.total())
            .set_exclusive_start_key(from.cloned())
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send()
            .await?;
        let read_units = units(reply.consumed_capacity());
        Ok(scanned(reply.items, reply.last_evaluated_key, read_units))
    }

    async fn look(&self, stream: &StreamId, from: Option<&Key>) -> Result<Scanned<Key>, AwsError> {
        let reply = self
            .client
            .query()
            .table_name(&*self.events)
            .consistent_read(true)
            .key_condition_expression("#stream = :stream")
            .expression_attribute_names("#stream", AGGREGATE_ID)
            .expression_attribute_values(":stream", text(stream))
            .set_exclusive_start_key(from.cloned())
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send()
            .await?;
        let read_units = units(reply.consumed_capacity());
        Ok(scanned(reply.items, reply.last_evaluated_key, read_units))
    }

    async fn touched(&self, range: &IndexRange, from: Option<&Key>) -> Result<Touched<Key>, AwsError> {
        let IndexRange { tenant, event_type, shard, since } = range;
        let reply = self
            .client
            .query()
            .table_name(&*self.events)
            .index_name(INDEX)
            .key_condition_expression("#hash = :hash AND #time >= :since")
            .projection_expression("#stream")
            .expression_attribute_names("#hash", EVENT_TYPE_KEY)
            .expression_attribute_names("#time", TIMESTAMP)
            .expression_attribute_names("#stream", AGGREGATE_ID)
            .expression_attribute_values(":hash", text(event_type_key(tenant, event_type, shard.number)))
            .expression_attribute_values(":since", text(since))
            .set_exclusive_start_key(from.cloned())
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send()
            .await?;
        Ok(Touched {
            // An item under another key is no event, and no aggregate's.
            streams: reply.items().iter().filter_map(stream_of).collect(),
            read_units: units(reply.consumed_capacity()),
            next: reply.last_evaluated_key.filter(|key| !key.is_empty()),
        })
    }

    async fn begun(&self, streams: &[StreamId]) -> Result<Begun, AwsError> {
        if streams.is_empty() {
            return Ok(Begun { begun: [].into(), left: Vec::new(), read_units: 0.0 });
        }
        let key =
            |stream| Key::from([(AGGREGATE_ID.to_owned(), text(stream)), (VERSION.to_owned(), number(1))]);
        let wanted = KeysAndAttributes::builder()
            .set_keys(Some(streams.iter().map(key).collect()))
            .projection_expression("#stream")
            .expression_attribute_names("#stream", AGGREGATE_ID)
            .build()
            .map_err(|error| AwsError::Refused(error.to_string()))?;
        let reply = self
            .client
            .batch_get_item()
            .request_items(&*self.events, wanted)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .send()
            .await?;
        let read_units = reply.consumed_capacity().iter().map(|used| units(Some(used))).sum();
        let found = reply.responses().and_then(|tables| tables.get(&*self.events)).into_iter().flatten();
        let left = reply.unprocessed_keys().and_then(|tables| tables.get(&*self.events));
        let left = left.into_iter().flat_map(KeysAndAttributes::keys);
        Ok(Begun {
            begun: found.filter_map(stream_of).collect(),
            left: left.filter_map(stream_of).collect(),
            read_units,
        })
    }

    async fn count(&self) -> Result<u64, AwsError> {
        let reply = self.client.describe_table().table_name(&*self.events).send().await?;
        let count = reply.table().and_then(|table| table.item_count()).unwrap_or_default();
        Ok(u64::try_from(count).unwrap_or_default())
    }
}

fn scanned(items: Option<Vec<Item>>, last: Option<Key>, read_units: f64) -> Scanned<Key> {
    // One by one, so that each item is freed when its event is built.
    let items = items.unwrap_or_default().into_iter().map(|item| scanned_item(&item)).collect();
    Scanned { items, next: last.filter(|key| !key.is_empty()), read_units }
}

pub(super) fn scanned_item(item: &Item) -> ScannedItem {
    match stored_from_item(item) {
        Ok(event) => ScannedItem::Event(Box::new(event)),
        Err(error) => {
            let key = item.get(AGGREGATE_ID).and_then(|key| key.as_s().ok()).map_or("", String::as_str);
            let version = version(item).unwrap_or_default();
            ScannedItem::Unreadable(UnreadableItem {
                stream: key.parse().ok(),
                key: printable(key),
                version,
                error,
            })
        }
    }
}

fn stream_of(item: &Item) -> Option<StreamId> {
    item.get(AGGREGATE_ID)?.as_s().ok()?.parse().ok()
}

fn version(item: &Item) -> Option<u64> {
    item.get(VERSION)?.as_n().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use crate::{ItemError, testing::any_event};

    use super::*;

    fn item() -> Item {
        let event = any_event(7);
        let data = event.envelope.event_data.clone().unwrap_or_default();
        crate::item::item_of(&event, &data, None)
    }

    fn with(name: &str, value: AttributeValue) -> Item {
        let mut item = item();
        item.insert(name.to_owned(), value);
        item
    }

    fn no_event(item: &Item) -> UnreadableItem {
        match scanned_item(item) {
            ScannedItem::Unreadable(other) => other,
            ScannedItem::Event(event) => panic!("read as an event: {event:?}"),
        }
    }

    #[test]
    fn what_is_no_event_is_told_with_its_place() {
        assert!(matches!(scanned_item(&item()), ScannedItem::Event(event) if event.envelope.version == 7));
        let broken = no_event(&with("SchemaVersion", text("1")));
        assert_eq!((broken.version, broken.error), (7, ItemError::WrongType("SchemaVersion")));
        assert_eq!(broken.stream.map(|stream| stream.to_string()), Some(broken.key));
        let strange = no_event(&with(AGGREGATE_ID, text("a\nb")));
        assert_eq!((strange.stream, strange.key.as_str(), strange.version), (None, "a\\nb", 7));
        assert_eq!(no_event(&with(VERSION, text("7"))).version, 0);
        assert_eq!(no_event(&Item::new()).key, "");
    }

    #[test]
    fn a_page_is_the_last_one_where_no_key_follows() {
        assert!(scanned(None, Some(Key::new()), 1.0).next.is_none());
        assert!(scanned(Some(vec![item()]), None, 1.0).next.is_none());
        assert!(scanned(None, Some(item()), 1.0).next.is_some());
    }
}
