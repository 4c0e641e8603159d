//! Compiles the shop's contracts.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    millrace_build::Contracts::new("../proto").compile(&[
        "shop/command/v1/order_command_service.proto",
        "shop/command/v1/user_command_service.proto",
        "shop/event/v1/order_events.proto",
        "shop/event/v1/user_events.proto",
        "shop/query/v1/customer_query_service.proto",
        "shop/query/v1/order_query_service.proto",
        "shop/query/v1/user_query_service.proto",
    ])
}
