//! Stored forms are frozen: `tests/stored` has items of every table as a release has written them.
//!
//! A release keeps reading all of them, and writes the newest. Items are in the JSON of DynamoDB's API.

use std::{collections::BTreeMap, fs, path::PathBuf};

use aws_sdk_dynamodb::{
    Client,
    primitives::Blob,
    types::{AttributeValue, PutRequest, WriteRequest},
};
use aws_smithy_types::base64;
use millrace_core::{
    Aggregate, AggregateState, AggregateType, CommandDigest, Envelope, EventCodec, EventId, StreamId,
    Timestamp, UniqueKey,
    projection::{ProjectionSpec, RowChange},
    row::{Attributes, RowKey},
};
use millrace_event_store::{
    AppendError, AppendEvents as _, CommandBlock, Commit, Direction, DynamoStore, Entry, ReadEvents as _,
    ReadHistory as _, Replaces, ScannedItem, Search, Snapshot, Snapshots as _, StoredEvent, Tables,
};
use millrace_relay::{
    Leases as _,
    aws::DynamoLeases,
    leases::{Checkpoint, LOOKER, Lease, Parent, Progress, RefillJob, Replica},
    stream::{Position, Sequence, ShardId},
};
use millrace_rows::{
    DynamoRows, IndexShards, ListQuery, ReadRows as _, TimeRange, WriteOutcome, WriteRows as _,
};
use millrace_testing::{Oracle, aggregate_id, history, recorded, time_of};
use millrace_tests::{AwsStack, aws_stack, shop};
use serde_json::{Map, Value, json};
use shop::{
    Money,
    order::{
        Basket, Order, OrderCreated, OrderEvent, OrderItem,
        OrderStatus::{self, Cancelled, Processing},
        OrderStatusUpdated,
    },
    user::{User, UserCreated, UserEvent, UserProfileUpdated},
};

/// The stored forms that there have been, the newest last. Each is a folder of `tests/stored` with a file for each table
/// whose items differ from those of the form before.
const FORMS: [&str; 3] = ["1", "2", "3"];

/// Advice printed with a difference.
const ADVICE: &str = "Stored forms are frozen: tables hold items of every release, and replicas of the release before \
                      run beside this one. If the change is meant, the code has to read the old form as well; then add \
                      the new one as a further folder of tests/stored, and to FORMS, and leave the old one as it is.";

type Item = std::collections::HashMap<String, AttributeValue>;

fn stream<A: Aggregate>(number: u128) -> StreamId {
    StreamId { tenant: "acme".parse().unwrap(), aggregate_type: A::TYPE, id: aggregate_id(number) }
}

/// One event of each type and of each shape, with a trace and without.
fn events() -> Vec<StoredEvent> {
    let (email, name) = ("John@Example.com".to_owned(), "John Doe".to_owned());
    let user = [
        UserEvent::UserCreated(UserCreated {
            email: email.try_into().unwrap(),
            name: name.try_into().unwrap(),
        }),
        UserEvent::UserProfileUpdated(UserProfileUpdated {
            email: Some("john@example.org".to_owned().try_into().unwrap()),
            name: None,
        }),
        UserEvent::UserProfileUpdated(UserProfileUpdated {
            email: None,
            name: Some("名前".to_owned().try_into().unwrap()),
        }),
    ];
    let order = |lines: &[(&str, i32, &str, i64, i32)], status: OrderStatus| {
        let items = lines.iter().map(|(product, quantity, currency, units, nanos)| OrderItem {
            product: (*product).to_owned().try_into().unwrap(),
            quantity: (*quantity).try_into().unwrap(),
            price: Money::new(currency.parse().unwrap(), *units, *nanos).unwrap(),
        });
        let basket = Basket::new(items.collect()).unwrap();
        let created = OrderCreated { user_id: aggregate_id(1), basket };
        [OrderEvent::OrderCreated(created), OrderEvent::OrderStatusUpdated(OrderStatusUpdated { status })]
    };
    let laptops = [("laptop", 1, "USD", 999, 990_000_000), ("mouse", 3, "USD", 20, 0)];
    let mut envelopes = [
        history(&stream::<User>(1), &user),
        history(&stream::<Order>(1), &order(&laptops, Processing)),
        history(&stream::<Order>(2), &order(&[("desk", 1, "EUR", 250, 500_000_000)], Cancelled)),
    ]
    .concat();
    envelopes[0].trace_parent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    envelopes[0].correlation_id = "checkout 名前".parse().unwrap();
    let stored = |envelope| StoredEvent { envelope, command_digest: CommandDigest(0xfeed) };
    envelopes.into_iter().map(stored).collect()
}

