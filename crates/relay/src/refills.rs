//! Asking for a refill from the table.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use millrace_aws::AwsError;
use millrace_core::Timestamp;
use tokio::sync::{Mutex, Notify};
use tracing::warn;

use super::{
    leases::{LeaseTable, Leases, RefillJob},
    meters,
    time::since,
};

/// The refills that this process knows of.
///
/// After an outage of more than a day every shard of the stream wants one. One for all is written down in the table of
/// leases; its segments are then taken and done as shards are, by all replicas, beside what is new in the stream.
#[derive(Clone, Default)]
pub(super) struct Refills {
    known: Arc<Mutex<Vec<RefillJob>>>,
    /// Tells that there is one more to be done.
    pub(super) asked: Arc<Notify>,
}

/// What a shard wants of a refill.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    /// From when on it wants the table's events.
    pub(super) since: Timestamp,
    pub(super) now: Timestamp,
    /// What the stream has lost is at least as old. So a refill will do that began since: what was stored after its
    /// beginning is still in the stream.
    pub(super) trust: Duration,
    pub(super) segments: NonZeroU32,
}

impl Wish {
    fn is_served_by(&self, refill: &RefillJob) -> bool {
        refill.since <= self.since && since(refill.begun, self.now) <= self.trust
    }
}

impl Refills {
    /// The refill that serves a wish. It is in the table of leases, so it will be done whatever becomes of this process.
    ///
    /// Where there is none, one is written down; `others` is from when on it should begin for all shards' sake.
    pub(super) async fn wish<L: Leases>(
        &self,
        leases: &L,
        wish: Wish,
        others: impl Fn(&LeaseTable) -> Option<Timestamp>,
    ) -> Result<RefillJob, AwsError> {
        // One asks, and the others find what it got.
        let mut known = self.known.lock().await;
        if let Some(refill) = known.iter().find(|refill| wish.is_served_by(refill)) {
            return Ok(*refill);
        }
        loop {
            let table = leases.list().await?;
            known.clone_from(&table.refills);
            if let Some(refill) = known.iter().find(|refill| wish.is_served_by(refill)) {
                return Ok(*refill);
            }
            let number = known.iter().map(|refill| refill.number).max().unwrap_or_default().saturating_add(1);
            let since = others(&table).map_or(wish.since, |others| others.min(wish.since));
            let refill = RefillJob { number, since, begun: wish.now, segments: wish.segments };
            if leases.begin_refill(&refill).await? {
                meters::refill();
                warn!(number, %since, "refilling from the table");
                known.push(refill);
                self.asked.notify_one();
                return Ok(refill);
            }
        }
    }
}
