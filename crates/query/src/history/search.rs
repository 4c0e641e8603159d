//! Searching events by type and time.

use std::{ops::RangeInclusive, time::Duration};

use millrace_core::Timestamp;
use millrace_event_store::{Direction, Found, Hit, Moment, ScannedItem, Search};
use millrace_proto::{
    query::{SearchEventsRequest, SearchEventsResponse},
    time_to_proto,
};
use millrace_rows::TimeRange;
use millrace_server::{Call, Failure, Violations, clock};

use super::{
    History, Page,
    query::{Searched, direction, event_type},
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

/// When the index is taken to have the events of a time.
#[derive(Debug, Clone, Copy)]
pub struct Settling {
    /// So long after that time.
    pub after: Duration,
    /// The source of the present time.
    pub clock: fn() -> Timestamp,
}

impl Default for Settling {
    fn default() -> Self {
        Self { after: Duration::from_secs(60), clock: clock::now }
    }
}

impl Settling {
    /// The last microsecond before the horizon.
    fn last(self) -> Timestamp {
        let after = i64::try_from(self.after.as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_unix_micros((self.clock)().unix_micros().saturating_sub(after).saturating_sub(1))
    }
}

fn after_micro(time: Timestamp) -> Timestamp {
    Timestamp::from_unix_micros(time.unix_micros().saturating_add(1))
}

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
        if request.follow && direction == Some(Direction::NewestFirst) {
            violations.add("follow", "must come with the oldest events first");
        }
        let searched = event_type.zip(times).zip(direction).map(|((event_type, times), direction)| {
            let tenant = call.tenant.clone();
            let search = Search { tenant, event_type, times, direction, beyond: None };
            Searched { search, follow: request.follow }
        });
        let beyond = reached(&mut violations, tokens, &call.tenant, searched.as_ref(), &request.page_token);
        let after = After::parse(&mut violations, application, &call.tenant, request.after);
        let (searched, (size, beyond)) = violations.finish(searched.zip(size.zip(beyond)))?;
        let Search { times, .. } = &searched.search;
        let (first, end) = (*times.start(), *times.end());
        let last = if searched.follow { end.min(self.settling.last()) } else { end };
        let search = Search { beyond: beyond.flatten(), times: first..=last, ..searched.search.clone() };

        let indexed = async { self.shared.events.search(&search, size).await?.ok_or(NO_INDEX) };
        let (mut indexed, certain) = futures::try_join!(indexed, self.certain(after))?;
        let are_missing = overlay(&mut indexed, &search, certain);
        if searched.follow && are_missing {
            return Err(Failure::ReadModelBehind);
        }

        let mut page = Page::of(size);
        let complete = indexed
            .hits
            .iter()
            .all(|hit| page.add(hit.moment.clone(), found(application, &search.event_type, hit)));
        let next = if complete { page.last.clone().filter(|_| indexed.more) } else { page.next };
        let settled = next.as_ref().map_or(after_micro(last), |next| next.at);
        // A follower goes on from the last event that it has met, so that it meets later ones that are indexed late.
        let place = match next {
            Some(next) => Some(Some(next)),
            None => (last < end).then(|| page.last.or(search.beyond)),
        };
        let next_page_token = place.map(|place| tokens.seal(&call.tenant, &searched, &place));
        Ok(SearchEventsResponse {
            events: page.events,
            next_page_token: next_page_token.unwrap_or_default(),
            settled_until: searched.follow.then(|| time_to_proto(settled)),
        })
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

/// Merges strongly read events into the index's page: those that match the search and that the page lacks. Says whether
/// there are any.
///
/// If the page is full, events after its end belong to a later page.
fn overlay(indexed: &mut Found, search: &Search, certain: Vec<ScannedItem>) -> bool {
    let shown = indexed.hits.len();
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
    indexed.hits.len() > shown
}