/// The next events for rows that an earlier release has written.
fn later_events() -> [Envelope; 2] {
    let (user, order) = (stream::<User>(1), stream::<Order>(1));
    let name = Some("Jack".to_owned().try_into().unwrap());
    let renamed = UserEvent::UserProfileUpdated(UserProfileUpdated { email: None, name });
    let cancelled = OrderEvent::OrderStatusUpdated(OrderStatusUpdated { status: Cancelled });
    [recorded(&user, 4, time_of(4), &renamed), recorded(&order, 3, time_of(3), &cancelled)]
}

fn email_key(value: &str) -> UniqueKey {
    UniqueKey { scope: User::EMAIL_KEY, value: value.to_owned() }
}

/// The snapshot of a stream's state.
fn snapshot<A: Aggregate<Event: EventCodec>>(stream: StreamId) -> Snapshot {
    let events = events().into_iter().filter(|event| event.envelope.stream() == stream);
    let state = events.fold(AggregateState::<A>::default(), |state, event| {
        state.apply(&Entry::from(event).recorded().unwrap()).unwrap()
    });
    let (version, state) = (state.version(), serde_json::to_value(&state).unwrap());
    Snapshot { stream, version, schema: A::STATE_SCHEMA, state }
}

fn snapshots() -> [Snapshot; 2] {
    [snapshot::<User>(stream::<User>(1)), snapshot::<Order>(stream::<Order>(1))]
}

/// The blocks of the commands of a stream that was busy. New in the second form.
fn blocks() -> [CommandBlock; 2] {
    [0, 8].map(|number| CommandBlock {
        stream: stream::<User>(1),
        number,
        before: (number > 0).then(|| EventId(aggregate_id(number.into()))),
        last: EventId(aggregate_id(u128::from(number) + 1)),
        newest: time_of(number + 1).unix_micros() / 1_000_000,
        fingerprints: (0..512).map(|n: u32| n.wrapping_mul(0x9e37_79b9)).collect(),
    })
}

fn lease(shard: &str, owner: Option<&str>, fence: u64, checkpoint: Checkpoint) -> Lease {
    Lease {
        shard: ShardId::from(shard),
        owner: owner.map(str::to_owned),
        fence,
        expires_at: time_of(9),
        progress: Progress { checkpoint, time: time_of(1) },
        parent: Parent::Unknown,
        is_unlisted: false,
    }
}

fn after(place: &str) -> Checkpoint {
    Checkpoint::At(Position::After(Sequence(place.to_owned())))
}

fn leases() -> [Lease; 3] {
    [
        lease("stream/shard-1", Some("replica-1"), 1, Checkpoint::At(Position::TrimHorizon)),
        lease("stream/shard-2", None, 7, after("4200000000000000000001")),
        lease("stream/shard-3", Some("replica-1"), 2, Checkpoint::ShardEnd),
    ]
}

/// With what is new in the third form: parents, and a shard that is no longer listed.
fn leases_with_parents() -> [Lease; 3] {
    let [child, second, parent] = leases();
    [
        Lease { parent: Parent::Shard(parent.shard.clone()), ..child },
        Lease { parent: Parent::None, is_unlisted: true, ..second },
        Lease { parent: Parent::None, ..parent },
    ]
}

/// New in the third form.
fn looker() -> Lease {
    lease(LOOKER, Some("replica-1"), 4, Checkpoint::ShardEnd)
}

/// New in the second form.
fn refill() -> RefillJob {
    RefillJob { number: 1_795_435_204_000_000, since: time_of(1), segments: 3.try_into().unwrap() }
}

fn segments() -> [Lease; 2] {
    let place = format!("17 {}", stream::<User>(1));
    [
        lease("refill#1795435204000000/0/3", None, 3, after(&place)),
        lease("refill#1795435204000000/1/3", Some("replica-1"), 1, Checkpoint::ShardEnd),
    ]
}

fn replica() -> Replica {
    Replica { owner: "replica-1".to_owned(), expires_at: time_of(9) }
}

/// A stack with the stores on it.
struct Stores {
    stack: AwsStack,
    client: Client,
    events: DynamoStore,
    leases: DynamoLeases,
}

impl Stores {
    async fn new() -> Self {
        let stack = aws_stack().await.unwrap();
        let client = stack.aws().await.dynamodb();
        let tables =
            Tables { events: stack.events(), unique_keys: stack.unique_keys(), snapshots: stack.snapshots() };
        let events = DynamoStore::new(client.clone(), tables, 4.try_into().ok());
        let leases = DynamoLeases::new(client.clone(), stack.relay_leases());
        Self { stack, client, events, leases }
    }

