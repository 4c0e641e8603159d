//! The program of {{app}}: `cargo run` is {{app}} on this machine.

use std::process::ExitCode;

use anyhow::Context as _;
use millrace_cli::{
    Call, Deployable, Program, Running,
    demo::{Events, Screen, accepted, calling, connect, event_flow},
};
use {{app_snake}}::contracts::{
    DESCRIPTORS,
    command::{Create{{Agg}}Request, {{agg_snake}}_command_service_client::{{Agg}}CommandServiceClient},
    query::{Get{{Agg}}Request, {{agg_snake}}_query_service_client::{{Agg}}QueryServiceClient},
};

const CREATE: &str = "{{app_snake}}.command.v1.{{Agg}}CommandService/Create{{Agg}}";
const GET: &str = "{{app_snake}}.query.v1.{{Agg}}QueryService/Get{{Agg}}";
const LIST: &str = "{{app_snake}}.query.v1.{{Agg}}QueryService/List{{Agg}}sByStatus";

fn main() -> ExitCode {
    Program::new(
        {{app_snake}}::{{app_snake}}(),
        {{app_snake}}::command_service,
        {{app_snake}}::query_service,
        {{app_snake}}::projector,
    )
    .calls(calls())
    .demo(walk)
    .main()
}

/// Calls to try by hand.
fn calls() -> [Call; 2] {
    let call = |to, method, request: &str| Call { to, method, request: request.to_owned() };
    [
        call(Deployable::CommandService, CREATE, r#"{"title":"a first {{agg}}","commandId":"try-{{agg}}"}"#),
        call(Deployable::QueryService, LIST, r#"{"status":"{{AGG}}_STATUS_OPEN"}"#),
    ]
}

/// The demonstration: a command, and a query that sees it.
async fn walk(running: &Running) -> anyhow::Result<()> {
    let mut screen = Screen::new(DESCRIPTORS)?;
    let mut commands = {{Agg}}CommandServiceClient::new(connect(&running.command_service.grpc).await?);
    let mut queries = {{Agg}}QueryServiceClient::new(connect(&running.query_service.grpc).await?);

    screen.step("A {{agg}} is created")?;
    let request = Create{{Agg}}Request { title: "a first {{agg}}".to_owned(), ..Default::default() };
    screen.request(CREATE, &request)?;
    let created = accepted(CREATE, commands.create_{{agg_snake}}(calling(request)).await)?;
    screen.reply(CREATE, &created)?;
    let after = created.result.and_then(|result| result.read_after).context("a reply without a token")?;

    screen.step("A query with the reply's token sees it")?;
    let request = Get{{Agg}}Request { {{agg_snake}}_id: after.aggregate_id.clone(), after: Some(after) };
    screen.request(GET, &request)?;
    let found = accepted(GET, queries.get_{{agg_snake}}(calling(request)).await)?;
    screen.reply(GET, &found)?;
    event_flow(&mut screen, running, Events { stored: 1, applied: 1 }).await
}
