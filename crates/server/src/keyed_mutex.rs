//! A mutex for each key.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Mutex as Queue, OwnedMutexGuard};

/// Serialises work on one key, first come, first served.
///
/// The tables take one write at a time on an item, under a condition. Writers that race for it within one process would
/// only make each other's requests fail; in a queue, each finds the state that the one before it left. Between
/// processes the condition decides, so this lock saves requests and no correctness depends on it.
#[derive(Debug)]
pub struct KeyedMutex<K>(Shared<K>);

type Shared<K> = Arc<Mutex<HashMap<K, Arc<Queue<()>>>>>;

/// Holds the lock of a key until it is dropped.
#[derive(Debug)]
pub struct KeyedMutexGuard<K: Clone + Eq + Hash> {
    mutex: KeyedMutex<K>,
    key: K,
    held: Option<OwnedMutexGuard<()>>,
}

impl<K: Clone + Eq + Hash> KeyedMutex<K> {
    /// Waits for the lock of a key. The wait can be cancelled at any time.
    pub async fn lock(&self, key: &K) -> KeyedMutexGuard<K> {
        let queue = self.queues().entry(key.clone()).or_default().clone();
        // The guard exists before the wait, so that a cancelled wait leaves no entry behind.
        let mut guard = KeyedMutexGuard { mutex: self.clone(), key: key.clone(), held: None };
        guard.held = Some(queue.lock_owned().await);
        guard
    }

    /// How many keys are locked or waited for.
    pub fn len(&self) -> usize {
        self.queues().len()
    }

    /// Whether no key is locked.
    pub fn is_empty(&self) -> bool {
        self.queues().is_empty()
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<K, Arc<Queue<()>>>> {
        // No code under this lock panics half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Default for KeyedMutex<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K> Clone for KeyedMutex<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Clone + Eq + Hash> Drop for KeyedMutexGuard<K> {
    fn drop(&mut self) {
        drop(self.held.take());
        let mut queues = self.mutex.queues();
        // Every holder and every waiter has its own reference, taken under this lock.
        if queues.get(&self.key).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            queues.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiters_are_served_in_order_and_leave_nothing_behind() {
        let mutex = KeyedMutex::default();
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = mutex.lock(&1).await;
        let waiting: Vec<_> = (0..5)
            .map(|n| {
                let (mutex, order) = (mutex.clone(), order.clone());
                tokio::spawn(async move {
                    let _guard = mutex.lock(&1).await;
                    order.lock().unwrap().push(n);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        drop(mutex.lock(&2).await);
        assert!(order.lock().unwrap().is_empty());
        drop(first);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
        assert!(mutex.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_after_one_who_waited_waits_for_it() {
        let mutex = KeyedMutex::default();
        let first = mutex.lock(&1).await;
        let waiting = tokio::spawn({
            let mutex = mutex.clone();
            async move { mutex.lock(&1).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        let _second = waiting.await.unwrap();
        assert!(timeout(Duration::from_millis(1), mutex.lock(&1)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_wait_holds_up_nobody() {
        let mutex = KeyedMutex::default();
        let first = mutex.lock(&1).await;
        let cancelled = timeout(Duration::from_millis(1), mutex.lock(&1)).await;
        assert!(cancelled.is_err());
        drop(first);
        assert_eq!(mutex.len(), 0);
        drop(mutex.lock(&1).await);
    }
}
