//! The wire before all the services that the deployables use, and a wire that is out of reach.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_eventbridge::types::{PutEventsRequestEntry, PutEventsResultEntry};
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
    SendMessageBatchRequestEntry,
};
use futures::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use millrace_aws::{Aws, AwsError, AwsResult};
use millrace_core::Aggregate as _;
use millrace_tests::{
    Answer, AwsStack, Entries, Fault, FaultKind, FaultProxy, Throttling, USERS, aws_stack, queues::Queues,
};
use serde_json::json;
use shop::user::User;
use tokio::{io::AsyncReadExt as _, net::TcpStream};

/// A wire with a client at one end and an account at the other.
struct Line {
    stack: AwsStack,
    proxy: FaultProxy,
    aws: Aws,
}

/// A service, by an operation of its.
#[derive(Clone, Copy, Debug)]
enum Service {
    DynamoDb,
    Streams,
    EventBridge,
    Sqs,
}

impl Service {
    const ALL: [Self; 4] = [Self::DynamoDb, Self::Streams, Self::EventBridge, Self::Sqs];

    fn operation(self) -> &'static str {
        match self {
            Self::DynamoDb => "ListTables",
            Self::Streams => "ListStreams",
            Self::EventBridge => "PutEvents",
            Self::Sqs => "SendMessage",
        }
    }
}

impl Line {
    async fn new() -> Self {
        let stack = aws_stack().await.unwrap();
        let proxy = FaultProxy::before(stack.endpoint()).await.unwrap();
        let aws = proxy.aws(&stack.account).await;
        Self { stack, proxy, aws }
    }

    async fn call(&self, service: Service) -> AwsResult<()> {
        match service {
            Service::DynamoDb => self.aws.dynamodb().list_tables().send().await.map(drop)?,
            Service::Streams => self.aws.streams().list_streams().send().await.map(drop)?,
            Service::EventBridge => {
                let verdicts = self.publish(1).await?;
                assert!(verdicts[0].event_id().is_some(), "{verdicts:?}");
            }
            Service::Sqs => {
                let send = self.aws.sqs(Duration::ZERO).send_message().queue_url(self.queue());
                send.message_body("hello").send().await.map(drop)?;
            }
        }
        Ok(())
    }

    /// Puts so many events on the bus, each of which goes to the queue.
    async fn publish(&self, count: usize) -> AwsResult<Vec<PutEventsResultEntry>> {
        let entries = (0..count).map(|n| {
            PutEventsRequestEntry::builder()
                .event_bus_name(self.stack.bus())
                .source(millrace_tests::shop().name())
                .detail_type("UserCreated")
                .detail(json!({ "AggregateType": User::TYPE, "n": n }).to_string())
                .build()
        });
        let put = self.aws.eventbridge().put_events().set_entries(Some(entries.collect()));
        Ok(put.send().await?.entries.unwrap_or_default())
    }

    fn queue(&self) -> String {
        self.stack.queue(USERS)
    }

    /// How many messages the queue has, seen and hidden ones, asked past the proxy.
    async fn messages(&self) -> (u64, u64) {
        Queues::of(&self.stack).await.counts(&self.queue()).await
    }
}

#[tokio::test]
async fn every_service_throttles_and_fails_in_its_own_words() {
    use Throttling::{ProvisionedThroughputExceeded, RequestLimitExceeded, Throttling as TooMany};

    let line = Line::new().await;
    let all = [ProvisionedThroughputExceeded, TooMany, RequestLimitExceeded];
    for (service, throttled, out_of_order) in [
        (
            Service::DynamoDb,
            ["ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"],
            "InternalServerError",
        ),
        (
            Service::Streams,
            ["LimitExceededException", "ThrottlingException", "ThrottlingException"],
            "InternalServerError",
        ),
        (Service::EventBridge, ["ThrottlingException"; 3], "InternalException"),
        (Service::Sqs, ["RequestThrottled", "ThrottlingException", "RequestThrottled"], "InternalFailure"),
    ] {
        let operation = service.operation();
        for (throttling, code) in all.into_iter().zip(throttled) {
            (0..3).for_each(|_| line.proxy.next(operation, Fault::Throttle(throttling)));
            let failed = line.call(service).await.unwrap_err();
            let known =
                matches!(&failed, AwsError::Throttled(text) if text.starts_with(&format!("{code}: ")));
            assert!(known, "{service:?}: {failed:?}, not {code}");
            line.proxy.next(operation, Fault::Throttle(throttling));
            line.call(service).await.expect("the SDK tries again");
        }
        (0..3).for_each(|_| line.proxy.next(operation, Fault::ServerError));
        let failed = line.call(service).await.unwrap_err();
        let known =
            matches!(&failed, AwsError::Unreachable(text) if text.starts_with(&format!("{out_of_order}: ")));
        assert!(known, "{service:?}: {failed:?}, not {out_of_order}");
        line.proxy.next(operation, Fault::ServerError);
        line.call(service).await.expect("the SDK tries again");
    }
}

