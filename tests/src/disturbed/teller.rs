//! The record of sendings and replies with their times, as far as known.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millrace_aws::AwsError;
use millrace_core::EventId;
use millrace_event_store::AppendError;

tokio::task_local! {
    /// The number of the call that a task is about.
    static CALL: usize;
}

/// Records each event's sending, with its call and time, and the store's replies to each call. Clones share it.
///
/// Its times are a counter, with a new value at each look. An event was stored at a time between two of
/// them; over the store in memory nothing else lies between these.
#[derive(Debug, Clone, Default)]
pub struct Teller(Arc<Mutex<Notes>>);

#[derive(Debug, Default)]
struct Notes {
    time: u64,
    sendings: HashMap<EventId, Sending>,
    told: HashMap<usize, Told>,
}

/// The sending of an event.
#[derive(Debug, Clone, Copy)]
pub struct Sending {
    /// The call for which it was sent.
    pub call: usize,
    /// It was not stored before this time.
    pub earliest: u64,
    /// If it was stored, then before this time.
    pub latest: u64,
    /// Whether it is known to have been stored.
    pub stored: bool,
}

/// The numbers of the store's failures in a call, by kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told {
    /// The store was unreachable.
    pub unreachable: u32,
    /// The store throttled.
    pub throttled: u32,
    /// Other appends came first, or were under way.
    pub refused: u32,
}

impl Teller {
    /// Runs the work of a call of this number.
    pub async fn of_call<T>(call: usize, work: impl Future<Output = T>) -> T {
        CALL.scope(call, work).await
    }

    /// The number of the call that is at work.
    pub(super) fn call() -> Option<usize> {
        CALL.try_with(|call| *call).ok()
    }

    /// The next time.
    pub fn tick(&self) -> u64 {
        let mut notes = self.look();
        notes.time += 1;
        notes.time
    }

    /// The latest time.
    pub fn now(&self) -> u64 {
        self.look().time
    }

    /// The sendings of all events.
    pub fn sendings(&self) -> HashMap<EventId, Sending> {
        self.look().sendings.clone()
    }

    /// The store's replies to a call.
    pub fn told(&self, call: usize) -> Told {
        self.look().told.get(&call).copied().unwrap_or_default()
    }

    /// Notes that events are sent for a call, and tells the time.
    pub(super) fn sends(&self, call: Option<usize>, events: impl IntoIterator<Item = EventId>) -> u64 {
        let call = call.expect("events are sent for calls only");
        let earliest = self.tick();
        let mut notes = self.look();
        for id in events {
            let first = Sending { call, earliest, latest: u64::MAX, stored: false };
            let sending = notes.sendings.entry(id).or_insert(first);
            assert_eq!(sending.call, call, "an id of an event is used by two calls");
        }
        earliest
    }

    /// Notes that events which were sent at this time were stored by that: not by an earlier sending, or they would
    /// have met themselves.
    pub(super) fn stored(&self, events: impl IntoIterator<Item = EventId>, sent: u64) {
        let latest = self.tick();
        let mut notes = self.look();
        for id in events {
            if let Some(sending) = notes.sendings.get_mut(&id) {
                *sending = Sending { earliest: sent, latest, stored: true, ..*sending };
            }
        }
    }

    /// Notes that an event is there.
    pub(super) fn seen(&self, id: EventId) {
        let now = self.tick();
        if let Some(sending) = self.look().sendings.get_mut(&id) {
            (sending.latest, sending.stored) = (sending.latest.min(now), true);
        }
    }

    /// Notes the outcome of an append.
    pub(super) fn told_append(&self, outcome: &Result<(), AppendError>) {
        match outcome {
            Ok(()) | Err(AppendError::KeyTaken { .. } | AppendError::TooLarge { .. }) => {}
            Err(AppendError::Failed(error)) => self.tell(error),
            Err(AppendError::Conflict { .. } | AppendError::Contended) => {
                self.note(|told| told.refused += 1);
            }
        }
    }

    /// Notes the outcome of a read.
    pub(super) fn told_aws<T>(&self, outcome: Result<T, AwsError>) -> Result<T, AwsError> {
        outcome.inspect_err(|error| self.tell(error))
    }

    /// Notes why a snapshot could not be read, where that concerns the call.
    pub(super) fn told_of_snapshot(&self, error: &AwsError) {
        if matches!(error, AwsError::Throttled(_)) {
            self.tell(error);
        }
    }

    fn tell(&self, error: &AwsError) {
        match error {
            AwsError::Unreachable(_) => self.note(|told| told.unreachable += 1),
            AwsError::Throttled(_) => self.note(|told| told.throttled += 1),
            AwsError::Refused(_) | AwsError::InvalidResponse(_) => {}
        }
    }

    fn note(&self, note: impl FnOnce(&mut Told)) {
        if let Some(call) = Self::call() {
            note(self.look().told.entry(call).or_default());
        }
    }

    fn look(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
