//! `HistoryService`: past events and states.
//!
//! An event is shown as it was stored ([`recorded`]); an unreadable event is shown with the reason. A past state is
//! folded from its stream ([`past`]), for adapters. A [`search`] reads an index.

pub(crate) mod past;
mod query;
mod recorded;
mod search;

use std::{fmt, sync::Arc};

use millrace_core::{Application, StreamId, TenantId, ids::parse_uuid};
use millrace_proto::query::{
    GetHistoryRequest, GetHistoryResponse, RecordedEvent, SearchEventsRequest, SearchEventsResponse,
    history_service_server::HistoryService,
};
use millrace_server::{Call, Failure, Violations};
use prost::Message as _;
use tonic::Request;

use crate::{
    models::registered,
    paging::{MAX_BYTES, page_size, reached},
    reply::{Reply, accept, reply},
    shared::Shared,
};
use query::{Events, direction};
use recorded::recorded;
pub use search::Settling;

/// Answers questions about the past.
pub struct History {
    shared: Arc<Shared>,
    settling: Settling,
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("History")
    }
}

#[tonic::async_trait]
impl HistoryService for History {
    async fn get_history(&self, request: Request<GetHistoryRequest>) -> Reply<GetHistoryResponse> {
        let (call, request) = accept(request)?;
        reply(self.of_aggregate(&call, request).await?)
    }

    async fn search_events(&self, request: Request<SearchEventsRequest>) -> Reply<SearchEventsResponse> {
        let (call, request) = accept(request)?;
        reply(self.search(&call, request).await?)
    }
}

impl History {
    pub(crate) fn new(shared: Arc<Shared>, settling: Settling) -> Self {
        Self { shared, settling }
    }

    async fn of_aggregate(
        &self,
        call: &Call,
        request: GetHistoryRequest,
    ) -> Result<GetHistoryResponse, Failure> {
        let (application, tokens) = (&self.shared.application, &self.shared.tokens);
        let mut violations = Violations::default();
        let stream = stream(&mut violations, application, &call.tenant, &request);
        let size = page_size(&mut violations, request.page_size);
        let direction = violations.field("order", direction(request.order));
        let query = stream.zip(direction).map(|(stream, direction)| Events { stream, direction });
        let reached = reached(&mut violations, tokens, &call.tenant, query.as_ref(), &request.page_token);
        let (query, (size, reached)) = violations.finish(query.zip(size.zip(reached)))?;

        let page = self.part(&query, reached, size).await?;
        if page.events.is_empty() && reached.is_none() {
            let (resource_type, name) =
                (query.stream.aggregate_type.to_string(), query.stream.id.to_string());
            return Err(Failure::NotFound { resource_type: resource_type.into(), name });
        }
        let next_page_token = page.next.map(|version| tokens.seal(&call.tenant, &query, &version));
        Ok(GetHistoryResponse { events: page.events, next_page_token: next_page_token.unwrap_or_default() })
    }

    /// A page of a stream, after the version already reached.
    async fn part(&self, query: &Events, reached: Option<u64>, size: u16) -> Result<Page<u64>, Failure> {
        let mut page = Page::of(size);
        let mut versions = query.beyond(reached);
        while !versions.is_empty() {
            // One more than fits shows whether there is a next page.
            let limit = (size + 1).saturating_sub(page.len());
            let part = self.shared.events.history(&query.stream, versions, query.direction, limit).await?;
            for item in &part.items {
                if !page.add(item.version(), recorded(&self.shared.application, &query.stream, item)) {
                    return Ok(page);
                }
            }
            let Some(last) = part.items.last().filter(|_| part.more) else { break };
            versions = query.beyond(Some(last.version()));
        }
        Ok(page)
    }
}

/// Reads the request's stream.
fn stream(
    violations: &mut Violations,
    application: &Application,
    tenant: &TenantId,
    request: &GetHistoryRequest,
) -> Option<StreamId> {
    let aggregate_type = registered(application, &request.aggregate_type);
    let aggregate_type = violations.field("aggregate_type", aggregate_type);
    let id = violations.field("aggregate_id", parse_uuid(&request.aggregate_id));
    Some(StreamId { tenant: tenant.clone(), aggregate_type: aggregate_type?, id: id? })
}

/// A page of events under construction, bounded in number and in bytes.
struct Page<P> {
    size: u16,
    events: Vec<RecordedEvent>,
    bytes: usize,
    /// The place of the last event.
    last: Option<P>,
    /// Where the next page begins, if there is one.
    next: Option<P>,
}

impl<P> Page<P> {
    /// An empty page for so many events.
    fn of(size: u16) -> Self {
        Self { size, events: Vec::new(), bytes: 0, last: None, next: None }
    }

    fn len(&self) -> u16 {
        // Never longer than its size.
        u16::try_from(self.events.len()).unwrap_or(u16::MAX)
    }

    /// Adds the event at a place, if there is room. If not, the page is complete, and another follows.
    fn add(&mut self, place: P, event: RecordedEvent) -> bool {
        self.bytes += event.encoded_len();
        if self.len() == self.size || (self.bytes > MAX_BYTES && !self.events.is_empty()) {
            self.next = self.last.take();
            return false;
        }
        self.events.push(event);
        self.last = Some(place);
        true
    }
}
