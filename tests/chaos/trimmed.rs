//! A stream that has lost events nobody had read: the local AWS, which keeps its data over a restart, but not its
//! stream.

use std::{path::Path, sync::Arc, time::Duration};

use millrace_local::{Account, Emulator, PrivateOptions, StackOptions, endpoint_from_env};
use millrace_testing::local::read_oracle;
use millrace_tests::{
    AwsStack,
    fleet::{Crew, Fleet},
    process::Deployable,
};
use tokio::time::sleep;

use crate::{
    stage::{Stage, run_for, summary},
    verdict::judge,
};

/// How the local AWS is to be used: its stream may forget at any time.
const FORGETFUL: (&str, &str) = ("RELAY_TRUST_SECONDS", "1");

/// A local AWS of one's own, which keeps its data.
struct Kept<'a> {
    emulator: Emulator,
    data: &'a Path,
}

impl<'a> Kept<'a> {
    async fn start(data: &'a Path, port: Option<u16>) -> Self {
        let options = PrivateOptions { port, data_dir: Some(data.to_owned()) };
        Self { emulator: Emulator::private(options).await.unwrap(), data }
    }

    /// The same once more, at the same place.
    async fn restart(self) -> Self {
        let port = self.emulator.endpoint().rsplit(':').next().and_then(|port| port.parse().ok());
        self.emulator.stop().await.unwrap();
        Self::start(self.data, port).await
    }

    /// A new account with a stack.
    async fn stack(&self) -> Arc<AwsStack> {
        let account = Account::unique(self.emulator.endpoint());
        let options = StackOptions { queue_visibility_seconds: 6, ..StackOptions::default() };
        Arc::new(AwsStack::deploy(&millrace_tests::shop(), account, &options).await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stream_has_lost_comes_from_the_table_whether_its_relays_were_down_or_up() {
    let stage = Stage::enter("trimmed").await;
    if endpoint_from_env().is_some() {
        return stage.say("left out: the AWS of AWS_ENDPOINT_URL is not ours to restart");
    }
    let data = tempfile::tempdir().unwrap();
    let aws = Kept::start(data.path(), None).await;
    let stack = aws.stack().await;
    let writers = Crew { command_services: 2, env: vec![("RELAY", "off")], ..Crew::default() };
    let writers = stage.fleet("trimmed-writers", &stack, writers).await;
    let relays = Crew { command_services: 2, projectors: 2, env: vec![FORGETFUL], ..Crew::default() };
    let relays = stage.fleet("trimmed-relays", &stack, relays).await;
    let load = stage.load(16);
    let while_writing = Duration::from_secs(stage.pick(20, 2));

    writers.raise().await.unwrap();
    let (mut commands, ()) = run_for(&load, &writers, while_writing, async |_| Ok(())).await;
    relays.raise().await.unwrap();
    let oracle = judge(&stack, &commands).await;
    stage.say(&format!("{} events from before the first relay are in their rows", oracle.events().count()));
    for member in relays.of(Deployable::CommandService) {
        member.note_metrics().await;
        member.terminate().await.unwrap();
    }
    assert_eq!(lost_and_found(&relays), (0.0, 0.0), "nothing was lost so far");

    // Relays that are down.
    let (more, ()) = run_for(&load, &writers, while_writing, async |_| Ok(())).await;
    commands.extend(more);
    let unread = read_oracle(&stack).await.unwrap().events().count() - oracle.events().count();
    let aws = aws.restart().await;
    stage.say(&format!("AWS has restarted, and its stream has lost {unread} events that no relay has read"));
    relays.raise().await.unwrap();
    let oracle = judge(&stack, &commands).await;
    relays.note_metrics().await;
    let (trimmed, refilled) = lost_and_found(&relays);
    stage.say(&format!("all are in their rows: trimmed {trimmed}, refilled {refilled}"));
    assert!(trimmed >= 1.0 && refilled >= f64::from(u32::try_from(unread).unwrap()));

    // Relays that are up.
    let (more, aws) = run_for(&load, &relays, 2 * while_writing, async |_| {
        sleep(while_writing).await;
        Ok(aws.restart().await)
    })
    .await;
    commands.extend(more);
    stage.say(&format!("AWS has restarted during a load: {}", summary(&commands, &load)));
    let events = judge(&stack, &commands).await.events().count();
    relays.note_metrics().await;
    let (trimmed_again, refilled_again) = lost_and_found(&relays);
    stage.say(&format!(
        "all {events} events are in their rows: trimmed {trimmed_again}, refilled {refilled_again}, {} duplicates dropped",
        relays.noted("projector_duplicates_total"),
    ));
    assert!(events > oracle.events().count() && trimmed_again > trimmed && refilled_again > refilled);
    assert!(!load.tally().contains_key("given up"), "in the end every command is answered");
    drop((writers, relays));
    aws.emulator.stop().await.unwrap();
}

/// How often relays have found that a stream had dropped unread events, and how many events they have published from
/// the table.
fn lost_and_found(relays: &Fleet) -> (f64, f64) {
    (relays.noted("relay_trimmed_total"), relays.noted("relay_refilled_total"))
}
