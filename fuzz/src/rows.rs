//! Rows of the read models.

use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};
use millrace_aws::AwsError;
use millrace_core::{
    AggregateType, AggregatingProjection, CommandId, Envelope, EventCodec, EventId, IndexValue as _,
    Projection, Row, StreamId, TenantId, Timestamp,
    projection::{ProjectionError, ProjectionKind, ProjectionSpec, RowChange, RowUpdate},
    row::{Provenance, RowKey, StoredRow},
};
use millrace_rows::{
    AuditRows as _, Consistency, DynamoRows, Filter, IndexShards, ListQuery, ReadRows as _, TimeRange,
    WriteError, WriteRows as _,
};
use serde_json::{Value, json};
use shop::{
    CustomerTotals, OrderSummary, UserId, UserProfile,
    order::{Basket, OrderCreated, OrderEvent, OrderItem, OrderStatus},
    user::{UserCreated, UserEvent},
};
use uuid::Uuid;

use crate::{
    application::SHOP,
    damage::{SECRET, damaged, n, number, s},
    stored::assert_silent,
    wire::{Played, played, run},
};

const ID: Uuid = Uuid::from_u128(1);

const USERS: &str = UserProfile::NAME.name;
const ORDERS: &str = OrderSummary::NAME.name;
const TOTALS: &str = CustomerTotals::NAME.name;

fn acme() -> TenantId {
    "acme".parse().expect("a tenant")
}

fn stream(aggregate_type: AggregateType) -> StreamId {
    StreamId { tenant: acme(), aggregate_type, id: ID }
}

fn key() -> RowKey {
    RowKey { tenant: acme(), id: ID.to_string() }
}

fn noon() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().expect("a time")
}

fn secret() -> CommandId {
    SECRET.parse().expect("an id")
}

/// A projection, and its table.
fn table(name: &str) -> (&'static ProjectionSpec, DynamoRows) {
    let spec = SHOP.projection(name).expect("a registered projection");
    let two = 2.try_into().expect("2 is not 0");
    (spec, DynamoRows::new(played().dynamodb.clone(), "rows", spec, IndexShards { read: two, write: two }))
}

/// The update that an event makes where there was nothing.
fn first(spec: &ProjectionSpec, event: &impl EventCodec) -> RowUpdate {
    let encoded = event.encode();
    let envelope = Envelope {
        event_id: EventId(Uuid::from_u128(7)),
        tenant_id: acme(),
        aggregate_type: spec.source.clone(),
        aggregate_id: ID,
        version: 1,
        event_type: encoded.event_type.to_owned(),
        schema_version: encoded.schema_version,
        timestamp: noon(),
        event_data: Some(encoded.data),
        command_id: secret(),
        correlation_id: secret(),
        causation_id: secret(),
        trace_parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    };
    (spec.update)(&envelope).expect("an update").expect("an event's data")
}

/// The item that an event leaves where there was nothing, as Millrace writes it.
fn item(name: &str, event: &impl EventCodec) -> Value {
    let (spec, rows) = table(name);
    let wire = &played().wire;
    wire.answer(&json!({}));
    run(rows.load(&[first(spec, event)])).expect("an item");
    wire.asked()["RequestItems"]["rows"][0]["PutRequest"]["Item"].clone()
}

static USER: LazyLock<Value> = LazyLock::new(|| item(USERS, &user_created()));
static ORDER: LazyLock<Value> = LazyLock::new(|| item(ORDERS, &order_created()));
static PART: LazyLock<Value> = LazyLock::new(|| item(TOTALS, &order_created()));

fn user_created() -> UserEvent {
    UserEvent::UserCreated(UserCreated {
        email: format!("{SECRET}@example.com").try_into().expect("an address"),
        name: SECRET.to_owned().try_into().expect("a name"),
    })
}

fn order_created() -> OrderEvent {
    let price = "USD".parse().and_then(|currency| shop::Money::new(currency, 1, 500_000_000));
    let line = OrderItem {
        product: SECRET.to_owned().try_into().expect("a product"),
        quantity: 2.try_into().expect("a quantity"),
        price: price.expect("a price"),
    };
    let basket = Basket::new(vec![line]).expect("a basket");
    OrderEvent::OrderCreated(OrderCreated { user_id: UserId(ID), basket })
}

/// Rows of the read models with any contents. They are read whole, as they would be written, or are an error that
/// quotes none of it.
pub(crate) fn rows(data: &[u8]) -> Result<()> {
    let u = &mut Unstructured::new(data);
    match u.int_in_range(0..=3)? {
        0 => users(u),
        1 | 2 => orders(u),
        _ => totals(u),
    }
}

