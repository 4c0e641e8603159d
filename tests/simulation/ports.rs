//! The world's ports for one process: every call goes through the process's life, which may disturb it.

use std::time::Duration;

use millrace_aws::{AwsError, Segment};
use millrace_core::{StreamId, Timestamp, projection::RowUpdate};
use millrace_event_store::{Page, ReadEvents};
use millrace_projection::queue::{Cause, Depth, MemoryQueue, Message, Queue, ReceiptHandle, Rules};
use millrace_relay::{
    EventBus, Leases, Refill, ShardStream,
    bus::{Entry, Rejection},
    leases::{Lease, LeaseTable, RefillJob, Replica},
    memory::MemoryCursor,
    refill::RefillPage,
    stream::{Position, Records, Sequence, Shard, ShardId, Shards, StreamError},
};
use millrace_rows::{WriteError, WriteOutcome, WriteRows};

use crate::{
    trouble::Life,
    world::{Projected, World},
};

/// The world, for one process.
#[derive(Clone)]
pub(crate) struct Ports {
    pub(crate) life: Life,
    pub(crate) world: World,
}

/// Calls a part of the world with copies of the arguments, because the call may take effect later or twice.
macro_rules! call {
    ($ports:expr, $name:literal, |$world:ident $(, $argument:ident)*| $effect:expr) => {{
        let $world = $ports.world.clone();
        $ports
            .life
            .call($name, move || {
                let $world = $world.clone();
                $(let $argument = $argument.clone();)*
                async move { $effect.await }
            })
            .await
    }};
}

impl ShardStream for Ports {
    type Cursor = MemoryCursor;

    async fn shards(&self, from: Option<&ShardId>) -> Result<Shards, AwsError> {
        let from = from.cloned();
        call!(self, "DescribeStream", |world, from| world.stream.shards(from.as_ref()))
    }

    async fn children(&self, shard: &ShardId) -> Result<Vec<Shard>, AwsError> {
        let shard = shard.clone();
        call!(self, "DescribeStream", |world, shard| world.stream.children(&shard))
    }

    async fn open(&self, shard: &ShardId, position: &Position) -> Result<MemoryCursor, StreamError> {
        let (shard, position) = (shard.clone(), position.clone());
        call!(self, "GetShardIterator", |world, shard, position| world.stream.open(&shard, &position))
    }

    async fn read(&self, cursor: &MemoryCursor) -> Result<Records<MemoryCursor>, StreamError> {
        let cursor = cursor.clone();
        call!(self, "GetRecords", |world, cursor| world.stream.read(&cursor))
    }
}

impl Leases for Ports {
    async fn list(&self) -> Result<LeaseTable, AwsError> {
        call!(self, "list leases", |world| world.leases.list())
    }

    async fn create(&self, lease: &Lease) -> Result<bool, AwsError> {
        let lease = lease.clone();
        call!(self, "create a lease", |world, lease| world.leases.create(&lease))
    }

    async fn take(
        &self,
        seen: &Lease,
        owner: &str,
        expires_at: Timestamp,
    ) -> Result<Option<Lease>, AwsError> {
        let (seen, owner) = (seen.clone(), owner.to_owned());
        call!(self, "take a lease", |world, seen, owner| world.leases.take(&seen, &owner, expires_at))
    }

    async fn keep(&self, lease: &Lease) -> Result<bool, AwsError> {
        self.world.watch_lease(lease);
        let lease = lease.clone();
        call!(self, "keep a lease", |world, lease| world.leases.keep(&lease))
    }

    async fn release(&self, lease: &Lease) -> Result<bool, AwsError> {
        self.world.watch_lease(lease);
        let lease = lease.clone();
        call!(self, "release a lease", |world, lease| world.leases.release(&lease))
    }

    async fn correct(&self, lease: &Lease) -> Result<(), AwsError> {
        let lease = lease.clone();
        call!(self, "correct a lease", |world, lease| world.leases.correct(&lease))
    }

    async fn forget(&self, seen: &Lease) -> Result<(), AwsError> {
        let seen = seen.clone();
        call!(self, "forget a lease", |world, seen| world.leases.forget(&seen))
    }

    async fn announce(&self, replica: &Replica) -> Result<(), AwsError> {
        let replica = replica.clone();
        call!(self, "announce", |world, replica| world.leases.announce(&replica))
    }

    async fn note_complete(&self, at: Timestamp) -> Result<(), AwsError> {
        call!(self, "note that leases are complete", |world| world.leases.note_complete(at))
    }

    async fn begin_refill(&self, refill: &RefillJob) -> Result<bool, AwsError> {
        let refill = *refill;
        call!(self, "begin a refill", |world| world.leases.begin_refill(&refill))
    }

