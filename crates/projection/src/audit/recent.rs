//! The pass of an audit of recent changes.
//!
//! The index by type and time shows which aggregates have events since a time. It is asked for each known tenant, event
//! type and shard. An aggregate that it shows is read whole, since its row is the fold of all its events.

use std::{collections::HashSet, num::NonZeroU32, sync::Arc};

use futures::future::join_all;
use millrace_aws::{Place as _, Segment};
use millrace_core::{StreamId, TenantId, Timestamp};
use millrace_event_store::{IndexRange, ScanEvents};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{Audit, Lanes, Part, Suspect, first_failure};
use crate::pace::Halt;

/// How many aggregates a reader remembers as compared. Beyond, some are compared again.
const MAX_COMPARED: usize = 10_000;

/// After how many pages without an aggregate a reader writes down where it is.
const QUIET_PAGES: u32 = 64;

/// The index by type and time.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    /// The number of its shards.
    pub(crate) shards: NonZeroU32,
    /// The event types of the audited projections' aggregates.
    pub(crate) event_types: Vec<&'static str>,
}

/// A place in the index: the range, and the place in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct IndexPlace {
    tenant: TenantId,
    event_type: String,
    shard: u32,
    /// Where in the range; `None` at its end.
    place: Option<String>,
}

/// A reader of some shards.
struct Reader {
    part: Arc<Part>,
    lanes: Lanes,
    suspects: mpsc::Sender<Suspect>,
    compared: HashSet<StreamId>,
    /// Where an earlier process was.
    resumed: Option<IndexPlace>,
    quiet: u32,
}

impl<E: ScanEvents> Audit<E> {
    /// The pass. Dropping `suspects` at the end says that no more will come.
    pub(super) async fn read_recent(
        &self,
        index: &Index,
        suspects: mpsc::Sender<Suspect>,
    ) -> Result<(), Halt> {
        let segments = self.shared.segments().map(|segment| {
            let suspects = suspects.clone();
            async move { self.shared.all_end_with(self.read_shards(index, segment, suspects).await) }
        });
        first_failure(join_all(segments).await)
    }

    /// Reads the shards that fall to a segment.
    async fn read_shards(
        &self,
        index: &Index,
        segment: Segment,
        suspects: mpsc::Sender<Suspect>,
    ) -> Result<(), Halt> {
        let part = self.shared.part(format!("index/{}", segment.number));
        self.reopen(&part, &suspects).await?;
        if part.is_done() {
            return Ok(());
        }
        let resumed = part.cursor().and_then(|cursor| serde_json::from_str::<IndexPlace>(&cursor).ok());
        let lanes = self.lanes(&part);
        let mut tenants = Vec::from_iter(resumed.as_ref().map(|place| place.tenant.clone()));
        let mut reader = Reader { part, lanes, suspects, compared: HashSet::new(), resumed, quiet: 0 };
        loop {
            for tenant in &tenants {
                self.read_tenant(&mut reader, index, segment, tenant).await?;
                if reader.resumed.take().is_some() {
                    // The place is of an event type or a shard that is read no more: nothing of the tenant was.
                    self.read_tenant(&mut reader, index, segment, tenant).await?;
                }
            }
            let progress = &self.shared.progress;
            tenants = progress.tenants(&self.shared.pace, tenants.last()).await?;
            if tenants.is_empty() {
                return self.shared.reached(&reader.part, None, None).await;
            }
        }
    }

    /// Reads a tenant's ranges that fall to a segment.
    async fn read_tenant(
        &self,
        reader: &mut Reader,
        index: &Index,
        segment: Segment,
        tenant: &TenantId,
    ) -> Result<(), Halt> {
        for event_type in &index.event_types {
            for shard in Segment::all(index.shards) {
                if shard.number % segment.of == segment.number {
                    self.read_range(reader, tenant, event_type, shard).await?;
                }
            }
        }
        Ok(())
    }

    /// Reads one type's events in a shard, from where an earlier process was.
    async fn read_range(
        &self,
        reader: &mut Reader,
        tenant: &TenantId,
        event_type: &str,
        shard: Segment,
    ) -> Result<(), Halt> {
        let mut from = None;
        if let Some(resumed) = &reader.resumed {
            let is_there = resumed.tenant == *tenant
                && resumed.event_type == event_type
                && resumed.shard == shard.number;
            if !is_there {
                return Ok(());
            }
            from = resumed.place.as_deref().and_then(E::Place::from_text);
            reader.resumed = None;
            if from.is_none() {
                return Ok(());
            }
        }
        let since = self.shared.progress.run().since.unwrap_or(Timestamp::from_unix_micros(0));
        let range = IndexRange { tenant: tenant.clone(), event_type: event_type.to_owned(), shard, since };
        loop {
            let call = || self.events.touched(&range, from.as_ref());
            let page = self.shared.call("reading the index by type and time", call).await?;
            self.shared.took(page.read_units);
            reader.quiet = if page.streams.is_empty() { reader.quiet + 1 } else { QUIET_PAGES };
            for stream in page.streams {
                self.compare_whole(reader, stream).await?;
            }
            for lane in reader.lanes.values_mut().flatten() {
                self.compare(lane.as_mut(), &reader.part, &reader.suspects).await?;
            }
            from = page.next;
            if reader.quiet >= QUIET_PAGES {
                reader.quiet = 0;
                let place = from.as_ref().map(E::Place::to_text);
                self.write_down(reader, &range, place).await?;
            }
            if from.is_none() {
                return Ok(());
            }
        }
    }

    /// Writes down that a range is done up to a place; `None`: to its end.
    async fn write_down(
        &self,
        reader: &Reader,
        range: &IndexRange,
        place: Option<String>,
    ) -> Result<(), Halt> {
        let IndexRange { tenant, event_type, shard, .. } = range.clone();
        let place = IndexPlace { tenant, event_type, shard: shard.number, place };
        let cursor = serde_json::to_string(&place).unwrap_or_default();
        self.shared.reached(&reader.part, Some(cursor), None).await
    }

    /// Reads an aggregate whole, and compares its rows together with others'.
    async fn compare_whole(&self, reader: &mut Reader, stream: StreamId) -> Result<(), Halt> {
        if reader.compared.len() >= MAX_COMPARED {
            reader.compared.clear();
        }
        if !reader.lanes.contains_key(&stream.aggregate_type) || !reader.compared.insert(stream.clone()) {
            return Ok(());
        }
        let mut from = None;
        loop {
            let call = || self.events.look(&stream, from.as_ref());
            let page = self.shared.call("reading a stream", call).await?;
            self.shared.took(page.read_units);
            for item in &page.items {
                reader.part.count(|counts| counts.events += 1);
                self.take(&mut reader.lanes, &reader.part, stream.clone(), item, &reader.suspects).await?;
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        for lane in reader.lanes.get_mut(&stream.aggregate_type).into_iter().flatten() {
            lane.end_unless(None);
        }
        Ok(())
    }
}
