//! A projection's stack: rule, queue, dead letters, read model and their alarms.

use std::collections::BTreeSet;

use crate::{
    InfraError, ProjectionResources, Stack,
    alarms::{WatchedIndex, throttling},
    consumer::Consumer,
    names, parameters,
    tables::{Kept, attribute, index, key_schema, table},
    template::{Draft, PREFIX, Template},
    yaml::{Yaml, list, reference},
};

pub(crate) fn template(stack: &Stack, projection: &ProjectionResources) -> Result<Template, InfraError> {
    let mut draft = Draft::new("Millrace: a version of a projection, with its rule, queue and read model.");
    draft.settings(parameters::prefix(stack));
    draft.settings(parameters::event_source(stack));
    draft.settings(parameters::capacity());
    draft.settings(parameters::queues());
    draft.settings(parameters::alarms(true));
    draft.settings(parameters::max_lag());

    let id = &projection.id();
    let table_name = names::table(PREFIX, id);
    draft.resource("Table", read_model(projection, &table_name));
    consumer(projection).add(&mut draft);
    let indexes: Vec<_> =
        projection.indexes.iter().map(|index| WatchedIndex { name: &index.name, condition: None }).collect();
    draft.resources(throttling("", "Table", &table_name, &indexes));

    draft.output(names::table_output(id), reference("Table"));
    draft.output(names::queue_url_output(id), reference("Queue"));
    draft.output(names::dead_letter_queue_url_output(id), reference("DeadLetterQueue"));
    draft.finish(projection.id(), "Give the projection fewer sources and indexes")
}

impl Stack {
    /// Everything that receives events through a queue of its own.
    pub(crate) fn consumers(&self) -> impl Iterator<Item = Consumer<'_>> {
        self.projections.iter().map(consumer)
    }
}

/// A projection as a consumer of events.
fn consumer(projection: &ProjectionResources) -> Consumer<'_> {
    let id = &projection.id();
    Consumer {
        title: format!("the projection {id}"),
        queue: names::queue(PREFIX, id),
        dead_letters: names::dead_letter_queue(PREFIX, id),
        rule: names::rule(PREFIX, id),
        sources: &projection.sources,
    }
}

fn read_model(projection: &ProjectionResources, name: &str) -> Yaml {
    let keys = projection.indexes.iter().flat_map(|index| [Some(&index.hash), index.range.as_ref()]);
    let mut others: BTreeSet<&str> = keys.flatten().map(String::as_str).collect();
    others.remove(names::ROW_KEY);
    let attributes = [names::ROW_KEY].into_iter().chain(others).map(|name| attribute(name, "S"));
    let mut properties =
        vec![("AttributeDefinitions", list(attributes)), ("KeySchema", key_schema(names::ROW_KEY, None))];
    let indexes = projection.indexes.iter();
    let indexes: Vec<Yaml> =
        indexes.map(|each| index(&each.name, &each.hash, each.range.as_deref(), each.keys_only)).collect();
    if !indexes.is_empty() {
        properties.push(("GlobalSecondaryIndexes", list(indexes)));
    }
    table(Kept::Recomputed, name, properties)
}
