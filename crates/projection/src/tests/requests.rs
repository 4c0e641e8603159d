//! The cost of the work, in requests.

use futures::future::join_all;
use metrics_exporter_prometheus::PrometheusBuilder;
use millrace_event_store::{MemoryStore, StoredEvent};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    app::{cards, groups, totals},
    world::{RULES, Watched, body, counter, counter_with, eventually, message},
};
use crate::{
    Consumer, Handle as _, Settings,
    queue::{MemoryQueue, Message},
    tests::consuming::SETTINGS,
};

fn messages<'a>(events: impl IntoIterator<Item = &'a StoredEvent>) -> Vec<Message> {
    events.into_iter().map(|event| message(body(&event.envelope))).collect()
}

#[tokio::test]
async fn ten_events_of_one_row_in_one_batch_are_one_write() {
    for spec in [cards(), totals(), groups()] {
        let store = MemoryStore::default();
        let rows = Watched::of(spec);
        let history = counter_with(&store, 1, 10).await;
        rows.expect(&history);
        let before = store.requests();
        let outcomes = rows.projector(&store).handle(&messages(history.iter().rev())).await;
        assert!(outcomes.iter().all(Result::is_ok));
        assert_eq!((rows.writes(), store.requests() - before), (1, 0));
        rows.assert_converged().await;
    }
}

#[tokio::test]
async fn a_gap_is_healed_at_once_from_the_store() {
    let store = MemoryStore::default();
    let rows = Watched::default();
    let history = counter_with(&store, 1, 9).await;
    rows.expect(&history);
    let projector = rows.projector(&store);
    projector.handle(&messages(&history[..2])).await;
    let (writes, reads) = (rows.writes(), store.requests());
    projector.handle(&messages(&history[5..6])).await;
    assert_eq!(rows.version(&counter(1)), 6);
    assert_eq!((rows.writes() - writes, store.requests() - reads), (2, 1), "refused, read, written");

    let (writes, reads) = (rows.writes(), store.requests());
    projector.handle(&messages([&history[6], &history[8]])).await;
    assert_eq!(rows.version(&counter(1)), 9);
    assert_eq!(
        (rows.writes() - writes, store.requests() - reads),
        (1, 1),
        "a gap within the batch is seen before"
    );
}

#[tokio::test]
async fn batches_that_hold_events_of_one_row_take_turns() {
    let store = MemoryStore::default();
    let rows = Watched::default();
    let history = counter_with(&store, 1, 30).await;
    rows.expect(&history);
    // The first write takes a while, in which the others could overtake it.
    rows.pause(vec![200]);
    let projector = rows.projector(&store);
    let reads = store.requests();
    let batches: Vec<_> = history.chunks(10).map(messages).collect();
    for outcomes in join_all(batches.iter().map(|batch| projector.handle(batch))).await {
        assert!(outcomes.iter().all(Result::is_ok));
    }
    assert_eq!((rows.writes(), store.requests() - reads), (3, 0));
    rows.assert_converged().await;
}

#[tokio::test]
async fn an_event_that_was_too_large_for_the_bus_is_read_from_the_store() {
    let store = MemoryStore::default();
    let rows = Watched::default();
    let mut history = counter_with(&store, 1, 3).await;
    rows.expect(&history);
    let reads = store.requests();
    history[1].envelope.event_data = None;
    let outcomes = rows.projector(&store).handle(&messages(&history)).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!((rows.writes(), store.requests() - reads), (1, 1));
    rows.assert_converged().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_costs_at_most_a_request_and_a_quarter() {
    const EVENTS: u32 = 1_000;
    let store = MemoryStore::default();
    let rows = Watched::default();
    let queue = MemoryQueue::new(RULES);
    for id in 0..EVENTS {
        let history = counter_with(&store, id.into(), 1).await;
        rows.expect(&history);
        queue.send(body(&history[0].envelope));
    }
    let reads = store.requests();
    let stop = CancellationToken::new();
    let settings = Settings { messages_at_once: 50, ..SETTINGS };
    let consumer = Consumer::new(queue.clone(), rows.projector(&store), settings, watch::Sender::default());
    let running = tokio::spawn(consumer.run(stop.clone()));
    eventually(|| queue.is_empty()).await;
    stop.cancel();
    running.await.unwrap();

    let calls = queue.calls();
    let requests =
        calls.receive + calls.delete + calls.hide + calls.dead_letter + rows.writes() + store.requests()
            - reads;
    let per_event = f64::from(u32::try_from(requests).unwrap()) / f64::from(EVENTS);
    assert!(per_event <= 1.25, "{per_event} requests an event: {calls:?}");
    rows.assert_converged().await;
}

#[tokio::test]
async fn metrics_tell_applied_events_duplicates_gaps_and_lag() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let store = MemoryStore::default();
    let rows = Watched::default();
    let history = counter_with(&store, 1, 5).await;
    let projector = rows.projector(&store);
    projector.handle(&messages(&history[..2])).await;
    projector.handle(&messages([&history[1], &history[4], &history[4]])).await;
    let shown = shown.render();
    for line in [
        "projector_events_applied_total{projection=\"counter-cards\"} 5",
        "projector_duplicates_total{projection=\"counter-cards\"} 2",
        "projector_gaps_healed_total{projection=\"counter-cards\"} 1",
        "projector_lag_seconds_count{projection=\"counter-cards\"} 3",
        // The events happened 60, 59 and 56 seconds before.
        "projector_lag_seconds_sum{projection=\"counter-cards\"} 175",
    ] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
}
