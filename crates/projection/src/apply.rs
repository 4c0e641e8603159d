//! Brings one row up to date.
//!
//! A row only goes from one version to a newer one: every update is written on the condition that the row is at the
//! version where the update starts. So duplicates, late events and racing writers are harmless. This module writes as
//! seldom as possible, and fetches from the event store the events that the queue has not brought.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    panic::{AssertUnwindSafe, catch_unwind},
};

use futures::FutureExt as _;
use millrace_aws::AwsError;
use millrace_core::{
    DecodeError, Envelope, StreamId,
    projection::{ProjectionSpec, RowUpdate},
};
use millrace_event_store::{ReadEvents, StoredEvent};
use millrace_rows::{WriteOutcome, WriteRows};

use crate::ApplyError;

/// How often a row is tried while other writers keep changing it.
const ROUNDS: u32 = 10;

/// The most events that one request asks of the event store.
const PAGE: u16 = 100;

/// The most events in one write, so that a long gap is closed in steps and does not stand in memory as a whole.
const MAX_EVENTS: u64 = 1_000;

/// The updates of one row that a batch brought, by version; `None` where the bus left out the event's data.
pub(crate) type PendingUpdates = BTreeMap<u64, Option<RowUpdate>>;

/// How far a row was brought.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Every event up to this version is in the row.
    pub(crate) reached: u64,
    /// The versions that this call wrote into the row, a range for each write.
    pub(crate) written: Vec<RangeInclusive<u64>>,
    /// How many gaps of the batch were filled from the event store.
    pub(crate) gaps: u64,
    /// The first version beyond `reached` that fails, and its error. All newer versions fail with it.
    pub(crate) failure: Option<(u64, ApplyError)>,
}

impl Outcome {
    /// The outcome of a row that was throttled just now: nothing was tried.
    pub(crate) fn throttled(pending: &PendingUpdates) -> Self {
        let oldest = pending.first_key_value().map_or(1, |(version, _)| *version);
        let error = AwsError::Throttled("the row was throttled a moment ago".to_owned());
        Self { failure: Some((oldest, error.into())), ..Self::default() }
    }

    /// Whether this call wrote the version into the row.
    pub(crate) fn has_written(&self, version: u64) -> bool {
        self.written.iter().any(|written| written.contains(&version))
    }
}

/// The update that an event makes; `None` where the bus left out its data, which is in the event store.
pub(crate) fn update_of(spec: &ProjectionSpec, envelope: &Envelope) -> Result<Option<RowUpdate>, ApplyError> {
    // The update is the application's own code.
    let update = catch_unwind(AssertUnwindSafe(|| (spec.update)(envelope)));
    Ok(update.map_err(|_| ApplyError::Panicked)??)
}

/// The update that an event of the event store makes.
pub(crate) fn update_of_stored(spec: &ProjectionSpec, event: &StoredEvent) -> Result<RowUpdate, ApplyError> {
    let update = update_of(spec, &event.envelope)?;
    update.ok_or_else(|| ApplyError::Projection(DecodeError::Malformed("no data".to_owned()).into()))
}

/// Two consecutive updates in one. `None` where the second must be written by itself, so that it fails by itself.
pub(crate) fn merge(first: RowUpdate, second: RowUpdate) -> Option<RowUpdate> {
    // This may call a fold of the application.
    catch_unwind(AssertUnwindSafe(|| first.merge(second))).ok().flatten()
}

/// Consecutive updates in one, up to the first failure.
struct UpdateBuilder {
    update: Option<RowUpdate>,
    /// The version that they lead to.
    version: u64,
    gaps: u64,
    /// Whether the next update has to be written by itself.
    is_full: bool,
    failure: Option<(u64, ApplyError)>,
}

/// A row to bring up to date.
pub(crate) struct RowUpdater<'a, W, R> {
    /// The projection.
    pub(crate) spec: &'a ProjectionSpec,
    /// The stream whose events the row takes.
    pub(crate) stream: &'a StreamId,
    /// The updates that the batch brought.
    pub(crate) pending: &'a PendingUpdates,
    /// The store of the row.
    pub(crate) rows: &'a W,
    /// The store of the history.
    pub(crate) events: &'a R,
}

