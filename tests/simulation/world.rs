//! The parts that outlive every process: the tables, the stream, the bus, the queues, and a watch over the rows.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use metrics_exporter_prometheus::PrometheusHandle;
use millrace_aws::AwsError;
use millrace_core::{
    Aggregate as _, AggregateType, Application, Envelope, EventId, ProjectionName, StreamId, Timestamp,
    projection::ProjectionSpec,
};
use millrace_event_store::{AppendEvents as _, Commit, MemoryStore};
use millrace_projection::queue::{MemoryQueue, Rules};
use millrace_relay::{
    bus::{Entry, Rejection, UNDECODABLE},
    leases::{Checkpoint, Lease},
    memory::{MemoryLeases, MemoryStream, MemoryTable},
    stream::{Content, Position, Undecoded},
};
use millrace_rows::{MemoryRows, ReadRows as _};
use millrace_testing::{Oracle, convergence::found_rows, oracle::differences};
use millrace_tests::{
    lives::{life, order_event, user_event},
    shop,
};
use serde_json::{Map, Value, json};
use shop::{order::Order, user::User};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::trouble::Trouble;

/// The values of the template.
const RULES: Rules = Rules { visibility: Duration::from_secs(8), max_receives: 1000 };

/// The users and orders of two tenants.
const TENANTS: [&str; 2] = ["acme", "umbrella"];
const USERS: u64 = 3;
const ORDERS: u64 = 3;

thread_local! {
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The time of day in the simulation that this thread runs.
pub(crate) fn clock() -> Timestamp {
    let micros = BEGUN.get().map_or(0, |begun| begun.elapsed().as_micros());
    Timestamp::from_unix_micros(1_800_000_000_000_000 + i64::try_from(micros).unwrap())
}

/// Everything that outlives a process. Clones share it.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) trouble: Trouble,
    pub(crate) store: MemoryStore,
    pub(crate) stream: MemoryStream,
    pub(crate) table: MemoryTable,
    pub(crate) leases: MemoryLeases,
    application: Application,
    projections: Arc<Vec<Projected>>,
    facts: Arc<Mutex<Facts>>,
}

/// A registered projection with its rows and its queue.
#[derive(Clone)]
pub(crate) struct Projected {
    pub(crate) spec: ProjectionSpec,
    pub(crate) rows: MemoryRows,
    pub(crate) queue: MemoryQueue,
}

#[derive(Default)]
struct Facts {
    /// How many events each stream has.
    stored: BTreeMap<StreamId, u64>,
    /// The events that the bus has accepted.
    accepted: BTreeSet<EventId>,
    /// The items that are no events, and those of them that the bus has accepted.
    undecodable: Vec<Undecoded>,
    handed_on: BTreeSet<StreamId>,
    /// The version of each stream that each projection has shown.
    applied: BTreeMap<(ProjectionName, StreamId), u64>,
    poison: BTreeSet<String>,
    violations: Vec<String>,
}

impl World {
    pub(crate) fn new(trouble: &Trouble) -> Self {
        BEGUN.set(Some(Instant::now()));
        let application = shop();
        let projected = |spec: &ProjectionSpec| Projected {
            spec: spec.clone(),
            rows: MemoryRows::new(spec),
            queue: MemoryQueue::new(RULES),
        };
        let projections = Arc::new(application.projections().iter().map(projected).collect());
        Self {
            trouble: trouble.clone(),
            store: MemoryStore::default(),
            stream: MemoryStream::default(),
            table: MemoryTable::default(),
            leases: MemoryLeases::default(),
            application,
            projections,
            facts: Arc::default(),
        }
    }

    pub(crate) fn projections(&self) -> &[Projected] {
        &self.projections
    }

    /// The projections that take the events of an aggregate.
    fn projections_of(&self, aggregate_type: &AggregateType) -> impl Iterator<Item = &Projected> {
        self.projections.iter().filter(move |projection| projection.spec.source == *aggregate_type)
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.facts.lock().unwrap().violations.clone()
    }

    fn object(&self, violation: String) {
        self.facts.lock().unwrap().violations.push(violation);
    }

