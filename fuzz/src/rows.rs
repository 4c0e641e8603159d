//! Rows of the read models.

use arbitrary::{Arbitrary as _, Result, Unstructured};
use millrace_domain::{Email, EventId, OrderId, TenantId, UserId};
use millrace_read_models::{
    Among, AuditRows, Change, DynamoOrders, DynamoRow, DynamoUsers, OrderChange, OrderList, OrderRow, Placed,
    Provenance, ReadOrders as _, ReadUsers as _, Times, UserChange, UserRow,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    damage::{SECRET, damaged, n, number, s},
    stored::assert_silent,
    wire::{Played, played, run},
};

const ID: Uuid = Uuid::from_u128(1);

fn acme() -> TenantId {
    "acme".parse().expect("a tenant")
}

fn user() -> Value {
    json!({
        "UserId": s(format!("acme#{ID}")),
        "Email": s(format!("{SECRET}@example.com")),
        "EmailKey": s(format!("acme#{SECRET}@example.com")),
        "Name": s(SECRET),
        "CreatedAt": s("2026-11-23T12:00:00.000000Z"),
        "UpdatedAt": s("2026-11-23T12:00:00.000000Z"),
        "Version": n(1),
        "EventId": s(Uuid::from_u128(7)),
        "CorrelationId": s(SECRET),
        "CausationId": s(SECRET),
        "TraceParent": s("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    })
}

fn order(u: &mut Unstructured<'_>) -> Result<Value> {
    let line = |price: Value| json!({ "M": { "Product": s(SECRET), "Quantity": n(2), "Price": price } });
    let price = if u.ratio(1, 4)? { n(number(u)?) } else { n("1.5") };
    let total = if u.ratio(1, 4)? { n(number(u)?) } else { n("3") };
    Ok(json!({
        "OrderId": s(format!("acme#{ID}")),
        "UserId": s(format!("acme#{ID}")),
        "CreatedKey": s(format!("2026-11-23T12:00:00.000000Z#{ID}")),
        "Status": s("CREATED"),
        "StatusKey": s("acme#CREATED#0"),
        "Items": { "L": [damaged(u, line(price)["M"].take()).map(|line| json!({ "M": line }))?] },
        "TotalAmount": total,
        "Currency": s("USD"),
        "CreatedAt": s("2026-11-23T12:00:00.000000Z"),
        "UpdatedAt": s("2026-11-23T12:00:00.000000Z"),
        "Version": n(1),
        "EventId": s(Uuid::from_u128(7)),
        "CorrelationId": s(SECRET),
        "CausationId": s(SECRET),
    }))
}

/// Where a page of rows ends.
fn page(u: &mut Unstructured<'_>, items: &[Value]) -> Result<Value> {
    let mut page = json!({ "Items": items });
    if bool::arbitrary(u)? {
        let last = order(u)?;
        page["LastEvaluatedKey"] = damaged(u, last)?;
    }
    Ok(page)
}

/// Rows of the read models. Whatever they hold, they are read whole, as what they would be written as, or are an error
/// that quotes none of it.
pub(crate) fn rows(data: &[u8]) -> Result<()> {
    let u = &mut Unstructured::new(data);
    if bool::arbitrary(u)? { users(u) } else { orders(u) }
}

fn users(u: &mut Unstructured<'_>) -> Result<()> {
    let Played { wire, dynamodb, .. } = played();
    let users = DynamoUsers::new(dynamodb.clone(), "users");
    let item = damaged(u, user())?;
    let id = UserId(ID);

    wire.answer(&json!({ "Item": item }));
    match run(users.get(&acme(), id)) {
        Ok(row) => assert_survives(&users, &item, row.map(|row| (made(&row), row)), |row| {
            run(users.get(&row.tenant, row.user_id))
        }),
        Err(error) => assert_silent(&error),
    }
    wire.answer(&json!({ "Responses": { "users": [item] } }));
    match run(users.get_many(&[(acme(), id)], millrace_read_models::Consistency::Strong)) {
        Ok(many) => {
            let keys = many.found.iter().map(|(key, _)| key.clone()).chain(many.left);
            assert!(keys.eq([(acme(), id)].into_iter().take(many.found.len().min(1))), "what was asked for");
            many.found.iter().filter_map(|(_, row)| row.as_ref().err()).for_each(assert_silent);
        }
        Err(error) => assert_silent(&error),
    }
    wire.answer(&page(u, std::slice::from_ref(&item))?);
    let address = Email::try_from(format!("{SECRET}@example.com")).expect("an address");
    if let Err(error) = run(users.by_email(&acme(), &address)) {
        assert_silent(&error);
    }
    Ok(())
}

fn orders(u: &mut Unstructured<'_>) -> Result<()> {
    let Played { wire, dynamodb, .. } = played();
    let orders = DynamoOrders::new(dynamodb.clone(), "orders", 2);
    let item = order(u)?;
    let item = damaged(u, item)?;

    wire.answer(&json!({ "Item": item }));
    match run(orders.get(&acme(), OrderId(ID))) {
        Ok(row) => assert_survives(&orders, &item, row.map(|row| (placed(&row), row)), |row| {
            run(orders.get(&row.tenant, row.order_id))
        }),
        Err(error) => assert_silent(&error),
    }
    wire.answer(&page(u, &[item])?);
    let list = OrderList {
        tenant: acme(),
        among: Among::User { user_id: UserId(ID), status: None },
        created: Times { since: None, before: None },
    };
    match run(orders.part(&list, None, 10)) {
        Ok(part) => assert!(part.rows.len() <= 10, "no more than was asked for"),
        Err(error) => assert_silent(&error),
    }
    Ok(())
}

/// The change that makes a row of this one.
fn made(row: &UserRow) -> UserChange {
    UserChange {
        tenant: row.tenant.clone(),
        user_id: row.user_id,
        from: 0,
        to: row.version,
        created_at: Some(row.created_at),
        email: Some(row.email.clone()),
        name: Some(row.name.clone()),
        updated_at: row.updated_at,
        provenance: row.provenance.clone().unwrap_or_else(some),
    }
}

fn placed(row: &OrderRow) -> OrderChange {
    OrderChange {
        tenant: row.tenant.clone(),
        order_id: row.order_id,
        from: 0,
        to: row.version,
        placed: Some(Placed { user_id: row.user_id, basket: row.basket.clone(), created_at: row.created_at }),
        status: row.status,
        updated_at: row.updated_at,
        provenance: row.provenance.clone().unwrap_or_else(some),
    }
}

fn some() -> Provenance {
    Provenance {
        event_id: EventId(Uuid::from_u128(1)),
        correlation_id: "c".parse().expect("an id"),
        causation_id: "c".parse().expect("an id"),
        trace_parent: None,
    }
}

/// Holds a row against what an audit would replace it by, which is what it should be already.
fn assert_survives<C, T, R>(rows: &T, item: &Value, read: Option<(C, R)>, get: impl Fn(&R) -> Got<R>)
where
    C: Change,
    T: AuditRows<C, Row = DynamoRow>,
    R: Shown + Clone + PartialEq + std::fmt::Debug,
{
    let Some((change, row)) = read else { return };
    if row.version() == 0 {
        return;
    }
    let Played { wire, .. } = played();
    let key = if item.get("OrderId").is_some() { "orders" } else { "users" };
    wire.answer(&json!({ "Responses": { key: [item] } }));
    let found = run(rows.rows(&[change.stream()])).expect("a row that can be read can be found");
    let Some((_, as_found)) = found.found.first() else { panic!("a row that can be read is found") };
    rows.differences(as_found, &change).expect("the change makes its row");
    wire.answer(&json!({}));
    run(rows.replace(as_found, &change)).expect("what is read can be written");
    let written = wire.asked()["Item"].clone();
    wire.answer(&json!({ "Item": written }));
    let again = get(&row).expect("what is written can be read").expect("a row");
    assert_eq!(again.with(None), row.with(None), "a row survives its item");
}

type Got<R> = std::result::Result<Option<R>, millrace_aws::AwsError>;

/// What both kinds of rows have.
trait Shown {
    fn version(&self) -> u64;
    fn with(&self, provenance: Option<Provenance>) -> Self;
}

impl Shown for UserRow {
    fn version(&self) -> u64 {
        self.version
    }

    fn with(&self, provenance: Option<Provenance>) -> Self {
        Self { provenance, ..self.clone() }
    }
}

impl Shown for OrderRow {
    fn version(&self) -> u64 {
        self.version
    }

    fn with(&self, provenance: Option<Provenance>) -> Self {
        Self { provenance, ..self.clone() }
    }
}
