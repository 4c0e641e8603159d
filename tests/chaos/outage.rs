//! An AWS that nobody can reach for a while.

use std::{collections::BTreeMap, time::Duration};

use futures::future::{join_all, try_join_all};
use millrace_server::{LIVENESS, READINESS};
use millrace_tests::{
    fleet::{Crew, Fleet, Member},
    load::Fate,
};
use tokio::time::{Instant, sleep};
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};

use crate::{
    stage::{Stage, run_for, summary},
    verdict::judge,
};

/// How soon a process must have noticed. It looks every two seconds, with the patience of two more.
const NOTICED: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_aws_is_said_by_readiness_alone_and_all_comes_right_without_a_restart() {
    let stage = Stage::enter("outage").await;
    let stack = stage.stack().await;
    let crew = Crew { command_services: 2, projectors: 2, query_services: 1, ..Crew::default() };
    let fleet = stage.fleet(stage.name, &stack, crew).await;
    fleet.raise().await.unwrap();
    let processes = processes(&fleet);

    let outage = Duration::from_secs(stage.pick(30, 6));
    let load = stage.load(16);
    let (commands, ()) = run_for(&load, &fleet, outage + Duration::from_secs(8), async |_| {
        sleep(Duration::from_secs(3)).await;
        try_join_all(fleet.members().iter().map(|member| member.proxy.refuse())).await?;
        stage.say("AWS is out of reach");
        let until = Instant::now() + outage;
        join_all(fleet.members().iter().map(|member| suffers(member, until))).await;
        try_join_all(fleet.members().iter().map(|member| member.proxy.accept())).await?;
        stage.say("AWS is back");
        join_all(fleet.members().iter().map(Member::until_ready)).await;
        stage.say("all are ready again");
        Ok(())
    })
    .await;
    stage.say(&format!("the load is over: {}", summary(&commands, &load)));

    let oracle = judge(&stack, &commands).await;
    stage.say(&format!("all is right: {} events", oracle.events().count()));
    assert_eq!(self::processes(&fleet), processes, "the same processes, none of which has ended");
    let tally = load.tally();
    assert!(!tally.contains_key("given up"), "in the end every command is answered: {tally:?}");
    assert!(tally.contains_key("sent again: STORAGE_UNREACHABLE"), "callers were told: {tally:?}");
    assert!(
        commands.iter().any(|tracked| tracked.attempts > 1 && matches!(tracked.fate, Fate::Acknowledged(_)))
    );
}

/// The numbers of all processes that run.
fn processes(fleet: &Fleet) -> BTreeMap<String, Option<u32>> {
    fleet.members().iter().map(|member| (member.name.clone(), member.process_id())).collect()
}

/// Fails unless a process says until then that it lives, and soon, and from then on, that it is not ready.
async fn suffers(member: &Member, until: Instant) {
    let begun = Instant::now();
    let mut noticed = false;
    while Instant::now() < until || !noticed {
        assert_eq!(member.health(LIVENESS).await, Some(Serving), "{} lives", member.name);
        let (ready, same) = (member.health("").await, member.health(READINESS).await);
        // It may have noticed in between.
        let not_ready = ready == Some(NotServing) && same == Some(NotServing);
        assert!(
            not_ready || !noticed,
            "{} was not ready, and says that it is: {ready:?}, {same:?}",
            member.name
        );
        noticed |= not_ready;
        assert!(
            noticed || begun.elapsed() < NOTICED,
            "{} has noticed nothing: {ready:?}, {same:?}",
            member.name
        );
        sleep(Duration::from_millis(100)).await;
    }
}