#[tokio::test]
async fn every_fault_befalls_every_service_and_the_next_attempt_comes_through() {
    const A_WHILE: Duration = Duration::from_millis(20);
    // Each with how often the call takes effect, with the retry of an SDK that could not know that it had.
    let faults = [
        (Fault::Delay(A_WHILE), 1),
        (Fault::DelayAfter(A_WHILE), 1),
        (Fault::Throttle(Throttling::Throttling), 1),
        (Fault::ServerError, 1),
        (Fault::ServerErrorAfter, 2),
        (Fault::Reset, 1),
        (Fault::ResetAfter, 2),
        (Fault::Duplicate(Answer::First), 2),
        (Fault::Duplicate(Answer::Second), 2),
        (Fault::Hang, 1),
        (Fault::HangAfter, 2),
        (Fault::HangWithin, 2),
    ];
    let all =
        Service::ALL.into_iter().flat_map(|service| faults.map(|(fault, times)| (service, fault, times)));
    // Side by side, each on a line of its own: some wait for seconds.
    join_all(all.map(async |(service, fault, times)| {
        let line = Line::new().await;
        line.proxy.next(service.operation(), fault);
        line.call(service).await.unwrap_or_else(|failed| panic!("{service:?}, {fault:?}: {failed}"));
        assert_eq!(line.proxy.injected(), [(fault.kind(), 1)].into(), "{service:?}");
        let effects = match service {
            Service::DynamoDb | Service::Streams => return,
            Service::EventBridge | Service::Sqs => line.messages().await.0,
        };
        assert_eq!(effects, times, "{service:?}, {fault:?}");
    }))
    .await;
}

/// Nothing watches the bodies of replies by themselves: only the attempt's time-out ends one that stops.
#[tokio::test]
async fn a_reply_that_stops_within_its_body_ends_its_attempt_with_every_client() {
    /// Longer than any call may take with all its attempts, so that only one that has no end meets it.
    const FOR_EVER: Duration = Duration::from_secs(60);
    const LONG_POLL: Duration = Duration::from_secs(1);

    let line = Line::new().await;
    let (dynamodb, bulk, streams) = (line.aws.dynamodb(), line.aws.dynamodb_in_bulk(), line.aws.streams());
    let (eventbridge, sqs) = (line.aws.eventbridge(), line.aws.sqs(LONG_POLL));
    let key = AttributeValue::S("a".to_owned());
    let get = dynamodb.get_item().table_name(line.stack.snapshots()).key("AggregateId", key);
    let scan = bulk.scan().table_name(line.stack.events());
    let describe = eventbridge.describe_event_bus().name(line.stack.bus());
    let receive = sqs.receive_message().queue_url(line.queue()).wait_time_seconds(1);
    let calls = [
        ("GetItem", answered(get.send())),
        ("Scan", answered(scan.send())),
        ("ListStreams", answered(streams.list_streams().send())),
        ("DescribeEventBus", answered(describe.send())),
        ("ReceiveMessage", answered(receive.send())),
    ];
    let operations = calls.each_ref().map(|(operation, _)| *operation);
    let _ambushes = operations.map(|operation| line.proxy.lie_in_wait(operation, Fault::HangWithin));
    // Side by side, since each waits for seconds.
    join_all(calls.into_iter().map(async |(operation, call)| {
        let began = Instant::now();
        let ended = tokio::time::timeout(FOR_EVER, call).await;
        let ended = ended.unwrap_or_else(|_| panic!("{operation} waits for ever"));
        println!("{operation}: {ended:?} after {:?}", began.elapsed());
        assert!(matches!(ended, Err(AwsError::Unreachable(_))), "{operation}: {ended:?}");
    }))
    .await;
    let traffic = line.proxy.take();
    for operation in operations {
        assert!(traffic[operation].requests >= 2, "{operation} was tried again");
        assert!(traffic[operation].response_bytes >= 1, "the reply to {operation} had begun");
    }
}

