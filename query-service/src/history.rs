//! `HistoryService`: what happened, and how things were.
//!
//! An event is shown as it was stored ([`recorded`]), and one that cannot be read with the reason why. How an aggregate
//! was is folded from its stream by the domain's own rules ([`past`]). A [`search`] reads an index.

mod past;
mod query;
mod recorded;
mod search;

use millrace_domain::{Aggregate as _, OrderId, StreamId, TenantId, UserId, order::Order, user::User};
use millrace_event_store::ReadHistory;
use millrace_proto::query::{
    GetHistoryRequest, GetHistoryResponse, GetOrderAsOfRequest, GetOrderAsOfResponse,
    GetUserProfileAsOfRequest, GetUserProfileAsOfResponse, RecordedEvent, SearchEventsRequest,
    SearchEventsResponse, get_history_request, history_service_server::HistoryService,
};
use millrace_runtime::{Call, Failure, Violations};
use prost::Message as _;
use tonic::{Request, Response, Status};

use crate::{
    paging::{MOST_BYTES, page_size, reached},
    reply::reply,
    token::PageTokens,
};
use query::{AsOf, Events, NOT_SET, direction};
use recorded::recorded;

/// Answers questions about the past.
#[derive(Debug)]
pub struct History<E> {
    events: E,
    tokens: PageTokens,
}

impl<E> History<E> {
    /// The service over an event store.
    pub fn new(events: E, tokens: PageTokens) -> Self {
        Self { events, tokens }
    }
}

#[tonic::async_trait]
impl<E: ReadHistory> HistoryService for History<E> {
    async fn get_history(
        &self,
        request: Request<GetHistoryRequest>,
    ) -> Result<Response<GetHistoryResponse>, Status> {
        let call = Call::of(&request)?;
        Ok(reply(self.of_aggregate(&call, request.into_inner()).await?))
    }

    async fn get_user_profile_as_of(
        &self,
        request: Request<GetUserProfileAsOfRequest>,
    ) -> Result<Response<GetUserProfileAsOfResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let mut wrong = Violations::default();
        let user_id: Option<UserId> = wrong.field("user_id", request.user_id.parse());
        let as_of = AsOf::parse(&mut wrong, request.as_of);
        let (user_id, as_of) = wrong.finish(user_id.zip(as_of))?;
        let stream = StreamId { tenant: call.tenant, aggregate_type: User::TYPE, id: user_id.0 };
        let profile = past::as_of::<User, _>(&self.events, &stream, as_of).await?;
        Ok(reply(GetUserProfileAsOfResponse { user_profile: Some(profile) }))
    }

    async fn get_order_as_of(
        &self,
        request: Request<GetOrderAsOfRequest>,
    ) -> Result<Response<GetOrderAsOfResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let mut wrong = Violations::default();
        let order_id: Option<OrderId> = wrong.field("order_id", request.order_id.parse());
        let as_of = AsOf::parse(&mut wrong, request.as_of);
        let (order_id, as_of) = wrong.finish(order_id.zip(as_of))?;
        let stream = StreamId { tenant: call.tenant, aggregate_type: Order::TYPE, id: order_id.0 };
        let order = past::as_of::<Order, _>(&self.events, &stream, as_of).await?;
        Ok(reply(GetOrderAsOfResponse { order: Some(order) }))
    }

    async fn search_events(
        &self,
        request: Request<SearchEventsRequest>,
    ) -> Result<Response<SearchEventsResponse>, Status> {
        let call = Call::of(&request)?;
        Ok(reply(self.search(&call, request.into_inner()).await?))
    }
}

impl<E: ReadHistory> History<E> {
    async fn of_aggregate(
        &self,
        call: &Call,
        request: GetHistoryRequest,
    ) -> Result<GetHistoryResponse, Failure> {
        let mut wrong = Violations::default();
        let aggregate = aggregate(&mut wrong, &call.tenant, request.aggregate);
        let size = page_size(&mut wrong, request.page_size);
        let direction = wrong.field("order", direction(request.order));
        let query = aggregate.zip(direction).map(|(stream, direction)| Events { stream, direction });
        let reached = reached(&mut wrong, &self.tokens, &call.tenant, query.as_ref(), &request.page_token);
        let (query, (size, reached)) = wrong.finish(query.zip(size.zip(reached)))?;

        let page = self.part(&query, reached, size).await?;
        if page.events.is_empty() && reached.is_none() {
            return Err(past::missing(&query.stream));
        }
        let next_page_token = page.next.map(|version| self.tokens.seal(&call.tenant, &query, &version));
        Ok(GetHistoryResponse { events: page.events, next_page_token: next_page_token.unwrap_or_default() })
    }

    /// A page of a stream, after the version that was reached before.
    async fn part(&self, query: &Events, reached: Option<u64>, size: u16) -> Result<Page<u64>, Failure> {
        let mut page = Page::of(size);
        let mut versions = query.beyond(reached);
        while !versions.is_empty() {
            // One more than fits shows whether there is a next page.
            let limit = (size + 1).saturating_sub(page.len());
            let part = self.events.part(&query.stream, versions, query.direction, limit).await?;
            for met in &part.met {
                if !page.add(met.version(), recorded(&query.stream, met)) {
                    return Ok(page);
                }
            }
            let Some(last) = part.met.last().filter(|_| part.more) else { break };
            versions = query.beyond(Some(last.version()));
        }
        Ok(page)
    }
}

/// Reads whose history is asked for.
fn aggregate(
    wrong: &mut Violations,
    tenant: &TenantId,
    aggregate: Option<get_history_request::Aggregate>,
) -> Option<StreamId> {
    use get_history_request::Aggregate::{OrderId as Order_, UserId as User_};
    let (aggregate_type, id) = match aggregate {
        Some(User_(id)) => (User::TYPE, wrong.field("user_id", id.parse()).map(|UserId(id)| id)),
        Some(Order_(id)) => (Order::TYPE, wrong.field("order_id", id.parse()).map(|OrderId(id)| id)),
        None => (User::TYPE, wrong.field("aggregate", Err(NOT_SET))),
    };
    Some(StreamId { tenant: tenant.clone(), aggregate_type, id: id? })
}

/// A page of events that is being put together, bounded in number and in bytes.
struct Page<P> {
    size: u16,
    events: Vec<RecordedEvent>,
    bytes: usize,
    /// The place of the last event.
    last: Option<P>,
    /// Where the next page goes on, if there is one.
    next: Option<P>,
}

impl<P> Page<P> {
    /// An empty page for so many events.
    fn of(size: u16) -> Self {
        Self { size, events: Vec::new(), bytes: 0, last: None, next: None }
    }

    fn len(&self) -> u16 {
        // No longer than its size.
        u16::try_from(self.events.len()).unwrap_or(u16::MAX)
    }

    /// Adds the event at a place, if there is room for it. Where there is none, the page is complete, and not the last.
    fn add(&mut self, place: P, event: RecordedEvent) -> bool {
        self.bytes += event.encoded_len();
        if self.len() == self.size || (self.bytes > MOST_BYTES && !self.events.is_empty()) {
            self.next = self.last.take();
            return false;
        }
        self.events.push(event);
        self.last = Some(place);
        true
    }
}
