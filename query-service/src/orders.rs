//! `OrderQueryService`.

use millrace_query::{Batch, Messages, Page, Reply, Rows, accept, reply};
use shop::{
    OrderSummary,
    contracts::query::{order_query_service_server::OrderQueryService, *},
    order::OrderStatus,
};
use tonic::Request;

/// Answers queries about orders.
#[derive(Debug, Clone)]
pub struct Orders(pub Rows<OrderSummary>);

#[tonic::async_trait]
impl OrderQueryService for Orders {
    type WatchOrderStream = Messages<WatchOrderResponse>;

    async fn get_order(&self, request: Request<GetOrderRequest>) -> Reply<GetOrderResponse> {
        let (call, asked) = accept(request)?;
        let order = self.0.get(&call, ("order_id", &asked.order_id), asked.after).await?;
        reply(GetOrderResponse { order: Some(order.into()) })
    }

    async fn batch_get_orders(
        &self,
        request: Request<BatchGetOrdersRequest>,
    ) -> Reply<BatchGetOrdersResponse> {
        let (call, asked) = accept(request)?;
        let Batch { found: orders, missing: missing_order_ids, unanswered: unanswered_order_ids } =
            self.0.batch(&call, ("order_ids", &asked.order_ids), asked.after).await?;
        reply(BatchGetOrdersResponse { orders, missing_order_ids, unanswered_order_ids })
    }

    async fn get_orders_by_user(
        &self,
        request: Request<GetOrdersByUserRequest>,
    ) -> Reply<GetOrdersByUserResponse> {
        let (call, asked) = accept(request)?;
        let list = self.0.list(OrderSummary::BY_USER, ("user_id", asked.user_id.parse()));
        let status = (asked.status != 0).then(|| OrderStatus::try_from(asked.status)).transpose();
        let list = list.filter(OrderSummary::STATUS, ("status", status));
        let list =
            list.times(("created_since", asked.created_since), ("created_before", asked.created_before));
        let Page { rows: orders, next_page_token } =
            list.page(&call, asked.page_size, &asked.page_token, asked.after).await?;
        reply(GetOrdersByUserResponse { orders, next_page_token })
    }

    async fn get_orders_by_status(
        &self,
        request: Request<GetOrdersByStatusRequest>,
    ) -> Reply<GetOrdersByStatusResponse> {
        let (call, asked) = accept(request)?;
        let list = self.0.list(OrderSummary::BY_STATUS, ("status", OrderStatus::try_from(asked.status)));
        let list =
            list.times(("created_since", asked.created_since), ("created_before", asked.created_before));
        let Page { rows: orders, next_page_token } =
            list.page(&call, asked.page_size, &asked.page_token, asked.after).await?;
        reply(GetOrdersByStatusResponse { orders, next_page_token })
    }

    async fn watch_order(&self, request: Request<WatchOrderRequest>) -> Reply<Self::WatchOrderStream> {
        let (call, asked) = accept(request)?;
        let message = |order| WatchOrderResponse { order: Some(order) };
        self.0.watch(&call, ("order_id", &asked.order_id), asked.seen_version, asked.after, message).await
    }

    async fn get_order_as_of(&self, request: Request<GetOrderAsOfRequest>) -> Reply<GetOrderAsOfResponse> {
        let (call, asked) = accept(request)?;
        let order = self.0.as_of(&call, ("order_id", &asked.order_id), asked.as_of).await?;
        reply(GetOrderAsOfResponse { order: Some(order.into()) })
    }
}
