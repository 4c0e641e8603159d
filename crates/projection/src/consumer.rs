//! The loop around a handler: receiving, keeping messages hidden while they are worked on, deleting them, trying again,
//! giving up.
//!
//! SQS counts how often it hands a message out, and that count decides when the message is given up. So a message whose
//! failure is its own goes back to the queue, hidden for longer each time, and at the last attempt to the dead letters.
//! A message that only the surroundings stop, such as AWS being out of reach, is not handed back at all: it stays here,
//! hidden, and is tried again until it succeeds or the process ends. Since only so many messages are held at a time,
//! receiving comes to rest by itself in an outage, and the messages that are still in the queue are not counted.

use std::{convert::Infallible, sync::Arc, time::Duration};

use millrace_aws::AwsError;
use millrace_core::Backoff;
use millrace_server::{FailureLogThrottle, TraceParent};
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinError, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::Level;

use crate::{
    Handle, MessageError,
    metrics::{self, DEAD_LETTERS, FAILURES, count_queue_error, count_reason},
    queue::{Cause, MAX_MESSAGES, Message, Queue, ReceiptHandle},
    traced,
};

/// A line about a message that failed, with all that leads to it and nothing of what it says. A macro, since a level is
/// part of where a line stands.
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

/// Between the attempts at a message that fails by its own fault.
const MESSAGE_BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(60) };

/// Between attempts that AWS fails.
const AWS_BACKOFF: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(20) };

/// How far apart the messages of the queue are counted.
const DEPTH_INTERVAL: Duration = Duration::from_secs(15);

/// How often a deletion is tried. What is left comes again and is dropped as a duplicate.
const DELETIONS: u32 = 3;

/// How a consumer works.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How many messages are held at a time: at least [`MAX_MESSAGES`].
    pub messages_at_once: u32,
    /// How often a message that fails by its own fault is tried before it is given up; less often where the queue itself
    /// would move it sooner. Deliveries count, also those that ended with their receiver.
    pub max_attempts: u32,
    /// How long what is in flight may take once the consumer is told to stop.
    pub drain: Duration,
    /// A random number from 0 to 1, to spread attempts.
    pub jitter: fn() -> f64,
}

/// Whether a consumer can do its work. At first it cannot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Condition {
    /// Whether the queue can be used, by the last that is known of it.
    pub receives: bool,
    /// How many batches hold messages that an outage stops.
    pub held_up: usize,
}

impl Condition {
    /// What is in its way, if anything is.
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
}

impl<Q: Queue, H: Handle> Consumer<Q, H> {
    /// A consumer that shows in `condition` whether it can do its work.
    pub fn new(queue: Q, handler: H, settings: Settings, condition: watch::Sender<Condition>) -> Self {
        Self { queue, handler, settings, condition }
    }