/// A call's outcome, without its value.
fn answered<'a, T, E>(call: impl Future<Output = Result<T, E>> + Send + 'a) -> BoxFuture<'a, AwsResult<()>>
where
    AwsError: From<E>,
{
    async move { Ok(call.await.map(drop)?) }.boxed()
}

#[tokio::test]
async fn a_bus_may_take_some_entries_and_refuse_others() {
    let line = Line::new().await;
    let codes = |verdicts: &[PutEventsResultEntry]| -> Vec<_> {
        verdicts.iter().map(|verdict| verdict.error_code().map(str::to_owned)).collect()
    };
    let refused = [Some("ThrottlingException".to_owned()), Some("InternalFailure".to_owned())];
    for (fault, arrived) in
        [(Fault::RefuseEntries(Entries(0b0011)), 2), (Fault::RefuseEntriesAfter(Entries(0b0011)), 4)]
    {
        let (before, _) = line.messages().await;
        line.proxy.next("PutEvents", fault);
        let verdicts = line.publish(4).await.unwrap();
        assert_eq!(codes(&verdicts), [&refused[..], &[None, None]].concat(), "{fault:?}");
        assert!(verdicts[2..].iter().all(|verdict| verdict.event_id().is_some()), "{verdicts:?}");
        assert_eq!(line.messages().await.0 - before, arrived, "{fault:?}");
    }
    line.proxy.next("PutEvents", Fault::RefuseEntries(Entries(u16::MAX)));
    let verdicts = line.publish(2).await.unwrap();
    assert_eq!(codes(&verdicts), refused);
    assert_eq!(line.messages().await.0, 6, "all were refused");
    assert_eq!(line.proxy.injected()[&FaultKind::RefuseEntries], 2);
}

#[tokio::test]
async fn a_queue_may_take_some_entries_and_refuse_others() {
    let line = Line::new().await;
    let sqs = line.aws.sqs(Duration::ZERO);
    let failed = |entries: &[BatchResultErrorEntry]| -> Vec<_> {
        let told = entries.iter().map(|entry| (entry.id.clone(), entry.code.clone(), entry.sender_fault));
        told.collect()
    };
    let too_much = |id: &str| (id.to_owned(), "RequestThrottled".to_owned(), true);
    let out_of_order = |id: &str| (id.to_owned(), "InternalError".to_owned(), false);

    let send = |id: &str| SendMessageBatchRequestEntry::builder().id(id).message_body(id).build().unwrap();
    let batch =
        sqs.send_message_batch().queue_url(line.queue()).set_entries(Some(["a", "b", "c"].map(send).into()));
    line.proxy.next("SendMessageBatch", Fault::RefuseEntries(Entries(0b100)));
    let sent = batch.clone().send().await.unwrap();
    assert_eq!((failed(sent.failed()), sent.successful().len()), (vec![too_much("c")], 2));
    assert_eq!(line.messages().await, (2, 0));
    line.proxy.next("SendMessageBatch", Fault::RefuseEntriesAfter(Entries(0b010)));
    let sent = batch.send().await.unwrap();
    assert_eq!((failed(sent.failed()), sent.successful().len()), (vec![out_of_order("b")], 2));
    assert_eq!(line.messages().await, (5, 0), "all of it took effect");

    let receive =
        sqs.receive_message().queue_url(line.queue()).max_number_of_messages(10).wait_time_seconds(0);
    let received = receive.send().await.unwrap().messages.unwrap();
    let receipts: Vec<_> = received.into_iter().map(|message| message.receipt_handle.unwrap()).collect();
    assert_eq!((receipts.len(), line.messages().await), (5, (0, 5)));
    let show = receipts.iter().enumerate().map(|(n, receipt)| {
        let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(n.to_string());
        entry.receipt_handle(receipt).visibility_timeout(0).build().unwrap()
    });
    line.proxy.next("ChangeMessageVisibilityBatch", Fault::RefuseEntries(Entries(0b00111)));
    let shown =
        sqs.change_message_visibility_batch().queue_url(line.queue()).set_entries(Some(show.collect()));
    let shown = shown.send().await.unwrap();
    assert_eq!(failed(shown.failed()), [too_much("0"), out_of_order("1"), too_much("2")]);
    assert_eq!(line.messages().await, (2, 3), "the others are seen again");

    let delete = receipts.iter().enumerate().map(|(n, receipt)| {
        DeleteMessageBatchRequestEntry::builder().id(n.to_string()).receipt_handle(receipt).build().unwrap()
    });
    line.proxy.next("DeleteMessageBatch", Fault::RefuseEntries(Entries(0b00010)));
    let deleted = sqs.delete_message_batch().queue_url(line.queue()).set_entries(Some(delete.collect()));
    let deleted = deleted.send().await.unwrap();
    assert_eq!((failed(deleted.failed()), deleted.successful().len()), (vec![out_of_order("1")], 4));
    assert_eq!(line.messages().await, (0, 1), "what was refused is still there");
}

