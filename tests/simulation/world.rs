//! What outlives every process: the tables, the stream, the bus, the queues, and a watch over the rows.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use command_service::relay::{
    bus::{Entry, Rejection},
    leases::{Checkpoint, Lease},
    memory::{MemoryLeases, MemoryStream, MemoryTable},
    stream::{Content, Position},
};
use millrace_aws::AwsError;
use millrace_domain::{
    Aggregate as _, EventId, OrderId, StreamId, Timestamp, UserId, order::Order, user::User,
};
use millrace_event_store::{AppendEvents as _, Commit, MemoryStore};
use millrace_proto::Envelope;
use millrace_read_models::{MemoryOrders, MemoryUsers, ReadOrders as _, ReadUsers as _};
use millrace_tests::lives::{LIFE, name, order_event, user_event};
use projector::queue::{MemoryQueue, Rules};
use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::trouble::Trouble;

/// As the template sets them.
const RULES: Rules = Rules { visibility: Duration::from_secs(30), max_receives: 20 };

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

/// All that lasts. Clones share it.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) trouble: Trouble,
    pub(crate) store: MemoryStore,
    pub(crate) stream: MemoryStream,
    pub(crate) table: MemoryTable,
    pub(crate) leases: MemoryLeases,
    pub(crate) users: MemoryUsers,
    pub(crate) orders: MemoryOrders,
    pub(crate) user_queue: MemoryQueue,
    pub(crate) order_queue: MemoryQueue,
    facts: Arc<Mutex<Facts>>,
}

#[derive(Default)]
struct Facts {
    /// How many events each stream has.
    stored: BTreeMap<StreamId, u64>,
    /// What the bus has accepted.
    accepted: BTreeSet<EventId>,
    /// At which version each row was seen last.
    rows: BTreeMap<StreamId, u64>,
    poison: BTreeSet<String>,
    /// What must not be.
    wrong: Vec<String>,
}

impl World {
    pub(crate) fn new(trouble: &Trouble) -> Self {
        BEGUN.set(Some(Instant::now()));
        Self {
            trouble: trouble.clone(),
            store: MemoryStore::default(),
            stream: MemoryStream::default(),
            table: MemoryTable::default(),
            leases: MemoryLeases::default(),
            users: MemoryUsers::default(),
            orders: MemoryOrders::default(),
            user_queue: MemoryQueue::new(RULES),
            order_queue: MemoryQueue::new(RULES),
            facts: Arc::default(),
        }
    }

