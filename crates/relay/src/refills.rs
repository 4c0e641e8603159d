//! Whose turn it is to refill from the table.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millrace_core::Timestamp;
use tokio::sync::Mutex as Turn;
use tokio_util::sync::CancellationToken;

use super::{
    stream::ShardId,
    time::{Stopped, unless_stopped},
};

/// The refills of a process: one at a time, since each reads the whole table, and one for all who wait for theirs.
///
/// After an outage of more than a day every shard of the stream wants one.
#[derive(Clone, Default)]
pub(super) struct Refills {
    /// The last refill that was done. Who holds it may do the next one.
    last: Arc<Turn<Option<Done>>>,
    wishes: Arc<Mutex<Wishes>>,
}

#[derive(Default)]
struct Wishes {
    /// From when on each shard wants the table's events.
    since: HashMap<ShardId, Timestamp>,
    /// Counts wishes and refills, to tell which came first.
    count: u64,
}

/// What a refill covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Done {
    /// When it began.
    pub(super) begun: Timestamp,
    /// It published every event of this time and later that was stored when it began.
    pub(super) since: Timestamp,
    /// Its place among wishes and refills.
    count: u64,
}

impl Refills {
    /// Gets a shard the table's events since a time, by the refill that `work` does from the time that it is given on, or
    /// by another's that began later than this call and reached back as far. What was refilled is handed back.
    pub(super) async fn wish(
        &self,
        shard: &ShardId,
        since: Timestamp,
        now: impl Fn() -> Timestamp,
        stop: &CancellationToken,
        work: impl AsyncFnOnce(Timestamp) -> Result<(), Stopped>,
    ) -> Result<Done, Stopped> {
        let wish = self.enter(shard, since);
        let mut last = unless_stopped(self.last.lock(), stop).await?;
        if let Some(done) = last.as_ref().filter(|done| wish.count < done.count && done.since <= since) {
            return Ok(*done);
        }
        let done = self.begin(now());
        work(done.since).await?;
        Ok(*last.insert(done))
    }

    fn enter(&self, shard: &ShardId, since: Timestamp) -> Wish<'_> {
        let mut wishes = self.look();
        wishes.count += 1;
        wishes.since.insert(shard.clone(), since);
        Wish { refills: self, shard: shard.clone(), count: wishes.count }
    }

    /// A refill that serves all who wait.
    fn begin(&self, now: Timestamp) -> Done {
        let mut wishes = self.look();
        wishes.count += 1;
        let since = wishes.since.values().min().copied().unwrap_or(now);
        Done { begun: now, since, count: wishes.count }
    }

    fn look(&self) -> MutexGuard<'_, Wishes> {
        // Nothing in here panics halfway through a change.
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wish; it ends when it is dropped.
struct Wish<'a> {
    refills: &'a Refills,
    shard: ShardId,
    count: u64,
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        self.refills.look().since.remove(&self.shard);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn a_refill_serves_those_that_waited_for_it_from_the_earliest_time_and_nobody_else() {
        let (refills, stop) = (Refills::default(), CancellationToken::new());
        // From when the wish's own refill read, if it came to one.
        let wish = async |shard: &str, since| {
            let (mut read, since) = (None, Timestamp::from_unix_micros(since));
            let work = async |since: Timestamp| {
                read = Some(since.unix_micros());
                yield_now().await;
                Ok(())
            };
            refills
                .wish(&shard.into(), since, || Timestamp::from_unix_micros(100), &stop, work)
                .await
                .unwrap();
            read
        };
        assert_eq!(wish("a", 5).await, Some(5));
        assert_eq!(wish("a", 7).await, Some(7));
        assert_eq!(tokio::join!(wish("a", 9), wish("b", 5), wish("c", 3)), (Some(9), Some(3), None));
    }
}
