//! The loop around a handler: receiving, keeping messages hidden while they are worked on, deleting them, trying again,
//! giving up.
//!
//! A failed message goes back to the queue, hidden for longer each time, so that it takes no room here from others. The
//! cause decides when it is given up. A message that fails by its own fault gets a few deliveries. A busy row, or an
//! event of a newer release, is temporary: such a message is tried for days. An outage of AWS fails every message
//! alike, so its messages stay here, hidden, until it is over. The number of held messages is limited: in an outage
//! receiving comes to rest, and the other messages of the queue use up no deliveries.
//!
//! A message is hidden for some seconds, and hidden anew while it is worked on, so that the messages of a killed
//! process come back soon. A message that was received many times may be the killer: it is hidden for longer before it
//! is worked on.

use std::{
    convert::Infallible,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use millrace_aws::AwsError;
use millrace_core::Backoff;
use millrace_server::{FailureLogThrottle, TraceParent};
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinError, JoinSet},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::Level;

use crate::{
    Handle, MessageError,
    error::Origin,
    metrics::{self, DEAD_LETTERS, FAILURES, count_queue_error, count_reason},
    queue::{Cause, MAX_MESSAGES, Message, Queue, ReceiptHandle},
    traced,
};

/// Logs a failed message with its ids but none of its content. A macro, because `tracing` needs a constant level at
/// each call site.
macro_rules! log_message {
    ($level:expr, $projection:expr, $message:expr, $error:expr, $text:literal) => {{
        let event = $error.event.as_deref();
        tracing::event!(
            $level,
            projection = $projection,
            message_id = $message.id,
            attempts = $message.attempts,
            tenant = event.map(|event| event.stream.tenant.as_str()),
            aggregate = event.map(|event| event.stream.to_string()),
            version = event.map(|event| event.version),
            event_id = event.map(|event| event.event_id.to_string()),
            correlation_id = event.map(|event| event.correlation_id.as_str()),
            causation_id = event.map(|event| event.causation_id.as_str()),
            trace_id = event.and_then(|event| event.trace_parent).map(TraceParent::trace_id),
            reason = %$error.cause,
            $text,
        );
    }};
}

/// The pauses between attempts at a message that fails by its own fault.
const MESSAGE_BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(60) };

/// The pause after the first attempt at a message that waits for a row or a release.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The lower bound of a waiting message's longest pause, however many deliveries the queue allows.
const SHORTEST_LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The longest that SQS hides a message (SQS API Reference, `ChangeMessageVisibility`).
const MAX_VISIBILITY: Duration = Duration::from_secs(12 * 60 * 60);

/// The pauses between attempts at calls that AWS fails.
const AWS_BACKOFF: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(20) };

/// The interval between counts of the queue's messages.
const DEPTH_INTERVAL: Duration = Duration::from_secs(15);

/// The most receives at a time. One brings ten messages in about 15 ms; an idle queue has one waiting.
const RECEIVES: usize = 10;

/// How often a deletion is tried. A message that is still not deleted comes again and is dropped as a duplicate.
const DELETIONS: u32 = 3;

/// How a consumer works.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How many messages are held at a time: at least [`MAX_MESSAGES`].
    pub messages_at_once: u32,
    /// How many deliveries a message that fails by its own fault gets before it is given up; fewer if the queue itself
    /// would move it sooner. A delivery whose receiver died counts too.
    pub max_attempts: u32,
    /// How long a message waits for a newer release or a less busy row before it is given up.
    pub max_wait: Duration,
    /// How long the work in flight may take after the consumer is told to stop.
    pub drain: Duration,
    /// A random number from 0 to 1, to spread attempts.
    pub jitter: fn() -> f64,
}

/// Whether a consumer can do its work. At first it cannot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Condition {
    /// Whether the queue could be used at the last call.
    pub receives: bool,
    /// How many batches an outage holds up.
    pub held_up: usize,
}

impl Condition {
    /// The reason if the consumer cannot work.
    pub fn check(self) -> Result<(), &'static str> {
        match self {
            Self { receives: false, .. } => Err("a queue cannot be used"),
            Self { held_up: 1.., .. } => Err("messages are held up by AWS"),
            Self { receives: true, held_up: 0 } => Ok(()),
        }
    }
}

/// Brings the messages of a queue to a handler.
pub struct Consumer<Q, H> {
    queue: Q,
    handler: H,
    settings: Settings,
    condition: watch::Sender<Condition>,
    /// For log lines about events of a newer release.
    newer_releases: std::sync::Mutex<FailureLogThrottle>,
}

