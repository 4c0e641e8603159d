//! Dead letters sent back, from queues in memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use millrace_aws::AwsError;
use millrace_core::Timestamp;
use millrace_event_store::MemoryStore;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    consuming::SETTINGS,
    world::{RULES, Watched, body, counter_with, eventually, noon},
};
use crate::{
    Consumer,
    pace::{Halt, Pace},
    queue::{Cause, MemoryQueue, Message, Queue as _, ReceiptHandle},
    redrive::{
        Redrive, Selection, Tally,
        letters::{DeadLetters, HIDDEN, Letter, WAIT},
    },
};

/// The dead letters of a queue in memory, with SQS's habits.
#[derive(Clone)]
struct Post {
    queue: MemoryQueue,
    began: Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// How often each letter was received, by its index among the dead ones, and when it becomes visible: never if it
    /// was deleted.
    letters: HashMap<usize, (u32, Option<Instant>)>,
    /// How many calls succeed before all others fail.
    until_failure: Option<u32>,
    /// Whether the failing call takes effect and only its reply is lost.
    replies_lost: bool,
    sent: Vec<String>,
}

impl Post {
    fn of(queue: &MemoryQueue) -> Self {
        Self { queue: queue.clone(), began: Instant::now(), state: Arc::default() }
    }

    /// The time of the queue.
    fn now(&self, moment: Instant) -> Timestamp {
        let passed = i64::try_from((moment - self.began).as_micros()).unwrap();
        Timestamp::from_unix_micros(noon().unix_micros() + passed)
    }

    /// Runs a call's effect unless it fails first; returns whether it fails.
    fn call<T>(&self, effect: impl FnOnce(&mut State) -> T) -> Result<T, AwsError> {
        let mut state = self.state.lock().unwrap();
        let fails = state.until_failure.is_some_and(|left| left == 0);
        state.until_failure = state.until_failure.map(|left| left.saturating_sub(1));
        let done = (!fails || state.replies_lost).then(|| effect(&mut state));
        done.filter(|_| !fails).ok_or_else(|| AwsError::Refused("it fails".to_owned()))
    }

    /// The bodies of the letters that were not deleted.
    fn left(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let dead = self.queue.dead_letters().into_iter().enumerate();
        let left = dead.filter(|(n, _)| state.letters.get(n).is_none_or(|(_, visible)| visible.is_some()));
        left.map(|(_, letter)| letter.message.body).collect()
    }

    /// How many letters could be received now.
    fn visible(&self) -> usize {
        let (state, now) = (self.state.lock().unwrap(), Instant::now());
        let visible = |n: &usize| {
            state.letters.get(n).is_none_or(|(_, visible)| visible.is_some_and(|visible| visible <= now))
        };
        (0..self.queue.dead_letters().len()).filter(visible).count()
    }

    fn sent(&self) -> Vec<String> {
        self.state.lock().unwrap().sent.clone()
    }

    async fn redrive(&self, selection: &Selection) -> (Tally, Result<(), Halt>) {
        self.redrive_until(selection, &CancellationToken::new()).await
    }

    async fn redrive_until(
        &self,
        selection: &Selection,
        stop: &CancellationToken,
    ) -> (Tally, Result<(), Halt>) {
        let pace = Pace::new(stop.clone(), None, || 0.5);
        let began = self.now(Instant::now());
        redrive(self, selection, began, &pace).await
    }
}

async fn redrive<D: DeadLetters>(
    letters: &D,
    selection: &Selection,
    began: Timestamp,
    pace: &Pace,
) -> (Tally, Result<(), Halt>) {
    let (projection, label) = ("counter-cards", "counter-cards@1");
    Redrive { letters, projection, label, selection, began, pace }.run().await
}

fn place(receipt: &ReceiptHandle) -> (usize, u32) {
    let (place, count) = receipt.0.split_once('/').unwrap();
    (place.parse().unwrap(), count.parse().unwrap())
}

