//! Replies to commands of any kind.

use millrace_proto::{command::CommandResult, query::ReadAfter};
use shop::contracts::command::{
    CreateOrderResponse, CreateUserResponse, UpdateOrderStatusResponse, UpdateUserProfileResponse,
};
use tonic::Response;

/// A reply to a command. One that lacks a part is a broken contract.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the contract says it")]
pub struct Reply {
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub version: u64,
    pub event_id: String,
    pub command_id: String,
    pub replayed: bool,
}

impl Reply {
    /// The token that lets a query see the command: the reply's own, as it is.
    pub fn after(&self) -> Option<ReadAfter> {
        Some(ReadAfter {
            aggregate_type: self.aggregate_type.clone(),
            aggregate_id: self.aggregate_id.clone(),
            version: self.version,
        })
    }
}

impl From<CommandResult> for Reply {
    fn from(result: CommandResult) -> Self {
        let CommandResult { read_after, event_id, command_id, replayed } = result;
        let ReadAfter { aggregate_type, aggregate_id, version } = read_after.expect("a reply has a token");
        Self { aggregate_type, aggregate_id, version, event_id, command_id, replayed }
    }
}

macro_rules! replies {
    ($($message:ident),*) => {$(
        impl From<$message> for Reply {
            fn from(reply: $message) -> Self {
                reply.result.expect("a reply has a result").into()
            }
        }
    )*};
}

replies!(CreateUserResponse, CreateOrderResponse, UpdateOrderStatusResponse, UpdateUserProfileResponse);

/// A response that is a reply to a command.
pub trait Replied {
    /// The reply.
    fn reply(self) -> Reply;
}

impl<T: Into<Reply>> Replied for Response<T> {
    fn reply(self) -> Reply {
        self.into_inner().into()
    }
}
