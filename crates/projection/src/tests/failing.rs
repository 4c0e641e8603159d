//! Messages that cannot be applied, and failures of AWS that stop all.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use metrics_exporter_prometheus::PrometheusBuilder;
use millrace_aws::AwsError;
use millrace_core::{AggregateType, Envelope, StreamId, projection::RowUpdate};
use millrace_event_store::MemoryStore;
use millrace_rows::{WriteError, WriteOutcome, WriteRows};
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    app::{Command, PANIC, UNUSABLE, cards, groups, totals},
    consuming::SETTINGS,
    world::{
        RULES, TRACE_PARENT, Watched, append, body, counter, counter_with, eventually, history, message,
        noon, open,
    },
};
use crate::{
    ApplyError, Consumer, Handle as _, Projector, Settings,
    queue::{MemoryQueue, Message},
};

/// Every kind of message that can never be applied to cards, by its reason.
async fn poison(store: &MemoryStore) -> Vec<(&'static str, String)> {
    let opened = counter_with(store, 1001, 2).await;
    let changed = |change: &dyn Fn(&mut Envelope)| {
        let mut envelope = opened[0].envelope.clone();
        change(&mut envelope);
        body(&envelope)
    };
    let with_data = |name: &str, value: Value| {
        changed(&|envelope| {
            envelope.event_data.as_mut().unwrap().insert(name.to_owned(), value.clone());
        })
    };
    let gauge = AggregateType::new("gauge");
    let later = counter_with(&MemoryStore::default(), 1003, 3).await;
    vec![
        ("not_json", "{\"secret\":".to_owned()),
        ("not_a_bus_event", "[\"secret\"]".to_owned()),
        ("bad_envelope", body(&opened[0].envelope).replace("\"acme\"", "\"SECRET#\"")),
        ("other_kind", changed(&|envelope| envelope.aggregate_type = gauge.clone())),
        ("no_row", {
            let (version, trace_parent) = (1, Some(TRACE_PARENT.to_owned()));
            body(&Envelope { version, trace_parent, ..opened[1].envelope.clone() })
        }),
        ("unknown_type", changed(&|envelope| envelope.event_type = "SecretShared".to_owned())),
        ("newer_schema", changed(&|envelope| envelope.schema_version = 2)),
        ("malformed", with_data("name", json!({"secret": 1}))),
        ("bad_field", with_data("owner", json!("secret"))),
        ("panicked", with_data("name", json!("panic"))),
        ("not_stored", body(&later[2].envelope)),
        ("behind", behind(store).await),
    ]
}

/// An event after one that this release cannot read.
async fn behind(store: &MemoryStore) -> String {
    let mut events = counter_with(&MemoryStore::default(), 1004, 3).await;
    events[1].envelope.schema_version = 2;
    for event in &events {
        append(store, event).await;
    }
    body(&events[2].envelope)
}

#[tokio::test]
async fn each_kind_of_poison_fails_alone() {
    let store = MemoryStore::default();
    for (n, (reason, poison)) in poison(&store).await.into_iter().enumerate() {
        let rows = Watched::default();
        let good = counter_with(&store, u128::try_from(n).unwrap(), 4).await;
        let mut messages: Vec<Message> = good.iter().map(|event| message(body(&event.envelope))).collect();
        messages.insert(n % 5, message(poison));
        let outcomes = rows.projector(&store).handle(&messages).await;
        for (place, outcome) in outcomes.iter().enumerate() {
            let failed = outcome.as_ref().err().map(|failed| failed.cause.reason());
            assert_eq!(failed, (place == n % 5).then_some(reason), "{reason}: message {place}");
        }
        assert_eq!(rows.version(&good[0].envelope.stream()), 4, "{reason}");
    }
}

#[tokio::test]
async fn an_unreadable_copy_does_not_keep_the_row_from_the_stored_event() {
    let store = MemoryStore::default();
    let rows = Watched::default();
    let history = counter_with(&store, 1, 3).await;
    rows.expect(&history);
    let mut broken = history[1].envelope.clone();
    broken.event_data.as_mut().unwrap().insert("name".to_owned(), json!(7));
    let messages =
        [&history[0].envelope, &broken, &history[2].envelope].map(|envelope| message(body(envelope)));
    let outcomes = rows.projector(&store).handle(&messages).await;
    assert!(outcomes[0].is_ok() && outcomes[1].is_err() && outcomes[2].is_ok());
    rows.assert_converged().await;
}

