//! Commands that add several events at once, on an aggregate of this test's own.

use std::sync::atomic::Ordering;

use millrace_aws::AwsError;
use millrace_command::{CommandEnvelope, CommandHandler, StateCache};
use millrace_core::{
    Aggregate, AggregateType, CommandDigest, CommitReceipt, EvolveError, Rejection, StreamId, TenantId,
    Timestamp, UniqueKey,
};
use millrace_event_store::{
    AppendError, AppendEvents, CommandBlock, Commit, Entry, LoadEvents, MemoryStore, Replaces, Snapshot,
    Snapshots,
};
use millrace_server::TraceParent;
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::support::{CONFIG, Lossy};

/// Pages, each with a text. The book holds the last one's text as a key, where it is short.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Book(Vec<String>);

#[derive(Debug, Clone)]
enum BookEvent {
    PageAdded(PageAdded),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct PageAdded {
    text: String,
}

millrace_proto::json_event_codec! {
    BookEvent { PageAdded = 1 }
}

#[derive(Debug)]
enum Never {}

impl From<Never> for Rejection {
    fn from(never: Never) -> Self {
        match never {}
    }
}

impl Aggregate for Book {
    const TYPE: AggregateType = AggregateType::new("book");
    const STATE_SCHEMA: u32 = 1;
    /// The texts of the pages to be added.
    type Command = Vec<String>;
    type Event = BookEvent;
    type Error = Never;

    fn decide(_: Option<&Self>, texts: &Vec<String>, _: Timestamp) -> Result<Vec<BookEvent>, Never> {
        Ok(texts.iter().cloned().map(|text| BookEvent::PageAdded(PageAdded { text })).collect())
    }

    fn evolve(book: Option<Self>, BookEvent::PageAdded(page): &BookEvent) -> Result<Self, EvolveError> {
        let mut pages = book.map_or_else(Vec::new, |book| book.0);
        pages.push(page.text.clone());
        Ok(Self(pages))
    }

    fn unique_keys(&self) -> Vec<UniqueKey> {
        let key = |text: &String| UniqueKey { scope: "book.last", value: text.clone() };
        self.0.last().filter(|text| text.len() < 100).map(key).into_iter().collect()
    }
}

fn envelope(book: u128, id: &str, texts: &[&str]) -> CommandEnvelope<Book> {
    let stream =
        StreamId { tenant: TenantId::default(), aggregate_type: Book::TYPE, id: Uuid::from_u128(book) };
    CommandEnvelope {
        stream,
        command: texts.iter().map(|text| (*text).to_owned()).collect(),
        creates: id == "create",
        expected_version: None,
        command_id: id.parse().unwrap(),
        digest: CommandDigest(texts.len().try_into().unwrap()),
        correlation_id: id.parse().unwrap(),
        trace: TraceParent::new_root(),
    }
}

fn replica<S: AppendEvents + Snapshots>(store: &S) -> CommandHandler<Book, S> {
    CommandHandler::new(store.clone(), StateCache::new(1 << 20), CONFIG)
}

/// The receipt of a command, and whether that is a replay.
async fn add<S: AppendEvents + Snapshots>(
    books: &CommandHandler<Book, S>,
    id: &str,
    texts: &[&str],
) -> (CommitReceipt, bool) {
    let outcome = books.execute(&envelope(1, id, texts)).await.unwrap();
    (outcome.receipt, outcome.replayed)
}

#[tokio::test]
async fn a_retry_is_answered_with_the_last_event_of_its_command_however_old_the_state() {
    let store = MemoryStore::default();
    let (here, there) = (replica(&store), replica(&store));
    add(&here, "create", &["a"]).await;
    // From here on this one has an old state, whose next event is the first of three, or is another one's.
    add(&there, "b", &["b"]).await;
    for between in [false, true] {
        let (old, id) = (replica(&store), format!("three-{between}"));
        add(&old, "b", &["b"]).await;
        if between {
            add(&here, "c", &["c"]).await;
        }
        let first = add(&here, &id, &["d", "e", "f"]).await;
        for service in [&old, &there, &replica(&store)] {
            assert_eq!(add(service, &id, &["d", "e", "f"]).await, (first.0, true), "{between}");
        }
    }
    let versions = store.all().iter().map(|event| event.envelope.version).collect::<Vec<_>>();
    assert_eq!(versions, (1..=9).collect::<Vec<_>>());
}

/// A store whose newest events end at version 3, as where a Query sees a part of a commit.
#[derive(Clone)]
struct Torn(MemoryStore);

impl LoadEvents for Torn {
    async fn newest(&self, stream: &StreamId, after: u64, limit: u16) -> Result<Vec<Entry>, AwsError> {
        let mut entries = self.0.newest(stream, after, limit).await?;
        entries.retain(|entry| entry.version <= 3);
        Ok(entries)
    }

