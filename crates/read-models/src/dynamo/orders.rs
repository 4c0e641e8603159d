//! Order summaries: hash `OrderId`, indexes `UserId-index` and `Status-index`, both ranged by `CreatedKey`.

use std::{collections::HashMap, sync::Arc};

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use futures::{StreamExt, TryStreamExt, stream};
use millrace_aws::AwsError;
#[cfg(any(test, feature = "audit"))]
use millrace_domain::{Aggregate as _, AggregateType, order::Order};
use millrace_domain::{
    Currency, Money, OrderId, TenantId, UserId,
    order::{Basket, OrderItem, OrderStatus, Quantity},
};

use super::{
    item::{Item, asked, decimal, parsed, tenant_and_id, tenant_key, text, unreadable, whole},
    merge::{Gap, Merge, share},
    provenance::provenance,
    table::{Indexed, Range, Table, VERSION},
};
use crate::{
    Among, Consistency, Key, ListPart, MOST_EXAMINED, Many, OrderChange, OrderList, OrderRow, Position,
    ReadOrders, WriteRows, Written,
};

const ORDER_ID: &str = "OrderId";
const USER_ID: &str = "UserId";
const STATUS: &str = "Status";
const STATUS_KEY: &str = "StatusKey";
const CREATED_KEY: &str = "CreatedKey";
const ITEMS: &str = "Items";
const PRODUCT: &str = "Product";
const QUANTITY: &str = "Quantity";
const PRICE: &str = "Price";
const TOTAL_AMOUNT: &str = "TotalAmount";
const CURRENCY: &str = "Currency";
const CREATED_AT: &str = "CreatedAt";
const UPDATED_AT: &str = "UpdatedAt";
const USER_INDEX: &str = "UserId-index";
const STATUS_INDEX: &str = "Status-index";

/// How many keys of an index one call reads at the same time. Each brings 1 MB at most.
const KEYS_AT_ONCE: usize = 16;

/// How many of a user's orders are looked at first for those in a status. Most users have no more, and are done with one
/// request; for one who has many, it is enough for a page of 20 where every fifth order is in the status.
const FIRST_EXAMINED: u16 = 100;

/// Order summaries on DynamoDB.
#[derive(Debug, Clone)]
pub struct DynamoOrders {
    table: Table,
    /// At least one.
    shards: u16,
}

impl DynamoOrders {
    /// The summaries in a table. A status is one key of its index for each of `shards`, since one key for all would be
    /// a partition that every write goes through; writers and readers must agree on the number. 0 counts as 1.
    pub fn new(client: Client, table: impl Into<Arc<str>>, shards: u16) -> Self {
        Self { table: Table::new(client, table, ORDER_ID), shards: shards.max(1) }
    }

    fn shard_of(&self, order_id: OrderId) -> u16 {
        // A remainder is smaller than its divisor, so it fits.
        u16::try_from(order_id.0.as_u128() % u128::from(self.shards)).unwrap_or(0)
    }

    /// The keys of an index that a list is read from, and what besides them tells its orders from others.
    fn keys(&self, list: &OrderList) -> Vec<Of> {
        let tenant = &list.tenant;
        match list.among {
            Among::User { user_id, status } => {
                let hash = (USER_ID, tenant_key(tenant, user_id));
                let with = status.map(|status| (STATUS, status.as_str().to_owned()));
                vec![Of { index: USER_INDEX, hash, with }]
            }
            Among::Status(status) => {
                let hash = |shard| (STATUS_KEY, status_key(tenant, status, shard));
                let of = |shard| Of { index: STATUS_INDEX, hash: hash(shard), with: None };
                (0..self.shards).map(of).collect()
            }
        }
    }

    /// What a key shows of a list below a place, where so many of its items are looked at; one request.
    async fn show(
        &self,
        of: Of,
        list: &OrderList,
        before: Option<&Position>,
        limit: u16,
    ) -> Result<ListPart, AwsError> {
        let Some(places) = list.places(before) else { return Ok(ListPart::default()) };
        let Of { index, hash, with } = of;
        let range = Range { index, hash, within: Some((CREATED_KEY, places)), with };
        let Indexed { items, end } = self.table.query(range, limit).await?;
        Ok(ListPart {
            rows: items.iter().map(row).collect::<Result<_, _>>()?,
            end: end.map(|keys| position(&keys)).transpose()?,
        })
    }