    fn rows(&self, spec: &ProjectionSpec) -> DynamoRows {
        let shards = self.stack.index_shards().try_into().unwrap();
        let shards = IndexShards { read: shards, write: shards };
        DynamoRows::new(self.client.clone(), self.stack.rows(spec.name), spec, shards)
    }

    /// The stack's tables by their names without the prefix, but for that of jobs: a job whose state cannot be read begins
    /// anew.
    async fn tables(&self) -> BTreeMap<String, String> {
        let names = self.client.list_tables().send().await.unwrap().table_names.unwrap_or_default();
        let prefix = format!("{}-", self.stack.stack.prefix());
        let names = names.into_iter().filter(|name| *name != self.stack.jobs());
        names.map(|name| (name.strip_prefix(&prefix).unwrap().to_owned(), name)).collect()
    }

    /// Writes everything, by the code that production writes it with.
    async fn write(&self) {
        for event in events() {
            let is_a = |name: &str| event.envelope.event_type == name;
            let (claims, releases) = match event.envelope.version {
                1 if is_a("UserCreated") => (vec![email_key("john@example.com")], vec![]),
                2 if is_a("UserProfileUpdated") => {
                    (vec![email_key("john@example.org")], vec![email_key("john@example.com")])
                }
                _ => (vec![], vec![]),
            };
            self.events.append(&Commit { events: vec![event], claims, releases }).await.unwrap();
        }
        for snapshot in snapshots() {
            assert!(self.events.put_snapshot(&snapshot, Replaces::Older).await.unwrap());
        }
        for block in blocks() {
            assert!(self.events.put_command_block(&block, Replaces::Older).await.unwrap());
        }
        assert!(self.leases.begin_refill(&refill()).await.unwrap());
        for lease in leases_with_parents().into_iter().chain(segments()).chain([looker()]) {
            let owned = Lease { owner: Some("replica-1".to_owned()), ..lease.clone() };
            assert!(self.leases.create(&owned).await.unwrap());
            if lease.owner.is_none() {
                assert!(self.leases.release(&owned).await.unwrap());
            }
        }
        self.leases.announce(&replica()).await.unwrap();
        self.leases.note_complete(time_of(5)).await.unwrap();
        for spec in shop().projections() {
            let rows = self.rows(spec);
            let envelopes = events().into_iter().map(|event| event.envelope);
            for envelope in envelopes.filter(|envelope| envelope.aggregate_type == spec.source) {
                let update = (spec.update)(&envelope).unwrap().unwrap();
                assert_eq!(rows.write(&update).await.unwrap(), WriteOutcome::Applied);
            }
            let mut update = (spec.update)(&without_row(&spec.source)).unwrap().unwrap();
            update.change = RowChange::Put(Attributes::new());
            assert_eq!(rows.write(&update).await.unwrap(), WriteOutcome::Applied);
        }
    }

    /// Every item of a table, by its key.
    async fn scan(&self, table: &str) -> Vec<Item> {
        let scan = self.client.scan().table_name(table).consistent_read(true);
        scan.into_paginator().items().send().collect::<Result<_, _>>().await.unwrap()
    }

    /// Puts items into the tables, as they are.
    async fn fill(&self, form: &str) {
        for (name, table) in self.tables().await {
            let items = frozen(form, &name);
            let items = items.as_array().unwrap_or_else(|| panic!("tests/stored/{form} has no {name}.json"));
            for items in items.chunks(25) {
                let put = |item: &Value| {
                    let put = PutRequest::builder().set_item(Some(item_of(item))).build().unwrap();
                    WriteRequest::builder().put_request(put).build()
                };
                let items = items.iter().map(put).collect();
                let sent = self.client.batch_write_item().request_items(&table, items).send().await.unwrap();
                assert!(sent.unprocessed_items.is_none_or(|left| left.is_empty()));
            }
        }
    }

