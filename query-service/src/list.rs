//! Pages of a list of orders.

use millrace_domain::{OrderId, Timestamp};
use millrace_proto::query::OrderSummary;
use millrace_read_models::{Among, ListPart, OrderList, OrderRow, Position};
use prost::Message as _;
use uuid::Uuid;

use crate::{paging::MOST_BYTES, token::Paged, view::order_summary};

/// The place is the last one that was looked at, of an order that was shown or of one that was passed over.
impl Paged for OrderList {
    type Place = Position;

    fn identity(&self) -> Vec<Vec<u8>> {
        let time = |time: Option<Timestamp>| {
            time.map_or_else(Vec::new, |time| time.unix_micros().to_be_bytes().into())
        };
        let (kind, of, status) = match self.among {
            Among::User { user_id, status } => ("orders of user", user_id.0.as_bytes().to_vec(), status),
            Among::Status(status) => ("orders in status", Vec::new(), Some(status)),
        };
        let status = status.map_or("", |status| status.as_str());
        vec![kind.into(), of, status.into(), time(self.created.since), time(self.created.before)]
    }

    fn write(position: &Position) -> Vec<u8> {
        [&position.created_at.unix_micros().to_be_bytes()[..], position.order_id.0.as_bytes()].concat()
    }

    fn read(bytes: &[u8]) -> Option<Position> {
        let (time, id) = bytes.split_first_chunk()?;
        Some(Position {
            created_at: Timestamp::from_unix_micros(i64::from_be_bytes(*time)),
            order_id: OrderId(Uuid::from_slice(id).ok()?),
        })
    }
}

/// Lays an order that was read for certain over what an index shows, which may be older: its newest version takes the
/// place of any other, where the list holds it at all and its place is in this part, which follows `before`.
pub(crate) fn overlay(part: &mut ListPart, list: &OrderList, before: Option<&Position>, certain: OrderRow) {
    let shown = part.rows.iter().position(|row| row.order_id == certain.order_id);
    let shown = shown.map(|place| part.rows.remove(place));
    // The index is read after the row, so it may show the same order newer.
    let newest = match shown {
        Some(shown) if shown.version > certain.version => shown,
        Some(_) | None => certain,
    };
    let position = newest.position();
    let within = before.is_none_or(|before| position < *before) && part.end.is_none_or(|end| position >= end);
    if within && list.holds(&newest) {
        let place = part.rows.partition_point(|row| row.position() > position);
        part.rows.insert(place, newest);
    }
}

/// The first page of part of a list, of at most `size` orders, and the place after which the next one begins, if there
/// is one.
pub(crate) fn page(part: &ListPart, size: usize) -> (Vec<OrderSummary>, Option<Position>) {
    let mut orders: Vec<OrderSummary> = Vec::with_capacity(size.min(part.rows.len()));
    let (mut bytes, mut last) = (0, None);
    for row in &part.rows {
        if orders.len() == size {
            return (orders, last);
        }
        let order = order_summary(row);
        bytes += order.encoded_len();
        if bytes > MOST_BYTES && !orders.is_empty() {
            return (orders, last);
        }
        orders.push(order);
        last = Some(row.position());
    }
    (orders, part.end)
}

#[cfg(test)]
mod tests {
    use millrace_domain::{
        Money, TenantId, UserId,
        order::{Basket, OrderItem, OrderStatus},
    };
    use millrace_read_models::Times;

    use super::*;

    fn row(version: u64, status: OrderStatus) -> OrderRow {
        let item = OrderItem {
            product: "laptop".to_owned().try_into().unwrap(),
            quantity: 1.try_into().unwrap(),
            price: Money::new("USD".parse().unwrap(), 1, 0).unwrap(),
        };
        OrderRow {
            tenant: TenantId::default(),
            order_id: OrderId(Uuid::from_u128(1)),
            user_id: UserId(Uuid::from_u128(7)),
            basket: Basket::new(vec![item]).unwrap(),
            status,
            created_at: Timestamp::from_unix_micros(5),
            updated_at: Timestamp::from_unix_micros(5),
            version,
            provenance: None,
        }
    }

    /// The index is read after the row, which may have changed in between.
    #[test]
    fn an_order_that_the_index_shows_newer_than_the_awaited_row_stays_as_the_index_has_it() {
        let among = Among::User { user_id: UserId(Uuid::from_u128(7)), status: None };
        let list = OrderList { tenant: TenantId::default(), among, created: Times::default() };
        let (awaited, newer) = (row(2, OrderStatus::Processing), row(3, OrderStatus::Shipped));
        let mut part = ListPart { rows: vec![newer.clone()], end: None };
        overlay(&mut part, &list, None, awaited);
        assert_eq!(part.rows, [newer]);
    }
}
