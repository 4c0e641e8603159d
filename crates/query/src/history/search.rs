//! Searching events by type and time.

use std::ops::RangeInclusive;

use millrace_core::Timestamp;
use millrace_event_store::{Direction, Found, Hit, Moment, ScannedItem, Search};
use millrace_proto::query::{SearchEventsRequest, SearchEventsResponse};
use millrace_rows::TimeRange;
use millrace_server::{Call, Failure, Violations};

use super::{
    History, Page,
    query::{direction, event_type},
    recorded::found,
};
use crate::{
    models::After,
    paging::{page_size, reached},
    times::range,
};

/// How many events of an aggregate are read that the index may not show yet: as many as one aggregate usually gains
/// within the index's lag.
const LOOKED_UP: u16 = 25;

const NO_INDEX: Failure =
    Failure::NotDeployed { what: "the index by event type", reason: "EVENT_TYPE_INDEX_OFF" };

impl History {
    pub(super) async fn search(
        &self,
        call: &Call,
        request: SearchEventsRequest,
    ) -> Result<SearchEventsResponse, Failure> {
        let (application, tokens) = (&self.shared.application, &self.shared.tokens);
        let mut violations = Violations::default();
        let event_type = violations.field("event_type", event_type(request.event_type));
        let times = times(&mut violations, request.start_time, request.end_time);
        let size = page_size(&mut violations, request.page_size);
        let direction = violations.field("order", direction(request.order));
        let search = event_type.zip(times).zip(direction).map(|((event_type, times), direction)| {
            let tenant = call.tenant.clone();
            Search { tenant, event_type, times, direction, beyond: None }
        });
        let beyond = reached(&mut violations, tokens, &call.tenant, search.as_ref(), &request.page_token);
        let after = After::parse(&mut violations, application, &call.tenant, request.after);
        let (search, (size, beyond)) = violations.finish(search.zip(size.zip(beyond)))?;
        let search = Search { beyond, ..search };

        let indexed = async { self.shared.events.search(&search, size).await?.ok_or(NO_INDEX) };
        let (mut indexed, certain) = futures::try_join!(indexed, self.certain(after))?;
        overlay(&mut indexed, &search, certain);

        let mut page = Page::of(size);
        let complete = indexed
            .hits
            .iter()
            .all(|hit| page.add(hit.moment.clone(), found(application, &search.event_type, hit)));
        let next = if complete && indexed.more { page.last } else { page.next };
        let next_page_token = next.map(|place| tokens.seal(&call.tenant, &search, &place));
        Ok(SearchEventsResponse { events: page.events, next_page_token: next_page_token.unwrap_or_default() })
    }

    /// The event of the caller's token, and those of its aggregate just before it, read strongly.
    async fn certain(&self, after: Option<After>) -> Result<Vec<ScannedItem>, Failure> {
        let Some(After { stream, version }) = after else { return Ok(Vec::new()) };
        let part =
            self.shared.events.history(&stream, 1..=version, Direction::NewestFirst, LOOKED_UP).await?;
        match part.items.first() {
            Some(item) if item.version() == version => Ok(part.items),
            Some(_) | None => Err(Failure::ReadModelBehind),
        }
    }
}

/// Reads a range of times, from its first microsecond to its last. A range within a microsecond holds none.
fn times(
    violations: &mut Violations,
    start: Option<millrace_proto::Timestamp>,
    end: Option<millrace_proto::Timestamp>,
) -> Option<RangeInclusive<Timestamp>> {
    let TimeRange { since, before } = range(violations, ("start_time", start), ("end_time", end))?;
    let first = since.map_or(0, Timestamp::unix_micros);
    // The end is after the beginning of 1970, so there is a microsecond before it.
    let last = before.map_or(i64::MAX, |before| before.unix_micros() - 1);
    Some(Timestamp::from_unix_micros(first)..=Timestamp::from_unix_micros(last))
}

/// Merges strongly read events into the index's page: those that match the search and that the page lacks.
///
/// If the page is full, events after its end belong to a later page.
fn overlay(indexed: &mut Found, search: &Search, certain: Vec<ScannedItem>) {
    let end = indexed.hits.last().filter(|_| indexed.more).map(|hit| hit.moment.clone());
    let is_shown = |moment: &Moment| {
        end.as_ref().is_none_or(|end| search.direction.order(moment, end).is_lt()) && search.holds(moment)
    };
    for item in certain {
        let ScannedItem::Event(event) = &item else { continue };
        let moment = event.moment();
        if event.envelope.event_type != search.event_type || !is_shown(&moment) {
            continue;
        }
        let place = indexed.hits.partition_point(|hit| search.direction.order(&hit.moment, &moment).is_lt());
        if indexed.hits.get(place).is_none_or(|hit| hit.moment != moment) {
            indexed.hits.insert(place, Hit { moment, item });
        }
    }
}