    async fn end_refill(&self, refill: &RefillJob) -> Result<(), AwsError> {
        let refill = *refill;
        call!(self, "end a refill", |world| world.leases.end_refill(&refill))
    }

    async fn withdraw(&self, owner: &str) -> Result<(), AwsError> {
        let owner = owner.to_owned();
        call!(self, "withdraw", |world, owner| world.leases.withdraw(&owner))
    }
}

impl EventBus for Ports {
    async fn put(&self, entries: &[Entry]) -> Result<Vec<Result<(), Rejection>>, Rejection> {
        let entries = entries.to_vec();
        call!(self, "PutEvents", |world, entries| async move {
            Ok(entries.iter().map(|entry| world.publish(entry)).collect())
        })
    }
}

impl Refill for Ports {
    async fn page(
        &self,
        since: Timestamp,
        segment: Segment,
        from: Option<&Sequence>,
    ) -> Result<RefillPage, AwsError> {
        self.life.trouble.note("a page of a refill");
        let from = from.cloned();
        call!(self, "Scan", |world, from| world.table.page(since, segment, from.as_ref()))
    }
}

impl ReadEvents for Ports {
    async fn page(&self, stream: &StreamId, after: u64, limit: u16) -> Result<Page, AwsError> {
        self.life.trouble.note("a gap read");
        let stream = stream.clone();
        call!(self, "Query", |world, stream| world.store.page(&stream, after, limit))
    }
}

/// The rows of a projection, for one process.
#[derive(Clone)]
pub(crate) struct RowsPort {
    pub(crate) life: Life,
    pub(crate) world: World,
    pub(crate) projection: Projected,
}

impl WriteRows for RowsPort {
    async fn write(&self, update: &RowUpdate) -> Result<WriteOutcome, WriteError> {
        let (projection, update) = (self.projection.clone(), update.clone());
        call!(self, "write a row", |world, projection, update| async move {
            let written = projection.rows.write(&update).await?;
            if written == WriteOutcome::Applied {
                world.watch_write(&projection, &update.stream).await;
            }
            Ok(written)
        })
    }
}

/// A queue, for one process.
#[derive(Clone)]
pub(crate) struct QueuePort {
    pub(crate) life: Life,
    pub(crate) queue: MemoryQueue,
}

impl QueuePort {
    /// A call about several messages. If it fails, it fails for all of them.
    async fn batch<F>(
        &self,
        call: &'static str,
        messages: usize,
        effect: impl Fn(MemoryQueue) -> F + Send + 'static,
    ) -> Vec<Result<(), AwsError>>
    where
        F: Future<Output = Vec<Result<(), AwsError>>> + Send + 'static,
    {
        let queue = self.queue.clone();
        let effect = move || {
            let results = effect(queue.clone());
            async move { Ok::<_, AwsError>(results.await) }
        };
        self.life.call(call, effect).await.unwrap_or_else(|error| vec![Err(error); messages])
    }
}

impl Queue for QueuePort {
    fn rules(&self) -> Rules {
        self.queue.rules()
    }

    async fn receive(&self) -> Result<Vec<Message>, AwsError> {
        let queue = self.queue.clone();
        let effect = move || {
            let queue = queue.clone();
            async move { queue.receive().await }
        };
        self.life.call("ReceiveMessage", effect).await
    }

    async fn delete(&self, receipts: &[ReceiptHandle]) -> Vec<Result<(), AwsError>> {
        let (receipts, messages) = (receipts.to_vec(), receipts.len());
        let effect = move |queue: MemoryQueue| {
            let receipts = receipts.clone();
            async move { queue.delete(&receipts).await }
        };
        self.batch("DeleteMessageBatch", messages, effect).await
    }

    async fn hide(&self, receipts: &[(ReceiptHandle, Duration)]) -> Vec<Result<(), AwsError>> {
        let (receipts, messages) = (receipts.to_vec(), receipts.len());
        let effect = move |queue: MemoryQueue| {
            let receipts = receipts.clone();
            async move { queue.hide(&receipts).await }
        };
        self.batch("ChangeMessageVisibilityBatch", messages, effect).await
    }

    async fn depth(&self) -> Result<Depth, AwsError> {
        self.queue.depth().await
    }

    async fn dead_letter(&self, message: &Message, cause: &Cause) -> Result<(), AwsError> {
        let (queue, message, cause) = (self.queue.clone(), message.clone(), cause.clone());
        let effect = move || {
            let (queue, message, cause) = (queue.clone(), message.clone(), cause.clone());
            async move { queue.dead_letter(&message, &cause).await }
        };
        self.life.call("SendMessage", effect).await
    }
}
