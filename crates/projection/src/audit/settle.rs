//! A closer look at the row of one stream, and its repair.
//!
//! The row is read before its stream, both strongly consistent. So every event in the row is seen in the stream, even
//! during writes, and a slow look finds no false fault. A row may lag behind for a while, though: it is given the
//! audit's grace.
//!
//! Where rows sum up aggregates, the row of a stream is its part.

use std::{num::NonZeroU32, time::Duration};

use millrace_aws::Segment;
use millrace_core::StreamId;
use millrace_event_store::ScanEvents;
use millrace_rows::AuditRows;
use tokio::time::Instant;

use super::{
    SOON,
    checked::Checked,
    finding::{Finding, Kind, Place, Repair, Step},
    fold::Fold,
};
use crate::{
    ApplyError,
    apply::{PendingUpdates, RowUpdater},
    pace::Halt,
};

/// How often a repair is tried again because the row was written meanwhile.
pub(super) const ROUNDS: u32 = 5;

/// The result of a closer look.
struct Look<R> {
    /// The row, if there is one.
    row: Option<R>,
    /// Its version, if it has one.
    version: Option<u64>,
    /// Its stream, read after it.
    fold: Fold,
    /// The kind of fault.
    kind: Option<Kind>,
    /// The attributes in which it differs from the fold of its history up to its version.
    differences: Vec<String>,
}

impl<W: AuditRows, E: ScanEvents> Checked<W, E> {
    /// Looks at a row, repeatedly where it may only be late, and deals with a fault. `due` is the newest version that
    /// the scan saw of the stream; `None` where the scan saw a row and no event.
    pub(super) async fn settle_stream(
        &self,
        stream: &StreamId,
        due: Option<u64>,
    ) -> Result<Vec<Finding>, Halt> {
        let (mut deadline, mut wait) = (None, SOON);
        loop {
            let until = {
                let _turn = self.shared.turn().await?;
                let look = self.look(stream, due).await?;
                let now = Instant::now();
                // The deadline is that of the first look's newest event: newer events would put it off for ever.
                let until = *deadline.get_or_insert_with(|| now + self.grace(&look));
                if now >= until || !matches!(look.kind, Some(Kind::Missing | Kind::Behind)) {
                    return self.deal_with(stream, due, look).await;
                }
                until
            };
            self.shared.until(until.min(Instant::now() + wait)).await?;
            wait *= 2;
        }
    }

    /// Whether the event store has any item. A process that went on with a run has perhaps met none itself.
    async fn store_has_events(&self) -> Result<bool, Halt> {
        let tally = &self.shared.report.tally;
        let whole = Segment { number: 0, of: NonZeroU32::MIN };
        let mut from = None;
        while !tally.has_met_events() {
            let page =
                self.shared.call("looking for an event", || self.events.scan(whole, from.as_ref())).await?;
            self.shared.took(page.read_units);
            if !page.items.is_empty() {
                tally.meets_events();
            } else if page.next.is_none() {
                return Ok(false);
            }
            from = page.next;
        }
        Ok(true)
    }

    /// How long a row may still be late.
    fn grace(&self, look: &Look<W::Row>) -> Duration {
        let Some(latest) = look.fold.latest else { return Duration::ZERO };
        let age = self.shared.now().unix_micros().saturating_sub(latest.unix_micros());
        // With a wrong clock an event seems to lie in the future.
        let age = Duration::from_micros(u64::try_from(age).unwrap_or_default());
        self.shared.settings.grace.saturating_sub(age)
    }

    /// The findings; repaired if the options say so.
    async fn deal_with(
        &self,
        stream: &StreamId,
        due: Option<u64>,
        look: Look<W::Row>,
    ) -> Result<Vec<Finding>, Halt> {
        let mut findings = Vec::new();
        if due.is_none() && look.fold.newest > 0 {
            // The row was suspected to have no events. It has some, so the forward pass has looked at it.
            return Ok(findings);
        }
        let place = Place::Stream(stream.clone());
        if let Some((version, obstacle)) = &look.fold.obstacle {
            let mut finding = Finding::new(Kind::Unreadable, Some(self.label), place.clone());
            finding.row = look.version;
            finding.store = Some(look.fold.newest);
            finding.version = Some(*version);
            finding.reason = Some((obstacle.reason(), obstacle.to_string()));
            findings.push(finding);
        }
        let Some(kind) = look.kind else { return Ok(findings) };
        // The scan may have met the stream in pieces, and an old one of them led here.
        let is_behind = look.version.is_some_and(|version| version < look.fold.folded);
        let is_late = is_behind && self.grace(&look).is_zero();
        let kind = if kind == Kind::Different && is_late { Kind::Behind } else { kind };
        let look = Look { kind: Some(kind), ..look };
        let mut finding = Finding::new(kind, Some(self.label), place);
        finding.row = look.version;
        finding.store = Some(look.fold.newest).filter(|newest| *newest > 0);
        finding.attributes.clone_from(&look.differences);
        if kind == Kind::Orphaned && !self.store_has_events().await? {
            // It is more likely the wrong one, or not restored yet, than that every row should go; and if so, emptying
            // the table is quicker.
            let why = "the event store is empty, and no row is deleted for that: is it the right one?";
            finding.reason = Some(("empty_store", why.to_owned()));
        } else if self.shared.settings.repair {
            finding.repair = Some(self.repair(stream, due, look).await?);
        }
        findings.push(finding);
        Ok(findings)
    }

