//! Load, decide, append, answer: the way of every command, written once for all aggregates.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use millrace_aws::AwsError;
use millrace_core::{Aggregate, AggregateState, CommitReceipt, EventCodec, StreamId, Timestamp};
use millrace_event_store::{AppendError, AppendEvents, Commit, Entry, Snapshots};
use millrace_server::{Failure, KeyedMutex};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    commit::{CommitAttempt, Prepared, prepare},
    envelope::{CommandEnvelope, CommandOutcome},
    loader::{Loaded, Loader, fold},
    recent::forgets_recent,
    snapshots::Snapshotter,
    state_cache::StateCache,
};

/// How often a command is decided anew after conflicts before its caller gets the conflict.
const MAX_ATTEMPTS: u32 = 16;

/// How many conflicts in a row are retried at once, on the state with the event that came first. After the next one the
/// command waits, and loads the newest state.
const RETRIES_AT_ONCE: u32 = 2;

/// The longest that the first wait can be; it doubles with each further one up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(5);

/// The longest wait between two attempts. It is short: all commands of a process on the aggregate queue behind the one that
/// waits, and at most one command of each replica competes for an aggregate.
const LONGEST_WAIT: Duration = Duration::from_millis(40);

/// How long a command waits for its aggregate's lock. Then it fails: where AWS is slow and the queue is long, commands
/// without the lock would conflict, fail, and make AWS slower.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// The most events of a commit, by DynamoDB's limit of a transaction.
const MAX_COMMIT: u64 = 100;

/// The configuration of a [`CommandHandler`].
#[derive(Debug, Clone, Copy)]
pub struct CommandHandlerConfig {
    /// The clock.
    pub clock: fn() -> Timestamp,
    /// A random number from 0 to 1: the part of the longest wait that is waited after a conflict.
    pub jitter: fn() -> f64,
    /// After how many events of a stream a snapshot is kept.
    pub snapshot_every: NonZeroU64,
}

/// Handles the commands on one kind of aggregate.
#[derive(Debug, Clone)]
pub struct CommandHandler<A: Aggregate, S> {
    store: S,
    loader: Loader<A, S>,
    /// Serialises the commands on one aggregate: each finds the state of the one before it in the cache, and costs one
    /// request.
    mutex: KeyedMutex<StreamId>,
    config: CommandHandlerConfig,
    /// Changes with each commit.
    stored: watch::Sender<u64>,
}

/// The outcome of one attempt at a command.
enum Attempt<A> {
    /// The command is done.
    Answered(CommandOutcome),
    /// The command would be refused, on a state that may be old.
    StaleState,
    /// Another command came first. This is the state with its event.
    Conflict(Arc<AggregateState<A>>),
    /// The append failed. This is the state that the store had after it.
    Reloaded(Loaded<A>),
    /// Another command was under way.
    Contended,
}

