//! Bringing one row up to date.
//!
//! A row only ever goes from the version it has to a newer one, since every change is written on the condition that the
//! row is where the change starts. That makes duplicates, late events and racing writers harmless; what is left to do
//! here is to write as seldom as possible, and to fetch from the event store what the queue has not brought.

use std::{collections::BTreeMap, ops::RangeInclusive};

use millrace_domain::StreamId;
use millrace_event_store::{ReadEvents, StoredEvent};
use millrace_proto::codec::DecodeError;
use millrace_read_models::{Change, WriteRows, Written};

use crate::{
    Failure,
    projection::{Projection, read},
};

/// How often a row is tried while others keep writing it.
const ROUNDS: u32 = 10;

/// How many events are asked of the event store at once.
const PAGE: u16 = 100;

/// The events of one row that a batch brought, by version; without a change where the bus left out the data.
pub(crate) type Brought<C> = BTreeMap<u64, Option<C>>;

/// How far a row was brought.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Every event up to this version is in the row.
    pub(crate) reached: u64,
    /// The versions that this call wrote into the row.
    pub(crate) written: Option<RangeInclusive<u64>>,
    /// How many gaps of the batch were filled from the event store.
    pub(crate) gaps: u64,
    /// The first version beyond `reached` that fails, and why; what is newer fails with it.
    pub(crate) failure: Option<(u64, Failure)>,
}

impl Outcome {
    /// Whether this call wrote the version into the row.
    pub(crate) fn has_written(&self, version: u64) -> bool {
        self.written.as_ref().is_some_and(|written| written.contains(&version))
    }

    /// Nothing is known of the row; every event of the batch fails.
    pub(crate) fn panicked() -> Self {
        Self { failure: Some((1, Failure::Panicked)), ..Self::default() }
    }
}

/// Consecutive events in one change, as far as they could be had.
struct Built<C> {
    change: Option<C>,
    /// The version that they lead to.
    version: u64,
    gaps: u64,
    failure: Option<(u64, Failure)>,
}

/// A row to bring up to date.
pub(crate) struct Row<'a, P: Projection, W, R> {
    /// The row's stream.
    pub(crate) stream: &'a StreamId,
    /// What the batch brought of it.
    pub(crate) brought: &'a Brought<P::Change>,
    /// Where the row is kept.
    pub(crate) rows: &'a W,
    /// Where the history is kept.
    pub(crate) events: &'a R,
}

impl<P: Projection, W: WriteRows<P::Change>, R: ReadEvents> Row<'_, P, W, R> {
    /// Brings the row up to the newest event that the batch brought.
    ///
    /// The first write is made on trust, as if the row were at the version before the oldest event. In the usual case
    /// it is, and that was the only request; in any other the refused write tells where the row is.
    pub(crate) async fn bring_up_to_date(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let (Some((oldest, _)), Some((newest, _))) =
            (self.brought.first_key_value(), self.brought.last_key_value())
        else {
            return outcome;
        };
        let mut version = oldest.saturating_sub(1);
        for _ in 0..ROUNDS {
            let built = self.build(version, *newest).await;
            let Some(change) = built.change else {
                outcome.failure = built.failure;
                return outcome;
            };
            match self.rows.write(&change).await {
                Ok(Written::Applied) => {
                    outcome.reached = change.to();
                    outcome.written = Some(change.from() + 1..=change.to());
                    outcome.gaps = built.gaps;
                    outcome.failure = built.failure;
                    return outcome;
                }
                Ok(Written::Found(found)) => {
                    outcome.reached = outcome.reached.max(found);
                    if found >= *newest {
                        return outcome;
                    }
                    version = found;
                }
                Err(error) => {
                    outcome.failure = Some((outcome.reached.saturating_add(1), error.into()));
                    return outcome;
                }
            }
        }
        outcome.failure = Some((outcome.reached.saturating_add(1), Failure::Contended));
        outcome
    }

    /// What leads from one version to another: from the batch, and from the event store where the batch has gaps.
    async fn build(&self, from: u64, to: u64) -> Built<P::Change> {
        let mut built = Built { change: None, version: from, gaps: 0, failure: None };
        while built.version < to && built.failure.is_none() {
            match self.brought.get(&(built.version + 1)) {
                Some(Some(change)) => built.add(Ok(change.clone())),
                absent @ (None | Some(None)) => {
                    built.gaps += u64::from(absent.is_none());
                    self.fetch(&mut built, to).await;
                }
            }
        }
        built
    }

    /// Adds a page of the events that follow, up to `to` or to the next event that the batch brought.
    async fn fetch(&self, built: &mut Built<P::Change>, to: u64) {
        let brought = self.brought.range(built.version + 1..).find(|(_, change)| change.is_some());
        let until = brought.map_or(to, |(next, _)| next - 1);
        let limit = u16::try_from(until - built.version).unwrap_or(PAGE).min(PAGE);
        match self.events.page(self.stream, built.version, limit).await {
            Ok(page) if page.events.is_empty() => built.add(Err(Failure::NotStored)),
            Ok(page) => page.events.iter().for_each(|event| built.add(stored::<P>(event))),
            Err(error) => built.add(Err(error.into())),
        }
    }
}

/// What an event changes that the event store has.
pub(crate) fn stored<P: Projection>(event: &StoredEvent) -> Result<P::Change, Failure> {
    let without_data = || DecodeError::Malformed("no data".to_owned());
    Ok(read::<P>(&event.envelope)?.ok_or_else(without_data)?)
}

impl<C: Change> Built<C> {
    /// Adds what the next event changes; nothing follows a failure.
    fn add(&mut self, change: Result<C, Failure>) {
        if self.failure.is_some() {
            return;
        }
        let joined = change.and_then(|change| match &self.change {
            None => Ok(change),
            Some(before) => before.clone().then(change).ok_or(Failure::Misplaced),
        });
        match joined {
            Ok(joined) => {
                self.version += 1;
                self.change = Some(joined);
            }
            Err(failure) => self.failure = Some((self.version + 1, failure)),
        }
    }
}
