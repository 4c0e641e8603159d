use aws_sdk_dynamodb::primitives::Blob;
use proptest::{collection, prelude::*};

use super::*;
use crate::testing::{any_event, stored_events};

const SHARDS: NonZeroU32 = NonZeroU32::new(4).unwrap();

fn item(event: &StoredEvent) -> Item {
    item_of(event, event.envelope.event_data.as_ref().unwrap(), Some(SHARDS))
}

/// The item as the table's stream shows it.
fn image(item: &Item) -> HashMap<String, StreamValue> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "an event holds no other kinds")]
    fn value(from: &AttributeValue) -> StreamValue {
        match from {
            AttributeValue::S(text) => StreamValue::S(text.clone()),
            AttributeValue::N(number) => StreamValue::N(number.clone()),
            AttributeValue::Bool(truth) => StreamValue::Bool(*truth),
            AttributeValue::Null(null) => StreamValue::Null(*null),
            AttributeValue::L(values) => StreamValue::L(values.iter().map(value).collect()),
            AttributeValue::M(values) => {
                StreamValue::M(values.iter().map(|(name, v)| (name.clone(), value(v))).collect())
            }
            other => unreachable!("{other:?}"),
        }
    }
    item.iter().map(|(name, v)| (name.clone(), value(v))).collect()
}

fn any_attribute() -> impl Strategy<Value = AttributeValue> {
    let leaf = prop_oneof![
        "\\PC{0,40}".prop_map(AttributeValue::S),
        "[-+.0-9eENa]{0,12}".prop_map(AttributeValue::N),
        any::<bool>().prop_map(AttributeValue::Bool),
        any::<bool>().prop_map(AttributeValue::Null),
        any::<[u8; 3]>().prop_map(|bytes| AttributeValue::B(Blob::new(bytes))),
        collection::vec("\\PC{0,3}", 0..3).prop_map(AttributeValue::Ss),
        collection::vec("[-0-9]{0,3}", 0..3).prop_map(AttributeValue::Ns),
        any::<[u8; 3]>().prop_map(|bytes| AttributeValue::Bs(vec![Blob::new(bytes)])),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..3).prop_map(AttributeValue::L),
            collection::hash_map("\\PC{0,3}", inner, 0..3).prop_map(AttributeValue::M),
        ]
    })
}

proptest! {
    #[test]
    fn an_event_survives_its_item_and_its_stream_image(event in stored_events()) {
        let item = item(&event);
        prop_assert_eq!(stored_from_item(&item), Ok(event.clone()));
        prop_assert_eq!(stored_from_stream_image(&image(&item)), Ok(event));
    }

    #[test]
    fn a_mangled_item_never_panics(
        event in stored_events(),
        changes in collection::vec((any::<prop::sample::Index>(), proptest::option::of(any_attribute())), 1..4),
    ) {
        let mut item = item(&event);
        for (place, change) in changes {
            let name = place.get(&item.keys().cloned().collect::<Vec<_>>()).clone();
            item.remove(&name);
            item.extend(change.map(|value| (name, value)));
            if item.is_empty() {
                break;
            }
        }
        if let Ok(read) = stored_from_item(&item) {
            prop_assert!(read.envelope.event_data.is_some() && read.envelope.version > 0);
        }
    }
}

#[test]
fn the_attributes_are_those_of_the_table() {
    let event = any_event(7);
    let item = item(&event);
    let envelope = &event.envelope;
    assert_eq!(item["AggregateId"], text(format!("{}#user#{}", envelope.tenant_id, envelope.aggregate_id)));
    assert_eq!(item["Version"], AttributeValue::N("7".into()));
    let shard = envelope.aggregate_id.as_u128() % 4;
    assert_eq!(item["EventTypeKey"], text(format!("{}#{}#{shard}", envelope.tenant_id, envelope.event_type)));
    assert!(matches!(item["EventData"], AttributeValue::M(_)));
    let names = "AggregateId AggregateType CausationId CommandDigest CommandId CorrelationId EventData EventId \
                 EventType EventTypeKey SchemaVersion TenantId Timestamp TraceParent Version";
    let mut found: Vec<_> = item.keys().map(String::as_str).collect();
    found.sort_unstable();
    assert_eq!(found.join(" "), names);
}

#[test]
fn what_is_absent_leaves_no_attribute() {
    let mut event = any_event(1);
    event.envelope.trace_parent = None;
    let item = item_of(&event, event.envelope.event_data.as_ref().unwrap(), None);
    assert!(!item.contains_key("EventTypeKey") && !item.contains_key("TraceParent"));
    assert_eq!(stored_from_item(&item), Ok(event));
}

#[test]
fn an_attribute_of_a_newer_release_is_passed_over() {
    let event = any_event(1);
    let mut item = item(&event);
    item.insert("Newer".into(), AttributeValue::Ss(vec![]));
    assert_eq!(stored_from_item(&item), Ok(event));
}

#[test]
fn what_is_wrong_is_named_and_not_quoted() {
    let other = |name, value| {
        let mut item = item(&any_event(1));
        item.insert(String::from(name), value);
        stored_from_item(&item).unwrap_err()
    };
    let secret = || text("secret");
    for name in [AGGREGATE_ID, TENANT_ID, EVENT_ID, TIMESTAMP, COMMAND_DIGEST] {
        let error = other(name, if name == TENANT_ID { text("SECRET") } else { secret() });
        assert!(matches!(error, ItemError::Bad { attribute, .. } if attribute == name), "{error:?}");
        assert!(!error.to_string().to_lowercase().contains("secret"), "{error}");
    }
    assert_eq!(other(VERSION, secret()), ItemError::WrongType(VERSION));
    assert_eq!(other(VERSION, number(-1)), ItemError::WrongType(VERSION));
    assert!(matches!(other(VERSION, number(0)), ItemError::Bad { attribute: VERSION, .. }));
    assert!(matches!(
        other(SCHEMA_VERSION, number(u64::MAX)),
        ItemError::Bad { attribute: SCHEMA_VERSION, .. }
    ));
    assert_eq!(other(EVENT_DATA, secret()), ItemError::WrongType(EVENT_DATA));
    assert_eq!(other(TRACE_PARENT, number(1)), ItemError::WrongType(TRACE_PARENT));
    assert_eq!(other(TENANT_ID, text("somebody-else")), ItemError::ContradictsKey(TENANT_ID));
    assert_eq!(other(AGGREGATE_TYPE, text("else")), ItemError::ContradictsKey(AGGREGATE_TYPE));
    let mut item = item(&any_event(1));
    item.remove(COMMAND_ID);
    assert_eq!(stored_from_item(&item), Err(ItemError::Missing(COMMAND_ID)));
}

#[test]
fn bottomless_data_are_refused() {
    let deep = (0..100).fold(AttributeValue::Null(true), |inner, _| AttributeValue::L(vec![inner]));
    let mut item = item(&any_event(1));
    item.insert(EVENT_DATA.into(), AttributeValue::M(HashMap::from([("deep".into(), deep)])));
    assert_eq!(stored_from_item(&item), Err(ItemError::WrongType(EVENT_DATA)));
}

#[test]
fn an_aggregate_keeps_its_shard() {
    let aggregate = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
    for (shards, shard) in [(1, 0), (4, 3), (1000, 215)] {
        assert_eq!(shard_of(aggregate, NonZeroU32::new(shards).unwrap()), shard, "of {shards}");
    }
}
