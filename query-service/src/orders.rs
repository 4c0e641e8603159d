//! `OrderQueryService`.

use futures::stream::BoxStream;
use millrace_domain::{Invalid, OrderId};
use millrace_proto::{
    codec::status_from_proto,
    query::{
        GetOrderRequest, GetOrderResponse, GetOrdersByStatusRequest, GetOrdersByStatusResponse,
        GetOrdersByUserRequest, GetOrdersByUserResponse, OrderSummary, ReadAfter, WatchOrderRequest,
        WatchOrderResponse, order_query_service_server::OrderQueryService,
    },
};
use millrace_read_models::{OrderRow, Position, ReadOrders, ReadUsers};
use millrace_runtime::{Call, Failure, Violations};
use tonic::{Request, Response, Status};

use crate::{
    list::{overlay, page},
    models::{After, Kind, Models, Row},
    reply::reply,
    token::{List, PageTokens},
    view::order_summary,
    watch::{Hub, OrderRows},
};

/// How many orders a page holds where the request does not say.
const PAGE_SIZE: u16 = 20;

/// The most orders that a page holds.
const MOST_ON_PAGE: u16 = 100;

/// The longest page token that is looked at, in characters.
const MOST_TOKEN_CHARS: usize = 1024;

/// Answers queries about orders.
#[derive(Debug)]
pub struct Orders<U, O: ReadOrders> {
    models: Models<U, O>,
    tokens: PageTokens,
    watched: Hub<OrderRows<O>>,
}

impl<U, O: ReadOrders> Orders<U, O> {
    /// The service over the read models.
    pub fn new(models: Models<U, O>, tokens: PageTokens, watched: Hub<OrderRows<O>>) -> Self {
        Self { models, tokens, watched }
    }
}

#[tonic::async_trait]
impl<U: ReadUsers, O: ReadOrders> OrderQueryService for Orders<U, O> {
    async fn get_order(
        &self,
        request: Request<GetOrderRequest>,
    ) -> Result<Response<GetOrderResponse>, Status> {
        let call = Call::of(&request)?;
        let row = self.by_id(&call, request.into_inner()).await?;
        Ok(reply(GetOrderResponse { order: Some(order_summary(&row)) }))
    }

    async fn get_orders_by_user(
        &self,
        request: Request<GetOrdersByUserRequest>,
    ) -> Result<Response<GetOrdersByUserResponse>, Status> {
        let call = Call::of(&request)?;
        let GetOrdersByUserRequest { user_id, page_size, page_token, after } = request.into_inner();
        let mut wrong = Violations::default();
        let list = wrong.field("user_id", user_id.parse()).map(List::OfUser);
        let (orders, next_page_token) =
            self.page(&call, wrong, list, Paging { page_size, page_token, after }).await?;
        Ok(reply(GetOrdersByUserResponse { orders, next_page_token }))
    }

    async fn get_orders_by_status(
        &self,
        request: Request<GetOrdersByStatusRequest>,
    ) -> Result<Response<GetOrdersByStatusResponse>, Status> {
        let call = Call::of(&request)?;
        let GetOrdersByStatusRequest { status, page_size, page_token, after } = request.into_inner();
        let mut wrong = Violations::default();
        let list = wrong.field("status", status_from_proto(status)).map(List::InStatus);
        let (orders, next_page_token) =
            self.page(&call, wrong, list, Paging { page_size, page_token, after }).await?;
        Ok(reply(GetOrdersByStatusResponse { orders, next_page_token }))
    }

    type WatchOrderStream = BoxStream<'static, Result<WatchOrderResponse, Status>>;

    async fn watch_order(
        &self,
        request: Request<WatchOrderRequest>,
    ) -> Result<Response<Self::WatchOrderStream>, Status> {
        let call = Call::of(&request)?;
        let WatchOrderRequest { order_id, seen_version, after } = request.into_inner();
        let place = self.watched.place()?;
        let row = self.by_id(&call, GetOrderRequest { order_id, after }).await?;
        let watch = self.watched.watch(place, (row.tenant.clone(), row.order_id), row);
        let message = |row: &OrderRow| WatchOrderResponse { order: Some(order_summary(row)) };
        Ok(Response::new(watch.messages(seen_version, call.end_of_stream, message)))
    }
}