    /// Stores the next event of a random user or order, as a command would: in the store and in the stream.
    pub(crate) async fn happen(&self) {
        let tenant = TENANTS[usize::from(self.trouble.draw(300))].parse().unwrap();
        let which = self.trouble.below(USERS + ORDERS);
        let id = Uuid::from_u128(u128::from(which) + 1);
        let aggregate_type = if which < USERS { User::TYPE } else { Order::TYPE };
        let stream = StreamId { tenant, aggregate_type, id };
        let version = self.facts.lock().unwrap().stored.get(&stream).copied().unwrap_or_default() + 1;
        let event = if stream.aggregate_type == User::TYPE {
            user_event(&stream, version, clock())
        } else if usize::try_from(version).unwrap() <= life(&stream).len() {
            order_event(&stream, version, clock())
        } else {
            return;
        };
        let commit = Commit { events: vec![event.clone()], claims: vec![], releases: vec![] };
        self.store.append(&commit).await.unwrap();
        self.table.append(event.envelope.clone());
        self.stream.append(event.envelope);
        self.facts.lock().unwrap().stored.insert(stream, version);
        self.trouble.note("an event");
    }

    /// Stores an item that is no event, as a newer release or a person might: in the table and in the stream.
    pub(crate) fn store_undecodable(&self) {
        let number = self.facts.lock().unwrap().undecodable.len();
        let id = Uuid::from_u128(u128::try_from(number).unwrap() + 1_000);
        let aggregate_type = if number.is_multiple_of(2) { User::TYPE } else { Order::TYPE };
        let stream = StreamId { tenant: "nobody".parse().unwrap(), aggregate_type, id };
        let item = Map::from_iter([("AggregateId".to_owned(), json!({"S": stream.to_string()}))]);
        let undecoded = Undecoded {
            reason: format!("attribute {number} is missing"),
            stream: Some(stream.clone()),
            aggregate_type: Some(stream.aggregate_type.clone()),
            version: Some(1),
            item: Some(item),
        };
        let content = Content::Undecodable(Box::new(undecoded.clone()));
        self.table.push(&stream, 1, clock(), content.clone());
        self.stream.push(self.trouble.below(u64::MAX), content);
        self.facts.lock().unwrap().undecodable.push(undecoded);
        self.trouble.note("an undecodable item");
    }

    /// Delivers what is handed on undecoded, and reports what differs from its documentation.
    fn hand_on(&self, entry: &Entry) {
        let detail: Value = serde_json::from_str(&entry.detail).unwrap();
        let undecodable = self.facts.lock().unwrap().undecodable.clone();
        let found = undecodable.iter().find(|undecoded| detail["Undecodable"] == undecoded.reason);
        let Some((undecoded, stream)) = found.and_then(|found| Some((found, found.stream.as_ref()?))) else {
            return self.object(format!("no item is so: {detail}"));
        };
        let expected = json!({
            "TenantId": stream.tenant,
            "AggregateType": stream.aggregate_type,
            "AggregateId": stream.id,
            "Version": undecoded.version,
            "Undecodable": undecoded.reason,
            "Item": undecoded.item,
        });
        if detail != expected {
            self.object(format!("handed on as {detail} in place of {expected}"));
        }
        self.facts.lock().unwrap().handed_on.insert(stream.clone());
        for projection in self.projections_of(&stream.aggregate_type) {
            self.facts.lock().unwrap().poison.insert(on_the_bus(&entry.detail));
            self.deliver(&projection.queue, entry, false);
        }
    }

    /// Reports items that the relays' counter lacks.
    pub(crate) fn watch_counter(&self, shown: &PrometheusHandle) {
        let shown = shown.render();
        let counted = shown.lines().find_map(|line| line.strip_prefix("relay_undecodable_total ")).unwrap();
        let stored = self.facts.lock().unwrap().undecodable.len();
        if counted.parse::<usize>().unwrap() < stored {
            self.object(format!("{stored} undecodable items, and {counted} counted"));
        }
    }