impl DeadLetters for Post {
    async fn receive(&self) -> Result<Vec<Letter>, AwsError> {
        let receive = |state: &mut State| {
            let mut received = Vec::new();
            for (n, letter) in self.queue.dead_letters().into_iter().enumerate() {
                let (count, visible) = state.letters.entry(n).or_insert((0, Some(letter.since)));
                if visible.is_none_or(|visible| visible > Instant::now()) || received.len() == 10 {
                    continue;
                }
                *count += 1;
                *visible = Some(Instant::now() + HIDDEN);
                received.push(Letter {
                    id: n.to_string(),
                    receipt: ReceiptHandle(format!("{n}/{count}").into()),
                    body: letter.message.body,
                    sent_at: Some(self.now(letter.since)),
                    reason: letter.cause.as_ref().map(|cause| cause.reason.clone()),
                    attempts: letter.cause.as_ref().map(|_| letter.message.attempts),
                    projection: letter.cause.map(|cause| cause.projection.to_owned()),
                });
            }
            received
        };
        let received = self.call(receive)?;
        if received.is_empty() {
            sleep(WAIT).await;
        }
        Ok(received)
    }

    async fn send_back(&self, letter: &Letter) -> Result<(), AwsError> {
        self.call(|state| {
            state.sent.push(letter.body.clone());
            self.queue.send(letter.body.clone());
        })
    }

    async fn delete(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), AwsError>> {
        let delete = |receipt| {
            let (place, count) = place(receipt);
            self.call(|state| {
                let letter = state.letters.get_mut(&place).filter(|letter| letter.0 == count);
                letter.map(|letter| letter.1 = None)
            })
            .and_then(|deleted| deleted.ok_or_else(|| AwsError::Refused("stale".to_owned())))
        };
        receipts.iter().map(delete).collect()
    }

    async fn count(&self) -> Result<u64, AwsError> {
        let left = self.left().len();
        self.call(|_| u64::try_from(left).unwrap())
    }

    async fn show(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), AwsError>> {
        let show = |receipt| {
            let (place, _) = place(receipt);
            self.call(|state| state.letters.get_mut(&place).map(|letter| letter.1 = Some(Instant::now())))
                .map(|_| ())
        };
        receipts.iter().map(show).collect()
    }
}

/// Puts letters among the dead ones, each with a reason.
async fn bury(queue: &MemoryQueue, letters: &[(&str, &str)]) {
    for (body, reason) in letters {
        let message = Message {
            id: "m".to_owned(),
            receipt: ReceiptHandle("r".into()),
            body: (*body).to_owned(),
            attempts: 5,
            waited: Duration::ZERO,
        };
        let cause = Cause { reason: (*reason).to_owned(), projection: "counter-cards", trace_parent: None };
        queue.dead_letter(&message, &cause).await.unwrap();
    }
}

fn bodies(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("letter {n:03}")).collect()
}

async fn buried(count: usize) -> Post {
    let queue = MemoryQueue::new(RULES);
    let post = Post::of(&queue);
    for body in bodies(count) {
        bury(&queue, &[(&body, "because")]).await;
    }
    sleep(Duration::from_secs(1)).await;
    post
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}

#[tokio::test(start_paused = true)]
async fn every_letter_is_sent_back_once_and_is_dead_no_more() {
    let post = buried(57).await;
    let (tally, result) = post.redrive(&Selection::default()).await;
    assert!(result.is_ok() && tally.is_done());
    assert_eq!(tally.sent, 57);
    assert_eq!((sorted(post.sent()), post.left()), (bodies(57), vec![]));
}

#[tokio::test(start_paused = true)]
async fn only_so_many_are_sent_and_the_rest_can_be_seen_at_once() {
    let post = buried(57).await;
    let selection = Selection { max: Some(13), ..Selection::default() };
    for round in 1..=4 {
        let (tally, _) = post.redrive(&selection).await;
        assert_eq!((tally.sent, tally.is_done()), (13, true));
        assert_eq!((post.sent().len(), post.left().len()), (13 * round, 57 - 13 * round));
        assert_eq!(post.visible(), 57 - 13 * round);
    }
}

