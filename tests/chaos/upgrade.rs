//! Two releases side by side: the released one, and the next, which this test is built with.
//!
//! `.ci/run upgrade` builds the commit that `tests/upgrade/release` names, and applies `tests/upgrade/next.patch` to a copy
//! of this tree: an event type, a schema version, a field and a projection more. It runs this test in the copy.

use std::{collections::BTreeSet, env, path::PathBuf, sync::Arc, time::Duration};

use anyhow::ensure;
use millrace_core::Envelope;
use millrace_tests::{
    PROJECTIONS, chaos_monkey, eventually,
    fleet::{Crew, Fleet},
    load::Load,
    process::Deployable,
};

use crate::{
    stage::{Stage, run_for, summary},
    verdict::{at_rest, judge},
    watch::Watch,
};

/// The variable with the folder of the released programs.
const RELEASE: &str = "MILLRACE_RELEASE_PROGRAMS";

/// The order of a rollout: readers of events before their writer.
const ORDER: [Deployable; 3] = [Deployable::Projector, Deployable::QueryService, Deployable::CommandService];

/// The longest that the rollouts take.
const LIMIT: Duration = Duration::from_secs(20 * 60);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the programs of two releases: run by .ci/run upgrade"]
async fn nothing_is_lost_while_a_release_is_rolled_out_and_back_and_out_again() {
    let released = env::var_os(RELEASE).map(PathBuf::from);
    let Some(released) = released.filter(|folder| folder.join(ORDER[0].name()).is_file()) else {
        panic!("{RELEASE} names no folder with the released programs: run .ci/run upgrade");
    };
    let stage = Stage::enter("upgrade").await;
    // By the templates of the next release: infrastructure comes first.
    let stack = stage.stack().await;
    let crew = Crew {
        command_services: 2,
        projectors: 2,
        query_services: 2,
        // Streams are short here, and both releases are to meet each other's snapshots. Who waits for days is tried every
        // fourteen minutes; for one day, every four.
        env: vec![("SNAPSHOT_EVERY", "3"), ("MAX_WAIT_DAYS", "1")],
        programs: Some(released.clone()),
    };
    let fleet = stage.fleet(stage.name, &stack, crew).await;
    fleet.raise().await.unwrap();
    let load = stage.load(16);
    let while_released = Duration::from_secs(stage.pick(20, 4));
    let (mut commands, ()) = run_for(&load, &fleet, while_released, async |_| Ok(())).await;
    let known = kinds(at_rest(&stack, &commands).await.events());
    stage.say(&format!("the release writes {known:?}"));

    let watch = Watch::begin(&stack, Duration::from_millis(500));
    let (more, strikes) = run_for(&load, &fleet, LIMIT, async |end| {
        let rollouts = async {
            roll_out_and_back_and_out(&stage, &fleet, &load, released).await?;
            end.stop.cancel();
            Ok(())
        };
        let strikes = chaos_monkey::unleash(&fleet, stage.seed, Duration::from_secs(2), &end.stop);
        Ok(tokio::try_join!(strikes, rollouts)?.0)
    })
    .await;
    commands.extend(more);
    fleet.raise().await.unwrap();
    stage.say(&format!("the load is over: {}", summary(&commands, &load)));

    let oracle = judge(&stack, &commands).await;
    let sightings = watch.end(&stack, &oracle).await;
    fleet.note_metrics().await;
    stage.say(&format!(
        "all is right: {} events; replicas were {strikes:?}; events of the next release met {:?}, {} duplicates dropped, \
         {} gaps healed; {} states of rows were seen in {} looks",
        oracle.events().count(),
        unread(&fleet),
        fleet.noted("projector_duplicates_total"),
        fleet.noted("projector_gaps_healed_total"),
        sightings.states(),
        sightings.looks(),
    ));
    let tally = load.tally();
    assert!(!tally.contains_key("given up"), "in the end every command is answered");
    assert!(tally.contains_key("sent again: NEWER_RELEASE"), "no command met an event of the next release");
    assert!(strikes.keys().any(|how| how.starts_with("killed")), "{strikes:?}");
    // Promises are kept easily where both releases are the same.
    let (all, types) = (kinds(oracle.events()), known.iter().map(|kind| &kind.0).collect::<BTreeSet<_>>());
    assert!(all.iter().any(|kind| !types.contains(&kind.0)), "a new event type among {all:?}");
    let has_new_schema = |kind| !known.contains(kind) && types.contains(&kind.0);
    assert!(all.iter().any(has_new_schema), "a new schema among {all:?}");
    assert!(stack.application.projections().len() > PROJECTIONS.len(), "a new projection");
}

/// The rollouts, each replica by itself.
async fn roll_out_and_back_and_out(
    stage: &Stage,
    fleet: &Arc<Fleet>,
    load: &Load,
    released: PathBuf,
) -> anyhow::Result<()> {
    let replace = async |deployable, programs| {
        for member in fleet.of(deployable) {
            member.replace_by(programs).await?;
            some_more(load).await;
        }
        stage.say(&format!(
            "every {} is of the {} release",
            deployable.name(),
            programs.map_or("next", |_| "old")
        ));
        fleet.note_metrics().await;
        anyhow::Ok(())
    };
    for deployable in ORDER {
        replace(deployable, None).await?;
    }
    some_more(load).await;
    fleet.note_metrics().await;
    let met = unread(fleet);
    ensure!(met.iter().all(|(_, count)| *count == 0.0), "in this order no projector meets {met:?}");

    for deployable in ORDER.into_iter().rev() {
        replace(deployable, Some(released.as_path())).await?;
    }
    some_more(load).await;

    // Against the order. Nothing is lost; events wait.
    replace(Deployable::CommandService, None).await?;
    eventually("projectors meet all that they cannot read", async || {
        fleet.note_metrics().await;
        unread(fleet).iter().all(|(_, count)| *count > 0.0).then_some(())
    })
    .await;
    for deployable in [Deployable::QueryService, Deployable::Projector] {
        replace(deployable, None).await?;
    }
    some_more(load).await;
    Ok(())
}

/// Waits until the load has had some further answers, of whatever kind: its clients may all wait for the next release.
async fn some_more(load: &Load) {
    let answers = || load.tally().values().sum::<u64>();
    let before = answers();
    eventually("the load goes on", async || (answers() > before + 60).then_some(())).await;
}

/// The types and schemas of events.
fn kinds<'a>(events: impl Iterator<Item = &'a Envelope>) -> BTreeSet<(String, u32)> {
    events.map(|event| (event.event_type.clone(), event.schema_version)).collect()
}

/// How often projectors met an event that they could not read, by the reason, as last noted.
fn unread(fleet: &Fleet) -> [(&'static str, f64); 3] {
    ["unknown_type", "newer_schema", "unknown_field"]
        .map(|reason| (reason, fleet.noted_of("projector_failures_total", ("reason", reason))))
}
