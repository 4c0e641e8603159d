//! A closer look at one row: what is wrong with it, and putting it right.
//!
//! The row is read before its stream, both strongly consistent. So an event that made the row is seen, whatever is
//! written meanwhile, and nothing is wrong with a row only because the look took its time. A row may lag behind for a
//! while, though; it is given the grace that the audit was told.

use std::time::Duration;

use millrace_domain::StreamId;
use millrace_event_store::ScanEvents;
use millrace_read_models::AuditRows;
use tokio::time::Instant;

use super::{
    Suspect,
    finding::{Finding, Kind, Place, Repair, Step},
    fold::Fold,
    rows::Checked,
};
use crate::{
    Failure,
    apply::{Brought, Row},
    pace::Halt,
    projection::Projection,
};

/// After how long a row that is late is looked at again for the first time; then after twice as long, and so on. Most
/// are late by less than a second.
const SOON: Duration = Duration::from_secs(1);

/// How often a row is repaired that is not right afterwards, since it was written meanwhile.
const ROUNDS: u32 = 5;

/// What a closer look shows.
struct Look<P: Projection, R> {
    /// The row, if there is one.
    row: Option<R>,
    /// Its version, if it has one.
    version: Option<u64>,
    /// Its stream, read after it.
    fold: Fold<P>,
    /// What is wrong with it.
    kind: Option<Kind>,
    /// In which attributes it differs from what its history comes to at its version.
    differences: Vec<&'static str>,
}

impl<P: Projection, W: AuditRows<P::Change>, E: ScanEvents> Checked<P, W, E> {
    /// Looks at a suspect, again and again where its row may only be late, and deals with what is wrong.
    pub(super) async fn settle_one(&self, suspect: &Suspect) -> Result<(), Halt> {
        let (mut deadline, mut wait) = (None, SOON);
        loop {
            let until = {
                let _turn = self.shared.turn().await?;
                let look = self.look(&suspect.stream, suspect.due).await?;
                let now = Instant::now();
                // Its newest event counts that there was at first: others would put it off for ever.
                let until = *deadline.get_or_insert_with(|| now + self.grace(&look));
                if now >= until || !matches!(look.kind, Some(Kind::Missing | Kind::Behind)) {
                    return self.deal_with(suspect, look).await;
                }
                until
            };
            self.shared.until(until.min(Instant::now() + wait)).await?;
            wait *= 2;
        }
    }

    /// How long a row may still be late.
    fn grace(&self, look: &Look<P, W::Row>) -> Duration {
        let Some(latest) = look.fold.latest else { return Duration::ZERO };
        let age = self.shared.now().unix_micros().saturating_sub(latest.unix_micros());
        // A clock that goes wrong makes an event look as if it were yet to come.
        let age = Duration::from_micros(u64::try_from(age).unwrap_or_default());
        self.shared.settings.grace.saturating_sub(age)
    }

    /// Reports what is wrong, and repairs it where that is asked for.
    async fn deal_with(&self, suspect: &Suspect, look: Look<P, W::Row>) -> Result<(), Halt> {
        if suspect.due.is_none() && look.fold.newest > 0 {
            // It was suspected to have no events. It has, so it has been looked at from their side.
            return Ok(());
        }
        let place = Place::Stream(suspect.stream.clone());
        if let Some((version, obstacle)) = &look.fold.obstacle {
            let mut finding = Finding::new(Kind::Unreadable, Some(P::NAME), place.clone());
            finding.row = look.version;
            finding.store = Some(look.fold.newest);
            finding.version = Some(*version);
            finding.reason = Some((obstacle.reason(), obstacle.to_string()));
            self.shared.report.finding(&finding)?;
        }
        let Some(kind) = look.kind else { return Ok(()) };
        let mut finding = Finding::new(kind, Some(P::NAME), place);
        finding.row = look.version;
        finding.store = Some(look.fold.newest).filter(|newest| *newest > 0);
        finding.attributes.clone_from(&look.differences);
        if kind == Kind::Orphaned && self.shared.report.tally.has_no_events() {
            // By then all of the event store has been read. It is rather another one, or not restored yet, than that all
            // rows are to go; and if they are, emptying their table is quicker.
            let why = "the event store is empty, and no row is deleted for that: is it the right one?";
            finding.reason = Some(("empty_store", why.to_owned()));
        } else if self.shared.settings.repair {
            finding.repair = Some(self.repair(suspect, look).await?);
        }
        self.shared.report.finding(&finding)
    }

