//! From the stream to the bus.

use std::{
    collections::HashMap,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use metrics_exporter_prometheus::PrometheusBuilder;
use millrace_core::{AggregateType, Envelope};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::{
    buses::{ChoosyBus, Distant, bad_content, throttled},
    world::{World, eventually},
};
use crate::{
    EventBus,
    bus::{Entry, Rejection, UNDECODABLE},
    leases::Checkpoint,
    stream::{Content, Position, Undecoded},
};

fn envelope(entry: &Entry) -> Envelope {
    serde_json::from_str(&entry.detail).unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_event_reaches_the_bus_once_and_aggregates_keep_their_order() {
    let world = World::with_four_shards();
    let mut ids = Vec::new();
    for version in 1..=40 {
        ids.extend((0..30).map(|aggregate| world.store(world.event(aggregate, version))));
    }
    let _relay = world.start("a");
    world.until_published(&ids).await;
    let mut newest: HashMap<_, u64> = HashMap::new();
    for event in world.bus.events() {
        let before = newest.insert(event.aggregate_id, event.version).unwrap_or_default();
        assert_eq!(event.version, before + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_says_what_rules_match_on() {
    let world = World::new();
    let event = world.event(1, 1);
    let id = world.store(event.clone());
    let _relay = world.start("a");
    world.until_published(&[id]).await;
    let entry = world.bus.entries().remove(0);
    assert_eq!((entry.source.as_str(), entry.detail_type.as_str()), ("millrace", "UserCreated"));
    assert_eq!(entry.time, event.timestamp);
    assert_eq!(envelope(&entry), event);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_comes_after_a_long_silence_is_on_the_bus_within_an_idle_poll_and_the_next_sooner() {
    let world = World::new();
    let _relay = world.start("a");
    sleep(Duration::from_secs(60)).await;
    let ids = world.store_firsts([1]);
    sleep(World::config("a").idle_poll_interval).await;
    assert!(world.has_published(&ids));
    let ids = world.store_firsts([2]);
    sleep(World::config("a").poll_interval).await;
    assert!(world.has_published(&ids));
}

#[tokio::test(start_paused = true)]
async fn only_entries_that_failed_are_sent_again() {
    let world = World::new();
    let failures = AtomicU32::new(5);
    let bus = ChoosyBus::by_entry(&world.bus, move |entry| {
        let fails = envelope(entry).aggregate_id.as_u128() == 3
            && failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if fails { Err(throttled()) } else { Ok(()) }
    });
    let ids = world.store_firsts(0..8);
    let _relay = world.start_with(World::config("a"), bus.clone());
    world.until_published(&ids).await;
    assert_eq!(world.most_repeats(), 1);
    let sizes: Vec<usize> = bus.calls().iter().map(Vec::len).collect();
    assert_eq!(sizes, [8, 1, 1, 1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn entries_that_failed_keep_their_order() {
    let world = World::new();
    let calls = AtomicU32::new(0);
    let bus = ChoosyBus::new(&world.bus, move |entries| {
        let fail = calls.fetch_add(1, Ordering::SeqCst) < 3;
        Ok(entries.iter().map(|_| if fail { Err(throttled()) } else { Ok(()) }).collect())
    });
    let ids: Vec<_> = (1..=25).map(|version| world.store(world.event(1, version))).collect();
    let _relay = world.start_with(World::config("a"), bus);
    world.until_published(&ids).await;
    assert!(world.bus.events().is_sorted_by_key(|event| event.version));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_or_makes_no_sense_is_repeated_whole() {
    let world = World::new();
    let calls = AtomicU32::new(0);
    let bus = ChoosyBus::new(&world.bus, move |entries| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => Err(throttled()),
        1 => Ok(vec![]),
        _ => Ok(entries.iter().map(|_| Ok(())).collect()),
    });
    let ids = world.store_firsts(0..4);
    let _relay = world.start_with(World::config("a"), bus.clone());
    world.until_published(&ids).await;
    assert_eq!(bus.calls().iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 4]);
}

#[tokio::test(start_paused = true)]
async fn the_checkpoint_waits_for_the_bus_and_a_crash_loses_nothing() {
    let world = World::new();
    let shard = world.stream.open_shards().remove(0);
    let open = Arc::new(AtomicBool::new(true));
    let gate = open.clone();
    let bus = ChoosyBus::by_entry(&world.bus, move |entry| {
        let passes = gate.load(Ordering::SeqCst) || envelope(entry).aggregate_id.as_u128() < 10;
        if passes { Ok(()) } else { Err(throttled()) }
    });
    let relay = world.start_with(World::config("a"), bus.clone());
    let firsts = world.store_firsts([1]);
    world.until_published(&firsts).await;
    sleep(Duration::from_secs(5)).await;
    let before = world.lease(&shard).await.progress;
    assert!(matches!(before.checkpoint, Checkpoint::At(Position::After(_))));

    open.store(false, Ordering::SeqCst);
    let later = world.store_firsts([12, 2, 3]);
    sleep(Duration::from_secs(60)).await;
    assert!(world.has_published(&later[1..]), "accepted entries are not held back within a call");
    assert_eq!(world.lease(&shard).await.progress, before);
    relay.crash().await;

    open.store(true, Ordering::SeqCst);
    let _relay = world.start_with(World::config("b"), bus);
    world.until_published(&later).await;
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_the_bus_holds_up_does_not_hold_up_the_others() {
    let world = World::with_four_shards();
    let stuck = world.store(world.event(7, 1));
    let bus = ChoosyBus::by_entry(&world.bus, |entry| {
        if envelope(entry).aggregate_id.as_u128() == 7 { Err(throttled()) } else { Ok(()) }
    });
    let _relay = world.start_with(World::config("a"), bus);
    sleep(Duration::from_secs(60)).await;
    let shards = world.stream.open_shards().into_iter();
    let stuck_shard = shards.into_iter().find(|shard| {
        world
            .stream
            .records(shard)
            .iter()
            .any(|r| matches!(&r.content, Content::Event(e) if e.event_id == stuck))
    });
    let ids = world.store_firsts(100..200);
    let (mut free, mut held_up) = (Vec::new(), Vec::new());
    for id in ids {
        let in_stuck = world.stream.records(stuck_shard.as_ref().unwrap()).into_iter();
        let mut in_stuck = in_stuck.filter(|r| matches!(&r.content, Content::Event(e) if e.event_id == id));
        if in_stuck.next().is_some() { held_up.push(id) } else { free.push(id) }
    }
    assert!(!free.is_empty() && !held_up.is_empty());
    world.until_published(&free).await;
    assert!(!world.has_published(&[stuck]));
}

#[tokio::test(start_paused = true)]
async fn an_event_too_large_for_the_bus_goes_without_its_data_and_says_so() {
    let world = World::new();
    let mut large = world.event(1, 1);
    large.event_data = Some(Map::from_iter([("name".to_owned(), Value::from("x".repeat(300_000)))]));
    let ids = [world.store(large), world.store(world.event(2, 1))];
    let _relay = world.start("a");
    world.until_published(&ids).await;
    let data: Vec<bool> = world.bus.events().iter().map(|event| event.event_data.is_some()).collect();
    assert_eq!(data, [false, true]);
    let marks = world.bus.entries().into_iter().map(|entry| {
        let detail: Value = serde_json::from_str(&entry.detail).unwrap();
        detail.get("EventDataOmitted").cloned()
    });
    assert_eq!(marks.collect::<Vec<_>>(), [Some(Value::Bool(true)), None]);
}

#[tokio::test(start_paused = true)]
async fn a_call_holds_at_most_ten_entries_and_the_bytes_allowed() {
    let world = World::new();
    let bus = ChoosyBus::by_entry(&world.bus, |_| Ok(()));
    let config = World::config("a");
    let max_bytes = config.max_bytes;
    let ids: Vec<_> = (0..60_u32)
        .map(|n| {
            let mut event = world.event(n.into(), 1);
            let size = usize::try_from(n % 7).unwrap() * 40_000;
            event.event_data = Some(Map::from_iter([("name".to_owned(), Value::from("x".repeat(size)))]));
            world.store(event)
        })
        .collect();
    let _relay = world.start_with(config, bus.clone());
    world.until_published(&ids).await;
    for call in bus.calls() {
        assert!(call.len() <= 10);
        assert!(call.iter().map(Entry::size).sum::<usize>() < max_bytes);
    }
    assert!(world.bus.events().iter().all(|event| event.event_data.is_some()));
}

#[tokio::test(start_paused = true)]
async fn an_entry_whose_content_is_refused_goes_without_its_data_and_spoils_no_other() {
    let refused = |entry: &Entry| {
        let event = envelope(entry);
        event.aggregate_id.as_u128() == 3 && event.event_data.is_some()
    };
    for whole_call in [false, true] {
        let world = World::new();
        let bus = ChoosyBus::new(&world.bus, move |entries| {
            if whole_call && entries.iter().any(refused) {
                return Err(bad_content());
            }
            Ok(entries.iter().map(|entry| if refused(entry) { Err(bad_content()) } else { Ok(()) }).collect())
        });
        let ids = world.store_firsts(0..6);
        let _relay = world.start_with(World::config("a"), bus);
        world.until_published(&ids).await;
        assert_eq!(world.most_repeats(), 1);
        for event in world.bus.events() {
            assert_eq!(event.event_data.is_none(), event.aggregate_id.as_u128() == 3);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_decoded_is_handed_on_as_it_is_and_holds_nothing_up() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let world = World::new();
    let shard = world.stream.open_shards().remove(0);
    let item = |size: usize| Undecoded {
        reason: "Version is missing".to_owned(),
        stream: Some(world.event(7, 3).stream()),
        aggregate_type: Some(AggregateType::new("user")),
        version: Some(3),
        item: Some(Map::from_iter([("EventType".to_owned(), json!({ "S": "x".repeat(size) }))])),
    };
    for undecoded in [item(1), item(300_000), Undecoded::default()] {
        world.stream.push(0, Content::Undecodable(Box::new(undecoded)));
    }
    world.stream.push(0, Content::Skip);
    let ids = world.store_firsts([1]);
    world.stream.push(0, Content::Skip);
    let relay = world.start("a");
    eventually("all is on the bus", || world.bus.entries().len() == 4).await;
    assert!(world.has_published(&ids));
    let handed_on: Vec<Value> = (world.bus.entries().iter())
        .filter(|entry| entry.detail_type == UNDECODABLE && entry.source == "millrace")
        .map(|entry| serde_json::from_str(&entry.detail).unwrap())
        .collect();
    let known = json!({
        "TenantId": "default", "AggregateType": "user", "AggregateId": "00000000-0000-0000-0000-000000000007",
        "Version": 3, "Undecodable": "Version is missing",
    });
    let mut whole = known.clone();
    whole["Item"] = json!({ "EventType": { "S": "x" } });
    assert_eq!(handed_on.len(), 3);
    for expected in [whole, known, json!({ "Undecodable": "" })] {
        assert!(handed_on.contains(&expected), "{expected} is not in {handed_on:?}");
    }
    for entry in handed_on {
        assert!(serde_json::from_value::<Envelope>(entry).is_err(), "nobody takes it for an event");
    }
    assert!(recorder.handle().render().contains("relay_undecodable_total 3"));
    relay.stop().await;
    let last = world.stream.records(&shard).pop().unwrap();
    assert_eq!(world.lease(&shard).await.progress.checkpoint, Checkpoint::At(Position::After(last.sequence)));
}

#[tokio::test(start_paused = true)]
async fn a_backlog_of_a_shard_goes_by_at_five_thousand_events_a_second_in_order() {
    const EVENTS: usize = 20_000;
    let world = World::new();
    for version in 1..=20 {
        world.store_of_each(0..1_000, version);
    }
    let begun = Instant::now();
    let bus = Distant::new(&world.bus, Duration::from_millis(20));
    let _relay = world.start_with(World::config("a"), bus);
    while world.bus.entries().len() < EVENTS {
        sleep(Duration::from_millis(5)).await;
    }
    let rate = EVENTS as f64 / begun.elapsed().as_secs_f64();
    assert!(rate >= 5_000.0, "{rate:.0} events a second");
    let mut newest: HashMap<_, u64> = HashMap::new();
    for event in world.bus.events() {
        let before = newest.insert(event.aggregate_id, event.version).unwrap_or_default();
        assert_eq!(event.version, before + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_accepted_behind_a_refused_event_is_passed_only_with_it() {
    let world = World::new();
    let shard = world.stream.open_shards().remove(0);
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let bus = ChoosyBus::by_entry(&world.bus, move |entry| {
        let passes = gate.load(Ordering::SeqCst) || envelope(entry).aggregate_id.as_u128() != 5;
        if passes { Ok(()) } else { Err(throttled()) }
    });
    let _relay = world.start_with(World::config("a"), bus);
    let stuck = world.store_firsts([5]);
    // The others do not wait for the first event, which is tried again and again.
    for round in 0..20 {
        let others = world.store_firsts(100 + 10 * round..110 + 10 * round);
        sleep(Duration::from_secs(2)).await;
        assert!(world.has_published(&others), "round {round}");
    }
    assert!(!world.has_published(&stuck));
    let checkpoint = world.lease(&shard).await.progress.checkpoint;
    assert_eq!(checkpoint, Checkpoint::At(Position::TrimHorizon), "nothing is passed");
    open.store(true, Ordering::SeqCst);
    world.until_published(&stuck).await;
    sleep(Duration::from_secs(5)).await;
    let last = world.stream.records(&shard).pop().unwrap();
    assert_eq!(world.lease(&shard).await.progress.checkpoint, Checkpoint::At(Position::After(last.sequence)));
    assert_eq!(world.most_repeats(), 1);
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_work_that_the_bus_holds_up() {
    let world = World::new();
    world.store_firsts(0..5);
    let bus = ChoosyBus::by_entry(&world.bus, |_| Err(throttled()));
    let relay = world.start_with(World::config("a"), bus.clone());
    eventually("the bus was asked", || !bus.calls().is_empty()).await;
    assert!(relay.stop().await <= Duration::from_secs(1));
    assert_eq!(world.held_by("a").await, []);
}

/// A bus that never answers.
#[derive(Clone, Default)]
struct MuteBus(Arc<AtomicBool>);

impl EventBus for MuteBus {
    async fn put(&self, _: &[Entry]) -> Result<Vec<Result<(), Rejection>>, Rejection> {
        self.0.store(true, Ordering::SeqCst);
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_gives_up_the_lease_of_a_shard_whose_bus_does_not_answer() {
    let world = World::new();
    world.store_firsts(0..5);
    let bus = MuteBus::default();
    let relay = world.start_with(World::config("a"), bus.clone());
    eventually("the bus was asked", || bus.0.load(Ordering::SeqCst)).await;
    assert!(relay.stop().await <= Duration::from_secs(1));
    assert_eq!(world.held_by("a").await, []);
}

#[tokio::test(start_paused = true)]
async fn how_far_the_relay_is_behind_shows_while_it_is() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let behind = || -> f64 {
        let shown = shown.render();
        let line = shown.lines().find_map(|line| line.strip_prefix("relay_behind_seconds "));
        line.unwrap().parse().unwrap()
    };
    let world = World::with_four_shards();
    let open = Arc::new(AtomicBool::new(true));
    let gate = open.clone();
    let bus =
        ChoosyBus::by_entry(
            &world.bus,
            move |_| {
                if gate.load(Ordering::SeqCst) { Ok(()) } else { Err(throttled()) }
            },
        );
    let relay = world.start_with(World::config("a"), bus.clone());
    world.until_published(&world.store_firsts(0..20)).await;
    sleep(Duration::from_secs(100)).await;
    assert!(behind() < 5.0, "an idle one is not: {}", behind());

    open.store(false, Ordering::SeqCst);
    let ids = world.store_firsts([100]);
    sleep(Duration::from_secs(100)).await;
    assert!((95.0..=100.0).contains(&behind()), "{}", behind());
    relay.crash().await;
    let _relay = world.start_with(World::config("b"), bus);
    sleep(Duration::from_secs(100)).await;
    assert!((195.0..=200.0).contains(&behind()), "the next owner knows it too: {}", behind());

    open.store(true, Ordering::SeqCst);
    world.until_published(&ids).await;
    sleep(Duration::from_secs(5)).await;
    assert!(behind() < 5.0, "{}", behind());
}
