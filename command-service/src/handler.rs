//! Load, decide, append, answer: the way of every command, written once for all aggregates.

use std::time::Duration;

use millrace_domain::{
    Aggregate, CommandDigest, CommandId, Decision, EventId, Receipt, Refused, Root, StreamId, Timestamp,
    UniqueKey,
};
use millrace_event_store::{AppendError, AppendEvents, Commit, StoredEvent};
use millrace_proto::{Envelope, codec::EventCodec};
use millrace_runtime::{Failure, TraceParent};
use tokio::time::sleep;
use uuid::Uuid;

use crate::states::States;

/// How often a command is decided anew after others came first, before its caller is told so.
const ATTEMPTS: u32 = 10;

/// The longest wait before the second attempt; it doubles with each further one up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(5);

/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_millis(160);

/// How many events a page of a stream holds at most.
const PAGE: u16 = 500;

/// A command, parsed and ready to be decided.
#[derive(Debug)]
pub struct Order<A: Aggregate> {
    /// The aggregate that it is for.
    pub stream: StreamId,
    /// What is asked.
    pub command: A::Command,
    /// Whether it brings the aggregate into being. Then there is nothing to load.
    pub creates: bool,
    /// The version that the caller has seen, where it named one.
    pub expected_version: Option<u64>,
    /// The caller's idempotency key.
    pub command_id: CommandId,
    /// What tells its body from another one under the same id.
    pub digest: CommandDigest,
    /// The wider piece of work that it belongs to.
    pub correlation_id: CommandId,
    /// The trace of the call.
    pub trace: TraceParent,
}

/// What a command is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The aggregate.
    pub aggregate_id: Uuid,
    /// What the command came to.
    pub receipt: Receipt,
    /// The command's id.
    pub command_id: CommandId,
    /// Whether an earlier attempt had already succeeded.
    pub replayed: bool,
}

/// A refusal of the domain's, in the terms of the table of errors.
pub trait IntoFailure {
    /// The failure that a caller sees, for a command on this stream.
    fn into_failure(self, stream: &StreamId) -> Failure;
}

/// The commands on one kind of aggregate.
#[derive(Debug, Clone)]
pub struct Handler<A: Aggregate, S> {
    store: S,
    states: States<A>,
    clock: fn() -> Timestamp,
}

/// A root, and whether it is known to have been the newest one when the command came.
struct Loaded<A> {
    root: Root<A>,
    fresh: bool,
}

/// By what an execution of a command recognises its own commit.
struct Own {
    /// The id of the commit's first event.
    event_id: EventId,
    /// What the last commit that was sent would be answered with.
    receipt: Option<Receipt>,
}

/// What one attempt at a command comes to.
enum Step<A> {
    /// The command is done.
    Answered(Answer),
    /// The state was not the newest; this one is.
    Refreshed(Loaded<A>),
    /// Others came first; after a pause, on this state.
    Raced(Loaded<A>),
}