    /// Reads everything, by the code that production reads it with.
    async fn read(&self, form: &str) {
        let streams = [stream::<User>(1), stream::<Order>(1), stream::<Order>(2)];
        for of in &streams {
            let found = self.events.page(of, 0, 100).await.unwrap().events;
            let expected = events().into_iter().filter(|event| event.envelope.stream() == *of);
            assert_eq!(found, expected.collect::<Vec<_>>(), "{of}");
        }
        let search = Search {
            tenant: streams[0].tenant.clone(),
            event_type: "OrderCreated".to_owned(),
            times: Timestamp::from_unix_micros(0)..=time_of(99),
            direction: Direction::OldestFirst,
            beyond: None,
        };
        let found = self.events.search(&search, 10).await.unwrap().unwrap().hits;
        let found: Vec<_> = found.into_iter().map(|hit| hit.item).collect();
        assert!(matches!(found.as_slice(), [ScannedItem::Event(_), ScannedItem::Event(_)]), "{found:?}");
        for snapshot in snapshots() {
            let found = self.events.snapshot(&snapshot.stream, snapshot.schema).await.unwrap();
            // Snapshots of another form are passed over.
            assert_eq!(found, (form != "1").then_some(snapshot));
        }
        let mut found = self.events.command_blocks(&stream::<User>(1), &[0, 8]).await.unwrap();
        found.sort_by_key(|block| block.number);
        assert_eq!(found, if form == "1" { vec![] } else { blocks().to_vec() });
        self.read_keys().await;
        let mut found = self.leases.list().await.unwrap();
        found.leases.sort_by_key(|lease| lease.shard.to_string());
        found.segments.sort_by_key(|lease| lease.shard.to_string());
        let (leases, looker) = match form {
            "3" => (leases_with_parents(), Some(looker())),
            _ => (leases(), None),
        };
        assert_eq!((found.leases.as_slice(), found.replicas), (leases.as_slice(), vec![replica()]));
        assert_eq!(found.looker, looker);
        assert_eq!(found.complete_at, Some(time_of(5)));
        let refills = if form == "1" { (vec![], vec![]) } else { (vec![refill()], segments().to_vec()) };
        assert_eq!((found.refills, found.segments), refills);
        let mut envelopes: Vec<_> = events().into_iter().map(|event| event.envelope).collect();
        self.read_rows(&envelopes).await;
        for spec in shop().projections() {
            for event in later_events().iter().filter(|event| event.aggregate_type == spec.source) {
                let update = (spec.update)(event).unwrap().unwrap();
                assert_eq!(self.rows(spec).write(&update).await.unwrap(), WriteOutcome::Applied);
            }
        }
        envelopes.extend(later_events());
        self.read_rows(&envelopes).await;
    }

    /// A key that is held is refused to others; one that was let go is not.
    async fn read_keys(&self) {
        let created = events().swap_remove(0);
        let other = |number, address: &str| {
            let (of, mut event) = (stream::<User>(number), created.clone());
            let envelope = &mut event.envelope;
            (envelope.aggregate_id, envelope.event_id.0) = (of.id, of.id);
            Commit { events: vec![event], claims: vec![email_key(address)], releases: vec![] }
        };
        let taken = self.events.append(&other(7, "john@example.org")).await;
        assert!(matches!(taken, Err(AppendError::KeyTaken { .. })), "{taken:?}");
        self.events.append(&other(8, "john@example.com")).await.unwrap();
    }

    /// Every row by its key, by its lists and by its look-ups; parts by their versions.
    async fn read_rows(&self, envelopes: &[Envelope]) {
        let app = shop();
        let oracle = Oracle::new(&app, envelopes.iter().cloned()).unwrap();
        for (place, expected) in oracle.rows().unwrap() {
            let spec = app.projections().iter().find(|spec| spec.name == place.projection).unwrap();
            let rows = self.rows(spec);
            let RowKey { tenant, id } = &place.key;
            if place.is_part {
                let of = stream_of(spec, &place.key);
                assert_eq!(rows.applied_version(&of).await.unwrap(), *expected.versions.end(), "{place:?}");
                continue;
            }
            let found = rows.get(&place.key).await.unwrap().unwrap();
            assert_eq!(expected.differences(&found), [] as [String; 0], "{place:?}");
            for list in spec.schema.lists {
                let query = ListQuery {
                    list,
                    tenant: tenant.clone(),
                    value: (list.by.text)(&found.attributes[list.by.name]).unwrap(),
                    filter: None,
                    times: TimeRange::default(),
                };
                let page = rows.page(&query, None, 10).await.unwrap();
                assert!(page.rows.contains(&found), "{place:?} by {}", list.name);
            }
            for lookup in spec.schema.lookups {
                let value = (lookup.by.text)(&found.attributes[lookup.by.name]).unwrap();
                let listed = rows.lookup(lookup, tenant, &value).await.unwrap();
                assert_eq!(listed, std::slice::from_ref(&found), "{id} by {}", lookup.name);
            }
        }
        for spec in app.projections() {
            let rows = self.rows(spec);
            let version = rows.applied_version(&without_row(&spec.source).stream()).await.unwrap();
            assert_eq!(version, 1, "a place without a row of {}", spec.name);
        }
    }
}