    /// Sends a message that can never be applied to a queue.
    pub(crate) fn poison(&self) {
        let number = self.facts.lock().unwrap().poison.len();
        let body = match number % 3 {
            0 => format!("poison {number}"),
            1 => json!({"detail": {"EventId": number}}).to_string(),
            _ => {
                // The aggregate does not exist.
                let stream = StreamId {
                    tenant: "nobody".parse().unwrap(),
                    aggregate_type: User::TYPE,
                    id: Uuid::from_u128(u128::try_from(number).unwrap()),
                };
                on_the_bus(&serde_json::to_string(&user_event(&stream, 3, clock()).envelope).unwrap())
            }
        };
        let place = (number + number / 3) % self.projections.len();
        self.projections[place].queue.send(body.clone());
        self.facts.lock().unwrap().poison.insert(body);
        self.trouble.note("a poison message");
    }

    /// Refuses an entry, or accepts it and delivers it later, perhaps more than once. An entry may be lost if its
    /// aggregate has newer events.
    pub(crate) fn publish(&self, entry: &Entry) -> Result<(), Rejection> {
        let is_calm = self.trouble.is_calm();
        if !is_calm && self.trouble.draw(40) {
            self.trouble.note("a refused entry");
            return Err(AwsError::Throttled("by chance".to_owned()).into());
        }
        if entry.detail_type == UNDECODABLE {
            self.hand_on(entry);
            return Ok(());
        }
        let event: Envelope = serde_json::from_str(&entry.detail).unwrap();
        let newest = {
            let mut facts = self.facts.lock().unwrap();
            facts.accepted.insert(event.event_id);
            facts.stored[&event.stream()]
        };
        for projection in self.projections_of(&event.aggregate_type) {
            self.deliver(&projection.queue, entry, event.version < newest);
        }
        Ok(())
    }

    /// Delivers copies of an entry, each after a random delay.
    fn deliver(&self, queue: &MemoryQueue, entry: &Entry, may_be_lost: bool) {
        let is_calm = self.trouble.is_calm();
        let mut copies = 1;
        if !is_calm && self.trouble.draw(120) {
            copies += self.trouble.below(3);
            self.trouble.note("a repeated delivery");
        } else if !is_calm && may_be_lost && self.trouble.draw(60) {
            copies = 0;
            self.trouble.note("a delivery that is dropped");
        }
        for _ in 0..copies {
            let longest = if !is_calm && self.trouble.draw(60) { 40_000 } else { 200 };
            let delay = Duration::from_millis(self.trouble.below(longest));
            let (queue, body) = (queue.clone(), on_the_bus(&entry.detail));
            tokio::spawn(async move {
                sleep(delay).await;
                queue.send(body);
            });
        }
    }

    /// Reports a lease whose checkpoint has passed an event that the bus has not accepted.
    pub(crate) fn watch_lease(&self, lease: &Lease) {
        let upto = match &lease.progress.checkpoint {
            Checkpoint::At(Position::TrimHorizon) => return,
            Checkpoint::At(Position::After(sequence)) => Some(&sequence.0),
            Checkpoint::ShardEnd => None,
        };
        for record in self.stream.records(&lease.shard) {
            let passed = upto.is_none_or(|upto| record.sequence.0 <= *upto);
            let facts = self.facts.lock().unwrap();
            let is_accepted = match &record.content {
                Content::Event(event) => facts.accepted.contains(&event.event_id),
                Content::Undecodable(undecoded) => {
                    undecoded.stream.as_ref().is_some_and(|stream| facts.handed_on.contains(stream))
                }
                Content::Skip => true,
            };
            drop(facts);
            if passed && !is_accepted {
                self.object(format!("{lease:?} has passed {record:?}, which is not published"));
            }
        }
    }

    /// Reports a write after which a projection is older than before, or shows a state that the events do not give.
    pub(crate) async fn watch_write(&self, projection: &Projected, stream: &StreamId) {
        let name = projection.spec.name;
        let applied = projection.rows.applied_version(stream).await.unwrap();
        let before = self.facts.lock().unwrap().applied.insert((name, stream.clone()), applied);
        if applied <= before.unwrap_or_default() {
            self.object(format!("{name}: {stream} went from version {before:?} to {applied}"));
        }
        for difference in self.differences(projection, |other| other.tenant == stream.tenant).await {
            self.object(format!("after a write of {stream}: {difference}"));
        }
    }