impl<A, S> Handler<A, S>
where
    A: Aggregate<Event: EventCodec, Refusal: IntoFailure>,
    S: AppendEvents,
{
    /// Commands that append to `store`, keep states in `states`, and are accepted at the time that `clock` shows.
    pub fn new(store: S, states: States<A>, clock: fn() -> Timestamp) -> Self {
        Self { store, states, clock }
    }

    /// Carries a command out, once, however often it is sent.
    ///
    /// A state from the cache may be old. That is found out where it matters: an append on it meets its condition in
    /// the store, and a refusal that rests on it is looked at again on the newest state. So a command that is accepted
    /// costs one request, and no answer depends on the cache.
    pub async fn execute(&self, order: &Order<A>) -> Result<Answer, Failure> {
        let mut loaded = self.load(order).await?;
        // The same at every attempt, so that one that took effect unnoticed is met as our own.
        let mut own = Own { event_id: EventId(Uuid::now_v7()), receipt: None };
        for attempt in 0..ATTEMPTS {
            loaded = match self.attempt(order, loaded, &mut own, attempt == 0).await? {
                Step::Answered(answer) => return Ok(answer),
                Step::Refreshed(loaded) => loaded,
                Step::Raced(loaded) => {
                    sleep(wait_before(attempt)).await;
                    loaded
                }
            };
        }
        let root = self.catch_up(&order.stream, loaded.root).await?;
        Err(Failure::VersionConflict { current: root.version() })
    }

    /// Decides the command on a state and appends what it comes to.
    async fn attempt(
        &self,
        order: &Order<A>,
        loaded: Loaded<A>,
        own: &mut Own,
        first: bool,
    ) -> Result<Step<A>, Failure> {
        let Loaded { root, fresh } = loaded;
        let at = (self.clock)();
        let decided =
            root.decide(&order.command_id, order.digest, order.expected_version, &order.command, at);
        let events = match decided {
            Ok(Decision::Replay(receipt)) => {
                let replayed = own.receipt.is_none_or(|own| own.event_id != receipt.event_id);
                return Ok(Step::Answered(order.answer(receipt, replayed)));
            }
            Ok(Decision::Append(events)) => events,
            Err(Refused::CommandIdReused) => return Err(Failure::CommandIdReused),
            Err(refused) if fresh => return Err(order.refusal(refused)),
            Err(_) => return Ok(Step::Refreshed(self.refresh(order, root).await?)),
        };
        let Prepared { commit, after, receipt } = self.prepare(order, &root, &events, own.event_id, at)?;
        own.receipt = Some(receipt);
        match self.store.append(&commit).await {
            Ok(()) => {}
            Err(AppendError::Conflict { existing }) => {
                metrics::counter!("command_conflicts_total").increment(1);
                match existing {
                    // An attempt of our own took effect, and its reply was lost on the way.
                    Some(existing) if existing.envelope.event_id == own.event_id => {}
                    // The event that came first is at hand. Where it is not alone, the next conflict asks for all. What
                    // meets a creation is the event of an earlier attempt at it: that alone says how it was answered,
                    // however many commands the aggregate has forgotten since.
                    Some(existing) if first || order.creates => {
                        return Ok(Step::Raced(Loaded { root: apply(root, &existing)?, fresh: false }));
                    }
                    None if order.creates => {
                        let page = self.store.page(&order.stream, 0, 1).await?;
                        let root = page.events.iter().try_fold(root, apply)?;
                        return Ok(Step::Raced(Loaded { root, fresh: false }));
                    }
                    Some(_) | None => return Ok(Step::Raced(self.refresh(order, root).await?)),
                }
            }
            Err(AppendError::Contended) => return Ok(Step::Raced(Loaded { root, fresh })),
            Err(AppendError::KeyTaken { scope }) => return Err(Failure::KeyTaken { scope }),
            Err(AppendError::TooLarge { limit }) => {
                return Err(Failure::invalid("", format!("the request is too large to be stored: {limit}")));
            }
            Err(AppendError::Failed(error)) => return Err(error.into()),
        }
        self.states.keep(&order.stream, after);
        Ok(Step::Answered(order.answer(receipt, false)))
    }

    async fn refresh(&self, order: &Order<A>, root: Root<A>) -> Result<Loaded<A>, Failure> {
        Ok(Loaded { root: self.catch_up(&order.stream, root).await?, fresh: true })
    }

    /// Whether an aggregate exists. Aggregates never cease to exist, so a yes from the cache is one for good.
    pub async fn exists(&self, stream: &StreamId) -> Result<bool, Failure> {
        if self.states.is_known(stream) {
            return Ok(true);
        }
        let exists = !self.store.page(stream, 0, 1).await?.events.is_empty();
        if exists {
            self.states.know(stream);
        }
        Ok(exists)
    }

    async fn load(&self, order: &Order<A>) -> Result<Loaded<A>, Failure> {
        if order.creates {
            // Its id comes from the command's own, so only a retry can find anything there; the append tells.
            return Ok(Loaded { root: Root::default(), fresh: true });
        }
        if let Some(root) = self.states.get(&order.stream) {
            return Ok(Loaded { root, fresh: false });
        }
        self.refresh(order, Root::default()).await
    }

    /// The root with all events that are newer, which is kept.
    async fn catch_up(&self, stream: &StreamId, mut root: Root<A>) -> Result<Root<A>, Failure> {
        loop {
            let page = self.store.page(stream, root.version(), PAGE).await?;
            let before = root.version();
            for event in &page.events {
                root = apply(root, event)?;
            }
            if !page.more || root.version() == before {
                break;
            }
        }
        if root.version() > 0 {
            self.states.keep(stream, root.clone());
        }
        Ok(root)
    }

    fn prepare(
        &self,
        order: &Order<A>,
        root: &Root<A>,
        events: &[A::Event],
        event_id: EventId,
        at: Timestamp,
    ) -> Result<Prepared<A>, Failure> {
        let mut after = root.clone();
        let mut stored = Vec::with_capacity(events.len());
        let mut receipt = None;
        for (n, event) in events.iter().enumerate() {
            // The first has the id itself, the others have ids that follow from it.
            let event_id =
                if n == 0 { event_id } else { EventId(Uuid::new_v5(&event_id.0, &n.to_be_bytes())) };
            let event = order.store(after.version() + 1, event_id, event, at);
            receipt = Some(Receipt { version: event.envelope.version, event_id: event.envelope.event_id });
            after = apply(after, &event)?;
            stored.push(event);
        }
        let receipt = receipt.ok_or_else(|| Failure::Internal("a decision without events".to_owned()))?;
        let (held, holds) = (root.unique_keys(), after.unique_keys());
        let without = |keys: &[UniqueKey], others: &[UniqueKey]| -> Vec<UniqueKey> {
            keys.iter().filter(|key| !others.contains(key)).cloned().collect()
        };
        let commit =
            Commit { events: stored, claims: without(&holds, &held), releases: without(&held, &holds) };
        Ok(Prepared { commit, after, receipt })
    }
}

