//! Messages that cannot be applied, and surroundings that do not let any be.

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
use millrace_domain::{StreamId, order::Order};
use millrace_event_store::{AppendEvents as _, Commit, MemoryStore};
use millrace_proto::Envelope;
use millrace_read_models::{Change as _, UserChange, WriteRows, Written};
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    consuming::SETTINGS,
    world::{
        RULES, TRACE_PARENT, Watched, body, create_order, eventually, history, message, noon, stream_of,
        user_with,
    },
};
use crate::{
    Consumer, Failure, Handle as _, Orders, Projector, Users,
    queue::{MemoryQueue, Message},
};

/// Every kind of message that can never be applied to user profiles, by its reason.
async fn poison(store: &MemoryStore) -> Vec<(&'static str, String)> {
    let created = user_with(store, 1001, 1).await[0].envelope.clone();
    let changed = |change: &dyn Fn(&mut Envelope)| {
        let mut envelope = created.clone();
        change(&mut envelope);
        body(&envelope)
    };
    let with_data = |name: &str, value: Value| {
        changed(&|envelope| {
            envelope.event_data.as_mut().unwrap().insert(name.to_owned(), value.clone());
        })
    };
    let order = stream_of::<Orders>(1002);
    let order = history::<Order>(store, &order, &[create_order(&order, 1)]).await[0].envelope.clone();
    let later = user_with(&MemoryStore::default(), 1003, 3).await;
    vec![
        ("not_json", "{\"secret\":".to_owned()),
        ("not_a_bus_event", "[\"secret\"]".to_owned()),
        ("bad_envelope", body(&created).replace("\"acme\"", "\"SECRET#\"")),
        ("other_kind", body(&order)),
        ("other_aggregate", with_data("userId", json!("00000000-0000-0000-0000-00000000beef"))),
        ("misplaced", changed(&|envelope| envelope.version = 2)),
        ("unknown_type", changed(&|envelope| envelope.event_type = "SecretShared".to_owned())),
        ("newer_schema", changed(&|envelope| envelope.schema_version = 2)),
        ("malformed", with_data("email", json!({"secret": 1}))),
        ("bad_field", with_data("email", json!("secret"))),
        ("not_stored", body(&later[2].envelope)),
        ("behind", behind(store).await),
    ]
}

/// An event that follows one which this release cannot read.
async fn behind(store: &MemoryStore) -> String {
    let mut events = user_with(&MemoryStore::default(), 1004, 3).await;
    events[1].envelope.schema_version = 2;
    for event in &events {
        let commit = Commit { events: vec![event.clone()], claims: vec![], releases: vec![] };
        store.append(&commit).await.unwrap();
    }
    body(&events[2].envelope)
}

#[tokio::test]
async fn each_kind_of_poison_fails_alone() {
    let store = MemoryStore::default();
    for (n, (reason, poison)) in poison(&store).await.into_iter().enumerate() {
        let rows = Watched::<Users>::default();
        let good = user_with(&store, u128::try_from(n).unwrap(), 4).await;
        let mut messages: Vec<Message> = good.iter().map(|event| message(body(&event.envelope))).collect();
        messages.insert(n % 5, message(poison));
        let outcomes = rows.projector(&store).handle(&messages).await;
        for (place, outcome) in outcomes.iter().enumerate() {
            let failed = outcome.as_ref().err().map(|failed| failed.failure.reason());
            assert_eq!(failed, (place == n % 5).then_some(reason), "{reason}: message {place}");
        }
        assert_eq!(rows.version(&good[0].envelope.stream()), 4, "{reason}");
    }
}

