//! Queues in memory: for tests, with SQS's habits. Time is tokio's, so that a test can pause it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use millrace_aws::AwsError;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{Cause, Depth, MAX_MESSAGES, Message, Queue, ReceiptHandle, Rules};

/// How long a receiver waits for a message.
pub const WAIT: Duration = Duration::from_secs(5);

/// A queue in memory. Clones share the messages.
#[derive(Clone)]
pub struct MemoryQueue {
    rules: Rules,
    state: Arc<Mutex<State>>,
    sent: Arc<Notify>,
}

#[derive(Default)]
struct State {
    waiting: Vec<Waiting>,
    dead: Vec<DeadLetter>,
    calls: Calls,
    last_id: u64,
}

/// A message that waits, seen or not.
struct Waiting {
    id: u64,
    body: String,
    attempts: u32,
    first_received: Option<Instant>,
    visible_at: Instant,
}

/// A dead letter.
#[derive(Clone)]
pub struct DeadLetter {
    /// The message as it was received last.
    pub message: Message,
    /// The reason; `None` where the queue itself moved the message, after too many attempts.
    pub cause: Option<Cause>,
    /// When the message became a dead letter.
    pub since: Instant,
}

/// How often a queue was called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    /// Receive calls, with or without messages.
    pub receive: u64,
    /// Delete calls.
    pub delete: u64,
    /// Hide calls.
    pub hide: u64,
    /// Calls that sent dead letters.
    pub dead_letter: u64,
}

impl MemoryQueue {
    /// An empty queue.
    pub fn new(rules: Rules) -> Self {
        Self { rules, state: Arc::default(), sent: Arc::default() }
    }

    /// Puts a message into the queue and returns its id.
    pub fn send(&self, body: impl Into<String>) -> String {
        let mut state = self.state();
        state.last_id += 1;
        let id = state.last_id;
        state.waiting.push(Waiting {
            id,
            body: body.into(),
            attempts: 0,
            first_received: None,
            visible_at: Instant::now(),
        });
        self.sent.notify_waiters();
        id.to_string()
    }

    /// How many messages there are, hidden ones included.
    pub fn len(&self) -> usize {
        self.state().waiting.len()
    }

    /// Whether there are no messages.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For each message that is hidden, by its id, how long it stays so.
    pub fn hidden(&self) -> Vec<(String, Duration)> {
        let now = Instant::now();
        let state = self.state();
        let hidden = state.waiting.iter().filter(|message| message.visible_at > now);
        hidden.map(|message| (message.id.to_string(), message.visible_at - now)).collect()
    }

    /// The dead letters.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.state().dead.clone()
    }

    /// How often the queue was called.
    pub fn calls(&self) -> Calls {
        self.state().calls
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Receives the visible messages.
    fn take(&mut self, rules: Rules) -> Vec<Message> {
        let now = Instant::now();
        let mut taken = Vec::new();
        let mut dead = Vec::new();
        for message in self.waiting.iter_mut().filter(|message| message.visible_at <= now) {
            if u32::try_from(taken.len()).is_ok_and(|taken| taken >= MAX_MESSAGES) {
                break;
            }
            if message.attempts >= rules.max_receives {
                dead.push(message.id);
            } else {
                message.attempts += 1;
                message.first_received.get_or_insert(now);
                message.visible_at = now + rules.visibility;
                taken.push(message.received());
            }
        }
        if !dead.is_empty() {
            let moved = self.waiting.extract_if(.., |message| dead.contains(&message.id));
            let letter =
                |message: Waiting| DeadLetter { message: message.received(), cause: None, since: now };
            self.dead.extend(moved.map(letter));
        }
        taken
    }

    /// The index of the message, if the receipt is its newest.
    fn find(&self, receipt: &ReceiptHandle) -> Option<usize> {
        let (id, _) = receipt.0.split_once('/')?;
        let id: u64 = id.parse().ok()?;
        // Messages are sorted by id.
        let place = self.waiting.binary_search_by_key(&id, |message| message.id).ok()?;
        (self.waiting[place].receipt() == *receipt).then_some(place)
    }
}

impl Waiting {
    fn receipt(&self) -> ReceiptHandle {
        ReceiptHandle(format!("{}/{}", self.id, self.attempts).into())
    }