impl<A, S> CommandHandler<A, S>
where
    A: Aggregate<Event: EventCodec>,
    S: AppendEvents + Snapshots,
{
    /// A handler that appends to `store` and keeps states in `cache`.
    pub fn new(store: S, cache: StateCache<A>, config: CommandHandlerConfig) -> Self {
        let snapshots = Snapshotter::new(store.clone(), config.snapshot_every);
        let loader = Loader::new(store.clone(), cache, snapshots);
        Self { store, loader, mutex: KeyedMutex::default(), config, stored: watch::Sender::default() }
    }

    /// Changes `stored` with each commit, for a relay in the same process.
    #[must_use]
    pub fn noting(mut self, stored: watch::Sender<u64>) -> Self {
        self.stored = stored;
        self
    }

    /// Carries a command out, once, however often it is sent.
    ///
    /// A state from the cache may be old. An append on an old state fails by its condition in the store, and a refusal on
    /// one is checked against the newest state. So an accepted command costs one request, and no answer within the commands
    /// that an aggregate remembers depends on the cache. Where other replicas write the aggregate too, a read comes first.
    ///
    /// A refusal is final. Every attempt before it has failed for good: one that may yet be stored is an
    /// [`AppendError::Failed`], which refuses nothing. A request of an earlier call with the same command may still be
    /// under way, but a state that refuses a command is not the one that accepted it, so that request's version is
    /// taken. Only a key can be taken now and free when such a request arrives, within the 15 minutes for which AWS
    /// accepts a signed request (RequestExpired: "Common Errors", API Reference).
    ///
    /// # Errors
    /// By the table of errors: refusals, conflicts, AWS.
    pub async fn execute(&self, envelope: &CommandEnvelope<A>) -> Result<CommandOutcome, Failure> {
        let lock = timeout(LOCK_TIMEOUT, self.mutex.lock(&envelope.stream)).await;
        let _lock = lock.map_err(|_| Failure::Overloaded)?;
        let mut loaded = if envelope.creates {
            // The id follows from the command's own: only a retry can find events there, and the append reports them.
            Loaded { state: Arc::default(), is_current: true }
        } else {
            self.loader.load(&envelope.stream).await?
        };
        let is_cached = !loaded.is_current;
        let mut own = CommitAttempt::new(envelope.trace);
        let mut at = (self.config.clock)();
        for attempt in 0..MAX_ATTEMPTS {
            loaded = match self.attempt(envelope, &loaded, &mut own, at).await? {
                Attempt::Answered(outcome) => return Ok(outcome),
                Attempt::StaleState => self.loader.refresh(&envelope.stream, loaded.state).await?,
                Attempt::Reloaded(newest) => newest,
                // A creation conflicts with the event of an earlier attempt at it. That event alone records how the creation
                // was answered, however many commands the aggregate has forgotten since.
                Attempt::Conflict(state) if envelope.creates => Loaded { state, is_current: false },
                // The cached state lacks more than one event: nobody raced, it is old.
                Attempt::Conflict(state) if is_cached && attempt == 1 => {
                    self.loader.refresh(&envelope.stream, state).await?
                }
                // As a rule, the conflict returned the newest event.
                Attempt::Conflict(state) if attempt % (RETRIES_AT_ONCE + 1) < RETRIES_AT_ONCE => {
                    Loaded { state, is_current: false }
                }
                Attempt::Conflict(state) => {
                    // The load comes after the wait, so that the append finds the state as new as can be.
                    sleep(self.wait_after(attempt)).await;
                    self.loader.refresh(&envelope.stream, state).await?
                }
                Attempt::Contended => {
                    sleep(self.wait_after(attempt)).await;
                    // Nothing was stored: the same commit again.
                    continue;
                }
            };
            at = (self.config.clock)();
        }
        let newest = self.loader.refresh(&envelope.stream, loaded.state).await?.state;
        match self.answered(envelope, &newest, &mut own, at).await? {
            // The last attempt took effect unnoticed, or another call's did.
            Some(outcome) => Ok(outcome),
            None => Err(Failure::VersionConflict { current: newest.version() }),
        }
    }

    /// Whether an aggregate exists.
    ///
    /// # Errors
    /// AWS.
    pub async fn exists(&self, stream: &StreamId) -> Result<bool, Failure> {
        self.loader.exists(stream).await
    }

    /// Decides the command on a state, and appends its events.
    async fn attempt(
        &self,
        envelope: &CommandEnvelope<A>,
        loaded: &Loaded<A>,
        own: &mut CommitAttempt,
        at: Timestamp,
    ) -> Result<Attempt<A>, Failure> {
        let Loaded { state, is_current } = loaded;
        match self.answered(envelope, state, own, at).await {
            Ok(Some(outcome)) => return Ok(Attempt::Answered(outcome)),
            Ok(None) => {}
            // An old state remembers commands that the aggregate has forgotten.
            Err(Failure::CommandIdReused) if !*is_current && !envelope.creates => {
                return Ok(Attempt::StaleState);
            }
            Err(failure) => return Err(failure),
        }
        let events = match envelope.decide(state, at) {
            Ok(events) => events,
            // A creation is refused on its first event, which never changes.
            Err(refused) if *is_current || envelope.creates => return Err(envelope.refusal(refused)),
            Err(_) => return Ok(Attempt::StaleState),
        };
        let Prepared { commit, after, receipt } = prepare(envelope, state, events, own, at)?;
        own.receipt = Some(receipt);
        match own.span.append(&self.store, &commit).await {
            Ok(()) => Ok(self.done(envelope, state, after, &commit, receipt)),
            Err(AppendError::Conflict { existing }) => {
                let newer = match existing {
                    // An attempt of our own took effect, and its reply was lost.
                    Some(existing) if existing.envelope.event_id == own.event_id => {
                        own.span.succeeded();
                        return Ok(self.done(envelope, state, after, &commit, receipt));
                    }
                    // Another call carried the command out. This is the first of its events and may not be the last.
                    Some(existing)
                        if existing.envelope.command_id == envelope.command_id && !envelope.creates =>
                    {
                        return Ok(Attempt::StaleState);
                    }
                    Some(existing) => {
                        let existing = Entry::from(*existing);
                        if let Some(receipt) = envelope.answered_by(&existing)? {
                            return Ok(Attempt::Answered(envelope.outcome(receipt, own.is_replay(receipt))));
                        }
                        vec![existing]
                    }
                    // It may be our own.
                    None => {
                        let newest = self.reload(envelope, state).await.map_err(outcome_unknown)?;
                        return Ok(Attempt::Reloaded(newest));
                    }
                };
                Ok(Attempt::Conflict(self.loader.advance(&envelope.stream, state, &newer)?))
            }
            Err(AppendError::Contended) => Ok(Attempt::Contended),
            Err(AppendError::KeyTaken { scope }) => {
                // The version may be taken as well, by an earlier call with this command: DynamoDB does not promise to
                // report every condition that failed.
                let newest = self.reload(envelope, state).await?;
                if newest.state.version() > state.version() {
                    return Ok(Attempt::Reloaded(newest));
                }
                Err(Failure::KeyTaken { scope })
            }
            Err(AppendError::TooLarge { .. }) if !*is_current => Ok(Attempt::StaleState),
            Err(AppendError::TooLarge { limit }) => {
                Err(Failure::invalid("", format!("the request is too large to be stored: {limit}")))
            }
            Err(AppendError::Failed(error)) => Err(error.into()),
        }
    }

    /// The outcome of the command, if it was carried out before: by the remembered commands of the state, or by those of
    /// the last minutes where the state forgets some of them.
    async fn answered(
        &self,
        envelope: &CommandEnvelope<A>,
        state: &AggregateState<A>,
        own: &mut CommitAttempt,
        at: Timestamp,
    ) -> Result<Option<CommandOutcome>, Failure> {
        for version in state.seen(&envelope.command_id) {
            if let Some(outcome) = self.answer_at(version, envelope, state, own).await? {
                return Ok(Some(outcome));
            }
        }
        // The first event alone records how a creation was answered.
        if envelope.creates || !forgets_recent(state, at) {
            return Ok(None);
        }
        let recent = self.loader.recent(&envelope.stream, state, at).await;
        let recent = recent.map_err(|failure| own.failure(failure))?;
        let remembered = state.oldest_answered().map_or(u64::MAX, |oldest| oldest.version);
        for version in recent.seen(&envelope.command_id, remembered) {
            if let Some(outcome) = self.answer_at(version, envelope, state, own).await? {
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }

    /// The outcome of the command, if its last event is at this version. The event there has the command's id, unless
    /// another command has the same fingerprint.
    async fn answer_at(
        &self,
        version: u64,
        envelope: &CommandEnvelope<A>,
        state: &AggregateState<A>,
        own: &mut CommitAttempt,
    ) -> Result<Option<CommandOutcome>, Failure> {
        // A Query may see a part of a commit, so the state may end within the command's events.
        let further = if version == state.version() { MAX_COMMIT } else { 1 };
        let (after, before) = (version.saturating_sub(1), version.saturating_add(further));
        let events = self.store.between(&envelope.stream, after, before).await;
        let events = events.map_err(|error| own.failure(error.into()))?;
        for event in events.iter().rev() {
            if let Some(receipt) = envelope.answered_by(event)? {
                return Ok(Some(envelope.outcome(receipt, own.is_replay(receipt))));
            }
        }
        Ok(None)
    }

    /// The newest state, after an append on `state` that failed.
    async fn reload(
        &self,
        envelope: &CommandEnvelope<A>,
        state: &Arc<AggregateState<A>>,
    ) -> Result<Loaded<A>, Failure> {
        if !envelope.creates {
            return self.loader.refresh(&envelope.stream, state.clone()).await;
        }
        // The first event records how a creation was answered, however many commands the aggregate has forgotten since.
        let first = self.store.between(&envelope.stream, 0, 2).await?;
        Ok(Loaded { state: Arc::new(fold(AggregateState::clone(state), &first)?), is_current: true })
    }

    /// Keeps the state after a commit that is stored.
    fn done(
        &self,
        envelope: &CommandEnvelope<A>,
        before: &AggregateState<A>,
        after: Arc<AggregateState<A>>,
        commit: &Commit,
        receipt: CommitReceipt,
    ) -> Attempt<A> {
        self.loader.keep(&envelope.stream, before, after, &commit.events);
        self.stored.send_modify(|commits| *commits = commits.wrapping_add(1));
        Attempt::Answered(envelope.outcome(receipt, false))
    }

    /// A random wait, so that writers that conflicted do not conflict again ("full jitter").
    fn wait_after(&self, attempt: u32) -> Duration {
        let doublings = 2_u32.saturating_pow(attempt / (RETRIES_AT_ONCE + 1));
        let longest = FIRST_WAIT.saturating_mul(doublings).min(LONGEST_WAIT);
        longest.mul_f64((self.config.jitter)().clamp(0.0, 1.0))
    }
}

/// The failure for an append with an unknown outcome. Throttling would say that nothing was stored.
pub(crate) fn outcome_unknown(failure: Failure) -> Failure {
    if let Failure::Aws(AwsError::Throttled(why)) = failure {
        return Failure::Aws(AwsError::Unreachable(why));
    }
    failure
}
