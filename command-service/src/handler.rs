//! Load, decide, append, answer: the way of every command, written once for all aggregates.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use millrace_domain::{
    Aggregate, CommandDigest, CommandId, Decision, EventId, Receipt, Recorded, Refused, Root, StreamId,
    Timestamp, UniqueKey,
};
use millrace_event_store::{AppendError, AppendEvents, Commit, Entry, Snapshots, StoredEvent};
use millrace_proto::{Envelope, codec::EventCodec};
use millrace_runtime::{Failure, TraceParent, Turns};
use millrace_traces::{Kind, Span, within};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::{
    loader::{Loaded, Loader, fold},
    meters,
    snapshots::Snapshotter,
    states::States,
};

/// How often a command is decided anew after others came first, before its caller is told so.
const ATTEMPTS: u32 = 16;

/// How many conflicts in a row are answered at once, with the event that each of them met. The one after them is answered
/// with a wait, and a look at the newest state.
const AT_ONCE: u32 = 2;

/// The longest that the first wait can be; it doubles with each further one up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(5);

/// The longest wait between two attempts. Short, since the commands of a whole process may stand behind the one that
/// waits, and as many processes at most as there are replicas meet at an aggregate.
const LONGEST_WAIT: Duration = Duration::from_millis(40);

/// How long a command waits for its turn. To go ahead without it would help nobody: where AWS is slow and a line is
/// long, commands that went ahead would meet, fail, and make it slower.
const LONGEST_LINE: Duration = Duration::from_secs(5);

/// What a [`Handler`] is told.
#[derive(Debug, Clone, Copy)]
pub struct HandlerConfig {
    /// What time it is.
    pub clock: fn() -> Timestamp,
    /// A number between 0 and 1, another one each time: how much of the longest wait is waited after a conflict.
    pub chance: fn() -> f64,
    /// After how many events of a stream a snapshot is kept.
    pub snapshot_every: NonZeroU64,
}

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
    loader: Loader<A, S>,
    /// Commands on one aggregate go one after another: each finds the state that the one before it left in the cache, and
    /// costs one request.
    turns: Turns<StreamId>,
    config: HandlerConfig,
}

/// By what an execution of a command recognises its own commit.
struct Own {
    /// The id of the commit's first event.
    event_id: EventId,
    /// What the last commit that was sent would be answered with.
    receipt: Option<Receipt>,
    /// The span of the append, which is the cause of all that becomes of the events: they carry it. The same at every
    /// attempt, since any of them may be the one that took effect.
    trace: TraceParent,
    /// The same span, from the first attempt on.
    span: Option<Span>,
}

impl Own {
    /// An attempt to append begins.
    fn begin<A: Aggregate>(&mut self, order: &Order<A>, receipt: Receipt) {
        self.receipt = Some(receipt);
        let stream = &order.stream;
        let span = self.span.get_or_insert_with(|| {
            Span::start(self.trace, Some(order.trace), Kind::Internal, || {
                format!("append {}", stream.aggregate_type)
            })
        });
        span.describe(|span| {
            span.set("millrace.tenant", stream.tenant.as_str().to_owned());
            span.set("millrace.aggregate.type", stream.aggregate_type.as_str().to_owned());
            span.set("millrace.aggregate.id", stream.id.to_string());
            span.set("millrace.version", i64::try_from(receipt.version).unwrap_or(i64::MAX));
            // Until it has ended: a caller who leaves ends the span as well.
            span.fail("cancelled");
        });
    }

    /// What became of the attempt: whether it failed, and by what.
    fn ended(&mut self, failure: Option<&AppendError>) {
        let reason = failure.map(|error| match error {
            AppendError::Conflict { .. } => "conflict",
            AppendError::Contended => "contended",
            AppendError::KeyTaken { .. } => "key_taken",
            AppendError::TooLarge { .. } => "too_large",
            AppendError::Failed(_) => "aws",
        });
        let Some(span) = &mut self.span else { return };
        span.describe(|span| match reason {
            None => span.succeed(),
            Some(reason) => {
                span.note(reason, Vec::new());
                span.fail(reason);
            }
        });
    }

    /// Whether a receipt is that of another execution of the command. Where it is not, an attempt has taken effect that
    /// seemed to fail.
    fn is_replay(&mut self, receipt: Receipt) -> bool {
        let is_replay = self.receipt.is_none_or(|own| own.event_id != receipt.event_id);
        if !is_replay {
            self.ended(None);
        }
        is_replay
    }
}