#[tokio::test]
async fn what_a_newer_release_adds_is_passed_over() {
    let store = MemoryStore::default();
    let rows = Watched::default();
    let history = counter_with(&store, 1, 1).await;
    rows.expect(&history);
    let mut event: Value = serde_json::from_str(&body(&history[0].envelope)).unwrap();
    let newer = json!({"a": [1, {"b": null}]});
    event["newer"] = newer.clone();
    event["detail"]["Newer"] = newer.clone();
    event["detail"]["EventData"]["newer"] = newer;
    let outcomes = rows.projector(&store).handle(&[message(event.to_string())]).await;
    assert!(outcomes[0].is_ok(), "{:?}", outcomes[0].as_ref().err().map(|failed| failed.cause.to_string()));
    rows.assert_converged().await;
}

#[tokio::test]
async fn what_comes_before_an_unreadable_event_is_applied() {
    let store = MemoryStore::default();
    let rows = Watched::default();
    let newest = behind(&store).await;
    let outcomes = rows.projector(&store).handle(&[message(newest)]).await;
    let failure = outcomes[0].as_ref().unwrap_err().cause.to_string();
    assert!(failure.contains("version 2") && failure.contains("schema version"), "{failure}");
    assert_eq!(rows.version(&counter(1004)), 1);
}

#[tokio::test]
async fn what_the_row_has_reached_is_done_though_a_newer_event_fails() {
    let store = MemoryStore::default();
    let rows = Watched::default();
    let history = counter_with(&store, 1, 3).await;
    rows.expect(&history);
    let mut beyond = history[2].envelope.clone();
    beyond.version = 9;
    let mut messages: Vec<Message> = history.iter().map(|event| message(body(&event.envelope))).collect();
    messages.insert(1, message(body(&beyond)));
    let outcomes = rows.projector(&store).handle(&messages).await;
    let done: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(done, [true, false, true, true]);
    rows.assert_converged().await;
}

/// A fold of nine events; the sixth cannot be added.
async fn unsummable(store: &MemoryStore, by: i64) -> Vec<Message> {
    let amounts = [1, 2, 3, 4, by, 5, 6, 7];
    let commands: Vec<_> = [open("red")].into_iter().chain(amounts.map(Command::Add)).collect();
    let events = history(store, &counter(1), &commands).await;
    events.iter().map(|event| message(body(&event.envelope))).collect()
}

#[tokio::test]
async fn an_event_over_which_a_fold_fails_keeps_none_before_it_from_its_row() {
    for (by, own, newer) in [(UNUSABLE, "other_aggregate", "behind"), (PANIC, "panicked", "panicked")] {
        let store = MemoryStore::default();
        let rows = Watched::of(totals());
        let messages = unsummable(&store, by).await;
        // All of them in a batch, then the newest alone, then one by one.
        let all: Vec<&[Message]> =
            [&messages[..], &messages[8..]].into_iter().chain(messages.chunks(1)).collect();
        let projector = rows.projector(&store);
        for batch in all {
            let outcomes = projector.handle(batch).await;
            let first = messages.len() - batch.len();
            for (outcome, place) in outcomes.iter().zip(first..) {
                let place = if batch.len() == 1 { version_of(&batch[0]) } else { place + 1 };
                let reason = outcome.as_ref().err().map(|failed| failed.cause.reason());
                let expected = match place {
                    ..6 => None,
                    6 => Some(own),
                    _ => Some(newer),
                };
                assert_eq!(reason, expected, "event {place} of {}", batch.len());
            }
            assert_eq!(rows.version(&counter(1)), 5);
        }
    }
}

fn version_of(message: &Message) -> usize {
    let body: Value = serde_json::from_str(&message.body).unwrap();
    usize::try_from(body["detail"]["Version"].as_u64().unwrap()).unwrap()
}

/// Rows that are set back before each write, which no real process does.
#[derive(Clone, Default)]
struct Restless(Arc<AtomicU32>);

impl WriteRows for Restless {
    async fn write(&self, _: &RowUpdate) -> Result<WriteOutcome, WriteError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(WriteOutcome::VersionMismatch(0))
    }
}

