//! Rows in the contract's types.

use millrace_proto::{
    codec::{item_to_proto, money_to_proto, status_to_proto, time_to_proto},
    query::{OrderSummary, UserProfile},
};
use millrace_read_models::{OrderRow, UserRow};

pub(crate) fn user_profile(row: UserRow) -> UserProfile {
    UserProfile {
        user_id: row.user_id.to_string(),
        email: row.email.into(),
        name: row.name.into(),
        created_at: Some(time_to_proto(row.created_at)),
        updated_at: Some(time_to_proto(row.updated_at)),
        version: row.version,
    }
}

pub(crate) fn order_summary(row: &OrderRow) -> OrderSummary {
    OrderSummary {
        order_id: row.order_id.to_string(),
        user_id: row.user_id.to_string(),
        items: row.basket.items().iter().map(item_to_proto).collect(),
        total_amount: Some(money_to_proto(row.basket.total())),
        status: status_to_proto(row.status).into(),
        created_at: Some(time_to_proto(row.created_at)),
        updated_at: Some(time_to_proto(row.updated_at)),
        version: row.version,
    }
}