    /// Reads a row and then its stream. The row should be at `due` at least, as far as that can be read.
    async fn look(&self, stream: &StreamId, due: Option<u64>) -> Result<Look<W::Row>, Halt> {
        let row = self.read(vec![stream.clone()]).await?.remove(stream);
        let version = row.as_ref().and_then(W::version);
        let (mut fold, mut from) = (Fold::default(), None);
        let mut then = None;
        loop {
            let page =
                self.shared.call("reading a stream", || self.events.look(stream, from.as_ref())).await?;
            self.shared.took(page.read_units);
            for item in &page.items {
                fold.add(&self.spec, item);
                if then.is_none() && Some(fold.folded) == version {
                    then.clone_from(&fold.update);
                }
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        let differences = match (&row, &then) {
            (Some(row), Some(then)) => self.differences(row, then)?,
            (Some(_) | None, Some(_) | None) => Vec::new(),
        };
        let due = due.unwrap_or_default().min(fold.folded);
        let kind = match (&row, version) {
            (None, _) if due > 0 => Some(Kind::Missing),
            (None, _) => None,
            (Some(_), _) if fold.newest == 0 => Some(Kind::Orphaned),
            (Some(_), Some(version)) if version > fold.newest => Some(Kind::Ahead),
            (Some(_), Some(version)) if version < due => Some(Kind::Behind),
            (Some(_), Some(_)) if !differences.is_empty() => Some(Kind::Different),
            (Some(_), Some(_)) => None,
            (Some(_), None) => Some(Kind::Different),
        };
        let differences =
            if row.is_some() && version.is_none() { vec!["Version".to_owned()] } else { differences };
        Ok(Look { row, version, fold, kind, differences })
    }

    /// Repairs a row. The write is on the condition that the row is as it was found; where that fails, or the row is
    /// still wrong afterwards, the row is looked at again.
    async fn repair(
        &self,
        stream: &StreamId,
        suspected: Option<u64>,
        look: Look<W::Row>,
    ) -> Result<Repair, Halt> {
        let mut repair = Repair::default();
        let mut look = look;
        for _ in 0..ROUNDS {
            let step = match (look.kind, &look.row, &look.fold.update) {
                (None, ..) => break,
                (Some(Kind::Missing | Kind::Behind), ..) => {
                    self.bring_up(stream, look.version, look.fold.folded).await?.then_some(Step::Written)
                }
                (Some(Kind::Different | Kind::Ahead), Some(row), Some(update)) => {
                    let replace = || self.rows.replace(row, update);
                    match self.shared.attempt("replacing a row", replace).await? {
                        Ok(replaced) => replaced.then_some(Step::Replaced),
                        Err(_) => return Ok(repair),
                    }
                }
                (Some(Kind::Orphaned), Some(row), _) => {
                    match self.shared.attempt("deleting a row", || self.rows.delete(row)).await? {
                        Ok(deleted) => deleted.then_some(Step::Deleted),
                        Err(_) => return Ok(repair),
                    }
                }
                // There is no valid row to put in its place.
                (
                    Some(Kind::Different | Kind::Ahead | Kind::Orphaned | Kind::Unreadable | Kind::Busy),
                    ..,
                ) => return Ok(repair),
            };
            repair.add(step);
            let due = match step {
                // While the row was ahead, the projector dropped new events as known: no other process will write them
                // now.
                Some(Step::Replaced | Step::Deleted) => Some(u64::MAX),
                Some(Step::Written) | None => suspected,
            };
            look = self.look(stream, due).await?;
        }
        repair.healed = look.kind.is_none();
        Ok(repair)
    }

    /// Brings a row from the version at which it was found to a newer one, the way the projector heals a gap. Returns
    /// whether it wrote anything.
    async fn bring_up(&self, stream: &StreamId, from: Option<u64>, to: u64) -> Result<bool, Halt> {
        // Without data, so that the events are fetched; the first one gives the beginning.
        let first = from.unwrap_or_default().saturating_add(1).min(to);
        let pending: PendingUpdates = [(first, None), (to, None)].into();
        let row = RowUpdater {
            spec: &self.spec,
            stream,
            pending: &pending,
            rows: &self.rows,
            events: &self.events,
        };
        let row = &row;
        let written = self.shared.call("writing a row", || async move {
            let outcome = row.bring_up_to_date().await;
            match outcome.failure {
                Some((_, ApplyError::Aws(error))) => Err(error),
                Some(_) | None => Ok(!outcome.written.is_empty()),
            }
        });
        written.await
    }
}
