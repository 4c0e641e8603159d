//! Calls to try by hand, ready to be pasted.

use crate::{aws::quoted, up::Millrace};

/// The ids of what a command creates follow from its command id: these are those of `try-user` and `try-order`.
const USER: &str = "8ca7612f-1b66-59d2-9cbd-1efcdbf8b355";
const ORDER: &str = "c5a93058-02dd-57c2-b8db-d9775c4a6944";

/// Says what to try with a running Millrace.
pub(crate) fn to_try(millrace: &Millrace) -> String {
    let command = &millrace.command_service.grpc;
    let query = &millrace.query_service.grpc;
    let item =
        r#"{"product":"laptop","quantity":1,"price":{"currencyCode":"USD","units":999,"nanos":990000000}}"#;
    let after = |id, version| format!(r#""after":{{"aggregateId":"{id}","version":{version}}}"#);
    let after_user = after(USER, 1);
    let after_order = after(ORDER, 2);
    let calls = [
        (
            command,
            "millrace.command.v1.UserCommandService/CreateUser",
            r#"{"email":"ada@example.com","name":"Ada Lovelace","commandId":"try-user"}"#.to_owned(),
        ),
        (
            command,
            "millrace.command.v1.OrderCommandService/CreateOrder",
            format!(r#"{{"userId":"{USER}","items":[{item}],"commandId":"try-order"}}"#),
        ),
        (
            command,
            "millrace.command.v1.OrderCommandService/UpdateOrderStatus",
            format!(r#"{{"orderId":"{ORDER}","status":"ORDER_STATUS_PROCESSING","commandId":"try-status"}}"#),
        ),
        (
            query,
            "millrace.query.v1.UserQueryService/GetUserProfile",
            format!(r#"{{"userId":"{USER}",{after_user}}}"#),
        ),
        (
            query,
            "millrace.query.v1.OrderQueryService/GetOrder",
            format!(r#"{{"orderId":"{ORDER}",{after_order}}}"#),
        ),
        (
            query,
            "millrace.query.v1.OrderQueryService/GetOrdersByUser",
            format!(r#"{{"userId":"{USER}",{after_order}}}"#),
        ),
        (
            query,
            "millrace.query.v1.OrderQueryService/GetOrdersByStatus",
            format!(r#"{{"status":"ORDER_STATUS_PROCESSING",{after_order}}}"#),
        ),
        (query, "millrace.query.v1.HistoryService/GetHistory", format!(r#"{{"orderId":"{ORDER}"}}"#)),
        (
            query,
            "millrace.query.v1.HistoryService/GetOrderAsOf",
            format!(r#"{{"orderId":"{ORDER}","version":1}}"#),
        ),
        (
            query,
            "millrace.query.v1.HistoryService/SearchEvents",
            format!(r#"{{"eventType":"OrderStatusUpdated",{after_order}}}"#),
        ),
    ];
    let mut text =
        "Calls to try, one after the other (`after` waits until what was written can be read):\n\n"
            .to_owned();
    for address in [command, query] {
        text += &format!("grpcurl -plaintext {address} list\n");
    }
    for (address, method, request) in calls {
        text += &format!("grpcurl -plaintext -d '{request}' {address} {method}\n");
    }
    text + &aws(millrace)
}

/// How to reach the AWS, unless it is the caller's own, whose secrets are not printed.
fn aws(millrace: &Millrace) -> String {
    let hand = "To run deployables by hand, `cargo run -- aws` starts a local AWS alone and prints their environment.\n";
    if millrace_local::endpoint_from_env().is_some() {
        return format!("\n{hand}");
    }
    let mut text = "\nTo look into its AWS:\n\nexport".to_owned();
    for (name, value) in millrace.env.iter().filter(|(name, _)| name.starts_with("AWS_")) {
        text += &format!(" {name}={}", quoted(value));
    }
    let table = millrace.env.get("EVENT_STORE_TABLE").map_or("", String::as_str);
    text + &format!("\naws dynamodb scan --table-name {table}\n\n{hand}")
}
