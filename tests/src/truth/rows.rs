//! Rows of the read models as they should be, and as they are.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use millrace_domain::{
    Aggregate, Email, Money, Root, StreamId,
    order::{Basket, Order, OrderEvent},
    user::User,
};
use millrace_event_store::{Entry, StoredEvent};
use millrace_proto::codec::EventCodec;
use serde_json::{Map, Value, json};

use super::{Item, Truth, scan};
use crate::Ground;

/// A read model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "their names say it")]
pub enum ReadModel {
    Users,
    Orders,
}

/// Every attribute of a row, its key among them. Texts are strings; numbers are objects `{"N": …}` of a decimal number
/// without zeros that say nothing.
pub type Row = Map<String, Value>;

/// Rows by read model and key.
pub type Rows = BTreeMap<(ReadModel, String), Row>;

impl ReadModel {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Users, Self::Orders];

    fn table(self) -> &'static str {
        match self {
            Self::Users => "UserReadModelTable",
            Self::Orders => "OrderReadModelTable",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Users => "UserId",
            Self::Orders => "OrderId",
        }
    }

    /// Every row that a ground's table has, each as it was at some moment of the call.
    pub async fn read(self, ground: &Ground) -> anyhow::Result<Rows> {
        let items = scan(ground, self.table()).await?;
        let rows = items.iter().map(|item| {
            let row = row(item)?;
            let key = row.get(self.key()).and_then(Value::as_str).context("a row without its key")?;
            Ok(((self, key.to_owned()), row))
        });
        rows.collect()
    }

    /// Every row of both read models.
    pub async fn read_all(ground: &Ground) -> anyhow::Result<Rows> {
        let mut rows = Rows::new();
        for model in Self::ALL {
            rows.extend(model.read(ground).await?);
        }
        Ok(rows)
    }
}

impl Truth {
    /// The rows that the read models have in the end, where an index's key is spread over so many shards.
    pub fn rows(&self, shards: u16) -> anyhow::Result<Rows> {
        let last = |(key, mut states): (_, Vec<Row>)| Some((key, states.pop()?));
        Ok(self.states(shards)?.into_iter().filter_map(last).collect())
    }

    /// Every state that each row goes through: the first is that of version 1.
    pub fn states(&self, shards: u16) -> anyhow::Result<BTreeMap<(ReadModel, String), Vec<Row>>> {
        let mut all = BTreeMap::new();
        for (stream, events) in self.streams() {
            let key = format!("{}#{}", stream.tenant, stream.id);
            let (model, states) = match stream.aggregate_type.as_str() {
                "user" => (
                    ReadModel::Users,
                    states::<User>(stream, events, |_, root, row| user(stream, root, row))?,
                ),
                _ => {
                    let show = |first: &OrderEvent, root: &Root<Order>, row: &mut Row| {
                        order(stream, first, root, shards, row)
                    };
                    (ReadModel::Orders, states::<Order>(stream, events, show)?)
                }
            };
            all.insert((model, key), states);
        }
        Ok(all)
    }
}

