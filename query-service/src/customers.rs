//! `CustomerQueryService`.

use millrace_query::{Batch, OfMany, Reply, Rows, accept, reply};
use shop::{
    CustomerTotals,
    contracts::query::{
        BatchGetCustomerTotalsRequest, BatchGetCustomerTotalsResponse, GetCustomerTotalsRequest,
        GetCustomerTotalsResponse, customer_query_service_server::CustomerQueryService,
    },
};
use tonic::Request;

/// Answers queries about customers.
#[derive(Debug, Clone)]
pub struct Customers(pub Rows<CustomerTotals, OfMany>);

#[tonic::async_trait]
impl CustomerQueryService for Customers {
    async fn get_customer_totals(
        &self,
        request: Request<GetCustomerTotalsRequest>,
    ) -> Reply<GetCustomerTotalsResponse> {
        let (call, asked) = accept(request)?;
        let totals = self.0.get(&call, ("user_id", &asked.user_id), asked.after).await?;
        reply(GetCustomerTotalsResponse { totals: Some(totals.into()) })
    }

    async fn batch_get_customer_totals(
        &self,
        request: Request<BatchGetCustomerTotalsRequest>,
    ) -> Reply<BatchGetCustomerTotalsResponse> {
        let (call, asked) = accept(request)?;
        let Batch { found: totals, missing: missing_user_ids, unanswered: unanswered_user_ids } =
            self.0.batch(&call, ("user_ids", &asked.user_ids), asked.after).await?;
        reply(BatchGetCustomerTotalsResponse { totals, missing_user_ids, unanswered_user_ids })
    }
}
