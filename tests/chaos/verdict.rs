//! Whether all came right.

use std::time::Duration;

use millrace_testing::{
    Oracle,
    local::{read_holders, read_oracle, read_rows},
    oracle::differences,
};
use millrace_tests::{
    AwsStack, PATIENCE, load::TrackedCommand, oracle::check_commands, queues::Queues, scan::assert_known,
};
use tokio::time::{Instant, sleep};

/// How long all may take to come right: a relay's lease has to expire, a message that was taken along to be seen again.
const CONVERGENCE: Duration = PATIENCE.saturating_mul(2);

/// Fails unless the event store is as clients were told, and the read models come to be the fold of it. Returns the
/// event store's content.
pub(crate) async fn judge(stack: &AwsStack, commands: &[TrackedCommand]) -> Oracle {
    let oracle = at_rest(stack, commands).await;
    converge(stack, &oracle).await;
    assert_eq!(read_oracle(stack).await.unwrap(), oracle, "nothing was added meanwhile");
    oracle
}

/// The event store's content once nothing more is added: a command may be on its way when its client gives it up. Fails
/// unless it is as clients were told.
pub(crate) async fn at_rest(stack: &AwsStack, commands: &[TrackedCommand]) -> Oracle {
    let mut before = read_oracle(stack).await.unwrap();
    let end = Instant::now() + PATIENCE;
    let oracle = loop {
        sleep(Duration::from_millis(500)).await;
        let now = read_oracle(stack).await.unwrap();
        if now == before {
            break now;
        }
        assert!(Instant::now() < end, "there are more and more events");
        before = now;
    };
    check_commands(&oracle, commands).unwrap();
    assert_known(oracle.events());
    assert_eq!(oracle.holders().unwrap(), read_holders(stack).await.unwrap(), "I6: who holds which address");
    oracle
}

/// Waits until the rows of every projection are as expected, attribute by attribute, and the queues are empty. No
/// message was given up.
pub(crate) async fn converge(stack: &AwsStack, oracle: &Oracle) {
    let expected = oracle.items(stack.index_shards()).unwrap();
    let end = Instant::now() + CONVERGENCE;
    loop {
        let violations = differences(&expected, &read_rows(stack).await.unwrap());
        if violations.is_empty() {
            break;
        }
        assert!(
            Instant::now() < end,
            "after {CONVERGENCE:?} the rows are not right: {violations:#?}{}",
            said(stack).await
        );
        sleep(Duration::from_millis(200)).await;
    }
    drained(stack).await;
    let violations = differences(&expected, &read_rows(stack).await.unwrap());
    assert!(violations.is_empty(), "the last messages have changed rows: {violations:#?}");
    let queues = Queues::of(stack).await;
    for queue in dead_letters(stack) {
        assert_eq!(queues.counts(&queue).await, (0, 0), "a message was given up{}", said(stack).await);
    }
}

/// Waits until the queues have nothing left in them.
pub(crate) async fn drained(stack: &AwsStack) {
    let queues = Queues::of(stack).await;
    for projection in stack.application.projections() {
        queues.drained(&stack.queue(projection.name)).await;
    }
}

/// Where messages end that nobody could use.
fn dead_letters(stack: &AwsStack) -> Vec<String> {
    let projections = stack.application.projections().iter();
    projections.map(|projection| stack.dead_letters(projection.name)).chain([stack.undelivered()]).collect()
}

/// The attributes and bodies of dead letters: one without a reason was moved by the queue itself.
async fn said(stack: &AwsStack) -> String {
    let queues = Queues::of(stack).await;
    let mut said = String::new();
    for queue in dead_letters(stack) {
        for letter in queues.look(&queue).await {
            said += &format!("\n  in {queue}: {:?} {:?}", letter.message_attributes, letter.body);
        }
    }
    said
}