impl<Q: Queue, H: Handle> Consumer<Q, H> {
    /// A consumer that shows in `condition` whether it can do its work.
    pub fn new(queue: Q, handler: H, settings: Settings, condition: watch::Sender<Condition>) -> Self {
        Self { queue, handler, settings, condition, newer_releases: std::sync::Mutex::default() }
    }

    /// Consumes until `stop`, then finishes the batches and receives in flight within [`Settings::drain`]. Unfinished
    /// messages come back to another consumer.
    pub async fn run(self, stop: CancellationToken) {
        let (drain, label) = (self.settings.drain, self.label());
        let this = Arc::new(self);
        let mut batches = JoinSet::new();
        let all_done = async {
            this.receive_until(&stop, &mut batches).await;
            while let Some(ended) = batches.join_next().await {
                report(label, ended);
            }
        };
        let out_of_time = async {
            stop.cancelled().await;
            sleep(drain).await;
        };
        tokio::select! {
            // A fixed order, here and elsewhere, makes simulations repeatable.
            biased;
            () = all_done => {}
            // Unfinished messages come back to another consumer.
            () = out_of_time => tracing::debug!(projection = label, "work was left unfinished at the end"),
            never = this.show_depth() => match never {},
        }
    }

    fn label(&self) -> &'static str {
        self.handler.label()
    }

    async fn show_depth(&self) -> Infallible {
        loop {
            match self.queue.depth().await {
                Ok(depth) => metrics::depth(self.label(), depth),
                Err(error) => self.queue_failed("depth", &error),
            }
            sleep(DEPTH_INTERVAL).await;
        }
    }

    async fn receive_until(self: &Arc<Self>, stop: &CancellationToken, batches: &mut JoinSet<()>) {
        let free = Arc::new(Semaphore::new(room(self.settings)));
        let mut receiving = FuturesUnordered::new();
        // How many receives run at a time.
        let mut wanted = 1;
        let (mut failures, mut resume) = (0, None);
        let mut throttle = FailureLogThrottle::default();
        // The queue's rules were read, so it can be used. The first receive may wait long for its answer.
        self.can_receive(true);
        loop {
            let may_begin = !stop.is_cancelled() && receiving.len() < wanted;
            let begin = async {
                if let Some(resume) = resume {
                    sleep_until(resume).await;
                }
                Arc::clone(&free).acquire_many_owned(MAX_MESSAGES).await
            };
            tokio::select! {
                biased;
                // The stop does not cancel a receive: the queue may be about to hand messages out, and would hide them
                // in vain.
                () = stop.cancelled(), if may_begin => {}
                Ok(permit) = begin, if may_begin => {
                    receiving.push(async { (permit, self.queue.receive().await) });
                }
                Some((mut permit, received)) = receiving.next() => match received {
                    Ok(messages) => {
                        (failures, resume) = (0, None);
                        throttle.succeeded();
                        self.can_receive(true);
                        wanted = receives(wanted, messages.len());
                        keep(&mut permit, messages.len());
                        if !messages.is_empty() {
                            let (this, stop) = (Arc::clone(self), stop.clone());
                            batches.spawn(async move { this.work(messages, permit, &stop).await });
                        }
                    }
                    Err(error) => {
                        (failures, wanted) = (failures + 1, 1);
                        self.can_receive(false);
                        self.queue_failed("receive", &error);
                        if let Some(lasted) = throttle.failed() {
                            tracing::warn!(projection = self.label(), %error, ?lasted, "nothing can be received");
                        }
                        resume = Some(Instant::now() + AWS_BACKOFF.after(failures, (self.settings.jitter)()));
                    }
                },
                else => return,
            }
            while let Some(ended) = batches.try_join_next() {
                report(self.label(), ended);
            }
        }
    }

    /// Works on a batch until no message of it is left here.
    async fn work(&self, messages: Vec<Message>, permit: OwnedSemaphorePermit, stop: &CancellationToken) {
        let hidden: Hidden =
            messages.iter().map(|message| (message.receipt.clone(), self.cover(message))).collect();
        let longer: Hidden =
            hidden.iter().filter(|(_, time)| *time > self.queue.rules().visibility).cloned().collect();
        self.hide(&longer).await;
        let hidden = Mutex::new(hidden);
        tokio::select! {
            biased;
            () = self.settle_all(messages, permit, &hidden, stop) => {}
            never = self.keep_hidden(&hidden) => match never {},
        }
    }

    async fn settle_all(
        &self,
        mut messages: Vec<Message>,
        mut permit: OwnedSemaphorePermit,
        hidden: &Mutex<Hidden>,
        stop: &CancellationToken,
    ) {
        let mut rounds = 0;
        let mut held_up = None;
        let mut throttle = FailureLogThrottle::default();
        loop {
            let outcomes = self.handler.handle(&messages).await;
            let mut sorted = Sorted::default();
            for (message, outcome) in messages.into_iter().zip(outcomes) {
                self.settle(message, outcome, &mut sorted).await;
            }
            // Waits for a running heartbeat, so that none undoes the decisions made here.
            let kept = sorted.kept.iter().map(|message| (message.receipt.clone(), self.cover(message)));
            *hidden.lock().await = kept.collect();
            self.delete(sorted.done).await;
            self.hide(&sorted.later).await;
            keep(&mut permit, sorted.kept.len());
            if let Some(reason) = sorted.newer_release {
                self.log_newer_release(reason);
            }
            if sorted.kept.is_empty() {
                return;
            }
            if let Some(lasted) = throttle.failed() {
                let (messages, reason) = (sorted.kept.len(), sorted.reason);
                tracing::warn!(projection = self.label(), messages, reason, ?lasted, "messages are held up");
            }
            messages = sorted.kept;
            rounds += 1;
            held_up = match (sorted.outage, held_up.take()) {
                (false, _) => None,
                (true, None) => Some(HeldUp::new(&self.condition)),
                (true, already) => already,
            };
            let pause = AWS_BACKOFF.after(rounds, (self.settings.jitter)());
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                hidden.lock().await.clear();
                let later =
                    |message: &Message| (message.receipt.clone(), self.pause(message, MESSAGE_BACKOFF));
                return self.hide(&messages.iter().map(later).collect::<Vec<_>>()).await;
            }
        }
    }

    /// Decides where a message goes.
    async fn settle(&self, message: Message, outcome: Result<(), MessageError>, sorted: &mut Sorted) {
        let Err(error) = outcome else { return sorted.done.push(message.receipt) };
        let (reason, origin) = (error.cause.reason(), error.cause.origin());
        count_reason(FAILURES, self.label(), reason);
        let (again, backoff) = match origin {
            Origin::Outage => {
                self.log_failure(&message, &error);
                sorted.outage = true;
                sorted.reason = Some(reason);
                return sorted.kept.push(message);
            }
            Origin::Message => (message.attempts < self.settings.max_attempts, MESSAGE_BACKOFF),
            Origin::Load | Origin::Release => (message.waited < self.settings.max_wait, self.wait_backoff()),
        };
        if origin == Origin::Release {
            sorted.newer_release = Some(reason);
        }
        // The message is given up with a reason before the queue moves it without one.
        if again && message.attempts < self.queue.rules().max_receives {
            self.log_failure(&message, &error);
            sorted.later.push((message.receipt.clone(), self.pause(&message, backoff)));
        } else {
            let cause = Cause {
                reason: error.cause.to_string(),
                projection: self.handler.name(),
                trace_parent: error.event.as_ref().and_then(|event| event.trace_parent),
            };
            match self.queue.dead_letter(&message, &cause).await {
                Ok(()) => {
                    self.log_dead_letter(&message, &error);
                    traced::given_up(self.label(), &message, &error);
                    count_reason(DEAD_LETTERS, self.label(), reason);
                    sorted.done.push(message.receipt);
                }
                Err(error) => {
                    self.queue_failed("dead_letter", &error);
                    sorted.reason = Some("dead_letter");
                    match error {
                        AwsError::Throttled(_) => sorted.kept.push(message),
                        AwsError::Unreachable(_) => {
                            sorted.outage = true;
                            sorted.kept.push(message);
                        }
                        // The queue's own redrive moves the message later, without the reason.
                        AwsError::Refused(_) | AwsError::InvalidResponse(_) => {
                            sorted.later.push((message.receipt.clone(), self.pause(&message, backoff)));
                        }
                    }
                }
            }
        }
    }

    /// Hides messages anew at a third of the visibility time.
    async fn keep_hidden(&self, hidden: &Mutex<Hidden>) -> Infallible {
        loop {
            sleep(self.queue.rules().visibility / 3).await;
            let hidden = hidden.lock().await;
            self.hide(&hidden).await;
        }
    }

    /// How long a message is hidden while it is worked on. A message that was delivered many times may kill its
    /// receiver, so it comes back later each time.
    fn cover(&self, message: &Message) -> Duration {
        let visibility = self.queue.rules().visibility;
        if message.attempts <= self.settings.max_attempts {
            return visibility;
        }
        self.pause(message, self.wait_backoff()).max(visibility)
    }

    async fn hide(&self, receipts: &[(ReceiptHandle, Duration)]) {
        if receipts.is_empty() {
            return;
        }
        for error in self.queue.hide(receipts).await.iter().filter_map(|result| result.as_ref().err()) {
            self.queue_failed("hide", error);
        }
    }

    async fn delete(&self, mut receipts: Vec<ReceiptHandle>) {
        for attempt in 1..=DELETIONS {
            if receipts.is_empty() {
                return;
            }
            let results = self.queue.delete(&receipts).await;
            let mut left = Vec::new();
            for (receipt, result) in receipts.into_iter().zip(results) {
                let Err(error) = result else { continue };
                self.queue_failed("delete", &error);
                if !matches!(error, AwsError::Refused(_)) {
                    left.push(receipt);
                }
            }
            receipts = left;
            if !receipts.is_empty() && attempt < DELETIONS {
                sleep(AWS_BACKOFF.after(attempt, (self.settings.jitter)())).await;
            }
        }
    }

    fn pause(&self, message: &Message, backoff: Backoff) -> Duration {
        backoff.after(message.attempts, (self.settings.jitter)())
    }

    /// The pauses between attempts at a waiting message. The longest follows from the deliveries that the queue allows:
    /// each pause lasts at least half of it, so four fifths of the deliveries last for the whole wait.
    fn wait_backoff(&self) -> Backoff {
        let longest = self.settings.max_wait * 5 / 2 / self.queue.rules().max_receives.max(1);
        Backoff { first: FIRST_PAUSE, longest: longest.clamp(SHORTEST_LONGEST_PAUSE, MAX_VISIBILITY) }
    }

    fn can_receive(&self, receives: bool) {
        self.condition.send_if_modified(|condition| {
            let before = std::mem::replace(&mut condition.receives, receives);
            before != receives
        });
    }

    fn queue_failed(&self, call: &'static str, error: &AwsError) {
        count_queue_error(self.label(), call);
        tracing::debug!(projection = self.label(), call, %error, "a call to the queue failed");
    }

    /// WARN, because a rollout ends this by itself, and otherwise a person has to begin one.
    fn log_newer_release(&self, reason: &'static str) {
        let mut throttle = self.newer_releases.lock().unwrap_or_else(PoisonError::into_inner);
        if throttle.failed().is_some() {
            tracing::warn!(projection = self.label(), reason, "events wait for a newer release");
        }
    }

    /// DEBUG, because the message is tried again and nobody need act yet.
    fn log_failure(&self, message: &Message, error: &MessageError) {
        log_message!(Level::DEBUG, self.label(), message, error, "a message was not applied");
    }

    /// ERROR, because a person has to find the cause and redrive the message.
    fn log_dead_letter(&self, message: &Message, error: &MessageError) {
        log_message!(
            Level::ERROR,
            self.label(),
            message,
            error,
            "a message is given up, and is a dead letter now"
        );
    }
}

