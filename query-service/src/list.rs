//! Pages of a list of orders.

use millrace_proto::query::OrderSummary;
use millrace_read_models::{OrderRow, Position};
use prost::Message as _;

use crate::{token::List, view::order_summary};

/// The most that a page weighs, in bytes, but for one whose only order weighs more. gRPC clients refuse messages over
/// 4 MiB unless they are told otherwise, and 100 orders of the largest kind weigh 8.
pub(crate) const MOST_BYTES: usize = 3 << 20;

/// Lays an order that was read for certain over what an index shows, which may be older: its newest version takes the
/// place of any other, where the list holds it at all and it belongs to what comes after `before`.
///
/// `rows` are the newest of the list after `before`. The order's place among them is right even if they are cut off
/// somewhere, as long as they are cut again at a length that they had.
pub(crate) fn overlay(rows: &mut Vec<OrderRow>, list: &List, before: Option<&Position>, certain: OrderRow) {
    let shown = rows.iter().position(|row| row.order_id == certain.order_id).map(|place| rows.remove(place));
    // The index is read after the row, so it may show the same order newer.
    let newest = match shown {
        Some(shown) if shown.version > certain.version => shown,
        Some(_) | None => certain,
    };
    let position = newest.position();
    if list.holds(&newest) && before.is_none_or(|before| position < *before) {
        let place = rows.partition_point(|row| row.position() > position);
        rows.insert(place, newest);
    }
}

/// The first page of `rows`, of at most `size` orders, and the position after which the next one begins, if there is
/// one.
pub(crate) fn page(rows: &[OrderRow], size: usize) -> (Vec<OrderSummary>, Option<Position>) {
    let mut orders: Vec<OrderSummary> = Vec::with_capacity(size.min(rows.len()));
    let mut bytes = 0;
    for row in rows.iter().take(size) {
        let order = order_summary(row);
        bytes += order.encoded_len();
        if bytes > MOST_BYTES && !orders.is_empty() {
            break;
        }
        orders.push(order);
    }
    let more = orders.len() < rows.len();
    let last = if more { orders.len().checked_sub(1).and_then(|last| rows.get(last)) } else { None };
    (orders, last.map(OrderRow::position))
}
