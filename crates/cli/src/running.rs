//! An application that is up.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use anyhow::Context as _;
use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::LocalBoxFuture;
use millrace_core::{StreamId, names};
use millrace_local::Account;

use crate::{Addresses, Deployable, aws::quoted};

/// A call that a reader can try by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The deployable that answers it.
    pub to: Deployable,
    /// The method, named `package.Service/Method`.
    pub method: &'static str,
    /// The request, as JSON.
    pub request: String,
}

/// A walk through the application; see [`Program::demo`].
pub(crate) type Walk = Box<dyn for<'a> Fn(&'a Running) -> LocalBoxFuture<'a, anyhow::Result<()>>>;

/// An application, up and running, with an AWS of its own or of the caller's.
#[derive(Debug)]
pub struct Running {
    /// The command service.
    pub command_service: Addresses,
    /// The query service.
    pub query_service: Addresses,
    /// The projector.
    pub projector: Addresses,
    /// The account that it uses.
    pub account: Account,
    /// The prefix of every name.
    pub prefix: String,
    /// The environment of its deployables.
    pub(crate) env: BTreeMap<String, String>,
    /// Where the deployables' logs are.
    pub(crate) logs: PathBuf,
}

/// An item of a table, as DynamoDB has it.
pub(crate) type Item = HashMap<String, AttributeValue>;

impl Running {
    /// The name of the event store's table.
    #[must_use]
    pub fn event_store_table(&self) -> String {
        names::events(&self.prefix)
    }

    /// The stored events of an aggregate.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn stored_events(
        &self,
        stream: &StreamId,
    ) -> anyhow::Result<Vec<HashMap<String, AttributeValue>>> {
        let found = aws_sdk_dynamodb::Client::new(&self.account.sdk_config().await)
            .query()
            .table_name(self.event_store_table())
            .key_condition_expression("AggregateId = :id")
            .expression_attribute_values(":id", AttributeValue::S(stream.to_string()))
            .consistent_read(true)
            .send()
            .await
            .context("the event store cannot be queried")?;
        Ok(found.items.unwrap_or_default())
    }

    pub(crate) fn of(&self, deployable: Deployable) -> &Addresses {
        match deployable {
            Deployable::CommandService => &self.command_service,
            Deployable::QueryService => &self.query_service,
            Deployable::Projector => &self.projector,
        }
    }

    /// All addresses, a line each: a name and an address, then any remark.
    pub(crate) fn places(&self) -> String {
        let mut places = String::new();
        for deployable in Deployable::ALL {
            let Addresses { grpc, metrics } = self.of(deployable);
            places += &format!("{:<15}  {grpc}  metrics http://{metrics}/metrics\n", deployable.name());
        }
        let aws = self.account.endpoint();
        places + &format!("{:<15}  {aws}\n{:<15}  {}\n", "AWS", "logs", self.logs.display())
    }

    /// Calls to try, ready to be pasted.
    pub(crate) fn to_try(&self, calls: &[Call]) -> String {
        let mut text = "Calls to try, one after the other:\n\n".to_owned();
        for address in [&self.command_service.grpc, &self.query_service.grpc] {
            text += &format!("grpcurl -plaintext {address} list\n");
        }
        for Call { to, method, request } in calls {
            text += &format!("grpcurl -plaintext -d '{request}' {} {method}\n", self.of(*to).grpc);
        }
        text + &self.aws()
    }

    /// How to reach the AWS, unless it is the caller's own, whose secrets are not printed.
    fn aws(&self) -> String {
        let hand = "To run deployables by hand, `cargo run -- aws` starts a local AWS alone and prints their environment.\n";
        if millrace_local::endpoint_from_env().is_some() {
            return format!("\n{hand}");
        }
        let mut text = "\nTo look into its AWS:\n\nexport".to_owned();
        for (name, value) in self.env.iter().filter(|(name, _)| name.starts_with("AWS_")) {
            text += &format!(" {name}={}", quoted(value));
        }
        text + &format!("\naws dynamodb scan --table-name {}\n\n{hand}", self.event_store_table())
    }
}
