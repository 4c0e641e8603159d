//! The loop: receiving, hiding, deleting, trying again, ending.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use millrace_aws::AwsError;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::world::{RULES, eventually};
use crate::{
    ApplyError, Condition, Consumer, Handle, MessageError, Settings,
    queue::{Cause, Depth, MemoryQueue, Message, Queue, ReceiptHandle, Rules, WAIT},
};

pub(super) const SETTINGS: Settings = Settings {
    messages_at_once: 100,
    max_attempts: 5,
    max_wait: Duration::from_secs(4 * 24 * 60 * 60),
    drain: Duration::from_secs(15),
    jitter: || 1.0,
};

type Outcomes = Vec<Result<(), MessageError>>;

/// A handler that runs a test's function.
#[derive(Clone)]
struct Script(Arc<dyn Fn(Vec<Message>) -> BoxFuture<'static, Outcomes> + Send + Sync>);

impl Script {
    fn new<F>(work: impl Fn(Vec<Message>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Outcomes> + Send + 'static,
    {
        Self(Arc::new(move |messages| work(messages).boxed()))
    }
}

impl Handle for Script {
    fn label(&self) -> &'static str {
        "script"
    }

    async fn handle(&self, messages: &[Message]) -> Outcomes {
        (self.0)(messages.to_vec()).await
    }
}

/// A queue that fails some calls while a test says so.
#[derive(Clone)]
struct Unreliable {
    queue: MemoryQueue,
    failing: Arc<Mutex<Vec<&'static str>>>,
    failed: Arc<AtomicU32>,
}

impl Unreliable {
    fn new(queue: MemoryQueue, failing: &[&'static str]) -> Self {
        Self { queue, failing: Arc::new(Mutex::new(failing.to_vec())), failed: Arc::default() }
    }

    fn recover(&self) {
        self.failing.lock().unwrap().clear();
    }

    fn check(&self, call: &str) -> Result<(), AwsError> {
        if self.failing.lock().unwrap().contains(&call) {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return Err(AwsError::Unreachable("a test says so".to_owned()));
        }
        Ok(())
    }
}

impl Queue for Unreliable {
    fn rules(&self) -> Rules {
        self.queue.rules()
    }

    async fn receive(&self) -> Result<Vec<Message>, AwsError> {
        self.check("receive")?;
        self.queue.receive().await
    }

    async fn delete(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), AwsError>> {
        match self.check("delete") {
            Ok(()) => self.queue.delete(receipts).await,
            // The first of a batch fails.
            Err(error) => {
                let mut results = vec![Err(error)];
                results.extend(self.queue.delete(&receipts[1..]).await);
                results
            }
        }
    }

    async fn hide(&self, receipts: &[(ReceiptHandle, Duration)]) -> Vec<Result<(), AwsError>> {
        match self.check("hide") {
            Ok(()) => self.queue.hide(receipts).await,
            Err(error) => vec![Err(error); receipts.len()],
        }
    }

    async fn depth(&self) -> Result<Depth, AwsError> {
        self.check("depth")?;
        self.queue.depth().await
    }

    async fn dead_letter(&self, message: &Message, cause: &Cause) -> Result<(), AwsError> {
        self.check("dead_letter")?;
        self.queue.dead_letter(message, cause).await
    }
}

/// A consumer at work.
struct Running {
    stop: CancellationToken,
    condition: watch::Receiver<Condition>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(queue: impl Queue, handler: Script, settings: Settings) -> Self {
        let stop = CancellationToken::new();
        let (condition, observer) = watch::channel(Condition::default());
        let task = tokio::spawn(Consumer::new(queue, handler, settings, condition).run(stop.clone()));
        Self { stop, condition: observer, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn queue_with(messages: u32) -> MemoryQueue {
    let queue = MemoryQueue::new(RULES);
    (0..messages).for_each(|n| drop(queue.send(n.to_string())));
    queue
}

fn done(messages: &[Message]) -> Outcomes {
    vec![Ok(()); messages.len()]
}

fn all_fail(messages: &[Message], error: &ApplyError) -> Outcomes {
    vec![Err(MessageError::from(error.clone())); messages.len()]
}

fn unreachable() -> ApplyError {
    AwsError::Unreachable("a test says so".to_owned()).into()
}

#[tokio::test(start_paused = true)]
async fn a_failed_message_is_tried_again_after_longer_and_longer_and_then_given_up() {
    let queue = queue_with(1);
    let started = Instant::now();
    let times: Arc<Mutex<Vec<u64>>> = Arc::default();
    let seen = Arc::clone(&times);
    let handler = Script::new(move |messages| {
        seen.lock().unwrap().push(started.elapsed().as_secs());
        async move { all_fail(&messages, &ApplyError::NotStored) }
    });
    let running = Running::start(queue.clone(), handler, SETTINGS);
    eventually(|| queue.is_empty()).await;
    assert_eq!(*times.lock().unwrap(), [0, 1, 3, 7, 15]);
    let letters = queue.dead_letters();
    assert_eq!(letters[0].cause.as_ref().unwrap().reason, ApplyError::NotStored.to_string());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_stays_hidden_as_long_as_it_is_worked_on() {
    let queue = queue_with(3);
    let handled = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&handled);
    let handler = Script::new(move |messages| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            sleep(RULES.visibility * 20).await;
            done(&messages)
        }
    });
    let running = Running::start(queue.clone(), handler, SETTINGS);
    eventually(|| queue.is_empty()).await;
    assert_eq!(handled.load(Ordering::Relaxed), 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_messages_are_held_than_there_is_room_for() {
    let queue = queue_with(200);
    let handler = Script::new(|messages: Vec<Message>| async move {
        sleep(Duration::from_secs(60)).await;
        done(&messages)
    });
    let running = Running::start(queue.clone(), handler, Settings { messages_at_once: 30, ..SETTINGS });
    sleep(Duration::from_secs(30)).await;
    assert_eq!(queue.hidden().len(), 30);
    eventually(|| queue.is_empty()).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_told_to_stop_finishes_what_is_in_flight_and_takes_nothing_more() {
    let queue = queue_with(10);
    let handler = Script::new(|messages: Vec<Message>| async move {
        sleep(Duration::from_secs(10)).await;
        done(&messages)
    });
    let running = Running::start(queue.clone(), handler, SETTINGS);
    eventually(|| queue.hidden().len() == 10).await;
    running.stop.cancel();
    let stopped = Instant::now();
    sleep(Duration::from_secs(1)).await;
    queue.send("to the receiving that is still open");
    sleep(WAIT).await;
    queue.send("too late");
    running.task.await.unwrap();
    assert!(stopped.elapsed() <= Duration::from_secs(12));
    assert_eq!(queue.len(), 1, "all but the late one");
    assert!(queue.hidden().is_empty(), "the late one was not received");
}

#[tokio::test(start_paused = true)]
async fn an_idle_consumer_stops_when_its_receiving_has_ended() {
    let running =
        Running::start(queue_with(0), Script::new(|messages| async move { done(&messages) }), SETTINGS);
    sleep(Duration::from_secs(4)).await;
    let stopped = Instant::now();
    running.stop().await;
    assert_eq!(stopped.elapsed(), WAIT - Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn work_that_never_ends_does_not_keep_a_consumer_from_stopping() {
    let queue = queue_with(1);
    let running = Running::start(queue.clone(), Script::new(|_| std::future::pending()), SETTINGS);
    eventually(|| queue.hidden().len() == 1).await;
    let stopped = Instant::now();
    running.stop().await;
    assert_eq!(stopped.elapsed(), SETTINGS.drain);
    assert_eq!(queue.len(), 1, "the message is another consumer's to do");
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_held_up_go_back_at_the_stop() {
    let queue = queue_with(10);
    let handler = Script::new(|messages: Vec<Message>| async move { all_fail(&messages, &unreachable()) });
    let running = Running::start(queue.clone(), handler, SETTINGS);
    sleep(Duration::from_secs(3600)).await;
    let condition = running.condition.clone();
    assert!(condition.borrow().check().is_err());
    let stopped = Instant::now();
    running.stop().await;
    assert!(stopped.elapsed() <= WAIT);
    assert!(queue.hidden().iter().all(|(_, time)| *time <= Duration::from_secs(1)), "soon to be another's");
    assert_eq!(queue.len(), 10);
    let taken = queue.receive().await.unwrap();
    assert!(taken.iter().all(|message| message.attempts == 2), "an hour of trying counted once");
}

#[tokio::test(start_paused = true)]
async fn a_queue_out_of_reach_is_tried_ever_less_often_until_it_is_back() {
    let queue = Unreliable::new(queue_with(20), &["receive"]);
    let handler = Script::new(|messages| async move { done(&messages) });
    let running = Running::start(queue.clone(), handler, SETTINGS);
    sleep(Duration::from_secs(3600)).await;
    assert!(running.condition.borrow().check().is_err());
    let tries = queue.failed.load(Ordering::Relaxed);
    assert!((180..200).contains(&tries), "at most every 20 seconds: {tries}");
    queue.recover();
    eventually(|| queue.queue.is_empty()).await;
    assert!(running.condition.borrow().check().is_ok());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_fails_is_tried_again_for_that_message_alone() {
    let queue = Unreliable::new(queue_with(3), &["delete"]);
    let handled = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&handled);
    let handler = Script::new(move |messages: Vec<Message>| {
        count.fetch_add(u32::try_from(messages.len()).unwrap(), Ordering::Relaxed);
        async move { done(&messages) }
    });
    let running = Running::start(queue.clone(), handler, SETTINGS);
    eventually(|| queue.queue.len() == 1).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(queue.failed.load(Ordering::Relaxed), 3, "and then it is left to come again");
    queue.recover();
    eventually(|| queue.queue.is_empty()).await;
    assert_eq!(handled.load(Ordering::Relaxed), 4, "one came twice");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_cannot_be_sent_is_kept_until_it_can() {
    let queue = Unreliable::new(queue_with(1), &["dead_letter"]);
    let handler =
        Script::new(|messages: Vec<Message>| async move { all_fail(&messages, &ApplyError::NotJson) });
    let running = Running::start(queue.clone(), handler, SETTINGS);
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(queue.queue.len(), 1);
    assert!(queue.queue.dead_letters().is_empty());
    queue.recover();
    eventually(|| queue.queue.is_empty()).await;
    let letters = queue.queue.dead_letters();
    assert_eq!(letters.len(), 1);
    assert!(letters[0].cause.is_some(), "with its reason, not by the queue's own redrive");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_takes_no_other_batch_with_it() {
    let queue = MemoryQueue::new(Rules { max_receives: 5, ..RULES });
    queue.send("0");
    let handler = Script::new(|messages: Vec<Message>| async move {
        assert!(messages.iter().all(|message| message.body != "0"), "the test says so");
        done(&messages)
    });
    let running = Running::start(queue.clone(), handler, SETTINGS);
    eventually(|| queue.hidden().len() == 1).await;
    (1..50).for_each(|n| drop(queue.send(n.to_string())));
    eventually(|| queue.len() == 1).await;
    eventually(|| queue.is_empty()).await;
    assert!(queue.dead_letters()[0].cause.is_none(), "moved by the queue itself in the end");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_is_given_up_with_its_reason_before_the_queue_would_move_it() {
    let queue = MemoryQueue::new(Rules { max_receives: 2, ..RULES });
    queue.send("0".to_owned());
    let handled = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&handled);
    let handler = Script::new(move |messages: Vec<Message>| {
        count.fetch_add(1, Ordering::Relaxed);
        async move { all_fail(&messages, &ApplyError::NotJson) }
    });
    let running = Running::start(queue.clone(), handler, SETTINGS);
    eventually(|| queue.is_empty()).await;
    assert!(queue.dead_letters()[0].cause.is_some(), "not by the queue's own redrive, which knows no reason");
    assert_eq!(
        handled.load(Ordering::Relaxed),
        2,
        "of the {} attempts that the settings allow",
        SETTINGS.max_attempts
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_done_makes_room_while_the_rest_of_its_batch_is_held_up() {
    let queue = queue_with(300);
    // One message of each batch cannot be applied for now.
    let handler = Script::new(|messages: Vec<Message>| async move {
        messages
            .iter()
            .map(|message| {
                if message.body.ends_with('0') {
                    all_fail(std::slice::from_ref(message), &unreachable()).remove(0)
                } else {
                    Ok(())
                }
            })
            .collect()
    });
    let running = Running::start(queue.clone(), handler, SETTINGS);
    eventually(|| queue.len() == 30).await;
    running.stop().await;
}