    /// The differences between a projection's rows of some streams and the streams' states at the rows' versions.
    async fn differences(&self, projection: &Projected, which: impl Fn(&StreamId) -> bool) -> Vec<String> {
        let (name, source) = (projection.spec.name, &projection.spec.source);
        let streams: Vec<StreamId> = self.facts.lock().unwrap().stored.keys().cloned().collect();
        let mut applied = BTreeMap::new();
        for stream in streams.into_iter().filter(|stream| stream.aggregate_type == *source && which(stream)) {
            let version = projection.rows.applied_version(&stream).await.unwrap();
            applied.insert(stream, version);
        }
        let is_applied = |event: &Envelope| applied.get(&event.stream()).is_some_and(|v| event.version <= *v);
        let events = self.store.all().into_iter().map(|event| event.envelope).filter(is_applied);
        let oracle = Oracle::new(&self.application, events).unwrap();
        let mut expected = oracle.rows().unwrap();
        expected.retain(|place, _| place.projection == name && !place.is_part);
        let mut found = found_rows(name, &projection.rows);
        let tenants: BTreeSet<_> = applied.keys().map(|stream| &stream.tenant).collect();
        found.retain(|place, _| tenants.contains(&place.key.tenant));
        differences(&expected, &found)
    }

    /// Events not yet on the bus or in a row, and messages left in a queue, in words.
    pub(crate) async fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for event in self.store.all() {
            let id = event.envelope.event_id;
            if !self.facts.lock().unwrap().accepted.contains(&id) {
                missing.push(format!("{} of {} on the bus", event.envelope.version, event.envelope.stream()));
            }
        }
        {
            let facts = self.facts.lock().unwrap();
            let undecodable = facts.undecodable.iter().flat_map(|undecoded| &undecoded.stream);
            let left = undecodable.filter(|stream| !facts.handed_on.contains(stream));
            missing.extend(left.map(|stream| format!("the undecodable item of {stream} on the bus")));
        }
        missing.extend(self.poison_left().into_iter().map(|body| format!("a dead letter of {body}")));
        let stored = self.facts.lock().unwrap().stored.clone();
        for projection in self.projections.iter() {
            let name = projection.spec.name;
            for (stream, version) in &stored {
                if stream.aggregate_type != projection.spec.source {
                    continue;
                }
                let applied = projection.rows.applied_version(stream).await.unwrap();
                if applied != *version {
                    missing.push(format!("{name}: version {version} of {stream}, which is at {applied}"));
                }
            }
            missing.extend(self.differences(projection, |_| true).await);
            if !projection.queue.is_empty() {
                missing.push(format!("an end to the {} messages of {name}", projection.queue.len()));
            }
        }
        missing
    }

    /// Poison that is no dead letter yet.
    fn poison_left(&self) -> BTreeSet<String> {
        let mut poison = self.facts.lock().unwrap().poison.clone();
        for letter in self.projections.iter().flat_map(|projection| projection.queue.dead_letters()) {
            poison.remove(&letter.message.body);
        }
        poison
    }

    /// Reports dead letters that are no poison or have no reason.
    pub(crate) fn watch_dead_letters(&self) {
        let poison = self.facts.lock().unwrap().poison.clone();
        for letter in self.projections.iter().flat_map(|projection| projection.queue.dead_letters()) {
            if !poison.contains(&letter.message.body) || letter.cause.is_none() {
                self.object(format!(
                    "an innocent dead letter, or one without a cause: {}",
                    letter.message.body
                ));
            }
        }
    }
}

/// The body of the message that the bus makes of an entry's detail.
fn on_the_bus(detail: &str) -> String {
    format!("{{\"version\":\"0\",\"source\":\"millrace\",\"detail\":{detail}}}")
}