/// What one attempt at a command comes to.
enum Step<A> {
    /// The command is done.
    Answered(Answer),
    /// It would be refused, on a state that may be old.
    Doubtful,
    /// Another command came first. This is the state with its event, where that is at hand.
    Passed(Arc<Root<A>>),
    /// Another command was under way.
    Contended,
}

impl<A, S> Handler<A, S>
where
    A: Aggregate<Event: EventCodec, Refusal: IntoFailure>,
    S: AppendEvents + Snapshots,
{
    /// Commands that append to `store` and keep states in `states`.
    pub fn new(store: S, states: States<A>, config: HandlerConfig) -> Self {
        let snapshots = Snapshotter::new(store.clone(), config.snapshot_every);
        let loader = Loader::new(store.clone(), states, snapshots);
        Self { store, loader, turns: Turns::default(), config }
    }

    /// Carries a command out, once, however often it is sent.
    ///
    /// A state from the cache may be old. That is found out where it matters: an append on it meets its condition in
    /// the store, and a refusal that rests on it is looked at again on the newest state. So a command that is accepted
    /// costs one request, and within the commands that an aggregate remembers no answer depends on the cache.
    pub async fn execute(&self, order: &Order<A>) -> Result<Answer, Failure> {
        let turn = timeout(LONGEST_LINE, self.turns.wait(&order.stream)).await;
        let _turn = turn.map_err(|_| Failure::Overloaded)?;
        let mut loaded = if order.creates {
            // Its id comes from the command's own, so only a retry can find anything there; the append tells.
            Loaded { root: Arc::default(), fresh: true }
        } else {
            self.loader.load(&order.stream).await?
        };
        // The same at every attempt, so that one that took effect unnoticed is met as our own.
        let event_id = EventId(Uuid::now_v7());
        let mut own = Own { event_id, receipt: None, trace: order.trace.child(), span: None };
        let mut at = (self.config.clock)();
        for attempt in 0..ATTEMPTS {
            loaded = match self.attempt(order, &loaded, &mut own, at).await? {
                Step::Answered(answer) => return Ok(answer),
                Step::Doubtful => self.loader.refresh(&order.stream, loaded.root).await?,
                // What meets a creation is the event of an earlier attempt at it: that alone says how it was answered,
                // however many commands the aggregate has forgotten since.
                Step::Passed(root) if order.creates => Loaded { root, fresh: false },
                // What meets another command is, as a rule, the newest event there is, and it is at hand.
                Step::Passed(root) if attempt % (AT_ONCE + 1) < AT_ONCE => Loaded { root, fresh: false },
                Step::Passed(root) => {
                    // First the wait, then the look: so the state is as new as can be when it is appended to.
                    sleep(self.wait_after(attempt)).await;
                    self.loader.refresh(&order.stream, root).await?
                }
                Step::Contended => {
                    sleep(self.wait_after(attempt)).await;
                    // The same again, time included: the attempt may have taken effect.
                    continue;
                }
            };
            at = (self.config.clock)();
        }
        let newest = self.loader.refresh(&order.stream, loaded.root).await?.root;
        match decide(order, &newest, at) {
            // The last attempt took effect unnoticed, or another call's did.
            Ok(Decision::Replay(receipt)) => Ok(order.answer(receipt, own.is_replay(receipt))),
            Err(Refused::CommandIdReused) => Err(Failure::CommandIdReused),
            Ok(Decision::Append(_)) | Err(Refused::VersionConflict { .. } | Refused::Rule(_)) => {
                Err(Failure::VersionConflict { current: newest.version() })
            }
        }
    }

    /// Whether an aggregate exists.
    pub async fn exists(&self, stream: &StreamId) -> Result<bool, Failure> {
        self.loader.exists(stream).await
    }

    /// Decides the command on a state and appends what it comes to.
    async fn attempt(
        &self,
        order: &Order<A>,
        loaded: &Loaded<A>,
        own: &mut Own,
        at: Timestamp,
    ) -> Result<Step<A>, Failure> {
        let Loaded { root, fresh } = loaded;
        let events = match decide(order, root, at) {
            Ok(Decision::Replay(receipt)) => {
                return Ok(Step::Answered(order.answer(receipt, own.is_replay(receipt))));
            }
            Ok(Decision::Append(events)) => events,
            Err(Refused::CommandIdReused) => return Err(Failure::CommandIdReused),
            Err(refused) if *fresh => return Err(order.refusal(refused)),
            Err(_) => return Ok(Step::Doubtful),
        };
        let Prepared { commit, after, receipt } = prepare(order, root, events, own, at)?;
        own.begin(order, receipt);
        let appended = within(own.trace, self.store.append(&commit)).await;
        own.ended(appended.as_ref().err());
        match appended {
            Ok(()) => Ok(self.done(order, root, after, receipt)),
            Err(AppendError::Conflict { existing }) => {
                meters::conflict();
                let met = match existing {
                    // An attempt of our own took effect, and its reply was lost on the way.
                    Some(existing) if existing.envelope.event_id == own.event_id => {
                        own.ended(None);
                        return Ok(self.done(order, root, after, receipt));
                    }
                    // Another call carried the command out, of whose events this is the first and may not be the last.
                    Some(existing) if existing.envelope.command_id == order.command_id && !order.creates => {
                        return Ok(Step::Doubtful);
                    }
                    Some(existing) => vec![Entry::from(*existing)],
                    // The first event says how a creation was answered.
                    None if order.creates => self.store.between(&order.stream, 0, 2).await?,
                    None => return Ok(Step::Doubtful),
                };
                Ok(Step::Passed(Arc::new(fold(Root::clone(root), &met)?)))
            }
            Err(AppendError::Contended) => Ok(Step::Contended),
            Err(AppendError::KeyTaken { scope }) => Err(Failure::KeyTaken { scope }),
            Err(AppendError::TooLarge { limit }) => {
                Err(Failure::invalid("", format!("the request is too large to be stored: {limit}")))
            }
            Err(AppendError::Failed(error)) => Err(error.into()),
        }
    }

    /// Keeps the state after a commit that is stored.
    fn done(&self, order: &Order<A>, before: &Root<A>, after: Arc<Root<A>>, receipt: Receipt) -> Step<A> {
        self.loader.keep(&order.stream, before.version(), after);
        Step::Answered(order.answer(receipt, false))
    }

    /// A random wait, so that writers who met do not meet again ("full jitter").
    fn wait_after(&self, attempt: u32) -> Duration {
        let doublings = 2_u32.saturating_pow(attempt / (AT_ONCE + 1));
        FIRST_WAIT.saturating_mul(doublings).min(LONGEST_WAIT).mul_f64((self.config.chance)().clamp(0.0, 1.0))
    }
}

