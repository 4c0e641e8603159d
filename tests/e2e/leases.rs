//! The relay's leases and its refill on DynamoDB: the real table keeps the contract of the one in memory, on which the
//! relay's tests, the simulation and the models rest.

use aws_sdk_dynamodb::types::AttributeValue;
use millrace_aws::Segment;
use millrace_core::Timestamp;
use millrace_relay::{
    Leases, Refill as _,
    aws::{DynamoLeases, DynamoRefill},
    leases::{Checkpoint, LOOKER, Lease, Parent, Progress, Replica},
    memory::MemoryLeases,
    stream::{Content, Position, Sequence, ShardId},
};
use millrace_tests::{AwsStack, aws_stack};

/// A time, in seconds of a day long ago.
fn at(second: i64) -> Timestamp {
    Timestamp::from_unix_micros((1_700_000_000 + second) * 1_000_000)
}

fn lease(shard: &str, owner: &str) -> Lease {
    Lease {
        shard: ShardId::from(shard),
        owner: Some(owner.to_owned()),
        fence: 1,
        expires_at: at(8),
        progress: Progress { checkpoint: Checkpoint::At(Position::TrimHorizon), time: at(0) },
        parent: Parent::Shard(ShardId::from("s/0")),
        is_unlisted: false,
    }
}

fn after(lease: &Lease, number: &str, second: i64) -> Lease {
    let checkpoint = Checkpoint::At(Position::After(Sequence(number.to_owned())));
    Lease { expires_at: at(second), progress: Progress { checkpoint, time: at(second) }, ..lease.clone() }
}

async fn stored(leases: &impl Leases, shard: &str) -> Option<Lease> {
    leases.list().await.unwrap().leases.into_iter().find(|lease| lease.shard == ShardId::from(shard))
}

/// The contract of every lease store.
async fn contract(leases: &impl Leases) {
    // Created once: the second attempt fails.
    let first = lease("s/1", "a");
    assert!(leases.create(&first).await.unwrap());
    assert!(!leases.create(&lease("s/1", "b")).await.unwrap(), "there is one");
    assert_eq!(stored(leases, "s/1").await.as_ref(), Some(&first));

    // Kept by its owner.
    let kept = after(&first, "7", 10);
    assert!(leases.keep(&kept).await.unwrap());
    assert!(leases.keep(&kept).await.unwrap(), "a call may have its effect twice");
    assert!(!leases.keep(&after(&first, "5", 9)).await.unwrap(), "a call that arrives late");
    assert_eq!(stored(leases, "s/1").await.as_ref(), Some(&kept));

    // Taken as it was seen last, and not as it was seen before that.
    assert_eq!(leases.take(&first, "b", at(20)).await.unwrap(), None, "it was renewed since");
    let other_fence = Lease { fence: 2, ..kept.clone() };
    assert_eq!(leases.take(&other_fence, "b", at(20)).await.unwrap(), None, "it has another fence");
    let taken = leases.take(&kept, "b", at(20)).await.unwrap().unwrap();
    let expected = Lease { owner: Some("b".to_owned()), fence: 2, expires_at: at(20), ..kept.clone() };
    assert_eq!((&taken, stored(leases, "s/1").await.as_ref()), (&expected, Some(&expected)));
    assert_eq!(leases.take(&kept, "c", at(20)).await.unwrap(), None, "b was faster");

    // The former owner changes nothing any more, nor does another process with the right fence.
    assert!(!leases.keep(&after(&kept, "9", 30)).await.unwrap(), "a stale fence");
    assert!(!leases.release(&after(&kept, "9", 30)).await.unwrap(), "a stale fence");
    let impostor = Lease { owner: Some("a".to_owned()), ..after(&taken, "9", 30) };
    assert!(!leases.keep(&impostor).await.unwrap(), "another owner");
    assert!(!leases.release(&impostor).await.unwrap(), "another owner");
    assert_eq!(stored(leases, "s/1").await.as_ref(), Some(&taken));

    // Given up with its progress; then nobody's, until it is taken again.
    let last = after(&taken, "9", 25);
    assert!(leases.release(&last).await.unwrap());
    let free = stored(leases, "s/1").await.unwrap();
    assert_eq!((&free.owner, free.fence, &free.progress), (&None, 2, &last.progress));
    assert!(!leases.keep(&after(&taken, "11", 40)).await.unwrap(), "it was given up");
    let again = leases.take(&free, "b", at(50)).await.unwrap().unwrap();
    assert_eq!((again.fence, again.progress), (3, last.progress));

    // Corrected by whoever looks at the stream, whoever has it; its owner's writes leave that as it is.
    for (is_unlisted, parent) in [(true, Parent::None), (false, Parent::Unknown), (true, Parent::Unknown)] {
        let seen = stored(leases, "s/1").await.unwrap();
        let parent_before = if parent == Parent::Unknown { seen.parent.clone() } else { parent.clone() };
        leases.correct(&Lease { is_unlisted, parent, owner: None, ..first.clone() }).await.unwrap();
        let expected = Lease { is_unlisted, parent: parent_before, ..seen };
        assert_eq!(stored(leases, "s/1").await.as_ref(), Some(&expected));
        assert!(leases.keep(&Lease { is_unlisted: !is_unlisted, ..expected.clone() }).await.unwrap());
        assert_eq!(stored(leases, "s/1").await, Some(expected));
    }
    leases.correct(&lease("s/none", "a")).await.unwrap();
    assert_eq!(stored(leases, "s/none").await, None, "there is nothing to correct");

    // The looker's lease is no shard's.
    let looker = Lease { parent: Parent::Unknown, ..lease(LOOKER, "a") };
    assert!(leases.create(&looker).await.unwrap());
    assert!(leases.keep(&looker).await.unwrap());
    assert_eq!((stored(leases, LOOKER).await, leases.list().await.unwrap().looker), (None, Some(looker)));

    // A finished one is forgotten as it was seen, and no other.
    assert!(leases.create(&lease("s/2", "a")).await.unwrap());
    let finished =
        Lease { progress: Progress { checkpoint: Checkpoint::ShardEnd, time: at(9) }, ..lease("s/2", "a") };
    assert!(leases.release(&finished).await.unwrap());
    leases.forget(&Lease { fence: 7, ..finished.clone() }).await.unwrap();
    assert!(stored(leases, "s/2").await.is_some(), "it is not the one that was seen");
    leases.forget(&stored(leases, "s/2").await.unwrap()).await.unwrap();
    assert_eq!(stored(leases, "s/2").await, None);

    // Replicas come and go; the note of completeness only rises.
    let replica = Replica { owner: "a".to_owned(), expires_at: at(8) };
    leases.announce(&replica).await.unwrap();
    let later = Replica { expires_at: at(16), ..replica };
    leases.announce(&later).await.unwrap();
    assert_eq!(leases.list().await.unwrap().replicas, [later]);
    leases.withdraw("a").await.unwrap();
    assert_eq!(leases.list().await.unwrap().replicas, []);
    assert_eq!(leases.list().await.unwrap().complete_at, None);
    for (noted, expected) in [(at(10), at(10)), (at(5), at(10)), (at(12), at(12))] {
        leases.note_complete(noted).await.unwrap();
        assert_eq!(leases.list().await.unwrap().complete_at, Some(expected));
    }
}