#[tokio::test]
async fn a_row_that_never_rests_is_left_for_later() {
    let store = MemoryStore::default();
    let rows = Restless::default();
    let history = counter_with(&store, 1, 2).await;
    let projector = Projector::new(cards(), rows.clone(), store, noon);
    let outcomes = projector.handle(&[message(body(&history[1].envelope))]).await;
    let cause = &outcomes[0].as_ref().unwrap_err().cause;
    assert!(matches!(cause, ApplyError::Contended), "{cause}");
    assert!(rows.0.load(Ordering::Relaxed) <= 10);
}

/// Rows of which one fails or panics at a write.
#[derive(Clone)]
struct Faulty(Watched, StreamId, Option<WriteError>);

impl WriteRows for Faulty {
    async fn write(&self, update: &RowUpdate) -> Result<WriteOutcome, WriteError> {
        if update.stream == self.1 {
            return Err(self.2.clone().expect("a test says so"));
        }
        self.0.write(update).await
    }
}

#[tokio::test]
async fn a_panic_over_a_row_or_writers_that_race_for_it_fail_that_row_alone() {
    for (error, reason) in [(None, "panicked"), (Some(WriteError::Contended), "contended")] {
        for spec in [cards(), totals(), groups()] {
            let store = MemoryStore::default();
            let mut messages = Vec::new();
            for id in 0..5 {
                let history = counter_with(&store, id, 2).await;
                messages.extend(history.iter().map(|event| message(body(&event.envelope))));
            }
            let rows = Faulty(Watched::of(spec.clone()), counter(3), error.clone());
            let projector = Projector::new(spec, rows.clone(), store, noon);
            // The lock is released, too: the second time does not hang.
            for _ in 0..2 {
                let outcomes = projector.handle(&messages).await;
                for (place, outcome) in outcomes.iter().enumerate() {
                    let failed = outcome.as_ref().err().map(|failed| failed.cause.reason());
                    assert_eq!(failed, (place / 2 == 3).then_some(reason));
                }
            }
            assert_eq!(rows.0.version(&counter(4)), 2);
        }
    }
}

#[tokio::test]
async fn a_version_beyond_all_reason_fails_without_a_look_at_the_whole_stream() {
    let store = MemoryStore::default();
    let rows = Watched::default();
    let history = counter_with(&store, 1, 500).await;
    let projector = rows.projector(&store);
    projector.handle(&[message(body(&history[499].envelope))]).await;
    for version in [501, u64::MAX - 1, u64::MAX] {
        let mut envelope = history[499].envelope.clone();
        envelope.version = version;
        let before = store.requests();
        let outcomes = projector.handle(&[message(body(&envelope))]).await;
        let failed = outcomes[0].as_ref().map_err(|failed| failed.cause.reason());
        // The next version looks like a true event: it is applied, as the bus is trusted.
        assert_eq!(failed, if version == 501 { Ok(&()) } else { Err("not_stored") });
        assert!(store.requests() - before <= 1);
    }
}