/// Messages being worked on, and how long each is hidden at a time.
type Hidden = Vec<(ReceiptHandle, Duration)>;

/// The messages of a batch, by their next step.
#[derive(Default)]
struct Sorted {
    /// To be deleted.
    done: Vec<ReceiptHandle>,
    /// To go back to the queue, hidden for this time.
    later: Vec<(ReceiptHandle, Duration)>,
    /// To be tried again here.
    kept: Vec<Message>,
    /// Whether a kept message failed because AWS could not be used.
    outage: bool,
    /// The reason of the last kept message's failure, in a word.
    reason: Option<&'static str>,
    /// The same for the last message that waits for a newer release.
    newer_release: Option<&'static str>,
}

/// Counts a batch as held up for as long as this value lives.
struct HeldUp<'a>(&'a watch::Sender<Condition>);

impl<'a> HeldUp<'a> {
    fn new(condition: &'a watch::Sender<Condition>) -> Self {
        condition.send_modify(|condition| condition.held_up += 1);
        Self(condition)
    }
}

impl Drop for HeldUp<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|condition| condition.held_up -= 1);
    }
}

/// How many receives run at a time after one brought this number of messages. Only a full batch shows that more wait:
/// several receives on a slow queue would each cost a request for few messages.
fn receives(now: usize, brought: usize) -> usize {
    match brought {
        0 => 1,
        1..5 => now.saturating_sub(1).max(1),
        5..10 => now,
        10.. => (now + 1).min(RECEIVES),
    }
}

fn room(settings: Settings) -> usize {
    usize::try_from(settings.messages_at_once.max(MAX_MESSAGES)).unwrap_or(usize::MAX)
}

/// Releases the room beyond this number of messages.
fn keep(permit: &mut OwnedSemaphorePermit, messages: usize) {
    drop(permit.split(permit.num_permits().saturating_sub(messages)));
}

fn report(projection: &'static str, ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        // The batch's messages come back when their visibility time ends.
        tracing::error!(projection, %error, "the work on a batch broke off");
    }
}