fn users(u: &mut Unstructured<'_>) -> Result<()> {
    let Played { wire, .. } = played();
    let (spec, rows) = table(USERS);
    let item = damaged(u, USER.clone())?;
    by_key::<UserProfile>(&rows, spec, &item);

    wire.answer(&page(u, &item, &USER)?);
    let address = shop::Email::try_from(format!("{SECRET}@example.com")).expect("an address");
    let value = address.index_value().expect("an address is indexed");
    let lookup = UserProfile::SCHEMA.lookup("by-email").expect("a look-up");
    if let Err(error) = run(rows.lookup(lookup, &acme(), &value)) {
        assert_silent(&error);
    }
    Ok(())
}

fn orders(u: &mut Unstructured<'_>) -> Result<()> {
    let Played { wire, .. } = played();
    let (spec, rows) = table(ORDERS);
    let mut item = ORDER.clone();
    let line = &mut item["Basket"]["M"]["Items"]["L"][0]["M"];
    if u.ratio(1, 4)? {
        line["Quantity"] = n(number(u)?);
    }
    if u.ratio(1, 4)? {
        line["Price"]["M"]["Amount"] = s(number(u)?);
    }
    *line = damaged(u, line.take())?;
    let item = damaged(u, item)?;
    by_key::<OrderSummary>(&rows, spec, &item);

    wire.answer(&page(u, &item, &ORDER)?);
    let (name, value, filter) = if u.ratio(1, 2)? {
        let filter = Filter::by(OrderSummary::STATUS, &OrderStatus::Created);
        ("by-user", ID.to_string(), if u.ratio(1, 2)? { filter } else { None })
    } else {
        ("by-status", OrderStatus::Created.as_str().to_owned(), None)
    };
    let query = ListQuery {
        list: OrderSummary::SCHEMA.list(name).expect("a list"),
        tenant: acme(),
        value,
        filter,
        times: TimeRange::default(),
    };
    match run(rows.page(&query, None, 10)) {
        Ok(page) => assert!(page.rows.len() <= 10, "no more than was asked for"),
        Err(error) => assert_silent(&error),
    }
    Ok(())
}

/// A part of a customer's totals, and the totals that it belongs to.
fn totals(u: &mut Unstructured<'_>) -> Result<()> {
    let Played { wire, .. } = played();
    let (spec, rows) = table(TOTALS);
    let created = first(spec, &order_created());
    let part = damaged(u, PART.clone())?;
    let row = damaged(u, sum_of_one(&created))?;
    by_key::<CustomerTotals>(&rows, spec, &row);

    // The next event moves the order, by the contents of both.
    let update = RowUpdate { from_version: 1, to_version: 2, ..created.clone() };
    wire.answer_in_turn([&json!({ "Item": part }), &json!({ "Item": row }), &json!({})]);
    if let Err(error) = run(rows.write(&update)) {
        assert_unwritten(&error);
    }
    // An audit adds the parts up: the row, the index's keys, the parts.
    let keys = json!({ "Items": [part] });
    let parts = json!({ "Responses": { "rows": [part] } });
    wire.answer_in_turn([&json!({ "Item": row }), &keys, &parts, &json!({})]);
    match run(rows.sum(&key())) {
        Ok(sum) => {
            let replaced = run(rows.replace_sum(&sum));
            assert!(replaced.is_ok(), "a sum can be written: {replaced:?}");
        }
        Err(error) => assert_silent(&error),
    }
    // And puts a part in the place of one that is wrong.
    let stream = stream(spec.source.clone());
    wire.answer(&parts);
    match run(rows.rows(&[stream])) {
        Ok(found) => {
            for (_, found) in &found.found {
                rows.differences(found, &created).expect("the update makes its part");
                wire.answer_in_turn([&json!({ "Item": part }), &json!({ "Item": row }), &json!({})]);
                match run(rows.replace(found, &created)) {
                    Ok(_) => {}
                    Err(AwsError::Refused(reason)) => {
                        assert!(!reason.contains(SECRET), "a refusal quotes: {reason}")
                    }
                    Err(error) => assert_silent(&error),
                }
            }
        }
        Err(error) => assert_silent(&error),
    }
    Ok(())
}