    /// What a change sets, besides the version and the provenance.
    fn assignments(&self, change: &OrderChange) -> Result<Vec<(&'static str, AttributeValue)>, AwsError> {
        let text = |text: String| AttributeValue::S(text);
        let mut set = vec![
            (STATUS, text(change.status.as_str().to_owned())),
            (STATUS_KEY, text(status_key(&change.tenant, change.status, self.shard_of(change.order_id)))),
            (UPDATED_AT, text(change.updated_at.to_string())),
        ];
        if let Some(placed) = change.creation()? {
            let total = placed.basket.total();
            let position = Position { created_at: placed.created_at, order_id: change.order_id };
            set.extend([
                (USER_ID, text(tenant_key(&change.tenant, placed.user_id))),
                (CREATED_KEY, text(position.to_string())),
                (CREATED_AT, text(placed.created_at.to_string())),
                (ITEMS, AttributeValue::L(placed.basket.items().iter().map(item_to_attribute).collect())),
                (TOTAL_AMOUNT, AttributeValue::N(total.to_decimal())),
                (CURRENCY, text(total.currency().into())),
            ]);
        }
        Ok(set)
    }
}

impl WriteRows<OrderChange> for DynamoOrders {
    async fn write(&self, change: &OrderChange) -> Result<Written, AwsError> {
        let key = tenant_key(&change.tenant, change.order_id);
        self.table.update(key, change, self.assignments(change)?).await
    }
}

#[cfg(any(test, feature = "audit"))]
impl super::audit::InTable<OrderChange> for DynamoOrders {
    const KIND: AggregateType = Order::TYPE;

    fn table(&self) -> &Table {
        &self.table
    }

    fn set(&self, change: &OrderChange) -> Result<Vec<(&'static str, AttributeValue)>, AwsError> {
        self.assignments(change)
    }
}

impl ReadOrders for DynamoOrders {
    async fn get(&self, tenant: &TenantId, order_id: OrderId) -> Result<Option<OrderRow>, AwsError> {
        self.table.get(tenant_key(tenant, order_id)).await?.as_ref().map(row).transpose()
    }

    async fn get_many(
        &self,
        keys: &[Key<OrderId>],
        consistency: Consistency,
    ) -> Result<Many<OrderId, OrderRow>, AwsError> {
        let asked = asked(keys);
        self.table.get_many(asked.keys().cloned(), consistency).await?.by_key(ORDER_ID, &asked, row)
    }

    async fn part(
        &self,
        list: &OrderList,
        before: Option<&Position>,
        limit: u16,
    ) -> Result<ListPart, AwsError> {
        let keys = self.keys(list);
        let (first, further) = match list.among {
            Among::User { status: Some(_), .. } => {
                let first = limit.max(FIRST_EXAMINED);
                (first, Some(MOST_EXAMINED.saturating_sub(first)))
            }
            Among::User { status: None, .. } | Among::Status(_) => {
                (share(limit, u16::try_from(keys.len()).unwrap_or(u16::MAX)), None)
            }
        };
        let shown = stream::iter(keys.clone().into_iter().enumerate())
            .map(|(key, of)| async move { Ok((key, self.show(of, list, before, first).await?)) })
            .buffer_unordered(KEYS_AT_ONCE);
        let mut merge = shown
            .try_fold(Merge::new(limit), async |mut merge, (key, shown)| {
                merge.add(key, shown);
                Ok::<_, AwsError>(merge)
            })
            .await?;
        if let Some(Gap { key, below, missing }) = merge.gap()
            && let Some(of) = keys.into_iter().nth(key)
            && further != Some(0)
        {
            merge.add(key, self.show(of, list, Some(&below), further.unwrap_or(missing)).await?);
        }
        Ok(merge.part())
    }
}

