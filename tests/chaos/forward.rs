//! Deliveries in any order, again and again, watched.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use millrace_event_store::StoredEvent;
use millrace_tests::{
    Ground,
    fleet::Crew,
    process::Deployable,
    truth::{ReadModel, Truth},
};
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
    let ground = stage.ground().await;
    let crew = Crew { command_services: 2, projectors: 3, env: vec![("RELAY", "off")], ..Crew::default() };
    let fleet = stage.fleet(stage.name, &ground, crew).await;
    fleet.raise().await.unwrap();

    // A history, of which nothing gets to the queues.
    let load = stage.load(16);
    let time = Duration::from_secs(stage.pick(20, 4));
    let (errands, ()) = run_for(&load, &fleet, time, async |_| Ok(())).await;
    stage.say(&format!("there is a history: {}", summary(&errands, &load)));
    fleet.of(Deployable::CommandService).for_each(|member| member.kill());
    let truth = Truth::read(&ground).await.unwrap();
    truth.check_errands(&errands).unwrap();
    assert!(ReadModel::read_all(&ground).await.unwrap().is_empty(), "nothing was delivered");

    let watch = Watch::begin(&ground, Duration::ZERO);
    let sent = deliver(&ground, &truth, stage.seed).await;
    stage.say(&format!("{sent} messages of {} events are sent", truth.events()));
    drained(&ground).await;
    let sightings = watch.end(&ground, &truth).await;
    converge(&ground, &truth).await;
    fleet.note_metrics().await;
    stage.say(&format!(
        "all is right: {} duplicates dropped, {} gaps healed; {} states of rows were seen in {} looks",
        fleet.noted("projector_duplicates_total"),
        fleet.noted("projector_gaps_healed_total"),
        sightings.states(),
        sightings.looks(),
    ));
    assert!(truth.events() > stage.pick(500, 50) && sent > 3 * truth.events());
    assert!(sightings.looks() > 5, "{} looks see little", sightings.looks());
}

/// Sends every event to its queue, up to ten times, in any order. Returns how many messages that were.
async fn deliver(ground: &Ground, truth: &Truth, seed: u64) -> usize {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut queues: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for event in truth.streams().values().flatten() {
        let queue = match event.envelope.aggregate_type.as_str() {
            "user" => "UserQueueUrl",
            _ => "OrderQueueUrl",
        };
        let copies = rng.random_range(1..=DELIVERIES);
        queues.entry(queue).or_default().extend(vec![message(event); copies]);
    }
    let mut batches: Vec<(&str, Vec<String>)> = Vec::new();
    for (queue, mut messages) in queues {
        messages.shuffle(&mut rng);
        batches.extend(messages.chunks(10).map(|batch| (queue, batch.to_vec())));
    }
    // Users' and orders' at the same time.
    batches.shuffle(&mut rng);
    let sqs = ground.aws().await.sqs(Duration::ZERO);
    let sent = stream::iter(batches).map(async |(queue, bodies)| {
        let entries = bodies.iter().enumerate().map(|(n, body)| {
            SendMessageBatchRequestEntry::builder().id(n.to_string()).message_body(body).build().unwrap()
        });
        let batch = sqs.send_message_batch().queue_url(ground.output(queue));
        let sent = batch.set_entries(Some(entries.collect())).send().await?;
        assert!(sent.failed().is_empty(), "{sent:?}");
        anyhow::Ok(bodies.len())
    });
    sent.buffer_unordered(4).try_fold(0, async |all, some| Ok(all + some)).await.unwrap()
}

/// What the bus makes of an event.
fn message(event: &StoredEvent) -> String {
    json!({
        "version": "0", "id": event.envelope.event_id, "source": "millrace", "account": "0",
        "time": event.envelope.timestamp.to_string(), "region": "us-east-1", "resources": [],
        "detail-type": event.envelope.event_type, "detail": event.envelope,
    })
    .to_string()
}