#[tokio::test]
async fn an_unreadable_copy_does_not_keep_the_row_from_the_stored_event() {
    let store = MemoryStore::default();
    let rows = Watched::<Users>::default();
    let history = user_with(&store, 1, 3).await;
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
    let rows = Watched::<Orders>::default();
    let stream = stream_of::<Orders>(1);
    let history = history::<Order>(&store, &stream, &[create_order(&stream, 1)]).await;
    rows.expect(&history);
    let mut event: Value = serde_json::from_str(&body(&history[0].envelope)).unwrap();
    let newer = json!({"a": [1, {"b": null}]});
    event["newer"] = newer.clone();
    event["detail"]["Newer"] = newer.clone();
    event["detail"]["EventData"]["newer"] = newer.clone();
    event["detail"]["EventData"]["items"][0]["newer"] = newer.clone();
    event["detail"]["EventData"]["items"][0]["price"]["newer"] = newer;
    let outcomes = rows.projector(&store).handle(&[message(event.to_string())]).await;
    assert!(outcomes[0].is_ok(), "{:?}", outcomes[0].as_ref().err().map(|failed| failed.failure.to_string()));
    rows.assert_converged().await;
}

#[tokio::test]
async fn what_comes_before_an_unreadable_event_is_applied() {
    let store = MemoryStore::default();
    let rows = Watched::<Users>::default();
    let newest = behind(&store).await;
    let outcomes = rows.projector(&store).handle(&[message(newest)]).await;
    let failure = outcomes[0].as_ref().unwrap_err().failure.to_string();
    assert!(failure.contains("version 2") && failure.contains("schema version"), "{failure}");
    assert_eq!(rows.version(&stream_of::<Users>(1004)), 1);
}

#[tokio::test]
async fn what_the_row_has_reached_is_done_though_a_newer_event_fails() {
    let store = MemoryStore::default();
    let rows = Watched::<Users>::default();
    let history = user_with(&store, 1, 3).await;
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

/// Rows that somebody sets back before each write, as no one can.
#[derive(Clone, Default)]
struct Restless(Arc<AtomicU32>);

impl WriteRows<UserChange> for Restless {
    async fn write(&self, _: &UserChange) -> Result<Written, AwsError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Written::Found(0))
    }
}

#[tokio::test]
async fn a_row_that_never_rests_is_left_for_later() {
    let store = MemoryStore::default();
    let rows = Restless::default();
    let history = user_with(&store, 1, 2).await;
    let projector = Projector::<Users, _, _>::new(rows.clone(), store, noon);
    let outcomes = projector.handle(&[message(body(&history[1].envelope))]).await;
    let failure = &outcomes[0].as_ref().unwrap_err().failure;
    assert!(matches!(failure, Failure::Contended) && failure.is_of_the_surroundings(), "{failure}");
    assert!(rows.0.load(Ordering::Relaxed) <= 10);
}

/// Rows over one of which the program panics.
#[derive(Clone)]
struct Panicking(Watched<Users>, StreamId);

impl WriteRows<UserChange> for Panicking {
    async fn write(&self, change: &UserChange) -> Result<Written, AwsError> {
        assert_ne!(change.stream(), self.1, "a test says so");
        self.0.write(change).await
    }
}

#[tokio::test]
async fn a_panic_over_a_row_fails_that_row_alone() {
    let store = MemoryStore::default();
    let rows = Watched::<Users>::default();
    let mut messages = Vec::new();
    for id in 0..5 {
        let history = user_with(&store, id, 2).await;
        messages.extend(history.iter().map(|event| message(body(&event.envelope))));
    }
    let rows = Panicking(rows, stream_of::<Users>(3));
    let projector = Projector::<Users, _, _>::new(rows.clone(), store, noon);
    // The turn is given back, too: the second time does not hang.
    for _ in 0..2 {
        let outcomes = projector.handle(&messages).await;
        for (place, outcome) in outcomes.iter().enumerate() {
            let failed = outcome.as_ref().err().map(|failed| failed.failure.reason());
            assert_eq!(failed, (place / 2 == 3).then_some("panicked"));
        }
    }
    assert_eq!(rows.0.version(&stream_of::<Users>(4)), 2);
}