/// A decision, ready to be stored.
struct Prepared<A> {
    commit: Commit,
    after: Root<A>,
    receipt: Receipt,
}

impl<A: Aggregate<Event: EventCodec, Refusal: IntoFailure>> Order<A> {
    fn answer(&self, receipt: Receipt, replayed: bool) -> Answer {
        Answer { aggregate_id: self.stream.id, receipt, command_id: self.command_id.clone(), replayed }
    }

    fn refusal(&self, refused: Refused<A::Refusal>) -> Failure {
        match refused {
            Refused::CommandIdReused => Failure::CommandIdReused,
            Refused::VersionConflict { current } => Failure::VersionConflict { current },
            Refused::Rule(refusal) => refusal.into_failure(&self.stream),
        }
    }

    fn store(&self, version: u64, event_id: EventId, event: &A::Event, at: Timestamp) -> StoredEvent {
        let encoded = event.encode();
        StoredEvent {
            envelope: Envelope {
                event_id,
                tenant_id: self.stream.tenant.clone(),
                aggregate_type: self.stream.aggregate_type.clone(),
                aggregate_id: self.stream.id,
                version,
                event_type: encoded.event_type.to_owned(),
                schema_version: encoded.schema_version,
                timestamp: at,
                event_data: Some(encoded.data),
                command_id: self.command_id.clone(),
                correlation_id: self.correlation_id.clone(),
                causation_id: self.command_id.clone(),
                trace_parent: Some(self.trace.to_string()),
            },
            command_digest: self.digest,
        }
    }
}

fn apply<A: Aggregate<Event: EventCodec>>(root: Root<A>, event: &StoredEvent) -> Result<Root<A>, Failure> {
    let broken = |error: &dyn std::error::Error| {
        Failure::Internal(format!("event {} of its stream: {error}", event.envelope.event_id))
    };
    let recorded = event.recorded().map_err(|error| broken(&error))?;
    root.apply(&recorded).map_err(|error| broken(&error))
}

/// A random wait, so that writers who met do not meet again ("full jitter").
fn wait_before(attempt: u32) -> Duration {
    let longest = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(attempt)).min(LONGEST_WAIT);
    longest.mul_f64(rand::random::<f64>())
}