    fn received(&self) -> Message {
        Message {
            id: self.id.to_string(),
            receipt: self.receipt(),
            body: self.body.clone(),
            attempts: self.attempts,
            waited: self.first_received.map_or(Duration::ZERO, |first| first.elapsed()),
        }
    }
}

impl Queue for MemoryQueue {
    fn rules(&self) -> Rules {
        self.rules
    }

    async fn receive(&self) -> Result<Vec<Message>, AwsError> {
        self.state().calls.receive += 1;
        let end = Instant::now() + WAIT;
        loop {
            let sent = self.sent.notified();
            let (taken, next) = {
                let mut state = self.state();
                let taken = state.take(self.rules);
                (taken, state.waiting.iter().map(|message| message.visible_at).min())
            };
            if !taken.is_empty() || Instant::now() >= end {
                return Ok(taken);
            }
            let next = next.unwrap_or(end).min(end);
            tokio::select! {
                biased;
                () = sent => {}
                () = sleep_until(next) => {}
            }
        }
    }

    async fn delete(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), AwsError>> {
        let mut state = self.state();
        state.calls.delete += 1;
        let delete = |receipt| {
            let place = state.find(receipt).ok_or_else(stale)?;
            state.waiting.remove(place);
            Ok(())
        };
        receipts.iter().map(delete).collect()
    }

    async fn hide(&self, receipts: &[(ReceiptHandle, Duration)]) -> Vec<Result<(), AwsError>> {
        let mut state = self.state();
        state.calls.hide += 1;
        let mut sooner = false;
        let hide = |(receipt, time): &(ReceiptHandle, Duration)| {
            let place = state.find(receipt).ok_or_else(stale)?;
            let until = Instant::now() + *time;
            sooner |= std::mem::replace(&mut state.waiting[place].visible_at, until) > until;
            Ok(())
        };
        let results = receipts.iter().map(hide).collect();
        if sooner {
            self.sent.notify_waiters();
        }
        results
    }

    async fn depth(&self) -> Result<Depth, AwsError> {
        let state = self.state();
        let now = Instant::now();
        let hidden = state.waiting.iter().filter(|message| message.visible_at > now).count();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Ok(Depth {
            waiting: count(state.waiting.len() - hidden),
            hidden: count(hidden),
            dead: count(state.dead.len()),
        })
    }

    async fn dead_letter(&self, message: &Message, cause: &Cause) -> Result<(), AwsError> {
        let mut state = self.state();
        state.calls.dead_letter += 1;
        let since = Instant::now();
        state.dead.push(DeadLetter { message: message.clone(), cause: Some(cause.clone()), since });
        Ok(())
    }
}

fn stale() -> AwsError {
    AwsError::Refused("ReceiptHandleIsInvalid".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> MemoryQueue {
        MemoryQueue::new(Rules { visibility: WAIT * 2, max_receives: 2 })
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_comes_back_until_it_is_deleted() {
        let queue = queue();
        queue.send("a");
        let first = queue.receive().await.unwrap().remove(0);
        let started = Instant::now();
        let second = queue.receive().await.unwrap();
        assert!(second.is_empty(), "hidden, and the wait is over");
        let second = queue.receive().await.unwrap().remove(0);
        assert_eq!(started.elapsed(), WAIT * 2);
        assert_eq!((first.attempts, second.attempts), (1, 2));
        assert!(queue.delete(&[first.receipt]).await[0].is_err(), "an older receipt is stale");
        assert!(queue.delete(&[second.receipt]).await[0].is_ok());
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_keeps_coming_back_is_moved_without_a_word() {
        let queue = queue();
        queue.send("a");
        for _ in 0..2 {
            let message = queue.receive().await.unwrap().remove(0);
            queue.hide(&[(message.receipt, Duration::ZERO)]).await;
        }
        assert!(queue.receive().await.unwrap().is_empty());
        assert!(queue.is_empty());
        assert!(queue.dead_letters()[0].cause.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_waits_gets_what_is_sent() {
        let queue = queue();
        let waiting = queue.receive();
        let sending = async {
            tokio::task::yield_now().await;
            queue.send("a")
        };
        let (received, id) = tokio::join!(waiting, sending);
        assert_eq!(received.unwrap()[0].id, id);
    }
}
