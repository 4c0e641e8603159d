//! Messages of the queues.

use arbitrary::{Arbitrary as _, Result, Unstructured};
use millrace_core::{
    Envelope,
    projection::ProjectionSpec,
    row::{Attributes, RowKey},
};
use millrace_projection::{
    bus,
    queue::{MAX_MESSAGES, Queue as _, QueueAddress, SqsQueue, Unusable},
};
use serde_json::json;
use shop::{order::OrderEvent, user::UserEvent};

use crate::{
    application::SHOP,
    damage::{SECRET, text},
    stored::{assert_decodes, assert_silent},
    wire::{Played, played, run},
};

/// The body of a message. It is an envelope or it is not: an envelope survives the bus, its event changes its own row
/// from the version before to its own, and no failure quotes the body.
pub(crate) fn messages(data: &[u8]) {
    let body = String::from_utf8_lossy(data);
    match bus::envelope(&body) {
        Ok(envelope) => {
            let sent = json!({ "detail": envelope }).to_string();
            assert_eq!(bus::envelope(&sent).ok().as_ref(), Some(&envelope), "an envelope survives the bus");
            assert!(envelope.version > 0, "versions begin with 1");
            SHOP.projections().iter().for_each(|spec| project(spec, &envelope));
            let Some(data) = &envelope.event_data else { return };
            assert_decodes::<UserEvent>(&envelope.event_type, envelope.schema_version, data);
            assert_decodes::<OrderEvent>(&envelope.event_type, envelope.schema_version, data);
            for aggregate in SHOP.aggregates() {
                let message = (aggregate.message)(&envelope.event_type, envelope.schema_version, data);
                assert_quotes_nothing(message);
            }
        }
        Err(failure) => assert!(!failure.to_string().contains(SECRET), "a failure quotes: {failure}"),
    }
}

fn project(spec: &ProjectionSpec, envelope: &Envelope) {
    let Some(update) = assert_quotes_nothing((spec.update)(envelope)) else { return };
    let Some(update) = update else {
        assert!(envelope.event_data.is_none(), "only an event without its data makes no update");
        return;
    };
    assert_eq!(
        (update.from_version + 1, update.to_version),
        (envelope.version, envelope.version),
        "its own version"
    );
    assert_eq!(update.stream, envelope.stream(), "its own stream");
    let own = RowKey { tenant: envelope.tenant_id.clone(), id: envelope.aggregate_id.to_string() };
    assert_eq!(update.key, own, "its own row");
    assert_quotes_nothing(update.change.resolve(&Attributes::new()));
}

/// The result of a message; `None` after an error, which quotes none of it.
fn assert_quotes_nothing<T, E: std::fmt::Display>(made: std::result::Result<T, E>) -> Option<T> {
    made.inspect_err(|error| assert!(!error.to_string().contains(SECRET), "an error quotes: {error}")).ok()
}

/// SQS's attributes of a queue, and its messages. A queue with senseless rules is refused, and a received message has a
/// receipt and was received at least once.
pub(crate) fn replies(data: &[u8]) -> Result<()> {
    let u = &mut Unstructured::new(data);
    let Played { wire, aws, .. } = played();
    let policy = match u.int_in_range(0..=2)? {
        0 => text(u)?,
        1 => {
            let count = if bool::arbitrary(u)? { json!(i64::arbitrary(u)?) } else { json!(text(u)?) };
            json!({ "deadLetterTargetArn": arn(u)?, "maxReceiveCount": count }).to_string()
        }
        _ => r#"{"deadLetterTargetArn":"arn:aws:sqs:r:1:d","maxReceiveCount":"20"}"#.to_owned(),
    };
    let hidden = if bool::arbitrary(u)? { "30".to_owned() } else { count(u)? };
    let mut message = json!({ "MessageId": "m", "ReceiptHandle": "r", "Body": text(u)?,
        "Attributes": { "ApproximateReceiveCount": count(u)? } });
    for name in ["MessageId", "ReceiptHandle", "Body", "Attributes"] {
        if u.ratio(1, 8)? {
            message.as_object_mut().map(|message| message.remove(name));
        }
    }
    // SQS answers all questions at once here: each call reads its own part.
    let reply = json!({
        "Attributes": { "RedrivePolicy": policy, "VisibilityTimeout": hidden,
            "ApproximateNumberOfMessages": count(u)?, "ApproximateNumberOfMessagesNotVisible": count(u)?,
            "ApproximateNumberOfMessagesDelayed": "0" },
        "QueueUrl": "http://localhost:1/1/d",
        "Messages": [message],
    });
    wire.answer(&reply);
    let address = if u.ratio(1, 2)? {
        QueueAddress::Name("q".to_owned())
    } else {
        QueueAddress::Url("http://localhost:1/1/q".to_owned())
    };
    let queue = match run(SqsQueue::open(aws, &address, std::time::Duration::ZERO)) {
        Ok(queue) => queue,
        Err(Unusable::Aws(_, error)) => panic!("a reply is no failure of AWS's: {error}"),
        Err(refused) => {
            assert!(!refused.to_string().contains(SECRET), "a refusal quotes: {refused}");
            return Ok(());
        }
    };
    assert!(queue.rules().max_receives > 0, "a message is received at least once");
    assert!(queue.rules().visibility.as_secs() >= 5, "there is time to work on a message");
    if let Err(error) = run(queue.depth()) {
        assert_silent(&error);
    }
    let received = run(queue.receive()).expect("messages");
    assert!(received.len() <= usize::try_from(MAX_MESSAGES).unwrap_or(10));
    assert_eq!(received.len(), usize::from(message.get("ReceiptHandle").is_some()), "no receipt, no message");
    Ok(())
}

fn arn(u: &mut Unstructured<'_>) -> Result<String> {
    let parts = (0..u.int_in_range(0..=7)?).map(|_| {
        Ok(match u.int_in_range(0..=3)? {
            0 => text(u)?,
            1 => "arn".to_owned(),
            2 => "sqs".to_owned(),
            _ => "1".to_owned(),
        })
    });
    Ok(parts.collect::<Result<Vec<_>>>()?.join(":"))
}

/// A number that SQS may say, or that it never does.
fn count(u: &mut Unstructured<'_>) -> Result<String> {
    if bool::arbitrary(u)? { Ok(u64::arbitrary(u)?.to_string()) } else { crate::damage::number(u) }
}
