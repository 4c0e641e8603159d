//! Looking back.

use std::{collections::HashMap, ops::RangeInclusive};

use aws_sdk_dynamodb::types::AttributeValue;
use millrace_aws::AwsError;
use millrace_core::StreamId;
use serde_json::Map;

use super::{Contents, MemoryStore};
use crate::{
    Direction, Found, HistoryPage, Hit, ReadHistory, ScannedItem, Search, StoredEvent,
    item::item_of,
    merge::{Merge, Shown},
    size::item_size,
};

/// How much of a stream one request returns at most, in bytes: as on DynamoDB.
const PART_BYTES: usize = 1 << 20;

impl ReadHistory for MemoryStore {
    async fn history(
        &self,
        stream: &StreamId,
        versions: RangeInclusive<u64>,
        direction: Direction,
        limit: u16,
    ) -> Result<HistoryPage, AwsError> {
        let contents = self.request();
        // A range that ends before it begins would panic.
        let kept = contents.streams.get(stream).filter(|_| !versions.is_empty());
        let places = kept.into_iter().flat_map(|kept| kept.range(versions.clone())).map(|(_, place)| place);
        let mut events: Vec<_> = places.filter_map(|place| contents.log.get(*place)).collect();
        events.sort_by(|a, b| direction.order(&a.envelope.version, &b.envelope.version));
        let (there, limit) = (events.len(), usize::from(limit.max(1)));
        let mut bytes = 0;
        let fitting = events.iter().take_while(|event| {
            bytes += weight(event);
            bytes <= PART_BYTES
        });
        events.truncate(fitting.count().max(1).min(limit));
        // Like DynamoDB, which stops at the limit without a look at the next item.
        let more = events.len() < there || events.len() == limit;
        let items = events.into_iter().map(|event| ScannedItem::Event(Box::new(event.clone()))).collect();
        Ok(HistoryPage { items, more })
    }

    async fn search(&self, search: &Search, limit: u16) -> Result<Option<Found>, AwsError> {
        Ok(self.request().search(search, limit))
    }
}

impl Contents {
    fn search(&self, search: &Search, limit: u16) -> Option<Found> {
        let shown = self.shown()?;
        let is_searched = |event: &&StoredEvent| {
            event.envelope.tenant_id == search.tenant && event.envelope.event_type == search.event_type
        };
        let hit = |event: &StoredEvent| {
            let hit = Hit { moment: event.moment(), item: ScannedItem::Event(Box::new(event.clone())) };
            (hit, weight(event))
        };
        let hits = shown.iter().filter(is_searched).map(hit).collect();
        // One shard that shows all it has at once.
        let mut merge = Merge::<()>::new(search, 1, limit);
        merge.add(0, Shown { hits, next: None });
        Some(merge.found())
    }
}

/// The size of an event as an item.
fn weight(event: &StoredEvent) -> usize {
    let empty = Map::new();
    let item: HashMap<String, AttributeValue> =
        item_of(event, event.envelope.event_data.as_ref().unwrap_or(&empty), None);
    item_size(&item)
}
