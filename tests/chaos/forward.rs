//! Deliveries in any order, again and again, watched.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt as _, stream};
use millrace_core::Envelope;
use millrace_testing::{
    Oracle,
    local::{read_oracle, read_rows},
};
use millrace_tests::{AwsStack, fleet::Crew, oracle::check_commands, process::Deployable, queues::Queues};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::json;

use crate::{
    stage::{Stage, run_for, summary},
    verdict::{converge, drained},
    watch::Watch,
};

/// How often an event is delivered at most.
const DELIVERIES: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn rows_never_go_back_and_never_show_what_was_not_in_whatever_order_events_come() {
    let stage = Stage::enter("forward").await;
    let stack = stage.stack().await;
    let crew = Crew { command_services: 2, projectors: 3, env: vec![("RELAY", "off")], ..Crew::default() };
    let fleet = stage.fleet(stage.name, &stack, crew).await;
    fleet.raise().await.unwrap();

    // A history, of which nothing gets to the queues.
    let load = stage.load(16);
    let time = Duration::from_secs(stage.pick(20, 4));
    let (commands, ()) = run_for(&load, &fleet, time, async |_| Ok(())).await;
    stage.say(&format!("there is a history: {}", summary(&commands, &load)));
    fleet.of(Deployable::CommandService).for_each(|member| member.kill());
    let oracle = read_oracle(&stack).await.unwrap();
    check_commands(&oracle, &commands).unwrap();
    assert!(read_rows(&stack).await.unwrap().is_empty(), "nothing was delivered");

    let events = oracle.events().count();
    let watch = Watch::begin(&stack, Duration::ZERO);
    let sent = deliver(&stack, &oracle, stage.seed).await;
    stage.say(&format!("{sent} messages of {events} events are sent"));
    drained(&stack).await;
    let sightings = watch.end(&stack, &oracle).await;
    converge(&stack, &oracle).await;
    fleet.note_metrics().await;
    stage.say(&format!(
        "all is right: {} duplicates dropped, {} gaps healed; {} states of rows were seen in {} looks",
        fleet.noted("projector_duplicates_total"),
        fleet.noted("projector_gaps_healed_total"),
        sightings.states(),
        sightings.looks(),
    ));
    assert!(events > stage.pick(500, 50) && sent > 3 * events);
    assert!(sightings.looks() > 5, "{} looks see little", sightings.looks());
}

/// Sends every event to its queue, up to ten times, in any order. Returns how many messages that were.
async fn deliver(stack: &AwsStack, oracle: &Oracle, seed: u64) -> usize {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut queues: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in oracle.events() {
        for projection in oracle.application().projections_of(&event.aggregate_type) {
            let copies = rng.random_range(1..=DELIVERIES);
            let messages = queues.entry(stack.queue(projection.name)).or_default();
            messages.extend(vec![message(event); copies]);
        }
    }
    let mut batches: Vec<(String, Vec<String>)> = Vec::new();
    for (queue, mut messages) in queues {
        messages.shuffle(&mut rng);
        batches.extend(messages.chunks(10).map(|batch| (queue.clone(), batch.to_vec())));
    }
    // All queues at the same time.
    batches.shuffle(&mut rng);
    let queues = Queues::of(stack).await;
    let sent = stream::iter(batches).map(async |(queue, bodies)| {
        queues.send(&queue, &bodies).await;
        bodies.len()
    });
    sent.buffer_unordered(4).fold(0, async |all, some| all + some).await
}

/// The message that the bus makes of an event.
fn message(event: &Envelope) -> String {
    json!({
        "version": "0", "id": event.event_id, "source": "millrace", "account": "0",
        "time": event.timestamp.to_string(), "region": "us-east-1", "resources": [],
        "detail-type": event.event_type, "detail": event,
    })
    .to_string()
}