/// Whether nobody listens at the wire.
async fn refuses(proxy: &FaultProxy) -> bool {
    let connected = TcpStream::connect(proxy.url().strip_prefix("http://").unwrap()).await;
    connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[tokio::test]
async fn a_wire_out_of_reach_refuses_connections_and_is_back_at_the_same_place() {
    let line = Line::new().await;
    for _ in 0..3 {
        for service in Service::ALL {
            line.call(service).await.unwrap();
        }
        let mut idle = TcpStream::connect(line.proxy.url().strip_prefix("http://").unwrap()).await.unwrap();
        line.proxy.refuse().await.unwrap();
        assert!(refuses(&line.proxy).await);
        let end = idle.read(&mut [0]).await;
        assert!(end.is_err() || end.is_ok_and(|read| read == 0), "what was connected is cut");
        for service in Service::ALL {
            let failed = line.call(service).await.unwrap_err();
            assert!(matches!(&failed, AwsError::Unreachable(_)), "{service:?}: {failed:?}");
        }
        line.proxy.accept().await.unwrap();
        assert!(!refuses(&line.proxy).await);
    }
    line.call(Service::Sqs).await.unwrap();
    assert!(line.proxy.accept().await.is_err(), "it is open already");
}

#[tokio::test]
async fn a_request_on_its_way_when_the_wire_is_cut_takes_effect_and_its_reply_is_lost() {
    let line = Line::new().await;
    let mut ambush = line.proxy.lie_in_wait("SendMessage", Fault::DelayAfter(Duration::from_secs(60)));
    let cut = async {
        ambush.met().await;
        line.proxy.refuse().await.unwrap();
    };
    let (sent, ()) = tokio::join!(line.call(Service::Sqs), cut);
    assert!(matches!(sent, Err(AwsError::Unreachable(_))), "{sent:?}");
    millrace_tests::eventually("the message", async || (line.messages().await.0 == 1).then_some(())).await;
}

#[tokio::test]
async fn an_ambush_befalls_every_request_of_its_operation_until_it_is_over() {
    let line = Line::new().await;
    let mut ambush = line.proxy.lie_in_wait("SendMessage", Fault::Throttle(Throttling::Throttling));
    line.call(Service::EventBridge).await.unwrap();
    line.call(Service::Sqs).await.unwrap_err();
    ambush.met().await;
    line.call(Service::Sqs).await.unwrap_err();
    assert_eq!(line.proxy.injected(), [(FaultKind::Throttle, 6)].into());
    drop(ambush);
    line.call(Service::Sqs).await.unwrap();
    assert_eq!(line.proxy.injected(), [(FaultKind::Throttle, 6)].into());
}