    /// Reads a row and then its stream. The row should be at `due` at least, as far as that can be read.
    async fn look(&self, stream: &StreamId, due: Option<u64>) -> Result<Look<P, W::Row>, Halt> {
        let row = self.read(vec![stream.clone()]).await?.remove(stream);
        let version = row.as_ref().and_then(W::version);
        let (mut fold, mut from) = (Fold::<P>::default(), None);
        let mut then = None;
        loop {
            let page =
                self.shared.call("reading a stream", || self.events.look(stream, from.as_ref())).await?;
            self.shared.took(page.read_units);
            for met in &page.met {
                fold.add(met);
                if then.is_none() && Some(fold.folded) == version {
                    then.clone_from(&fold.change);
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
        let differences = if row.is_some() && version.is_none() { vec!["Version"] } else { differences };
        Ok(Look { row, version, fold, kind, differences })
    }

    /// Puts a row right. It is written on the condition that it is as it was found; where it is not any more, or not
    /// right afterwards, it is looked at again.
    async fn repair(&self, suspect: &Suspect, look: Look<P, W::Row>) -> Result<Repair, Halt> {
        let mut repair = Repair::default();
        let mut look = look;
        for _ in 0..ROUNDS {
            let step = match (look.kind, &look.row, &look.fold.change) {
                (None, ..) => break,
                (Some(Kind::Missing | Kind::Behind), ..) => self
                    .bring_up(&suspect.stream, look.version, look.fold.folded)
                    .await?
                    .then_some(Step::Written),
                (Some(Kind::Different | Kind::Ahead), Some(row), Some(change)) => self
                    .shared
                    .call("replacing a row", || self.rows.replace(row, change))
                    .await?
                    .then_some(Step::Replaced),
                (Some(Kind::Orphaned), Some(row), _) => self
                    .shared
                    .call("deleting a row", || self.rows.delete(row))
                    .await?
                    .then_some(Step::Deleted),
                // There is nothing that could be put in its place.
                (Some(Kind::Different | Kind::Ahead | Kind::Orphaned | Kind::Unreadable), ..) => {
                    return Ok(repair);
                }
            };
            if step.is_some() && repair.steps.last() != step.as_ref() {
                repair.steps.extend(step);
            }
            let due = match step {
                // While the row was newer than it should be, the projector took new events for known ones: no one else
                // will write them now.
                Some(Step::Replaced | Step::Deleted) => Some(u64::MAX),
                Some(Step::Written) | None => suspect.due,
            };
            look = self.look(&suspect.stream, due).await?;
        }
        repair.healed = look.kind.is_none();
        Ok(repair)
    }

    /// Brings a row from the version that it was found at to a newer one, the way the projector heals a gap. Says
    /// whether it wrote anything.
    async fn bring_up(&self, stream: &StreamId, from: Option<u64>, to: u64) -> Result<bool, Halt> {
        // Without data, so that the events are fetched; the first one says where to begin.
        let first = from.unwrap_or_default().saturating_add(1).min(to);
        let brought: Brought<P::Change> = [(first, None), (to, None)].into();
        let row = Row::<P, W, E> { stream, brought: &brought, rows: &self.rows, events: &self.events };
        let row = &row;
        let written = self.shared.call("writing a row", || async move {
            let outcome = row.bring_up_to_date().await;
            match outcome.failure {
                Some((_, Failure::Aws(error))) => Err(error),
                Some(_) | None => Ok(outcome.written.is_some()),
            }
        });
        written.await
    }
}
