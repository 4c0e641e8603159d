//! A closer look at a row that sums up aggregates, and its repair.
//!
//! The row is compared with the fold of its parts; the audit compares the parts with their streams as it does rows.
//! Parts are found by an index that lags behind them, and they may change while they are read. So a difference counts
//! only if it lasts for the audit's grace while the row stays at one version.

use millrace_core::row::RowKey;
use millrace_event_store::ScanEvents;
use millrace_rows::{AuditRows, Sum};
use tokio::time::Instant;

use super::{
    SOON,
    checked::Checked,
    finding::{Finding, Kind, Place, Repair, Step},
    settle::ROUNDS,
};
use crate::pace::Halt;

/// How often a differing row may change before it is reported as busy.
const MAX_CHANGES: u32 = 5;

impl<W: AuditRows, E: ScanEvents> Checked<W, E> {
    /// Looks at a row until it is right, or has been wrong for longer than the grace, and deals with a fault.
    pub(super) async fn settle_sum(&self, key: &RowKey) -> Result<Vec<Finding>, Halt> {
        let mut wait = SOON;
        let mut seen: Option<(Option<u64>, Instant)> = None;
        let mut changes = 0;
        loop {
            let until = {
                let _turn = self.shared.turn().await?;
                let sum = match self.sum(key).await? {
                    Ok(sum) => sum,
                    Err(finding) => return Ok(vec![finding]),
                };
                let Some(kind) = kind_of(&sum) else { return Ok(Vec::new()) };
                let (version, now) = (sum.row.as_ref().and_then(W::version), Instant::now());
                match seen {
                    Some((before, deadline)) if before == version => {
                        if now >= deadline {
                            return self.deal_with_sum(kind, sum).await;
                        }
                        deadline
                    }
                    Some(_) | None => {
                        changes += 1;
                        if changes > MAX_CHANGES {
                            return Ok(vec![self.finding_of_sum(Kind::Busy, &sum, None)]);
                        }
                        wait = SOON;
                        let deadline = now + self.shared.settings.grace;
                        seen = Some((version, deadline));
                        deadline
                    }
                }
            };
            self.shared.until(until.min(Instant::now() + wait)).await?;
            wait *= 2;
        }
    }

    /// The row beside the fold of its parts, or the finding that there is none, since a part cannot be read.
    async fn sum(&self, key: &RowKey) -> Result<Result<Sum<W::Row>, Finding>, Halt> {
        let detail = match self.shared.attempt("adding up parts", || self.rows.sum(key)).await? {
            Ok(sum) => {
                self.shared.took(sum.read_units);
                return Ok(Ok(sum));
            }
            Err(detail) => detail,
        };
        let mut finding = Finding::new(Kind::Unreadable, Some(self.label), Place::Row(key.clone()));
        finding.reason = Some(("bad_part", detail));
        Ok(Err(finding))
    }

    /// The findings; repaired if the options say so.
    async fn deal_with_sum(&self, kind: Kind, sum: Sum<W::Row>) -> Result<Vec<Finding>, Halt> {
        let mut findings = Vec::new();
        let repair = match self.shared.settings.repair {
            true => Some(self.repair_sum(&sum, &mut findings).await?),
            false => None,
        };
        findings.push(self.finding_of_sum(kind, &sum, repair));
        Ok(findings)
    }

    fn finding_of_sum(&self, kind: Kind, sum: &Sum<W::Row>, repair: Option<Repair>) -> Finding {
        let mut finding = Finding::new(kind, Some(self.label), Place::Row(sum.key.clone()));
        finding.row = sum.row.as_ref().and_then(W::version);
        finding.attributes.clone_from(&sum.differences);
        finding.repair = repair;
        finding
    }

    /// Replaces a row by the fold of its parts, on the condition that the row is as it was found.
    async fn repair_sum(&self, sum: &Sum<W::Row>, findings: &mut Vec<Finding>) -> Result<Repair, Halt> {
        let mut repair = Repair::default();
        let mut sum = sum.clone();
        for _ in 0..ROUNDS {
            let replaced = self.shared.call("replacing a row", || self.rows.replace_sum(&sum)).await?;
            repair.add(replaced.then_some(Step::Replaced));
            match self.sum(&sum.key).await? {
                Ok(now) => sum = now,
                Err(finding) => {
                    findings.push(finding);
                    break;
                }
            }
            repair.healed = kind_of(&sum).is_none();
            // A row that was not replaced has changed: its present differences may only be late.
            if repair.healed || !replaced {
                break;
            }
        }
        Ok(repair)
    }
}

/// The fault of a row that sums up aggregates.
fn kind_of<R>(sum: &Sum<R>) -> Option<Kind> {
    match &sum.row {
        None if sum.expected.is_empty() => None,
        None => Some(Kind::Missing),
        Some(_) if sum.differences.is_empty() => None,
        Some(_) if sum.parts == 0 => Some(Kind::Orphaned),
        Some(_) => Some(Kind::Different),
    }
}
