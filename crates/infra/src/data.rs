//! The data stack: tables whose contents cannot be computed again, and snapshots.

use crate::{
    InfraError, Stack,
    alarms::{WatchedIndex, throttling},
    names, parameters,
    parameters::WITH_EVENT_TYPE_INDEX,
    tables::{Kept, attribute, index, key_schema, keyed_table, table},
    template::{Draft, PREFIX, Template},
    yaml::{Yaml, either, list, map, only_if, reference, text},
};

/// The stem of a table's logical name, its name, and the indexes that its alarm watches.
type Watched = (&'static str, String, Vec<WatchedIndex<'static>>);

pub(crate) fn template(stack: &Stack) -> Result<Template, InfraError> {
    let mut draft = Draft::new(
        "Millrace: event store, unique keys, snapshots, relay leases and jobs. It outlives the application's other stacks.",
    );
    draft.settings(parameters::prefix(stack));
    draft.settings(parameters::capacity());
    draft.settings(parameters::event_type_index());
    draft.settings(parameters::alarms(true));

    let [events, unique_keys, snapshots, leases, jobs] = [
        names::events(PREFIX),
        names::unique_keys(PREFIX),
        names::snapshots(PREFIX),
        names::relay_leases(PREFIX),
        names::jobs(PREFIX),
    ];
    draft.resource("EventStoreTable", event_store(&events));
    draft.resource("UniqueKeyTable", keyed_table(Kept::Retained, &unique_keys, "Key"));
    draft.resource("SnapshotTable", keyed_table(Kept::Recomputed, &snapshots, "AggregateId"));
    // A lost checkpoint would only publish a day of events again. But a table that vanishes beneath running relays
    // would stop them all.
    draft.resource("RelayLeaseTable", keyed_table(Kept::Retained, &leases, "ShardId"));

    // A lost job begins anew. A throttled one is slow and harms nobody, so the table has no alarm.
    draft.resource("JobTable", table(Kept::Recomputed, &jobs, job_keys()));

    let by_type = WatchedIndex { name: names::EVENT_TYPE_INDEX, condition: Some(WITH_EVENT_TYPE_INDEX) };
    let watched: [Watched; 4] = [
        ("EventStore", events, vec![by_type]),
        ("UniqueKey", unique_keys, vec![]),
        ("Snapshot", snapshots, vec![]),
        ("RelayLease", leases, vec![]),
    ];
    for (stem, name, indexes) in &watched {
        let table = format!("{stem}Table");
        draft.resources(throttling(stem, &table, name, indexes));
        draft.output(table.clone(), reference(&table));
    }
    draft.output("JobTable", reference("JobTable"));
    draft.output("EventTypeIndex", either(WITH_EVENT_TYPE_INDEX, text("on"), text("off")));
    draft.finish("data", "Its size is fixed: this is a defect of Millrace")
}

fn job_keys() -> Vec<(&'static str, Yaml)> {
    vec![
        ("AttributeDefinitions", list([attribute("Job", "S"), attribute("Part", "S")])),
        ("KeySchema", key_schema("Job", Some("Part"))),
    ]
}

fn event_store(name: &str) -> Yaml {
    let keys = || [attribute("AggregateId", "S"), attribute("Version", "N")];
    let of_index = [attribute("EventTypeKey", "S"), attribute("Timestamp", "S")];
    let by_type = index(names::EVENT_TYPE_INDEX, "EventTypeKey", Some("Timestamp"), false);
    let properties = vec![
        // DynamoDB refuses definitions of attributes that no key uses.
        (
            "AttributeDefinitions",
            either(WITH_EVENT_TYPE_INDEX, list(keys().into_iter().chain(of_index)), list(keys())),
        ),
        ("KeySchema", key_schema("AggregateId", Some("Version"))),
        ("GlobalSecondaryIndexes", only_if(WITH_EVENT_TYPE_INDEX, list([by_type]))),
        ("StreamSpecification", map([("StreamViewType", text("NEW_IMAGE"))])),
    ];
    table(Kept::Retained, name, properties)
}
