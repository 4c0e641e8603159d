//! `OrderQueryService`.

use futures::stream::BoxStream;
use millrace_domain::OrderId;
use millrace_proto::{
    Timestamp,
    codec::status_from_proto,
    query::{
        BatchGetOrdersRequest, BatchGetOrdersResponse, GetOrderRequest, GetOrderResponse,
        GetOrdersByStatusRequest, GetOrdersByStatusResponse, GetOrdersByUserRequest, GetOrdersByUserResponse,
        OrderSummary, ReadAfter, WatchOrderRequest, WatchOrderResponse,
        order_query_service_server::OrderQueryService,
    },
};
use millrace_read_models::{Among, Consistency, OrderList, OrderRow, ReadOrders, ReadUsers};
use millrace_runtime::{Call, Failure, Violations};
use tonic::{Request, Response, Status};

use crate::{
    batch::{self, Batch},
    list::{overlay, page},
    models::{After, Kind, Models, Row},
    paging::{page_size, reached},
    reply::reply,
    times::range,
    token::PageTokens,
    view::order_summary,
    watch::{Hub, OrderRows},
};

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

    async fn batch_get_orders(
        &self,
        request: Request<BatchGetOrdersRequest>,
    ) -> Result<Response<BatchGetOrdersResponse>, Status> {
        let call = Call::of(&request)?;
        let Batch { found, missing, unanswered } = self.by_ids(&call, request.into_inner()).await?;
        Ok(reply(BatchGetOrdersResponse {
            orders: found,
            missing_order_ids: missing,
            unanswered_order_ids: unanswered,
        }))
    }

    async fn get_orders_by_user(
        &self,
        request: Request<GetOrdersByUserRequest>,
    ) -> Result<Response<GetOrdersByUserResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let mut wrong = Violations::default();
        let user_id = wrong.field("user_id", request.user_id.parse());
        let status = match request.status {
            0 => Some(None),
            number => wrong.field("status", status_from_proto(number)).map(Some),
        };
        let among = user_id.zip(status).map(|(user_id, status)| Among::User { user_id, status });
        let paging = Paging {
            created_since: request.created_since,
            created_before: request.created_before,
            page_size: request.page_size,
            page_token: request.page_token,
            after: request.after,
        };
        let (orders, next_page_token) = self.page(&call, wrong, among, paging).await?;
        Ok(reply(GetOrdersByUserResponse { orders, next_page_token }))
    }

    async fn get_orders_by_status(
        &self,
        request: Request<GetOrdersByStatusRequest>,
    ) -> Result<Response<GetOrdersByStatusResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let mut wrong = Violations::default();
        let among = wrong.field("status", status_from_proto(request.status)).map(Among::Status);
        let paging = Paging {
            created_since: request.created_since,
            created_before: request.created_before,
            page_size: request.page_size,
            page_token: request.page_token,
            after: request.after,
        };
        let (orders, next_page_token) = self.page(&call, wrong, among, paging).await?;
        Ok(reply(GetOrdersByStatusResponse { orders, next_page_token }))
    }

    type WatchOrderStream = BoxStream<'static, Result<WatchOrderResponse, Status>>;

    async fn watch_order(
        &self,
        request: Request<WatchOrderRequest>,
    ) -> Result<Response<Self::WatchOrderStream>, Status> {
        let call = Call::of(&request)?;
        let WatchOrderRequest { order_id, seen_version, after } = request.into_inner();
        let place = self.watched.place(&call.tenant)?;
        let row = self.by_id(&call, GetOrderRequest { order_id, after }).await?;
        let watch = self.watched.watch(place, (row.tenant.clone(), row.order_id), row);
        let message = |row: &OrderRow| WatchOrderResponse { order: Some(order_summary(row)) };
        Ok(Response::new(watch.messages(seen_version, call.end_of_stream, message)))
    }
}

/// The fields that both lists' requests have.
struct Paging {
    created_since: Option<Timestamp>,
    created_before: Option<Timestamp>,
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

    async fn by_ids(
        &self,
        call: &Call,
        request: BatchGetOrdersRequest,
    ) -> Result<Batch<OrderSummary>, Failure> {
        let mut wrong = Violations::default();
        let ids: Option<Vec<OrderId>> = batch::ids(&mut wrong, "order_ids", &request.order_ids);
        let after = After::parse(&mut wrong, request.after);
        let ids = wrong.finish(ids)?;

        let known = self.awaited(call, after).await?.map(|row| (row.order_id, row));
        let orders = &self.models.orders;
        // As strongly as one order is read, so that a batch can take the place of many calls.
        let ask = |keys: Vec<_>| async move { orders.get_many(&keys, Consistency::Strong).await };
        batch::read(call, &ids, known, ask, |row| order_summary(&row)).await
    }

    /// A page of a list, and the token of the next one, empty where there is none. `wrong` has what was wrong with the
    /// request so far.
    async fn page(
        &self,
        call: &Call,
        mut wrong: Violations,
        among: Option<Among>,
        paging: Paging,
    ) -> Result<(Vec<OrderSummary>, String), Failure> {
        let (since, before) = (paging.created_since, paging.created_before);
        let created = range(&mut wrong, ("created_since", since), ("created_before", before));
        let size = page_size(&mut wrong, paging.page_size);
        let list = among.zip(created);
        let list = list.map(|(among, created)| OrderList { tenant: call.tenant.clone(), among, created });
        let before = reached(&mut wrong, &self.tokens, &call.tenant, list.as_ref(), &paging.page_token);
        let after = After::parse(&mut wrong, paging.after);
        let (list, (size, before)) = wrong.finish(list.zip(size.zip(before)))?;

        let awaited = self.awaited(call, after).await?;
        // One more than fits shows whether there is a next page; another one replaces what the overlay may take away.
        let limit = size + 1 + u16::from(awaited.is_some());
        let mut part = self.models.orders.part(&list, before.as_ref(), limit).await?;
        if let Some(awaited) = awaited {
            overlay(&mut part, &list, before.as_ref(), awaited);
        }
        let (orders, next) = page(&part, size.into());
        let next = next.map(|position| self.tokens.seal(&list.tenant, &list, &position));
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
}