    /// What was found wrong so far.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.facts.lock().unwrap().wrong.clone()
    }

    fn object(&self, wrong: String) {
        self.facts.lock().unwrap().wrong.push(wrong);
    }

    /// Lets the next thing happen to some user or order, as a command would: it is stored, and the stream has it.
    pub(crate) async fn happen(&self) {
        let tenant = TENANTS[usize::from(self.trouble.draw(300))].parse().unwrap();
        let which = self.trouble.below(USERS + ORDERS);
        let id = Uuid::from_u128(u128::from(which) + 1);
        let aggregate_type = if which < USERS { User::TYPE } else { Order::TYPE };
        let stream = StreamId { tenant, aggregate_type, id };
        let version = self.facts.lock().unwrap().stored.get(&stream).copied().unwrap_or_default() + 1;
        let event = if stream.aggregate_type == User::TYPE {
            user_event(&stream, version, clock())
        } else if usize::try_from(version).unwrap() <= LIFE.len() {
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

    /// Puts a message into a queue that can never be applied.
    pub(crate) fn poison(&self) {
        let number = self.facts.lock().unwrap().poison.len();
        let body = match number % 3 {
            0 => format!("poison {number}"),
            1 => json!({"detail": {"EventId": number}}).to_string(),
            _ => {
                // An aggregate that does not exist.
                let stream = StreamId {
                    tenant: "nobody".parse().unwrap(),
                    aggregate_type: User::TYPE,
                    id: Uuid::from_u128(u128::try_from(number).unwrap()),
                };
                on_the_bus(&serde_json::to_string(&user_event(&stream, 3, clock()).envelope).unwrap())
            }
        };
        let queue = if number.is_multiple_of(2) { &self.user_queue } else { &self.order_queue };
        queue.send(body.clone());
        self.facts.lock().unwrap().poison.insert(body);
        self.trouble.note("a poison message");
    }

    /// What the bus does with an entry: it refuses, or accepts and delivers, some time, perhaps more than once, and, as
    /// long as the aggregate has newer events, perhaps not at all.
    pub(crate) fn publish(&self, entry: &Entry) -> Result<(), Rejection> {
        let is_calm = self.trouble.is_calm();
        if !is_calm && self.trouble.draw(40) {
            self.trouble.note("a refused entry");
            return Err(AwsError::Throttled("by chance".to_owned()).into());
        }
        let event: Envelope = serde_json::from_str(&entry.detail).unwrap();
        let newest = {
            let mut facts = self.facts.lock().unwrap();
            facts.accepted.insert(event.event_id);
            facts.stored[&event.stream()]
        };
        let queue = if entry.detail_type.starts_with("User") { &self.user_queue } else { &self.order_queue };
        let mut copies = 1;
        if !is_calm && self.trouble.draw(120) {
            copies += self.trouble.below(3);
            self.trouble.note("a repeated delivery");
        } else if !is_calm && event.version < newest && self.trouble.draw(60) {
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
        Ok(())
    }

    /// Objects to a lease whose checkpoint has passed an event that the bus has not accepted.
    pub(crate) fn watch_lease(&self, lease: &Lease) {
        let upto = match &lease.progress.checkpoint {
            Checkpoint::At(Position::TrimHorizon) => return,
            Checkpoint::At(Position::After(sequence)) => Some(&sequence.0),
            Checkpoint::ShardEnd => None,
        };
        for record in self.stream.records(&lease.shard) {
            let passed = upto.is_none_or(|upto| record.sequence.0 <= *upto);
            if let Content::Event(event) = record.content
                && passed
                && !self.facts.lock().unwrap().accepted.contains(&event.event_id)
            {
                self.object(format!("{lease:?} has passed {}, which is not published", event.event_id));
            }
        }
    }

    /// Objects to a row that went back, or that shows what its history did not have.
    pub(crate) async fn watch_row(&self, stream: &StreamId) {
        let Some((version, is_right)) = self.row(stream).await else {
            return self.object(format!("{stream} was written and has no row"));
        };
        let mut facts = self.facts.lock().unwrap();
        let before = facts.rows.insert(stream.clone(), version).unwrap_or_default();
        if !is_right {
            facts.wrong.push(format!("the row of {stream} shows what version {version} never was"));
        }
        if version <= before {
            facts.wrong.push(format!("the row of {stream} went from version {before} to {version}"));
        }
    }

    /// The version of a row, and whether the row is what that version must be.
    async fn row(&self, stream: &StreamId) -> Option<(u64, bool)> {
        if stream.aggregate_type == User::TYPE {
            let row = self.users.get(&stream.tenant, UserId(stream.id)).await.unwrap()?;
            Some((row.version, row.name == name(row.version)))
        } else {
            let row = self.orders.get(&stream.tenant, OrderId(stream.id)).await.unwrap()?;
            let status = LIFE.get(usize::try_from(row.version).unwrap() - 1);
            Some((row.version, Some(&row.status) == status))
        }
    }

    /// What is still missing, in words.
    pub(crate) async fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for event in self.store.all() {
            let id = event.envelope.event_id;
            if !self.facts.lock().unwrap().accepted.contains(&id) {
                missing.push(format!("{} of {} on the bus", event.envelope.version, event.envelope.stream()));
            }
        }
        let stored = self.facts.lock().unwrap().stored.clone();
        for (stream, version) in stored {
            let row = self.row(&stream).await;
            if row != Some((version, true)) {
                missing.push(format!("version {version} in the row of {stream}, which has {row:?}"));
            }
        }
        for (name, queue) in [("users", &self.user_queue), ("orders", &self.order_queue)] {
            if !queue.is_empty() {
                missing.push(format!("an end to the {} messages of {name}", queue.len()));
            }
        }
        missing
    }

    /// Objects to dead letters that are no poison, or have no reason, and to poison that is none.
    pub(crate) fn watch_dead_letters(&self) {
        let poison = self.facts.lock().unwrap().poison.clone();
        let letters = [self.user_queue.dead_letters(), self.order_queue.dead_letters()].concat();
        for letter in &letters {
            if !poison.contains(&letter.message.body) || letter.cause.is_none() {
                self.object(format!(
                    "an innocent dead letter, or one without a cause: {}",
                    letter.message.body
                ));
            }
        }
        for body in poison {
            if !letters.iter().any(|letter| letter.message.body == body) {
                self.object(format!("poison that is no dead letter: {body}"));
            }
        }
    }
}

/// What a queue gets of an entry's detail.
fn on_the_bus(detail: &str) -> String {
    format!("{{\"version\":\"0\",\"source\":\"millrace\",\"detail\":{detail}}}")
}
