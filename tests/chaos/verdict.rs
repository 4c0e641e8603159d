//! Whether all came right.

use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName::{
    ApproximateNumberOfMessages, ApproximateNumberOfMessagesDelayed, ApproximateNumberOfMessagesNotVisible,
};
use millrace_tests::{
    Ground, PATIENCE,
    load::Errand,
    scan::assert_known,
    truth::{ReadModel, Truth, differences, keys},
};
use tokio::time::{Instant, sleep};

/// How long all may take to come right: a relay's lease has to expire, a message that was taken along to be seen again.
const CONVERGENCE: Duration = PATIENCE.saturating_mul(2);

/// Fails unless the event store is as clients were told, and the read models come to be the fold of it. Returns what the
/// event store holds.
pub(crate) async fn judge(ground: &Ground, errands: &[Errand]) -> Truth {
    let truth = at_rest(ground).await;
    truth.check_errands(errands).unwrap();
    assert_known(truth.streams().values().flatten());
    assert_eq!(truth.holders().unwrap(), keys(ground).await.unwrap(), "I6: who holds which address");
    converge(ground, &truth).await;
    assert_eq!(Truth::read(ground).await.unwrap(), truth, "nothing was added meanwhile");
    truth
}

/// What the event store holds once nothing more is added: a command may be on its way when its client gives it up.
async fn at_rest(ground: &Ground) -> Truth {
    let mut before = Truth::read(ground).await.unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        sleep(Duration::from_millis(500)).await;
        let now = Truth::read(ground).await.unwrap();
        if now == before {
            return now;
        }
        assert!(Instant::now() < end, "there are more and more events");
        before = now;
    }
}

/// Waits until the read models are what they should be, row by row, and the queues are empty. No message was given up.
pub(crate) async fn converge(ground: &Ground, truth: &Truth) {
    let expected = truth.rows(shards(ground)).unwrap();
    let end = Instant::now() + CONVERGENCE;
    loop {
        let wrong = differences(&expected, &ReadModel::read_all(ground).await.unwrap());
        if wrong.is_empty() {
            break;
        }
        assert!(
            Instant::now() < end,
            "after {CONVERGENCE:?} the rows are not right: {wrong:#?}{}",
            said(ground).await
        );
        sleep(Duration::from_millis(200)).await;
    }
    drained(ground).await;
    let wrong = differences(&expected, &ReadModel::read_all(ground).await.unwrap());
    assert!(wrong.is_empty(), "the last messages have changed rows: {wrong:#?}");
    for queue in ["UserDeadLetterQueueUrl", "OrderDeadLetterQueueUrl", "UndeliveredQueueUrl"] {
        assert_eq!(messages(ground, queue).await, 0, "a message was given up{}", said(ground).await);
    }
}

/// Waits until the queues have nothing left in them.
pub(crate) async fn drained(ground: &Ground) {
    let end = Instant::now() + CONVERGENCE;
    for queue in ["UserQueueUrl", "OrderQueueUrl"] {
        while messages(ground, queue).await > 0 {
            assert!(Instant::now() < end, "{queue} is not empty after {CONVERGENCE:?}");
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Over how many shards the keys of indexes are spread.
pub(crate) fn shards(ground: &Ground) -> u16 {
    ground.output("IndexShards").parse().unwrap()
}

/// How many messages a queue has, hidden ones among them.
async fn messages(ground: &Ground, queue: &str) -> u64 {
    let names = [
        ApproximateNumberOfMessages,
        ApproximateNumberOfMessagesDelayed,
        ApproximateNumberOfMessagesNotVisible,
    ];
    let asked = ground.aws().await.sqs(Duration::ZERO).get_queue_attributes();
    let asked = asked.queue_url(ground.output(queue)).set_attribute_names(Some(names.into()));
    let counts = asked.send().await.unwrap().attributes.unwrap();
    counts.values().map(|count| count.parse::<u64>().unwrap()).sum()
}

/// What dead letters say of themselves: one without a reason was moved by the queue itself.
async fn said(ground: &Ground) -> String {
    let sqs = ground.aws().await.sqs(Duration::ZERO);
    let mut said = String::new();
    for queue in ["UserDeadLetterQueueUrl", "OrderDeadLetterQueueUrl", "UndeliveredQueueUrl"] {
        let receive = sqs.receive_message().queue_url(ground.output(queue)).max_number_of_messages(10);
        let letters = receive.message_attribute_names("All").wait_time_seconds(0).send().await.unwrap();
        for letter in letters.messages.unwrap_or_default() {
            said += &format!("\n  in {queue}: {:?} {:?}", letter.message_attributes, letter.body);
        }
    }
    said
}