    /// Consumes until `stop`, then ends what is in flight within the settings' time: batches, and the receiving, which
    /// brings what it brings. Messages that are not done by then come back to another consumer.
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
            // In this order, here and elsewhere, so that a simulation takes the same course each time.
            biased;
            () = all_done => {}
            // It comes back to another consumer.
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
        let mut failures = 0;
        let mut throttle = FailureLogThrottle::default();
        // The queue has told its rules, so it can be used; the first receiving may wait long for its answer.
        self.can_receive(true);
        while let Some(Ok(mut permit)) =
            stop.run_until_cancelled(Arc::clone(&free).acquire_many_owned(MAX_MESSAGES)).await
        {
            // Not cut off by the stop: the queue may be about to hand messages out, and would hide them for nobody.
            match self.queue.receive().await {
                Ok(messages) => {
                    failures = 0;
                    throttle.succeeded();
                    self.can_receive(true);
                    keep(&mut permit, messages.len());
                    if !messages.is_empty() {
                        let (this, stop) = (Arc::clone(self), stop.clone());
                        batches.spawn(async move { this.work(messages, permit, &stop).await });
                    }
                }
                Err(error) => {
                    drop(permit);
                    failures += 1;
                    self.can_receive(false);
                    self.queue_failed("receive", &error);
                    if let Some(lasted) = throttle.failed() {
                        tracing::warn!(projection = self.label(), %error, ?lasted, "nothing can be received");
                    }
                    let pause = AWS_BACKOFF.after(failures, (self.settings.jitter)());
                    stop.run_until_cancelled(sleep(pause)).await;
                }
            }
            while let Some(ended) = batches.try_join_next() {
                report(self.label(), ended);
            }
        }
    }

    /// Works on a batch until no message of it is left here.
    async fn work(&self, messages: Vec<Message>, permit: OwnedSemaphorePermit, stop: &CancellationToken) {
        let hidden = Mutex::new(messages.iter().map(|message| message.receipt.clone()).collect());
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
        hidden: &Mutex<Vec<ReceiptHandle>>,
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
            // Held while nothing is being hidden, so that no late heartbeat undoes what is decided here.
            *hidden.lock().await = sorted.kept.iter().map(|message| message.receipt.clone()).collect();
            self.delete(sorted.done).await;
            self.hide(&sorted.later).await;
            keep(&mut permit, sorted.kept.len());
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
                let later = |message: &Message| (message.receipt.clone(), self.message_backoff(message));
                return self.hide(&messages.iter().map(later).collect::<Vec<_>>()).await;
            }
        }
    }

    /// Decides where a message goes.
    async fn settle(&self, message: Message, outcome: Result<(), MessageError>, sorted: &mut Sorted) {
        let Err(error) = outcome else { return sorted.done.push(message.receipt) };
        let reason = error.cause.reason();
        count_reason(FAILURES, self.label(), reason);
        if error.cause.is_of_the_surroundings() {
            self.log_failure(&message, &error);
            sorted.outage |= error.cause.is_an_outage();
            sorted.reason = Some(reason);
            sorted.kept.push(message);
        } else if message.attempts < self.settings.max_attempts.min(self.queue.rules().max_receives) {
            self.log_failure(&message, &error);
            sorted.later.push((message.receipt.clone(), self.message_backoff(&message)));
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
                        // The queue's own redrive takes it the next time, if without the reason.
                        AwsError::Refused(_) | AwsError::InvalidResponse(_) => {
                            sorted.later.push((message.receipt.clone(), self.message_backoff(&message)));
                        }
                    }
                }
            }
        }
    }

    /// Hides messages anew, again and again, long before they would be seen.
    async fn keep_hidden(&self, hidden: &Mutex<Vec<ReceiptHandle>>) -> Infallible {
        let visibility = self.queue.rules().visibility;
        loop {
            sleep(visibility / 3).await;
            let receipts = hidden.lock().await;
            let again: Vec<_> = receipts.iter().map(|receipt| (receipt.clone(), visibility)).collect();
            self.hide(&again).await;
        }
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

    fn message_backoff(&self, message: &Message) -> Duration {
        MESSAGE_BACKOFF.after(message.attempts, (self.settings.jitter)())
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

    /// It will be tried again, so nobody need act yet.
    fn log_failure(&self, message: &Message, error: &MessageError) {
        log_message!(Level::DEBUG, self.label(), message, error, "a message was not applied");
    }

    /// Somebody has to find out why, and to send it back.
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

/// Where the messages of a batch go.
#[derive(Default)]
struct Sorted {
    /// To be deleted.
    done: Vec<ReceiptHandle>,
    /// Back to the queue, hidden for so long.
    later: Vec<(ReceiptHandle, Duration)>,
    /// To be tried again here.
    kept: Vec<Message>,
    /// Whether some of those that are kept failed because AWS could not be used.
    outage: bool,
    /// Why the last one that is kept failed, in a word.
    reason: Option<&'static str>,
}

/// A batch that an outage holds up, for as long as this lives.
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

/// How many messages there is room for.
fn room(settings: Settings) -> usize {
    usize::try_from(settings.messages_at_once.max(MAX_MESSAGES)).unwrap_or(usize::MAX)
}

/// Gives back the room that so many messages do not take.
fn keep(permit: &mut OwnedSemaphorePermit, messages: usize) {
    drop(permit.split(permit.num_permits().saturating_sub(messages)));
}

fn report(projection: &'static str, ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        // Its messages come back when their time is up.
        tracing::error!(projection, %error, "the work on a batch broke off");
    }
}
