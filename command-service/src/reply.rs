//! Every command is answered with the same five fields, each in a message of its own.

use millrace_proto::command::{
    CreateOrderResponse, CreateUserResponse, UpdateOrderStatusResponse, UpdateUserProfileResponse,
};

use crate::handler::Answer;

macro_rules! answers {
    ($($message:ident),*) => {$(
        impl From<Answer> for $message {
            fn from(answer: Answer) -> Self {
                Self {
                    aggregate_id: answer.aggregate_id.to_string(),
                    version: answer.receipt.version,
                    event_id: answer.receipt.event_id.to_string(),
                    command_id: answer.command_id.into(),
                    replayed: answer.replayed,
                }
            }
        }
    )*};
}

answers!(CreateUserResponse, UpdateUserProfileResponse, CreateOrderResponse, UpdateOrderStatusResponse);