#[tokio::test(start_paused = true)]
async fn poison_ends_among_the_dead_letters_with_its_reason_while_the_rest_is_applied() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let store = MemoryStore::default();
    let rows = Watched::default();
    let queue = MemoryQueue::new(RULES);
    let mut sent = HashMap::new();
    for (n, (reason, poison)) in poison(&store).await.into_iter().enumerate() {
        sent.insert(queue.send(poison.clone()), (reason, poison));
        let history = counter_with(&store, u128::try_from(n).unwrap(), 3).await;
        rows.expect(&history);
        history.iter().for_each(|event| drop(queue.send(body(&event.envelope))));
    }

    let stop = CancellationToken::new();
    let settings = Settings { max_wait: Duration::from_secs(60 * 60), ..SETTINGS };
    let consumer = Consumer::new(queue.clone(), rows.projector(&store), settings, watch::Sender::default());
    let running = tokio::spawn(consumer.run(stop.clone()));
    eventually(|| queue.len() == sent.len()).await;
    assert!(queue.dead_letters().is_empty(), "the good ones are done before any is given up");
    eventually(|| queue.is_empty()).await;
    // By then the messages have been counted.
    sleep(Duration::from_secs(15)).await;
    stop.cancel();
    running.await.unwrap();

    let shown = shown.render();
    let letters = queue.dead_letters();
    assert_eq!(letters.len(), sent.len());
    for state in ["waiting", "hidden"] {
        let line = format!("projector_queue_messages{{projection=\"counter-cards\",state=\"{state}\"}} 0\n");
        assert!(shown.contains(&line), "{line} in {shown}");
    }
    let line = format!("projector_dead_letter_messages{{projection=\"counter-cards\"}} {}\n", sent.len());
    assert!(shown.contains(&line), "{line} in {shown}");
    for letter in letters {
        let (reason, body) = &sent[&letter.message.id];
        assert_eq!(&letter.message.body, body);
        // Messages of a newer release have waited.
        let waits = ["unknown_type", "newer_schema", "behind"].contains(reason);
        let attempts = letter.message.attempts;
        assert_eq!((attempts == 5, letter.message.waited >= settings.max_wait), (!waits, waits), "{reason}");
        let cause = letter.cause.expect("what was said of it");
        assert!(
            !cause.reason.is_empty() && !cause.reason.to_lowercase().contains("secret"),
            "{}",
            cause.reason
        );
        assert_eq!(cause.projection, "counter-cards");
        let readable = !["not_json", "not_a_bus_event", "bad_envelope"].contains(reason);
        let trace = readable.then(|| TRACE_PARENT.to_owned());
        assert_eq!(cause.trace_parent.map(|trace| trace.to_string()), trace, "{reason}");
        let labels = format!("projection=\"counter-cards\",reason=\"{reason}\"");
        assert!(
            shown.contains(&format!("projector_failures_total{{{labels}}} {attempts}")),
            "{reason} in {shown}"
        );
        assert!(
            shown.contains(&format!("projector_dead_letters_total{{{labels}}} 1")),
            "{reason} in {shown}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_aws_counts_against_no_message() {
    const EVENTS: u32 = 300;
    let text = || "a test says so".to_owned();
    for error in [AwsError::Unreachable(text()), AwsError::Refused(text())] {
        let store = MemoryStore::default();
        let rows = Watched::default();
        let queue = MemoryQueue::new(RULES);
        for id in 0..EVENTS {
            let history = counter_with(&store, id.into(), 1).await;
            rows.expect(&history);
            queue.send(body(&history[0].envelope));
        }
        rows.fail(Some(error.clone()));
        let stop = CancellationToken::new();
        let (condition, observer) = watch::channel(Default::default());
        let consumer = Consumer::new(queue.clone(), rows.projector(&store), SETTINGS, condition);
        let running = tokio::spawn(consumer.run(stop.clone()));

        sleep(Duration::from_secs(60 * 60)).await;
        assert!(observer.borrow().check().is_err());
        assert!(queue.dead_letters().is_empty(), "{error}");
        assert_eq!(
            queue.hidden().len(),
            100,
            "what is held here stays hidden, what is not stays in the queue"
        );
        assert_eq!(queue.calls().receive, 10, "each message that is held was received once");

        rows.fail(None);
        eventually(|| queue.is_empty()).await;
        assert!(observer.borrow().check().is_ok());
        assert!(queue.dead_letters().is_empty(), "{error}");
        rows.assert_converged().await;
        stop.cancel();
        running.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn one_row_that_is_throttled_holds_up_no_other() {
    let store = MemoryStore::default();
    let rows = Watched::default();
    let queue = MemoryQueue::new(RULES);
    for id in 0..5 {
        let history = counter_with(&store, id, 2).await;
        rows.expect(&history);
        history.iter().for_each(|event| drop(queue.send(body(&event.envelope))));
    }
    rows.fail_row(&counter(3), AwsError::Throttled("hot".to_owned()));
    let stop = CancellationToken::new();
    let consumer = Consumer::new(queue.clone(), rows.projector(&store), SETTINGS, watch::Sender::default());
    let running = tokio::spawn(consumer.run(stop.clone()));
    eventually(|| queue.len() == 2).await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(queue.len(), 2);
    rows.fail(None);
    eventually(|| queue.is_empty()).await;
    rows.assert_converged().await;
    stop.cancel();
    running.await.unwrap();
}
