//! I17: no refusal of a command that was carried out, and none that rests on a state that may have changed.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use millrace_aws::AwsError;
use millrace_command::CommandHandlerConfig;
use millrace_core::StreamId;
use millrace_event_store::{
    AppendError, AppendEvents, CommandBlock, Commit, Entry, LoadEvents, MemoryStore, Replaces, Snapshot,
    Snapshots,
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{CONFIG, Lossy, reason, replica, replica_with, unhurried, user};

const TAKEN: AppendError = AppendError::KeyTaken { scope: "user.email" };

#[tokio::test]
async fn a_creation_that_was_carried_out_is_no_taken_key() {
    let store = Lossy::default();
    let john = replica(&store).create_user(user("john@example.com", "a")).await.unwrap();
    // He has another address by now and somebody else has his; the event's own condition is not reported.
    *store.instead.lock().unwrap() = Some(TAKEN);
    let again = replica(&store).create_user(user("john@example.com", "a")).await.unwrap();
    assert_eq!((again.event_id, again.replayed), (john.event_id, true));
    // A reused command id creates nothing else, whichever user has the address.
    *store.instead.lock().unwrap() = Some(TAKEN);
    let reused = replica(&store).create_user(user("other@example.com", "a")).await.unwrap_err();
    assert_eq!(reason(&reused), "COMMAND_ID_REUSED");
}

#[tokio::test]
async fn an_update_that_was_carried_out_is_no_taken_key_nor_too_large() {
    let store = Lossy::default();
    let (here, there) = (replica(&store), replica(&store));
    for (n, answer) in [TAKEN, AppendError::TooLarge { limit: "of a test" }].into_iter().enumerate() {
        let john = here.create_user(user(&format!("{n}@example.com"), &n.to_string())).await.unwrap();
        let john = john.aggregate_id;
        assert_eq!(there.rename(&john, "Jack", "b").await.unwrap(), (2, false));
        *store.instead.lock().unwrap() = Some(answer);
        assert_eq!(here.rename(&john, "Jack", "b").await.unwrap(), (2, true));
        assert!(store.instead.lock().unwrap().is_none());
    }
}

#[tokio::test]
async fn a_taken_key_is_refused_after_a_look_at_the_stream() {
    let store = MemoryStore::default();
    let service = replica(&store);
    service.create_user(user("john@example.com", "a")).await.unwrap();
    let before = store.requests();
    let taken = service.create_user(user("john@example.com", "b")).await.unwrap_err();
    assert_eq!((taken.code(), reason(&taken).as_str()), (Code::AlreadyExists, "EMAIL_TAKEN"));
    assert_eq!(store.requests() - before, 2);
}

#[tokio::test]
async fn an_id_that_an_old_state_remembers_is_not_taken_for_reused() {
    let store = MemoryStore::default();
    let config = CommandHandlerConfig { clock: unhurried, ..CONFIG };
    let (here, there) = (replica_with(&store, config), replica_with(&store, config));
    let john = here.create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
    here.rename(&john, "Jack", "b").await.unwrap();
    for n in 0..128 {
        there.rename(&john, "x", &n.to_string()).await.unwrap();
    }
    assert_eq!(there.rename(&john, "Joe", "b").await.unwrap(), (131, false));
    // Carried out, and the reply did not come through.
    assert_eq!(here.rename(&john, "Joe", "b").await.unwrap(), (131, true));
    let reused = here.rename(&john, "Jack", "b").await.unwrap_err();
    assert_eq!(reason(&reused), "COMMAND_ID_REUSED");
}

/// A store that carries an append out, reports a conflict, and throttles the reads after it.
#[derive(Debug, Clone, Default)]
struct Dim {
    inner: MemoryStore,
    is_dim: Arc<AtomicBool>,
}

impl Dim {
    fn look(&self) -> Result<(), AwsError> {
        let throttled = || AwsError::Throttled("by a test".into());
        if self.is_dim.load(Ordering::SeqCst) { Err(throttled()) } else { Ok(()) }
    }
}

impl LoadEvents for Dim {
    async fn newest(&self, stream: &StreamId, after: u64, limit: u16) -> Result<Vec<Entry>, AwsError> {
        self.look()?;
        self.inner.newest(stream, after, limit).await
    }

    async fn between(&self, stream: &StreamId, after: u64, before: u64) -> Result<Vec<Entry>, AwsError> {
        self.look()?;
        self.inner.between(stream, after, before).await
    }
}

impl Snapshots for Dim {
    async fn snapshot(&self, _: &StreamId, _: u32) -> Result<Option<Snapshot>, AwsError> {
        Ok(None)
    }

    async fn put_snapshot(&self, _: &Snapshot, _: Replaces) -> Result<bool, AwsError> {
        Ok(true)
    }

    async fn command_blocks(
        &self,
        stream: &StreamId,
        numbers: &[u64],
    ) -> Result<Vec<CommandBlock>, AwsError> {
        self.inner.command_blocks(stream, numbers).await
    }

    async fn put_command_block(&self, block: &CommandBlock, replaces: Replaces) -> Result<bool, AwsError> {
        self.inner.put_command_block(block, replaces).await
    }
}

impl AppendEvents for Dim {
    async fn append(&self, commit: &Commit) -> Result<(), AppendError> {
        self.inner.append(commit).await?;
        if self.is_dim.load(Ordering::SeqCst) {
            Err(AppendError::Conflict { existing: None })
        } else {
            Ok(())
        }
    }
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_not_known_rather_than_throttled() {
    let store = Dim::default();
    let service = replica(&store);
    let john = service.create_user(user("john@example.com", "a")).await.unwrap().aggregate_id;
    store.is_dim.store(true, Ordering::SeqCst);
    let unknown = [
        service.create_user(user("jane@example.com", "b")).await.unwrap_err(),
        service.rename(&john, "Jack", "c").await.unwrap_err(),
    ];
    for status in unknown {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STORAGE_UNREACHABLE"));
        assert!(status.get_error_details().retry_info().is_some());
    }
    // Both were carried out.
    store.is_dim.store(false, Ordering::SeqCst);
    assert!(service.create_user(user("jane@example.com", "b")).await.unwrap().replayed);
    assert_eq!(service.rename(&john, "Jack", "c").await.unwrap(), (2, true));
}
