//! `{{Agg}}QueryService`.

use millrace_query::{Batch, Messages, NotRegistered, Page, QueryService, Reply, Rows, accept, reply};
use tonic::Request;

use super::{Status, summary::{{Agg}}Summary};
use crate::contracts::query::{
    {{agg_snake}}_query_service_server::{ {{Agg}}QueryService, {{Agg}}QueryServiceServer },
    *,
};

/// Queries about {{agg}} aggregates.
pub(crate) struct {{Agg}}Queries(Rows<{{Agg}}Summary>);

pub(crate) fn service(
    queries: &QueryService,
) -> Result<{{Agg}}QueryServiceServer<{{Agg}}Queries>, NotRegistered> {
    Ok({{Agg}}QueryServiceServer::new({{Agg}}Queries(queries.rows::<{{Agg}}Summary, _>()?)))
}

#[tonic::async_trait]
impl {{Agg}}QueryService for {{Agg}}Queries {
    type Watch{{Agg}}Stream = Messages<Watch{{Agg}}Response>;

    async fn get_{{agg_snake}}(&self, request: Request<Get{{Agg}}Request>) -> Reply<Get{{Agg}}Response> {
        let (call, asked) = accept(request)?;
        let row = self.0.get(&call, ("{{agg_snake}}_id", &asked.{{agg_snake}}_id), asked.after).await?;
        reply(Get{{Agg}}Response { {{agg_snake}}: Some(row.into()) })
    }

    async fn batch_get_{{agg_snake}}s(
        &self,
        request: Request<BatchGet{{Agg}}sRequest>,
    ) -> Reply<BatchGet{{Agg}}sResponse> {
        let (call, asked) = accept(request)?;
        let Batch { found, missing, unanswered } =
            self.0.batch(&call, ("{{agg_snake}}_ids", &asked.{{agg_snake}}_ids), asked.after).await?;
        reply(BatchGet{{Agg}}sResponse {
            {{agg_snake}}s: found,
            missing_{{agg_snake}}_ids: missing,
            unanswered_{{agg_snake}}_ids: unanswered,
        })
    }

    async fn list_{{agg_snake}}s_by_status(
        &self,
        request: Request<List{{Agg}}sByStatusRequest>,
    ) -> Reply<List{{Agg}}sByStatusResponse> {
        let (call, asked) = accept(request)?;
        let list = self.0.list({{Agg}}Summary::BY_STATUS, ("status", Status::try_from(asked.status)));
        let Page { rows, next_page_token } =
            list.page(&call, asked.page_size, &asked.page_token, asked.after).await?;
        reply(List{{Agg}}sByStatusResponse { {{agg_snake}}s: rows, next_page_token })
    }

    async fn watch_{{agg_snake}}(&self, request: Request<Watch{{Agg}}Request>) -> Reply<Self::Watch{{Agg}}Stream> {
        let (call, asked) = accept(request)?;
        let message = |row| Watch{{Agg}}Response { {{agg_snake}}: Some(row) };
        let id = ("{{agg_snake}}_id", asked.{{agg_snake}}_id.as_str());
        self.0.watch(&call, id, asked.seen_version, asked.after, message).await
    }

    async fn get_{{agg_snake}}_as_of(
        &self,
        request: Request<Get{{Agg}}AsOfRequest>,
    ) -> Reply<Get{{Agg}}AsOfResponse> {
        let (call, asked) = accept(request)?;
        let row = self.0.as_of(&call, ("{{agg_snake}}_id", &asked.{{agg_snake}}_id), asked.as_of).await?;
        reply(Get{{Agg}}AsOfResponse { {{agg_snake}}: Some(row.into()) })
    }
}
