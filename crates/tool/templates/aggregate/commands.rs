//! `{{Agg}}CommandService`.

use millrace_command::{AppendEvents, CommandHandler, Commands, NotRegistered, Reply, Snapshots, reply};
use tonic::Request;

use super::{Title, {{Agg}}, {{Agg}}Command};
use crate::contracts::command::{
    {{agg_snake}}_command_service_server::{ {{Agg}}CommandService, {{Agg}}CommandServiceServer },
    *,
};

/// Commands on {{agg}} aggregates.
pub(crate) struct {{Agg}}Commands<S>(CommandHandler<{{Agg}}, S>);

pub(crate) fn service<S: AppendEvents + Snapshots>(
    commands: &Commands<S>,
) -> Result<{{Agg}}CommandServiceServer<{{Agg}}Commands<S>>, NotRegistered> {
    Ok({{Agg}}CommandServiceServer::new({{Agg}}Commands(commands.of()?)))
}

#[tonic::async_trait]
impl<S: AppendEvents + Snapshots> {{Agg}}CommandService for {{Agg}}Commands<S> {
    async fn create_{{agg_snake}}(&self, request: Request<Create{{Agg}}Request>) -> Reply<Create{{Agg}}Response> {
        let result = self.0.create(request, |message, violations| {
            let title = violations.field("title", Title::try_from(message.title))?;
            Some({{Agg}}Command::Create { title })
        });
        reply(Create{{Agg}}Response { result: result.await? })
    }

    async fn close_{{agg_snake}}(&self, request: Request<Close{{Agg}}Request>) -> Reply<Close{{Agg}}Response> {
        let result = self.0.update(request, |_, _| Some({{Agg}}Command::Close));
        reply(Close{{Agg}}Response { result: result.await? })
    }
}