#[tokio::test]
async fn leases_in_memory_keep_their_contract() {
    contract(&MemoryLeases::default()).await;
}

#[tokio::test]
async fn leases_on_dynamodb_keep_their_contract() {
    let stack = aws_stack().await.unwrap();
    contract(&DynamoLeases::new(stack.aws().await.dynamodb(), stack.relay_leases())).await;
}

/// Items of the event store, as large as items can be by half: nothing that can be read, which does not matter here.
async fn fill(stack: &AwsStack, count: usize, time: Timestamp) {
    let client = stack.aws().await.dynamodb();
    for number in 0..count {
        let text = |text: String| AttributeValue::S(text);
        let put = client.put_item().table_name(stack.events());
        let put = put.item("AggregateId", text(format!("acme#{time}#{number}")));
        let put = put.item("Version", AttributeValue::N("1".to_owned()));
        let put = put.item("Timestamp", text(time.to_string())).item("Filling", text("x".repeat(200_000)));
        put.send().await.unwrap();
    }
}

#[tokio::test]
async fn a_refill_reads_every_page_of_the_table() {
    let stack = aws_stack().await.unwrap();
    fill(&stack, 3, at(0)).await;
    fill(&stack, 12, at(60)).await;
    let refill = DynamoRefill::new(stack.aws().await.dynamodb(), stack.events());
    let (mut pages, mut contents) = (0, 0);
    for segment in Segment::all(2.try_into().unwrap()) {
        let mut from = None;
        loop {
            let page = refill.page(at(30), segment, from.as_ref()).await.unwrap();
            assert!(page.contents.iter().all(|content| matches!(content, Content::Undecodable(_))));
            pages += 1;
            contents += page.contents.len();
            from = page.next;
            if from.is_none() {
                break;
            }
        }
    }
    assert!(pages >= 3, "three megabytes are {pages} pages");
    assert_eq!(contents, 12, "those that are young enough, from every page of every segment");
}
