//! What rows and log lines say of an event: what it came of, and nothing that is personal.

use std::time::Duration;

use millrace_aws::AwsError;
use millrace_core::Envelope;
use millrace_event_store::MemoryStore;
use millrace_rows::ReadRows as _;
use millrace_telemetry::testing::LogLines;
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::{
    consuming::SETTINGS,
    world::{RULES, TRACE_PARENT, Watched, body, counter, counter_with, eventually, key, message},
};
use crate::{Consumer, Handle as _, queue::MemoryQueue};

/// The log of this thread, for as long as the guard lives.
fn log() -> (LogLines, tracing::subscriber::DefaultGuard) {
    let log = LogLines::begin();
    let writer = log.clone();
    let lines = tracing_subscriber::fmt().json().flatten_event(true).with_max_level(Level::DEBUG);
    (log, tracing::subscriber::set_default(lines.with_writer(move || writer.clone()).finish()))
}

/// The lines with this message.
fn lines_with(log: &LogLines, message: &str) -> Vec<Value> {
    let text = log.text();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["message"] == message).collect()
}

#[track_caller]
fn assert_names(line: &Value, event: &Envelope) {
    for (field, expected) in [
        ("projection", "counter-cards"),
        ("aggregate", &event.stream().to_string()),
        ("event_id", &event.event_id.to_string()),
        ("correlation_id", event.correlation_id.as_str()),
        ("causation_id", event.causation_id.as_str()),
        ("trace_id", "0af7651916cd43dd8448eb211c80319c"),
    ] {
        assert_eq!(line[field], expected, "{field} of {line}");
    }
    assert_eq!(line["version"], event.version);
}

#[tokio::test]
async fn a_line_about_an_event_in_its_row_names_what_it_came_of_and_nothing_personal() {
    let (log, _guard) = log();
    let store = MemoryStore::default();
    let history = counter_with(&store, 1, 3).await;
    let projector = Watched::default().projector(&store);
    let messages = [0, 2].map(|n: usize| message(body(&history[n].envelope)));
    projector.handle(&messages).await;
    projector.handle(&messages[1..]).await;

    let lines = lines_with(&log, "the row has the event");
    let written: Vec<_> = lines.iter().map(|line| line["written"].clone()).collect();
    assert_eq!(written, [true, true, false]);
    for (line, event) in lines.iter().zip([&history[0], &history[2], &history[2]]) {
        assert_names(line, &event.envelope);
    }
    let text = log.text().to_lowercase();
    assert!(!text.contains("john") && !text.contains("name 2"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_line_about_an_event_that_fails_names_what_it_came_of_and_nothing_personal() {
    let (log, _guard) = log();
    let mut event = counter_with(&MemoryStore::default(), 1, 1).await.remove(0).envelope;
    event.event_data.as_mut().unwrap().insert("name".to_owned(), 7.into());
    let queue = MemoryQueue::new(RULES);
    queue.send(body(&event));
    let projector = Watched::default().projector(&MemoryStore::default());
    let stop = CancellationToken::new();
    let running = tokio::spawn(
        Consumer::new(queue.clone(), projector, SETTINGS, watch::Sender::default()).run(stop.clone()),
    );
    eventually(|| queue.is_empty()).await;
    stop.cancel();
    running.await.unwrap();

    let attempts = lines_with(&log, "a message was not applied");
    let end = lines_with(&log, "a message is given up, and is a dead letter now");
    assert_eq!((attempts.len(), end.len()), (4, 1));
    assert_eq!((&attempts[0]["level"], &end[0]["level"]), (&json!("DEBUG"), &json!("ERROR")));
    attempts.iter().chain(&end).for_each(|line| assert_names(line, &event));
    assert!(!log.text().to_lowercase().contains("john"), "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_worth_a_line_once_it_has_lasted_a_minute() {
    for (outage, lines) in [(50, 0), (90, 1), (900, 2)] {
        let (log, _guard) = log();
        let store = MemoryStore::default();
        let rows = Watched::default();
        let history = counter_with(&store, 1, 1).await;
        rows.expect(&history);
        rows.fail(Some(AwsError::Unreachable("a test says so".to_owned())));
        let queue = MemoryQueue::new(RULES);
        queue.send(body(&history[0].envelope));
        let stop = CancellationToken::new();
        let consumer =
            Consumer::new(queue.clone(), rows.projector(&store), SETTINGS, watch::Sender::default());
        let running = tokio::spawn(consumer.run(stop.clone()));
        sleep(Duration::from_secs(outage)).await;
        rows.fail(None);
        eventually(|| queue.is_empty()).await;
        stop.cancel();
        running.await.unwrap();
        let said = log.text();
        let loud = said.lines().filter(|line| !line.contains("\"level\":\"DEBUG\"")).count();
        assert_eq!(loud, lines, "{said}");
        assert_eq!(lines_with(&log, "messages are held up").len(), lines);
    }
}

#[tokio::test]
async fn a_row_takes_no_text_that_is_no_traceparent() {
    let long = format!("{TRACE_PARENT}{}", "0".repeat(200_000));
    for (trace_parent, kept) in
        [(TRACE_PARENT, Some(TRACE_PARENT)), ("", None), ("john@example.com", None), (&long, None)]
    {
        let store = MemoryStore::default();
        let rows = Watched::default();
        let mut event = counter_with(&store, 1, 1).await.remove(0).envelope;
        event.trace_parent = Some(trace_parent.to_owned());
        let outcomes = rows.projector(&store).handle(&[message(body(&event))]).await;
        assert!(outcomes[0].is_ok());
        let row = rows.rows.get(&key(&counter(1))).await.unwrap().unwrap();
        let provenance = row.provenance.unwrap();
        assert_eq!((provenance.event_id, provenance.trace_parent.as_deref()), (event.event_id, kept));
    }
}