impl<W: WriteRows, R: ReadEvents> RowUpdater<'_, W, R> {
    /// Brings the row up to the newest event that the batch brought.
    ///
    /// The first write assumes that the row is at the version before the oldest event. In the usual case it is, and
    /// that was the only request; in any other the refused write tells the row's version. Where the application fails
    /// over several merged events, fewer are tried each time, so that the events before the bad one are applied.
    pub(crate) async fn bring_up_to_date(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let (Some((oldest, _)), Some((newest, _))) =
            (self.pending.first_key_value(), self.pending.last_key_value())
        else {
            return outcome;
        };
        let (mut version, mut most, mut rounds) = (oldest.saturating_sub(1), MAX_EVENTS, 0);
        while version < *newest && outcome.failure.is_none() {
            let built = self.build(version, (*newest).min(version.saturating_add(most))).await;
            let Some(update) = built.update else {
                outcome.failure = built.failure;
                break;
            };
            let events = update.to_version - update.from_version;
            match self.write(&update).await {
                Ok(WriteOutcome::Applied) => {
                    version = update.to_version;
                    outcome.reached = version;
                    outcome.written.push(update.from_version + 1..=version);
                    outcome.gaps += built.gaps;
                    outcome.failure = built.failure;
                }
                Ok(WriteOutcome::VersionMismatch(found)) => {
                    version = found;
                    outcome.reached = outcome.reached.max(found);
                    rounds += 1;
                    if rounds == ROUNDS && found < *newest {
                        outcome.failure = Some((outcome.reached.saturating_add(1), ApplyError::Contended));
                    }
                }
                Err(error) if error.is_of_an_event() && events > 1 => most = events / 2,
                Err(error) => outcome.failure = Some((update.from_version + 1, error)),
            }
        }
        outcome
    }

    async fn write(&self, update: &RowUpdate) -> Result<WriteOutcome, ApplyError> {
        // An update that folds is the application's own code.
        let written = AssertUnwindSafe(self.rows.write(update)).catch_unwind().await;
        Ok(written.map_err(|_| ApplyError::Panicked)??)
    }

    /// The update that leads from one version to another: from the batch, and from the event store where the batch has
    /// gaps.
    async fn build(&self, from: u64, to: u64) -> UpdateBuilder {
        let mut built = UpdateBuilder { update: None, version: from, gaps: 0, is_full: false, failure: None };
        while built.version < to && built.is_open() {
            match self.pending.get(&(built.version + 1)) {
                Some(Some(update)) => built.add(Ok(update.clone())),
                absent @ (None | Some(None)) => {
                    built.gaps += u64::from(absent.is_none());
                    self.fetch(&mut built, to).await;
                }
            }
        }
        built
    }

    /// Adds a page of the events that follow, up to `to` or to the next event that the batch brought.
    async fn fetch(&self, built: &mut UpdateBuilder, to: u64) {
        let pending = self.pending.range(built.version + 1..).find(|(_, update)| update.is_some());
        let until = pending.map_or(to, |(next, _)| next - 1).min(to);
        let limit = u16::try_from(until - built.version).unwrap_or(PAGE).min(PAGE);
        match self.events.page(self.stream, built.version, limit).await {
            Ok(page) if page.events.is_empty() => built.add(Err(ApplyError::NotStored)),
            Ok(page) => page.events.iter().for_each(|event| built.add(update_of_stored(self.spec, event))),
            Err(error) => built.add(Err(error.into())),
        }
    }
}

impl UpdateBuilder {
    fn is_open(&self) -> bool {
        self.failure.is_none() && !self.is_full
    }

    /// Adds the update of the next event. Nothing follows a failure, or an update that must be written by itself.
    fn add(&mut self, update: Result<RowUpdate, ApplyError>) {
        if !self.is_open() {
            return;
        }
        let update = match update {
            Ok(update) => update,
            Err(error) => return self.failure = Some((self.version + 1, error)),
        };
        let merged = match &self.update {
            None => Some(update),
            Some(before) => merge(before.clone(), update),
        };
        match merged {
            Some(merged) => {
                self.version += 1;
                self.update = Some(merged);
            }
            None => self.is_full = true,
        }
    }
}
