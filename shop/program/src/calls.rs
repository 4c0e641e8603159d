//! Calls to try by hand.

use millrace_cli::{
    Call,
    Deployable::{self, CommandService, QueryService},
};

/// Created ids follow from the command id: these are those of `try-user` and `try-order`.
const USER: &str = "8ca7612f-1b66-59d2-9cbd-1efcdbf8b355";
const ORDER: &str = "c5a93058-02dd-57c2-b8db-d9775c4a6944";

/// Calls that work one after the other: `after` waits until the write can be read.
pub(crate) fn to_try() -> Vec<Call> {
    let item =
        r#"{"product":"laptop","quantity":1,"price":{"currencyCode":"USD","units":999,"nanos":990000000}}"#;
    let after = |of, id, version| {
        format!(r#""after":{{"aggregateType":"{of}","aggregateId":"{id}","version":{version}}}"#)
    };
    let (after_user, after_order) = (after("user", USER, 1), after("order", ORDER, 2));
    let call = |to: Deployable, method, request: String| Call { to, method, request };
    vec![
        call(
            CommandService,
            "shop.command.v1.UserCommandService/CreateUser",
            r#"{"email":"ada@example.com","name":"Ada Lovelace","commandId":"try-user"}"#.to_owned(),
        ),
        call(
            CommandService,
            "shop.command.v1.OrderCommandService/CreateOrder",
            format!(r#"{{"userId":"{USER}","items":[{item}],"commandId":"try-order"}}"#),
        ),
        call(
            CommandService,
            "shop.command.v1.OrderCommandService/UpdateOrderStatus",
            format!(r#"{{"orderId":"{ORDER}","status":"ORDER_STATUS_PROCESSING","commandId":"try-status"}}"#),
        ),
        call(
            QueryService,
            "shop.query.v1.UserQueryService/GetUserProfile",
            format!(r#"{{"userId":"{USER}",{after_user}}}"#),
        ),
        call(
            QueryService,
            "shop.query.v1.OrderQueryService/GetOrder",
            format!(r#"{{"orderId":"{ORDER}",{after_order}}}"#),
        ),
        call(
            QueryService,
            "shop.query.v1.OrderQueryService/GetOrdersByUser",
            format!(r#"{{"userId":"{USER}",{after_order}}}"#),
        ),
        call(
            QueryService,
            "shop.query.v1.OrderQueryService/GetOrdersByStatus",
            format!(r#"{{"status":"ORDER_STATUS_PROCESSING",{after_order}}}"#),
        ),
        call(
            QueryService,
            "shop.query.v1.CustomerQueryService/GetCustomerTotals",
            format!(r#"{{"userId":"{USER}",{after_order}}}"#),
        ),
        call(
            QueryService,
            "shop.query.v1.OrderQueryService/GetOrderAsOf",
            format!(r#"{{"orderId":"{ORDER}","asOf":{{"version":1}}}}"#),
        ),
        call(
            QueryService,
            "millrace.query.v1.HistoryService/GetHistory",
            format!(r#"{{"aggregateType":"order","aggregateId":"{ORDER}"}}"#),
        ),
        call(
            QueryService,
            "millrace.query.v1.HistoryService/SearchEvents",
            format!(r#"{{"eventType":"OrderStatusUpdated",{after_order}}}"#),
        ),
    ]
}
