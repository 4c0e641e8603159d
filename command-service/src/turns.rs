//! Turns: within a process, commands on one aggregate go one after another.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use millrace_domain::StreamId;
use tokio::{
    sync::{Mutex as Queue, OwnedMutexGuard},
    time::timeout,
};

/// How long a command waits for its turn. To go ahead without it would help nobody: where AWS is slow and a line is
/// long, commands that went ahead would meet, fail, and make it slower.
const LONGEST: Duration = Duration::from_secs(5);

/// Who is at work on which aggregate.
///
/// The store takes one commit at a time on an aggregate. Commands that race for it from within one process would only
/// make each other's requests fail; in a line, first come, first served, each finds the state that the one before it
/// left in the cache, and costs one request. Between processes the store's condition decides, as ever.
#[derive(Debug, Clone, Default)]
pub struct Turns(Arc<Mutex<HashMap<StreamId, Arc<Queue<()>>>>>);

/// A turn on an aggregate. It ends when it is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    stream: StreamId,
    held: Option<OwnedMutexGuard<()>>,
}

/// Too many are in line, or those before one take too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineTooLong;

impl Turns {
    /// Waits for the turn of the caller.
    pub async fn wait(&self, stream: &StreamId) -> Result<Turn, LineTooLong> {
        let queue = self.look().entry(stream.clone()).or_default().clone();
        // It stands before the wait, so that a caller who goes away while waiting leaves nothing behind.
        let mut turn = Turn { turns: self.clone(), stream: stream.clone(), held: None };
        turn.held = Some(timeout(LONGEST, queue.lock_owned()).await.map_err(|_| LineTooLong)?);
        Ok(turn)
    }

    /// On how many aggregates somebody is at work.
    pub fn busy(&self) -> usize {
        self.look().len()
    }

    fn look(&self) -> MutexGuard<'_, HashMap<StreamId, Arc<Queue<()>>>> {
        // Nothing in here panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.held.take());
        let mut turns = self.turns.look();
        // Who waits or works has a count of its own, and takes it under this lock.
        if turns.get(&self.stream).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            turns.remove(&self.stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_domain::{AggregateType, TenantId};
    use uuid::Uuid;

    use super::*;

    fn stream(id: u128) -> StreamId {
        StreamId {
            tenant: TenantId::default(),
            aggregate_type: AggregateType::of("user"),
            id: Uuid::from_u128(id),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_given_in_the_order_of_asking_and_leave_nothing_behind() {
        let turns = Turns::default();
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = turns.wait(&stream(1)).await.unwrap();
        let waiting: Vec<_> = (0..5)
            .map(|n| {
                let (turns, order) = (turns.clone(), order.clone());
                tokio::spawn(async move {
                    let _turn = turns.wait(&stream(1)).await.unwrap();
                    order.lock().unwrap().push(n);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        drop(turns.wait(&stream(2)).await.unwrap());
        assert!(order.lock().unwrap().is_empty());
        drop(first);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(turns.busy(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_while_waiting_holds_up_nobody() {
        let turns = Turns::default();
        let first = turns.wait(&stream(1)).await.unwrap();
        let left = timeout(Duration::from_millis(1), turns.wait(&stream(1))).await;
        assert!(left.is_err());
        drop(first);
        assert_eq!(turns.busy(), 0);
        drop(turns.wait(&stream(1)).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_behind_one_that_hangs() {
        let turns = Turns::default();
        let hangs = turns.wait(&stream(1)).await.unwrap();
        let (one, begin) = (stream(1), tokio::time::Instant::now());
        let (second, third) = tokio::join!(turns.wait(&one), turns.wait(&one));
        assert!(second.is_err() && third.is_err());
        // The clock stands still but for what is waited for.
        assert!(begin.elapsed() < 2 * LONGEST, "they wait side by side");
        drop(hangs);
        assert_eq!(turns.busy(), 0);
    }
}
