//! Messages in the traces of their events.

use millrace_aws::AwsError;
use millrace_event_store::MemoryStore;
use millrace_telemetry::{Hop, testing::Heard};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    consuming::SETTINGS,
    world::{RULES, Watched, body, counter_with, eventually, message},
};
use crate::{Consumer, Handle as _, queue::MemoryQueue};

#[tokio::test]
async fn a_message_is_told_in_its_events_trace_below_the_sending_and_the_write_below_it() {
    let heard = Heard::begin();
    let store = MemoryStore::default();
    let mut event = counter_with(&store, 1, 1).await.remove(0).envelope;
    event.trace_parent = Some(heard.root().to_string());
    let projector = Watched::default().projector(&store);
    for _ in 0..2 {
        assert!(projector.handle(&[message(body(&event))]).await[0].is_ok());
    }
    let spans = heard.spans();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_ref()).collect();
    let once = ["write counter-cards", "process counter-cards"];
    assert_eq!(names, [once, once].concat(), "each delivery is told");
    let publish = heard.root().hop(event.event_id.0, Hop::Publish).span_id();
    for (pair, outcome) in spans.chunks(2).zip(["written", "known"]) {
        let (write, process) = (&pair[0], &pair[1]);
        assert_eq!(process.parent_span_id.to_string(), publish);
        assert_eq!(write.parent_span_id, process.span_context.span_id());
        let told = process.attributes.iter().find(|told| told.key.as_str() == "millrace.outcome").unwrap();
        assert_eq!(told.value.as_str(), outcome);
    }
    assert_ne!(spans[1].span_context, spans[3].span_context, "a repeat has a span of its own");
}

#[tokio::test]
async fn messages_that_are_written_together_each_have_their_write_and_point_at_the_one_with_the_request() {
    let store = MemoryStore::default();
    let events = counter_with(&store, 1, 2).await;
    let traces = [Heard::begin(), Heard::begin()];
    let messages: Vec<_> = events
        .iter()
        .zip(traces)
        .map(|(event, heard)| {
            let mut envelope = event.envelope.clone();
            envelope.trace_parent = Some(heard.root().to_string());
            message(body(&envelope))
        })
        .collect();
    Watched::default().projector(&store).handle(&messages).await;
    let [older, newer] = traces.map(|heard| {
        let spans = heard.spans();
        spans.into_iter().find(|span| span.name == "write counter-cards").unwrap()
    });
    assert!(newer.links.is_empty());
    assert_eq!(older.links[0].span_context.span_id(), newer.span_context.span_id());
    assert_eq!(older.links[0].span_context.trace_id(), newer.span_context.trace_id());
}

#[tokio::test]
async fn a_gap_that_is_healed_and_a_failure_show_in_the_trace() {
    let heard = Heard::begin();
    let store = MemoryStore::default();
    let mut last = counter_with(&store, 1, 3).await.remove(2).envelope;
    last.trace_parent = Some(heard.root().to_string());
    let rows = Watched::default();
    rows.fail(Some(AwsError::Unreachable("a test says so".to_owned())));
    let projector = rows.projector(&store);
    assert!(projector.handle(&[message(body(&last))]).await[0].is_err());
    rows.fail(None);
    assert!(projector.handle(&[message(body(&last))]).await[0].is_ok());
    let spans = heard.spans();
    let told = |n: usize, key: &str| -> Option<String> {
        let found = spans[n].attributes.iter().find(|told| told.key.as_str() == key)?;
        Some(found.value.to_string())
    };
    assert_eq!(told(1, "error.type").as_deref(), Some("unreachable"));
    assert_eq!((told(2, "millrace.gaps_healed").as_deref(), told(3, "error.type")), (Some("1"), None));
}

#[tokio::test(start_paused = true)]
async fn each_attempt_at_a_bad_message_and_its_end_as_a_dead_letter_are_told() {
    let heard = Heard::begin();
    let mut event = counter_with(&MemoryStore::default(), 1, 1).await.remove(0).envelope;
    event.event_data.as_mut().unwrap().insert("name".to_owned(), 7.into());
    event.trace_parent = Some(heard.root().to_string());
    let queue = MemoryQueue::new(RULES);
    queue.send(body(&event));
    let projector = Watched::default().projector(&MemoryStore::default());
    let stop = CancellationToken::new();
    let consumer = Consumer::new(queue.clone(), projector, SETTINGS, watch::Sender::default());
    let running = tokio::spawn(consumer.run(stop.clone()));
    eventually(|| queue.is_empty()).await;
    stop.cancel();
    running.await.unwrap();
    let spans = heard.spans();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_ref()).collect();
    assert_eq!(names, [&["process counter-cards"; 5][..], &["dead letter counter-cards"]].concat());
    for span in &spans {
        assert!(span.attributes.iter().any(|told| told.value.as_str() == "malformed"), "{span:?}");
    }
}
