//! Processes that die at any moment, on an AWS that fails one request in twenty.

use std::time::Duration;

use millrace_tests::{Faults, chaos_monkey, fleet::Crew, load::Fate};

use crate::{
    stage::{Stage, run_for, summary},
    verdict::judge,
    watch::Watch,
};

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_command_is_lost_and_all_rows_come_right_whoever_is_killed_and_whatever_aws_does() {
    let stage = Stage::enter("loss").await;
    let stack = stage.stack().await;
    let crew = Crew { command_services: 3, projectors: 3, query_services: 1, ..Crew::default() };
    let fleet = stage.fleet(stage.name, &stack, crew).await;
    fleet.raise().await.unwrap();
    for (member, seed) in fleet.members().iter().zip(stage.seed..) {
        member.proxy.disturb(Faults::drizzle(seed));
    }
    stage.say("all are up");

    // More than elsewhere, since many of them wait for a process that does not answer.
    let load = stage.load(32);
    let watch = Watch::begin(&stack, Duration::from_millis(500));
    let time = Duration::from_secs(stage.pick(60, 14));
    fleet.take_requests();
    let (commands, strikes) = run_for(&load, &fleet, time, async |end| {
        chaos_monkey::unleash(&fleet, stage.seed, Duration::from_secs(2), &end.stop).await
    })
    .await;
    let requests = fleet.take_requests();
    fleet.members().iter().for_each(|member| member.proxy.calm());
    fleet.raise().await.unwrap();
    stage.say(&format!("the load is over: {}", summary(&commands, &load)));

    let oracle = judge(&stack, &commands).await;
    let sightings = watch.end(&stack, &oracle).await;
    fleet.note_metrics().await;
    let faults = fleet.injected();
    let noted = |metric| fleet.noted(metric);
    stage.say(&format!(
        "all is right: {} events, {requests} requests to AWS during the load; replicas were {strikes:?}; faults were \
         {faults:?}, {} in all; about {} events published, {} duplicates dropped, {} gaps healed; {} states of rows were seen in {} looks",
        oracle.events().count(),
        faults.values().sum::<u64>(),
        noted("relay_published_total"),
        noted("projector_duplicates_total"),
        noted("projector_gaps_healed_total"),
        sightings.states(),
        sightings.looks(),
    ));

    let acknowledged =
        commands.iter().filter(|tracked| matches!(tracked.fate, Fate::Acknowledged(_))).count();
    assert!(acknowledged > stage.pick(500, 50), "{acknowledged} commands are no load");
    assert!(!load.tally().contains_key("given up"), "in the end every command is answered");
    // Promises are kept easily where nothing happens.
    let kills: u64 =
        strikes.iter().filter(|(how, _)| how.starts_with("killed")).map(|(_, count)| count).sum();
    assert!(kills >= stage.pick(20, 3), "{strikes:?}");
    // Not all twelve: the rarest are only met by batches of which a part is refused.
    assert!(faults.len() >= stage.pick(10, 8), "{faults:?}");
}
