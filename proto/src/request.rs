//! Messages of commands.

/// The message of a command. Implement it by [`command_requests!`](crate::command_requests).
pub trait CommandRequest: prost::Message + Default {
    /// The command's name, a part of its digest for ever.
    const NAME: &'static str;

    /// Takes the client's idempotency key and its correlation id out.
    fn take_ids(&mut self) -> (Option<String>, Option<String>);

    /// The fields that hold UUIDs. The command is the same in upper and lower case.
    fn uuids(&mut self) -> Vec<&mut String>;
}

/// The message of a command on an existing aggregate.
pub trait UpdateRequest: CommandRequest {
    /// The field that names the aggregate.
    const ID: &'static str;

    /// The aggregate.
    fn id(&self) -> &str;

    /// The version that the caller has seen, where it named one.
    fn expected_version(&self) -> Option<u64>;
}

/// Lists the messages of commands: those that create an aggregate, and those that update one by the field that names
/// it. A creation lists its fields that hold UUIDs.
///
/// ```ignore
/// millrace_proto::command_requests! {
///     CreateOrderRequest creates (user_id);
///     UpdateOrderStatusRequest updates order_id;
/// }
/// ```
#[macro_export]
macro_rules! command_requests {
    ($($message:ident $verb:ident $field:tt;)*) => {
        $($crate::command_requests!(@ $message $verb $field);)*
    };
    (@ $message:ident creates ($($uuid:ident),*)) => {
        impl $crate::CommandRequest for $message {
            const NAME: &'static str = stringify!($message);

            fn take_ids(&mut self) -> (Option<String>, Option<String>) {
                (self.command_id.take(), self.correlation_id.take())
            }

            fn uuids(&mut self) -> Vec<&mut String> {
                vec![$(&mut self.$uuid),*]
            }
        }
    };
    (@ $message:ident updates $id:ident) => {
        $crate::command_requests!(@ $message creates ($id));

        impl $crate::UpdateRequest for $message {
            const ID: &'static str = stringify!($id);

            fn id(&self) -> &str {
                &self.$id
            }

            fn expected_version(&self) -> Option<u64> {
                self.expected_version
            }
        }
    };
}