/// What a command comes to on a state.
fn decide<A: Aggregate>(
    order: &Order<A>,
    root: &Root<A>,
    at: Timestamp,
) -> Result<Decision<A::Event>, Refused<A::Refusal>> {
    root.decide(&order.command_id, order.digest, order.expected_version, &order.command, at)
}

/// What a decision comes to in the store.
fn prepare<A: Aggregate<Event: EventCodec, Refusal: IntoFailure>>(
    order: &Order<A>,
    root: &Root<A>,
    events: Vec<A::Event>,
    own: &Own,
    at: Timestamp,
) -> Result<Prepared<A>, Failure> {
    let event_id = own.event_id;
    let mut after = root.clone();
    let mut stored = Vec::with_capacity(events.len());
    let mut receipt = None;
    for (n, event) in events.into_iter().enumerate() {
        // The first has the id itself, the others have ids that follow from it.
        let event_id = if n == 0 { event_id } else { EventId(Uuid::new_v5(&event_id.0, &n.to_be_bytes())) };
        let version = after.version().saturating_add(1);
        stored.push(order.store(version, event_id, &event, own.trace, at));
        receipt = Some(Receipt { version, event_id });
        let recorded = Recorded {
            version,
            event_id,
            command_id: order.command_id.clone(),
            command_digest: order.digest,
            event,
        };
        after =
            after.apply(&recorded).map_err(|misfit| Failure::Internal(format!("a decision: {misfit}")))?;
    }
    let receipt = receipt.ok_or_else(|| Failure::Internal("a decision without events".to_owned()))?;
    let (held, holds) = (root.unique_keys(), after.unique_keys());
    let without = |keys: &[UniqueKey], others: &[UniqueKey]| -> Vec<UniqueKey> {
        keys.iter().filter(|key| !others.contains(key)).cloned().collect()
    };
    let commit = Commit { events: stored, claims: without(&holds, &held), releases: without(&held, &holds) };
    Ok(Prepared { commit, after: Arc::new(after), receipt })
}

/// A decision, ready to be stored.
struct Prepared<A> {
    commit: Commit,
    after: Arc<Root<A>>,
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

    fn store(
        &self,
        version: u64,
        event_id: EventId,
        event: &A::Event,
        trace: TraceParent,
        at: Timestamp,
    ) -> StoredEvent {
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
                trace_parent: Some(trace.to_string()),
            },
            command_digest: self.digest,
        }
    }
}