    async fn between(&self, stream: &StreamId, after: u64, before: u64) -> Result<Vec<Entry>, AwsError> {
        self.0.between(stream, after, before).await
    }
}

impl AppendEvents for Torn {
    async fn append(&self, commit: &Commit) -> Result<(), AppendError> {
        self.0.append(commit).await
    }
}

impl Snapshots for Torn {
    async fn snapshot(&self, stream: &StreamId, schema: u32) -> Result<Option<Snapshot>, AwsError> {
        self.0.snapshot(stream, schema).await
    }

    async fn put_snapshot(&self, snapshot: &Snapshot, replaces: Replaces) -> Result<bool, AwsError> {
        self.0.put_snapshot(snapshot, replaces).await
    }

    async fn command_blocks(
        &self,
        stream: &StreamId,
        numbers: &[u64],
    ) -> Result<Vec<CommandBlock>, AwsError> {
        self.0.command_blocks(stream, numbers).await
    }

    async fn put_command_block(&self, block: &CommandBlock, replaces: Replaces) -> Result<bool, AwsError> {
        self.0.put_command_block(block, replaces).await
    }
}

#[tokio::test]
async fn a_retry_on_a_part_of_its_commit_is_answered_with_the_last_event() {
    let store = MemoryStore::default();
    let books = replica(&store);
    add(&books, "create", &["a"]).await;
    let (receipt, _) = add(&books, "three", &["b", "c", "d"]).await;
    add(&books, "later", &["e"]).await;
    assert_eq!(add(&replica(&Torn(store)), "three", &["b", "c", "d"]).await, (receipt, true));
}

/// A retry looks for the answer of a creation in the first event alone.
#[tokio::test]
async fn a_creation_with_several_events_is_refused_and_nothing_is_stored() {
    let store = MemoryStore::default();
    let refused: Status =
        replica(&store).execute(&envelope(1, "create", &["a", "b"])).await.unwrap_err().into();
    assert_eq!((refused.code(), store.all().len()), (Code::Internal, 0));
}

#[tokio::test]
async fn several_events_are_stored_together_with_their_key_or_not_at_all() {
    let store = MemoryStore::default();
    let books = replica(&store);
    add(&books, "create", &["a"]).await;
    add(&books, "more", &["b", "c", "d"]).await;
    // Another book ends as this one does: nothing of it is stored.
    books.execute(&envelope(2, "create", &["x"])).await.unwrap();
    let taken: Status = books.execute(&envelope(2, "same", &["y", "z", "d"])).await.unwrap_err().into();
    assert_eq!(taken.code(), Code::AlreadyExists);
    assert_eq!(store.all().len(), 5);
    // The key that the refused commit did not claim is free.
    books.execute(&envelope(2, "other", &["y", "c"])).await.unwrap();
    assert_eq!(store.all().len(), 7);
}

#[tokio::test]
async fn several_events_whose_reply_was_lost_are_no_replay_and_are_there_once() {
    let store = Lossy { resends: true, ..Lossy::default() };
    let books = replica(&store);
    add(&books, "create", &["a"]).await;
    store.losses.store(1, Ordering::SeqCst);
    let (receipt, replayed) = add(&books, "three", &["b", "c", "d"]).await;
    assert_eq!((receipt.version, replayed), (4, false));
    assert_eq!(store.inner.all().last().unwrap().envelope.event_id, receipt.event_id);
    // The store does not return the event in the way.
    *store.instead.lock().unwrap() = Some(AppendError::Conflict { existing: None });
    let (receipt, replayed) = add(&books, "two", &["e", "f"]).await;
    assert_eq!((receipt.version, replayed), (6, false));
    assert_eq!(store.inner.all().len(), 6);
}

#[tokio::test]
async fn what_exceeds_a_limit_is_refused_with_the_limit_named_and_is_not_sent() {
    let store = MemoryStore::default();
    let books = replica(&store);
    add(&books, "create", &["a"]).await;
    let (long, large, before) = (["x"; 101], "x".repeat(400 * 1024), store.requests());
    let eleven: Vec<String> = (0..11).map(|n| format!("{n}{}", "x".repeat(390_000))).collect();
    let eleven: Vec<&str> = eleven.iter().map(String::as_str).collect();
    for (texts, limit) in [(&long[..], "100"), (&[large.as_str()], "400 KB"), (&eleven, "4 MB")] {
        let refused: Status = books.execute(&envelope(1, "x", texts)).await.unwrap_err().into();
        let details = refused.get_error_details();
        let said = &details.bad_request().unwrap().field_violations[0].description;
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(said.contains(limit), "{limit} is not in: {said}");
    }
    // Nothing but a look at the newest state for each: a refusal does not rest on an old one.
    assert_eq!((store.requests(), store.all().len()), (before + 3, 1));
}