/// The fields that both lists' requests have.
struct Paging {
    page_size: i32,
    page_token: String,
    after: Option<ReadAfter>,
}

impl<U: ReadUsers, O: ReadOrders> Orders<U, O> {
    async fn by_id(&self, call: &Call, request: GetOrderRequest) -> Result<OrderRow, Failure> {
        let mut wrong = Violations::default();
        let order_id: Option<OrderId> = wrong.field("order_id", request.order_id.parse());
        let after = After::parse(&mut wrong, request.after);
        let order_id = wrong.finish(order_id)?;

        let row = match self.awaited(call, after).await? {
            Some(row) if row.order_id == order_id => Some(row),
            _ => self.models.orders.get(&call.tenant, order_id).await?,
        };
        row.ok_or_else(|| Failure::NotFound { resource_type: "order", name: order_id.to_string() })
    }

    /// A page of a list, and the token of the next one, empty where there is none. `wrong` has what was wrong with the
    /// request so far.
    async fn page(
        &self,
        call: &Call,
        mut wrong: Violations,
        list: Option<List>,
        paging: Paging,
    ) -> Result<(Vec<OrderSummary>, String), Failure> {
        let size = wrong.field("page_size", page_size(paging.page_size));
        let before = match list {
            // Without a list there is nothing that a token could be good for, so only its length is looked at.
            None => wrong.field("page_token", token_length(&paging.page_token)).map(|()| None),
            Some(list) => wrong.field("page_token", self.before(call, &list, &paging.page_token)),
        };
        let after = After::parse(&mut wrong, paging.after);
        let (list, (size, before)) = wrong.finish(list.zip(size.zip(before)))?;

        let awaited = self.awaited(call, after).await?;
        // One more than fits shows whether there is a next page; another one replaces what the overlay may take away.
        let limit = size + 1 + u16::from(awaited.is_some());
        let mut rows = match list {
            List::OfUser(user_id) => {
                self.models.orders.by_user(&call.tenant, user_id, before.as_ref(), limit).await?
            }
            List::InStatus(status) => {
                self.models.orders.by_status(&call.tenant, status, before.as_ref(), limit).await?
            }
        };
        if let Some(awaited) = awaited {
            overlay(&mut rows, &list, before.as_ref(), awaited);
        }
        let (orders, next) = page(&rows, size.into());
        let next = next.map(|position| self.tokens.seal(&call.tenant, &list, &position));
        Ok((orders, next.unwrap_or_default()))
    }

    /// The order that was waited for, if it was an order.
    async fn awaited(&self, call: &Call, after: Option<After>) -> Result<Option<OrderRow>, Failure> {
        let Some(after) = after else { return Ok(None) };
        match self.models.caught_up(call, after, Kind::Order).await? {
            Row::Order(row) => Ok(Some(row)),
            Row::User(_) => Ok(None),
        }
    }

    /// Where a list goes on by a page token; at its beginning where the token is empty.
    fn before(&self, call: &Call, list: &List, token: &str) -> Result<Option<Position>, Invalid> {
        token_length(token)?;
        if token.is_empty() { Ok(None) } else { self.tokens.open(&call.tenant, list, token).map(Some) }
    }
}

pub(crate) fn page_size(size: i32) -> Result<u16, Invalid> {
    match u16::try_from(size) {
        Ok(0) => Ok(PAGE_SIZE),
        Ok(size @ 1..=MOST_ON_PAGE) => Ok(size),
        Ok(_) | Err(_) => Err(Invalid("must be 1 to 100, or 0 for 20")),
    }
}

pub(crate) fn token_length(token: &str) -> Result<(), Invalid> {
    if token.chars().count() > MOST_TOKEN_CHARS {
        Err(Invalid("must be at most 1024 characters"))
    } else {
        Ok(())
    }
}