#[tokio::test]
async fn a_version_beyond_all_reason_fails_without_a_look_at_the_whole_stream() {
    let store = MemoryStore::default();
    let rows = Watched::<Users>::default();
    let history = user_with(&store, 1, 500).await;
    let projector = rows.projector(&store);
    projector.handle(&[message(body(&history[499].envelope))]).await;
    for version in [501, u64::MAX - 1, u64::MAX] {
        let mut envelope = history[499].envelope.clone();
        envelope.version = version;
        let before = store.requests();
        let outcomes = projector.handle(&[message(body(&envelope))]).await;
        let failed = outcomes[0].as_ref().map_err(|failed| failed.failure.reason());
        // The next version cannot be told from a true event: it is applied, as the bus is trusted.
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
    let rows = Watched::<Users>::default();
    let queue = MemoryQueue::new(RULES);
    let mut sent = HashMap::new();
    for (n, (reason, poison)) in poison(&store).await.into_iter().enumerate() {
        sent.insert(queue.send(poison.clone()), (reason, poison));
        let history = user_with(&store, u128::try_from(n).unwrap(), 3).await;
        rows.expect(&history);
        history.iter().for_each(|event| drop(queue.send(body(&event.envelope))));
    }

    let stop = CancellationToken::new();
    let consumer = Consumer::new(queue.clone(), rows.projector(&store), SETTINGS, watch::Sender::default());
    let running = tokio::spawn(consumer.run(stop.clone()));
    eventually(|| queue.len() == sent.len()).await;
    assert!(queue.dead_letters().is_empty(), "the good ones are done before any is given up");
    eventually(|| queue.is_empty()).await;
    // By now they have been counted.
    sleep(Duration::from_secs(15)).await;
    stop.cancel();
    running.await.unwrap();

    let shown = shown.render();
    let letters = queue.dead_letters();
    assert_eq!(letters.len(), sent.len());
    for state in ["waiting", "hidden"] {
        let line = format!("projector_queue_messages{{projection=\"user-profiles\",state=\"{state}\"}} 0\n");
        assert!(shown.contains(&line), "{line} in {shown}");
    }
    let line = format!("projector_dead_letter_messages{{projection=\"user-profiles\"}} {}\n", sent.len());
    assert!(shown.contains(&line), "{line} in {shown}");
    for letter in letters {
        let (reason, body) = &sent[&letter.message.id];
        assert_eq!((&letter.message.body, letter.message.attempts), (body, 5));
        let cause = letter.cause.expect("what was said of it");
        assert!(
            !cause.reason.is_empty() && !cause.reason.to_lowercase().contains("secret"),
            "{}",
            cause.reason
        );
        assert_eq!(cause.projection, "user-profiles");
        let readable = !["not_json", "not_a_bus_event", "bad_envelope"].contains(reason);
        let trace = readable.then(|| TRACE_PARENT.to_owned());
        assert_eq!(cause.trace_parent.map(|trace| trace.to_string()), trace, "{reason}");
        let labels = format!("projection=\"user-profiles\",reason=\"{reason}\"");
        assert!(shown.contains(&format!("projector_failures_total{{{labels}}} 5")), "{reason} in {shown}");
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
    for error in [AwsError::Unreachable(text()), AwsError::Throttled(text()), AwsError::Refused(text())] {
        let store = MemoryStore::default();
        let rows = Watched::<Users>::default();
        let queue = MemoryQueue::new(RULES);
        for id in 0..EVENTS {
            let history = user_with(&store, id.into(), 1).await;
            rows.expect(&history);
            queue.send(body(&history[0].envelope));
        }
        rows.fail(Some(error.clone()));
        let stop = CancellationToken::new();
        let (condition, observer) = watch::channel(Default::default());
        let consumer = Consumer::new(queue.clone(), rows.projector(&store), SETTINGS, condition);
        let running = tokio::spawn(consumer.run(stop.clone()));

        sleep(Duration::from_secs(3 * 60 * 60)).await;
        let passes = matches!(error, AwsError::Throttled(_));
        assert_eq!(observer.borrow().check().is_ok(), passes, "throttling leaves the process ready");
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
    let rows = Watched::<Users>::default();
    let queue = MemoryQueue::new(RULES);
    for id in 0..5 {
        let history = user_with(&store, id, 2).await;
        rows.expect(&history);
        history.iter().for_each(|event| drop(queue.send(body(&event.envelope))));
    }
    rows.fail_row(&stream_of::<Users>(3), AwsError::Throttled("hot".to_owned()));
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