#[tokio::test(start_paused = true)]
async fn only_those_of_a_reason_and_of_the_projection_are_sent() {
    let post = buried(25).await;
    bury(&post.queue, &[("a", "the event type is unknown"), ("b", "the event type is unknown")]).await;
    let message = Message {
        id: "m".into(),
        receipt: ReceiptHandle("r".into()),
        body: "c".into(),
        attempts: 5,
        waited: Duration::ZERO,
    };
    let cause = Cause { reason: "unknown".to_owned(), projection: "group-totals", trace_parent: None };
    post.queue.dead_letter(&message, &cause).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let (tally, _) =
        post.redrive(&Selection { reason: Some("unknown".to_owned()), ..Selection::default() }).await;
    assert_eq!((tally.sent, tally.others, tally.is_done()), (2, 26, true));
    assert_eq!(sorted(post.sent()), ["a", "b"]);
    let (tally, _) = post.redrive(&Selection::default()).await;
    assert_eq!((tally.sent, tally.others), (25, 1), "another projection's letter is never sent here");
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_tells_reasons_and_sends_nothing() {
    let post = buried(25).await;
    bury(&post.queue, &[("a", "say \"no\"\nto it"), ("b", "say \"no\"\nto it")]).await;
    sleep(Duration::from_secs(1)).await;
    let (tally, result) = post.redrive(&Selection { dry_run: true, ..Selection::default() }).await;
    assert!(result.is_ok());
    assert_eq!(
        tally.lines("counter-cards@1", true),
        [
            "REASON projection=counter-cards@1 count=25 attempts=5 reason=\"because\"",
            r#"REASON projection=counter-cards@1 count=2 attempts=5 reason="say \"no\"\nto it""#,
            "SUMMARY projection=counter-cards@1 complete=yes would_send=27 failed=0 undeleted=0 others=0 newer=0 unseen=0",
        ]
    );
    assert_eq!((post.sent().len(), post.visible()), (0, 27), "and they can all be received at once");
}

#[tokio::test(start_paused = true)]
async fn wherever_a_run_is_cut_off_no_letter_is_lost() {
    for replies_lost in [false, true] {
        for calls in 0..80 {
            let post = buried(25).await;
            {
                let mut state = post.state.lock().unwrap();
                state.until_failure = Some(calls);
                state.replies_lost = replies_lost;
            }
            let (tally, result) = post.redrive(&Selection::default()).await;
            let is_everywhere = post.sent().into_iter().chain(post.left()).collect::<Vec<_>>();
            for body in bodies(25) {
                assert!(is_everywhere.contains(&body), "{body} is lost after {calls} calls");
            }
            assert_eq!(result.is_ok() && tally.is_done(), post.left().is_empty() && result.is_ok());
            // After the outage the rest is sent the same way.
            post.state.lock().unwrap().until_failure = None;
            sleep(HIDDEN).await;
            let (tally, _) = post.redrive(&Selection::default()).await;
            assert!(tally.is_done() && post.left().is_empty());
            let mut sent = sorted(post.sent());
            sent.dedup();
            assert_eq!(sent, bodies(25));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_told_to_end_shows_what_it_leaves() {
    let post = buried(25).await;
    let stop = CancellationToken::new();
    stop.cancel();
    let (tally, result) = post.redrive_until(&Selection::default(), &stop).await;
    assert!(matches!(result, Err(Halt::Told)) && !tally.is_done());
    assert_eq!((post.visible(), post.sent().len()), (25, 0));
}

#[tokio::test(start_paused = true)]
async fn letters_that_fail_again_are_not_sent_again_by_the_same_run() {
    let post = buried(25).await;
    // Every letter that is sent is dead again a moment later.
    let again = {
        let post = post.clone();
        tokio::spawn(async move {
            loop {
                let messages = post.queue.receive().await.unwrap();
                sleep(Duration::from_millis(1)).await;
                for message in messages {
                    bury(&post.queue, &[(&message.body, "because")]).await;
                    post.queue.delete(&[message.receipt]).await;
                }
            }
        })
    };
    let all = Selection::default();
    let run = timeout(Duration::from_secs(60), post.redrive(&all)).await;
    let (tally, result) = run.expect("it ends though they keep failing");
    assert!(result.is_ok());
    assert_eq!(tally.sent, 25);
    assert!(tally.newer > 0, "some were met again");
    assert!(!tally.is_done(), "they are for a person to see to");
    eventually(|| post.queue.dead_letters().len() == 50).await;
    again.abort();
    assert_eq!((sorted(post.left()), post.visible()), (bodies(25), 25));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_applied_after_a_fix_and_a_redrive() {
    let (store, fixed) = (MemoryStore::default(), MemoryStore::default());
    let rows = Watched::default();
    let queue = MemoryQueue::new(RULES);
    // The event comes before its predecessor is in the store.
    let history = counter_with(&fixed, 1, 3).await;
    rows.expect(&history);
    queue.send(body(&history[2].envelope));
    let consume = |store: &MemoryStore| {
        let stop = CancellationToken::new();
        let consumer = Consumer::new(
            queue.clone(),
            rows.projector(store),
            SETTINGS,
            watch::channel(Default::default()).0,
        );
        tokio::spawn(consumer.run(stop.clone()));
        stop.drop_guard()
    };
    let running = consume(&store);
    eventually(|| queue.dead_letters().len() == 1).await;
    drop(running);
    let post = Post::of(&queue);
    sleep(Duration::from_secs(1)).await;
    let (tally, _) = post.redrive(&Selection::default()).await;
    assert_eq!(tally.sent, 1);
    let reasons: Vec<_> = tally.reasons.keys().collect();
    assert_eq!(reasons, [&("the event store does not have the event".to_owned(), Some(5))]);
    let running = consume(&fixed);
    eventually(|| rows.version(&history[0].envelope.stream()) == 3).await;
    drop(running);
    rows.assert_converged().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_cannot_see_all_letters_does_not_say_that_all_is_done() {
    let post = buried(25).await;
    // Another run, which was killed, or a person at the console, hides ten of them.
    assert_eq!(DeadLetters::receive(&post).await.unwrap().len(), 10);
    let (tally, _) = post.redrive(&Selection::default()).await;
    assert_eq!(tally.sent, 15);
    assert!(!tally.is_done(), "ten letters are still dead: {tally:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_clock_is_slow_does_not_say_that_all_is_done() {
    let post = buried(25).await;
    let (stop, all) = (CancellationToken::new(), Selection::default());
    let pace = Pace::new(stop, None, || 0.5);
    // By two minutes.
    let began = Timestamp::from_unix_micros(post.now(Instant::now()).unix_micros() - 120_000_000);
    let (tally, _) = redrive(&post, &all, began, &pace).await;
    assert!(tally.sent == 25 || !tally.is_done(), "none was sent back: {tally:?}");
}

/// Letters that come newest first: SQS promises no order.
struct Backwards(Post);

impl DeadLetters for Backwards {
    async fn receive(&self) -> Result<Vec<Letter>, AwsError> {
        let mut batches = Vec::new();
        // Looking hides nothing: the queue is asked for all, and the letters not handed out are shown again.
        loop {
            let batch = DeadLetters::receive(&self.0).await?;
            if batch.is_empty() {
                break;
            }
            batches.extend(batch);
        }
        batches.reverse();
        let rest = batches.split_off(batches.len().min(10));
        self.0.show(&rest.iter().map(|letter| letter.receipt.clone()).collect::<Vec<_>>()).await;
        Ok(batches)
    }
    async fn send_back(&self, letter: &Letter) -> Result<(), AwsError> {
        self.0.send_back(letter).await
    }
    async fn delete(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), AwsError>> {
        DeadLetters::delete(&self.0, receipts).await
    }
    async fn count(&self) -> Result<u64, AwsError> {
        self.0.count().await
    }
    async fn show(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), AwsError>> {
        self.0.show(receipts).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_cannot_see_past_newer_letters_does_not_say_that_all_is_done() {
    let post = buried(5).await;
    let began = post.now(Instant::now());
    sleep(Duration::from_secs(1)).await;
    // Thirty more fail after the run has begun, and are received first.
    for body in bodies(30) {
        bury(&post.queue, &[(&body, "because")]).await;
    }
    let post = Backwards(post);
    let (stop, all) = (CancellationToken::new(), Selection::default());
    let pace = Pace::new(stop, None, || 0.5);
    let (tally, _) = redrive(&post, &all, began, &pace).await;
    assert!(tally.sent == 5 || !tally.is_done(), "{tally:?}");
}