/// A key of an index, and what its items have to have besides.
#[derive(Debug, Clone)]
struct Of {
    index: &'static str,
    hash: (&'static str, String),
    with: Option<(&'static str, String)>,
}

fn status_key(tenant: &TenantId, status: OrderStatus, shard: u16) -> String {
    tenant_key(tenant, format_args!("{}#{shard}", status.as_str()))
}

fn item_to_attribute(item: &OrderItem) -> AttributeValue {
    AttributeValue::M(HashMap::from([
        (PRODUCT.to_owned(), AttributeValue::S(item.product.as_str().to_owned())),
        (QUANTITY.to_owned(), AttributeValue::N(item.quantity.get().to_string())),
        (PRICE.to_owned(), AttributeValue::N(item.price.to_decimal())),
    ]))
}

fn row(item: &Item) -> Result<OrderRow, AwsError> {
    let (tenant, id) = tenant_and_id(item, ORDER_ID)?;
    let (users_tenant, user_id) = tenant_and_id(item, USER_ID)?;
    if users_tenant != tenant {
        return Err(unreadable(USER_ID));
    }
    Ok(OrderRow {
        tenant,
        order_id: OrderId(id),
        user_id: UserId(user_id),
        basket: basket(item)?,
        status: status(item)?,
        created_at: parsed(item, CREATED_AT)?,
        updated_at: parsed(item, UPDATED_AT)?,
        version: whole(item, VERSION)?,
        provenance: provenance(item),
    })
}

fn position(item: &Item) -> Result<Position, AwsError> {
    text(item, CREATED_KEY)?.parse().map_err(|_| unreadable(CREATED_KEY))
}

fn status(item: &Item) -> Result<OrderStatus, AwsError> {
    let name = text(item, STATUS)?;
    OrderStatus::ALL.into_iter().find(|status| status.as_str() == name).ok_or_else(|| unreadable(STATUS))
}

fn basket(item: &Item) -> Result<Basket, AwsError> {
    let currency: Currency = parsed(item, CURRENCY)?;
    let lines = item.get(ITEMS).and_then(|v| v.as_l().ok()).ok_or_else(|| unreadable(ITEMS))?;
    let lines = lines.iter().map(|line| {
        let line = line.as_m().map_err(|_| unreadable(ITEMS))?;
        Ok(OrderItem {
            product: parsed(line, PRODUCT)?,
            quantity: Quantity::try_from(whole::<i32>(line, QUANTITY)?).map_err(|_| unreadable(QUANTITY))?,
            price: money(line, PRICE, currency)?,
        })
    });
    let basket = Basket::new(lines.collect::<Result<_, AwsError>>()?).map_err(|_| unreadable(ITEMS))?;
    if basket.total() == money(item, TOTAL_AMOUNT, currency)? {
        Ok(basket)
    } else {
        Err(unreadable(TOTAL_AMOUNT))
    }
}

fn money(item: &Item, attribute: &str, currency: Currency) -> Result<Money, AwsError> {
    Money::from_decimal(currency, &decimal(item, attribute)?).map_err(|_| unreadable(attribute))
}

#[cfg(test)]
mod tests {
    use millrace_domain::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::dynamo::provenance::tests::unreadable_ones;

    /// An item as a release wrote it that knew of no provenance.
    fn older() -> Item {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let time = Timestamp::from_unix_micros(0).to_string();
        let item = OrderItem {
            product: "laptop".to_owned().try_into().unwrap(),
            quantity: 1.try_into().unwrap(),
            price: Money::new("USD".parse().unwrap(), 999, 990_000_000).unwrap(),
        };
        let attributes = [
            (ORDER_ID, text(&tenant_key(&TenantId::default(), Uuid::from_u128(1)))),
            (USER_ID, text(&tenant_key(&TenantId::default(), Uuid::from_u128(2)))),
            (STATUS, text("CREATED")),
            (ITEMS, AttributeValue::L(vec![item_to_attribute(&item)])),
            (TOTAL_AMOUNT, AttributeValue::N("999.99".to_owned())),
            (CURRENCY, text("USD")),
            (CREATED_AT, text(&time)),
            (UPDATED_AT, text(&time)),
            (VERSION, AttributeValue::N("1".to_owned())),
        ];
        attributes.map(|(name, value)| (name.to_owned(), value)).into()
    }

    #[test]
    fn an_order_that_does_not_say_what_made_it_is_a_good_one() {
        for attributes in unreadable_ones() {
            let mut item = older();
            item.extend(attributes.into_iter().map(|(name, value)| (name.to_owned(), value)));
            let row = row(&item).unwrap();
            assert_eq!((row.status, row.version, row.provenance), (OrderStatus::Created, 1, None));
        }
    }
}
