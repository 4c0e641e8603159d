//! Turns: within a process, what is done to one thing is done one after another.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Mutex as Queue, OwnedMutexGuard};

/// Who is at work on what.
///
/// The tables take one write at a time on an item, under a condition. Writers that race for it from within one process
/// would only make each other's requests fail; in a line, first come, first served, each finds what the one before it
/// left. Between processes the condition decides, as ever: nothing rests on turns but the number of requests.
#[derive(Debug)]
pub struct Turns<K>(Shared<K>);

type Shared<K> = Arc<Mutex<HashMap<K, Arc<Queue<()>>>>>;

/// A turn. It ends when it is dropped.
#[derive(Debug)]
pub struct Turn<K: Clone + Eq + Hash> {
    turns: Turns<K>,
    key: K,
    held: Option<OwnedMutexGuard<()>>,
}

impl<K: Clone + Eq + Hash> Turns<K> {
    /// Waits for the turn of the caller, who may go away at any time.
    pub async fn wait(&self, key: &K) -> Turn<K> {
        let queue = self.look().entry(key.clone()).or_default().clone();
        // It stands before the wait, so that a caller who goes away while waiting leaves nothing behind.
        let mut turn = Turn { turns: self.clone(), key: key.clone(), held: None };
        turn.held = Some(queue.lock_owned().await);
        turn
    }

    /// On how many things somebody is at work.
    pub fn busy(&self) -> usize {
        self.look().len()
    }

    fn look(&self) -> MutexGuard<'_, HashMap<K, Arc<Queue<()>>>> {
        // Nothing in here panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K> Clone for Turns<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Clone + Eq + Hash> Drop for Turn<K> {
    fn drop(&mut self) {
        drop(self.held.take());
        let mut turns = self.turns.look();
        // Who waits or works has a count of its own, and takes it under this lock.
        if turns.get(&self.key).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            turns.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_are_given_in_the_order_of_asking_and_leave_nothing_behind() {
        let turns = Turns::default();
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = turns.wait(&1).await;
        let waiting: Vec<_> = (0..5)
            .map(|n| {
                let (turns, order) = (turns.clone(), order.clone());
                tokio::spawn(async move {
                    let _turn = turns.wait(&1).await;
                    order.lock().unwrap().push(n);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        drop(turns.wait(&2).await);
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
        let first = turns.wait(&1).await;
        let left = timeout(Duration::from_millis(1), turns.wait(&1)).await;
        assert!(left.is_err());
        drop(first);
        assert_eq!(turns.busy(), 0);
        drop(turns.wait(&1).await);
    }
}