/// The item of a row that one part adds up to.
fn sum_of_one(part: &RowUpdate) -> Value {
    let Provenance { event_id, correlation_id, causation_id, .. } = &part.provenance;
    json!({
        "Key": s(key()),
        "Version": n(1),
        "Parts": n(1),
        "Orders": n(1),
        "Cancelled": n(0),
        "Spent": { "M": { "USD": s("3000000000") } },
        "LastOrderAt": s(noon()),
        "EventId": s(event_id),
        "CorrelationId": s(correlation_id),
        "CausationId": s(causation_id),
    })
}

fn assert_unwritten(error: &WriteError) {
    match error {
        WriteError::Aws(error) => assert_silent(error),
        WriteError::Projection(error) => assert_quotes_nothing(error),
        WriteError::Contended => panic!("nobody else writes"),
    }
}

fn assert_quotes_nothing(error: &ProjectionError) {
    assert!(!error.to_string().contains(SECRET), "an error quotes what was stored: {error}");
}

/// A page of rows that an index shows, and where it ends.
fn page(u: &mut Unstructured<'_>, row: &Value, last: &Value) -> Result<Value> {
    let mut page = json!({ "Items": [row] });
    if u.ratio(1, 2)? {
        page["LastEvaluatedKey"] = damaged(u, last.clone())?;
    }
    Ok(page)
}

/// Reads an item in each way that is by its key.
fn by_key<R: Row>(rows: &DynamoRows, spec: &ProjectionSpec, item: &Value) {
    let Played { wire, .. } = played();
    wire.answer(&json!({ "Item": item }));
    match run(rows.get(&key())) {
        Ok(Some(row)) => assert_survives::<R>(rows, spec, item, row),
        Ok(None) => panic!("an item is a row, or cannot be read"),
        Err(error) => assert_silent(&error),
    }
    if let Err(error) = run(rows.applied_version(&stream(spec.source.clone()))) {
        assert_silent(&error);
    }
    wire.answer(&json!({ "Responses": { "rows": [item] } }));
    match run(rows.get_many(&[key()], Consistency::Strong)) {
        Ok(many) => {
            let keys = many.found.iter().map(|(key, _)| key.clone()).chain(many.left);
            assert!(keys.eq([key()].into_iter().take(many.found.len().min(1))), "what was asked for");
            many.found.iter().filter_map(|(_, row)| row.as_ref().err()).for_each(assert_silent);
        }
        Err(error) => assert_silent(&error),
    }
}

/// Holds a row against an audit's replacement, which it should equal already.
fn assert_survives<R: Row>(rows: &DynamoRows, spec: &ProjectionSpec, item: &Value, stored: StoredRow) {
    let (key, provenance) = (stored.key.clone(), stored.provenance.clone());
    let typed = match stored.typed::<R>() {
        Ok(Some(typed)) => typed,
        Ok(None) => return,
        Err(error) => return assert_quotes_nothing(&error.into()),
    };
    let attributes = typed.row.to_attributes().expect("what is read can be written");
    // A row that sums up aggregates is no aggregate's own, and an audit replaces it by the sum of its parts. A key in
    // another form than ours is no row's.
    let id: std::result::Result<Uuid, _> = key.id.parse();
    let own = id.ok().filter(|id| id.to_string() == key.id && typed.version > 0 && !is_sum(spec));
    let Some(id) = own else { return };
    let provenance = provenance.unwrap_or_else(|| Provenance {
        event_id: EventId(Uuid::from_u128(1)),
        correlation_id: secret(),
        causation_id: secret(),
        trace_parent: None,
    });
    let update = RowUpdate {
        stream: StreamId { tenant: key.tenant.clone(), aggregate_type: spec.source.clone(), id },
        key: key.clone(),
        from_version: 0,
        to_version: typed.version,
        provenance,
        change: RowChange::Put(attributes),
    };
    let Played { wire, .. } = played();
    wire.answer(&json!({ "Responses": { "rows": [item] } }));
    let found =
        run(rows.rows(std::slice::from_ref(&update.stream))).expect("a row that can be read is found");
    let Some((_, as_found)) = found.found.first() else { panic!("a row that can be read is found") };
    rows.differences(as_found, &update).expect("the update makes its row");
    wire.answer(&json!({}));
    run(rows.replace(as_found, &update)).expect("what is read can be written");
    let written = wire.asked()["Item"].clone();
    wire.answer(&json!({ "Item": written }));
    let again = run(rows.get(&key)).expect("what is written can be read").expect("a row");
    assert_eq!(again.typed::<R>(), Ok(Some(typed)), "a row survives its item");
}

fn is_sum(spec: &ProjectionSpec) -> bool {
    match spec.kind {
        ProjectionKind::Blind | ProjectionKind::Fold => false,
        ProjectionKind::Aggregating(_) => true,
    }
}