/// The stream of which a key names the row.
fn stream_of(spec: &ProjectionSpec, key: &RowKey) -> StreamId {
    let id = millrace_core::ids::parse_uuid(&key.id).unwrap();
    StreamId { tenant: key.tenant.clone(), aggregate_type: spec.source.clone(), id }
}

/// The first event of an aggregate that gets a place without a row.
fn without_row(source: &AggregateType) -> Envelope {
    let mut all = events().into_iter().map(|event| event.envelope);
    let first = all.find(|envelope| envelope.aggregate_type == *source && envelope.version == 1).unwrap();
    Envelope { aggregate_id: aggregate_id(9), ..first }
}

/// The items of a release in a table: those of the newest file up to its form.
fn frozen(form: &str, table: &str) -> Value {
    let forms = FORMS.into_iter().rev().skip_while(|newer| *newer != form);
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("stored");
    let mut texts = forms.flat_map(|form| fs::read_to_string(folder.join(format!("{form}/{table}.json"))));
    texts.next().map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
}

/// An item as DynamoDB's API writes it in JSON.
fn json_of(item: &Item) -> Value {
    item.iter().map(|(name, value)| (name.clone(), json_value(value))).collect::<Map<_, _>>().into()
}

fn json_value(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::S(text) => json!({ "S": text }),
        AttributeValue::N(number) => json!({ "N": number }),
        AttributeValue::Bool(truth) => json!({ "BOOL": truth }),
        AttributeValue::B(bytes) => json!({ "B": base64::encode(bytes) }),
        AttributeValue::L(list) => json!({ "L": list.iter().map(json_value).collect::<Vec<_>>() }),
        AttributeValue::M(map) => json!({ "M": json_of(map) }),
        AttributeValue::Null(_)
        | AttributeValue::Bs(_)
        | AttributeValue::Ns(_)
        | AttributeValue::Ss(_)
        | _ => {
            panic!("no item has such a value: {value:?}")
        }
    }
}

fn item_of(json: &Value) -> Item {
    json.as_object().unwrap().iter().map(|(name, value)| (name.clone(), value_of(value))).collect()
}

fn value_of(json: &Value) -> AttributeValue {
    let (kind, value) = json.as_object().unwrap().iter().next().unwrap();
    let text = || value.as_str().unwrap().to_owned();
    match kind.as_str() {
        "S" => AttributeValue::S(text()),
        "N" => AttributeValue::N(text()),
        "BOOL" => AttributeValue::Bool(value.as_bool().unwrap()),
        "B" => AttributeValue::B(Blob::new(base64::decode(text()).unwrap())),
        "L" => AttributeValue::L(value.as_array().unwrap().iter().map(value_of).collect()),
        "M" => AttributeValue::M(item_of(value)),
        other => panic!("no attribute is of type {other}"),
    }
}

/// Items as they are compared: decompressed, because another release of zstd may compress to other bytes and another
/// checksum.
fn comparable(items: &Value) -> Value {
    let mut items = items.clone();
    for item in items.as_array_mut().into_iter().flatten() {
        if let Some(AttributeValue::B(bytes)) = item.get("State").map(value_of) {
            item["State"] = serde_json::from_slice(&zstd::decode_all(bytes.as_ref()).unwrap()).unwrap();
            item["Checksum"] = json!(item["Checksum"]["S"].as_str().unwrap().len());
        }
    }
    items
}

#[tokio::test]
async fn items_are_written_in_the_newest_stored_form() {
    let stores = Stores::new().await;
    stores.write().await;
    let written = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("stored");
    fs::create_dir_all(&written).unwrap();
    let mut changed = Vec::new();
    for (name, table) in stores.tables().await {
        let mut items: Vec<_> = stores.scan(&table).await.iter().map(json_of).collect();
        items.sort_by_key(Value::to_string);
        let lines: Vec<_> = items.iter().map(Value::to_string).collect();
        fs::write(written.join(format!("{name}.json")), format!("[\n{}\n]\n", lines.join(",\n"))).unwrap();
        let items = Value::from(items);
        if comparable(&items) != comparable(&frozen(FORMS[FORMS.len() - 1], &name)) {
            changed.push(name);
        }
    }
    let written = written.display();
    assert!(changed.is_empty(), "the items of {changed:?} have changed; those written: {written}\n{ADVICE}");
}

#[tokio::test]
async fn items_of_every_release_are_read() {
    for form in FORMS {
        let stores = Stores::new().await;
        stores.fill(form).await;
        stores.read(form).await;
    }
}