/// The row after each event of a stream. `show` adds what the kind of aggregate shows, given its first event and its
/// state.
fn states<A: Aggregate<Event: EventCodec>>(
    stream: &StreamId,
    events: &[StoredEvent],
    show: impl Fn(&A::Event, &Root<A>, &mut Row) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Row>> {
    let mut root = Root::<A>::default();
    let mut first = None;
    let mut states = Vec::new();
    for event in events {
        let recorded = Entry::from(event.clone()).recorded::<A::Event>()?;
        root = root.apply(&recorded).with_context(|| stream.to_string())?;
        let first = first.get_or_insert(recorded.event);
        let (envelope, created) = (&event.envelope, &events[0].envelope);
        let mut row = Row::new();
        let mut set = |name: &str, value: String| row.insert(name.to_owned(), Value::String(value));
        set("CreatedAt", created.timestamp.to_string());
        set("UpdatedAt", envelope.timestamp.to_string());
        set("EventId", envelope.event_id.to_string());
        set("CorrelationId", envelope.correlation_id.to_string());
        set("CausationId", envelope.causation_id.to_string());
        if let Some(trace) = &envelope.trace_parent {
            set("TraceParent", trace.clone());
        }
        row.insert("Version".to_owned(), number(&envelope.version.to_string()));
        show(first, &root, &mut row)?;
        states.push(row);
    }
    Ok(states)
}

/// A field of a state, by the name that snapshots know it by.
fn field<A: Aggregate>(root: &Root<A>, name: &str) -> anyhow::Result<String> {
    let state = serde_json::to_value(root.state())?;
    state[name].as_str().map(str::to_owned).with_context(|| format!("a state without {name}"))
}

fn user(stream: &StreamId, root: &Root<User>, row: &mut Row) -> anyhow::Result<()> {
    let (tenant, email) = (&stream.tenant, Email::try_from(field(root, "email")?)?);
    let mut set = |name: &str, value: String| row.insert(name.to_owned(), Value::String(value));
    set("UserId", format!("{tenant}#{}", stream.id));
    set("Name", field(root, "name")?);
    set("Email", email.as_str().to_owned());
    set("EmailKey", format!("{tenant}#{}", email.normalised()));
    Ok(())
}

fn order(
    stream: &StreamId,
    first: &OrderEvent,
    root: &Root<Order>,
    shards: u16,
    row: &mut Row,
) -> anyhow::Result<()> {
    let OrderEvent::OrderCreated { user_id, basket, created_at, .. } = first else {
        anyhow::bail!("{stream} does not begin with its creation")
    };
    let (tenant, id, status) = (&stream.tenant, stream.id, field(root, "status")?);
    let shard = id.as_u128() % u128::from(shards);
    let mut set = |name: &str, value: String| row.insert(name.to_owned(), Value::String(value));
    set("OrderId", format!("{tenant}#{id}"));
    set("UserId", format!("{tenant}#{user_id}"));
    set("StatusKey", format!("{tenant}#{status}#{shard}"));
    set("Status", status);
    set("CreatedKey", format!("{created_at}#{id}"));
    set("Currency", basket.total().currency().as_str().to_owned());
    row.insert("TotalAmount".to_owned(), amount(basket.total()));
    row.insert("Items".to_owned(), items(basket));
    Ok(())
}

fn items(basket: &Basket) -> Value {
    let items = basket.items().iter().map(|item| {
        json!({
            "Product": item.product.as_str(),
            "Quantity": number(&item.quantity.get().to_string()),
            "Price": amount(item.price),
        })
    });
    Value::Array(items.collect())
}

fn amount(money: Money) -> Value {
    number(&money.to_decimal())
}

fn number(decimal: &str) -> Value {
    let plain = match decimal.split_once('.') {
        Some(_) => decimal.trim_end_matches('0').trim_end_matches('.'),
        None => decimal,
    };
    json!({ "N": plain })
}

fn row(item: &Item) -> anyhow::Result<Row> {
    item.iter().map(|(name, value)| Ok((name.clone(), plain(value)?))).collect()
}

fn plain(value: &AttributeValue) -> anyhow::Result<Value> {
    Ok(match value {
        AttributeValue::S(text) => Value::String(text.clone()),
        AttributeValue::N(decimal) => number(decimal),
        AttributeValue::L(list) => Value::Array(list.iter().map(plain).collect::<Result<_, _>>()?),
        AttributeValue::M(map) => Value::Object(row(map)?),
        AttributeValue::B(_)
        | AttributeValue::Bool(_)
        | AttributeValue::Bs(_)
        | AttributeValue::Ns(_)
        | AttributeValue::Null(_)
        | AttributeValue::Ss(_)
        | _ => anyhow::bail!("a row has no attributes such as {value:?}"),
    })
}

/// What is different between the rows that should be there and those that are: nothing, or as much as one cares to read.
pub fn differences(expected: &Rows, found: &Rows) -> Vec<String> {
    const MOST: usize = 8;
    let missing = expected
        .iter()
        .filter(|(key, _)| !found.contains_key(*key))
        .map(|(key, row)| format!("{key:?} is missing; it should be {row:?}"));
    let other = expected.iter().filter_map(|(key, row)| {
        let found = found.get(key).filter(|found| *found != row)?;
        let names = row.keys().chain(found.keys()).collect::<std::collections::BTreeSet<_>>();
        let wrong = names.into_iter().filter(|name| row.get(*name) != found.get(*name));
        let wrong = wrong.map(|name| format!("{name} is {:?}, not {:?}", found.get(name), row.get(name)));
        Some(format!("{key:?}: {}", wrong.collect::<Vec<_>>().join("; ")))
    });
    let extra = found.iter().filter(|(key, _)| !expected.contains_key(*key));
    let extra = extra.map(|(key, row)| format!("{key:?} should not be there: {row:?}"));
    missing.chain(other).chain(extra).take(MOST).collect()
}

/// What somebody saw who looked at all rows again and again.
#[derive(Debug, Default)]
pub struct Sightings {
    looks: u64,
    /// Each row as it was seen, once for each time that it had changed.
    seen: BTreeMap<(ReadModel, String), Vec<Row>>,
}

impl Sightings {
    /// Notes how all rows are. Fails where one is gone.
    pub fn note(&mut self, rows: Rows) -> anyhow::Result<()> {
        let gone = self.seen.keys().find(|key| !rows.contains_key(*key));
        ensure!(gone.is_none(), "I5: {gone:?} was there, and is gone");
        for (key, row) in rows {
            let seen = self.seen.entry(key).or_default();
            if seen.last() != Some(&row) {
                seen.push(row);
            }
        }
        self.looks += 1;
        Ok(())
    }

    /// How often all rows were looked at.
    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// How many states of rows were seen.
    pub fn states(&self) -> usize {
        self.seen.values().map(Vec::len).sum()
    }

    /// Fails where a row was not one of the states that it goes through, or went back to an earlier one.
    pub fn check(&self, states: &BTreeMap<(ReadModel, String), Vec<Row>>) -> anyhow::Result<()> {
        for (key, seen) in &self.seen {
            let states = states.get(key).with_context(|| format!("I5: {key:?} is of no stream"))?;
            let mut before = 0;
            for row in seen {
                let place = states.iter().position(|state| state == row);
                let version =
                    1 + place.with_context(|| format!("I5: {key:?} was as it never was: {row:?}"))?;
                ensure!(before < version, "I5: {key:?} went from version {before} back to {version}");
                before = version;
            }
        }
        Ok(())
    }
}
