//! Events in their traces.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use millrace_core::Envelope;
use millrace_telemetry::{Hop, testing::Heard};
use tokio::time::sleep;

use super::{
    buses::{ChoosyBus, throttled},
    world::{World, eventually},
};

/// The first event of an aggregate, in a trace.
fn event(world: &World, aggregate: u128, heard: Heard) -> Envelope {
    Envelope { trace_parent: Some(heard.root().to_string()), ..world.event(aggregate, 1) }
}

#[tokio::test(start_paused = true)]
async fn an_event_is_told_once_when_the_bus_has_accepted_it_however_often_it_was_refused() {
    let world = World::new();
    let failures = AtomicU32::new(3);
    let bus = ChoosyBus::by_entry(&world.bus, move |_| {
        let fails = failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if fails { Err(throttled()) } else { Ok(()) }
    });
    let heard = Heard::begin();
    let event = event(&world, 1, heard);
    world.store(event.clone());
    let _relay = world.start_with(World::config("a"), bus);
    eventually("it is told", || !heard.spans().is_empty()).await;
    let spans = heard.spans();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_ref()).collect();
    assert_eq!(names, ["publish", "relay"]);
    let (publish, relay) = (&spans[0], &spans[1]);
    let id = |hop| heard.root().hop(event.event_id.0, hop).span_id();
    assert_eq!(relay.span_context.span_id().to_string(), id(Hop::Relay));
    assert_eq!(relay.parent_span_id.to_string(), heard.root().span_id());
    assert_eq!(publish.span_context.span_id().to_string(), id(Hop::Publish));
    assert_eq!(publish.parent_span_id, relay.span_context.span_id());
    assert_eq!(publish.events.len(), 3, "each refusal is noted");
}

#[tokio::test(start_paused = true)]
async fn what_the_bus_has_not_accepted_is_left_for_the_relay_that_brings_it_there() {
    let world = World::new();
    let refusing = ChoosyBus::by_entry(&world.bus, |_| Err(throttled()));
    let heard = Heard::begin();
    let id = world.store(event(&world, 1, heard));
    let first = world.start_with(World::config("a"), refusing.clone());
    eventually("it is tried", || !refusing.calls().is_empty()).await;
    first.stop().await;
    assert!(heard.spans().is_empty());
    let _second = world.start("b");
    world.until_published(&[id]).await;
    assert_eq!(heard.spans().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_published_twice_is_told_under_the_same_ids() {
    let world = World::new();
    let heard = Heard::begin();
    let id = world.store(event(&world, 1, heard));
    let first = world.start("a");
    world.until_published(&[id]).await;
    // The relay dies before its checkpoint is written.
    first.crash().await;
    let _second = world.start("b");
    eventually("it is published again", || world.most_repeats() == 2).await;
    sleep(Duration::from_secs(1)).await;
    let spans = heard.spans();
    let ids = |name: &str| -> Vec<_> {
        let found = spans.iter().filter(|span| span.name == name);
        found.map(|span| (span.span_context.span_id(), span.parent_span_id)).collect()
    };
    for name in ["relay", "publish"] {
        let ids = ids(name);
        assert!(ids.len() == 2 && ids[0] == ids[1], "{name}: {ids:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_trace_that_is_not_recorded_nothing_is_told() {
    let world = World::new();
    let heard = Heard::begin();
    let unsampled = format!("{}00", &heard.root().to_string()[..53]);
    let id = world.store(Envelope { trace_parent: Some(unsampled), ..world.event(1, 1) });
    let nonsense = world.store(Envelope { trace_parent: Some("nonsense".to_owned()), ..world.event(2, 1) });
    let _relay = world.start("a");
    world.until_published(&[id, nonsense]).await;
    assert!(heard.spans().is_empty());
}
