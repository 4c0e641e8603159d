//! Requests for refills from the table.

use std::{num::NonZeroU32, sync::Arc};

use millrace_aws::AwsError;
use millrace_core::Timestamp;
use tokio::{
    sync::{Mutex, Notify},
    time::Instant,
};
use tracing::warn;

use super::{
    leases::{LeaseTable, Leases, RefillJob},
    meters,
};

/// Refills that shards ask for.
///
/// After an outage of more than a day every shard of the stream needs one. One refill for all of them is written into
/// the lease table. All replicas then share its segments as they share shards, and live events do not wait for it.
#[derive(Clone, Default)]
pub(super) struct Refills {
    last: Arc<Mutex<Option<Unbegun>>>,
    /// Notified when a refill is written down.
    pub(super) asked: Arc<Notify>,
}

/// A refill of which no segment had been taken.
#[derive(Debug, Clone, Copy)]
struct Unbegun {
    refill: RefillJob,
    /// When the table was about to be read, by this process's monotonic clock; the refill had not begun then.
    seen: Instant,
}

/// A shard's request for a refill.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    /// The time of the oldest event that the shard needs.
    pub(super) since: Timestamp,
    pub(super) now: Timestamp,
    pub(super) segments: NonZeroU32,
}

impl Refills {
    /// Ensures that the table's events of the requested time and later, stored before this call, will be published. On
    /// return the refill is in the lease table, so it is done even if this process dies.
    ///
    /// Only a refill of which no segment has been taken serves a request: one under way may have passed events that
    /// were stored, and lost, since it began. If there is none, one is written down. `others` is the time at which it
    /// should begin to serve all shards.
    pub(super) async fn wish<L: Leases>(
        &self,
        leases: &L,
        wish: Wish,
        others: impl Fn(&LeaseTable) -> Option<Timestamp>,
    ) -> Result<(), AwsError> {
        let wished = Instant::now();
        let mut last = self.last.lock().await;
        // One shard writes the refill down; shards that waited for the lock meanwhile share it.
        if last.is_some_and(|last| last.seen > wished && last.refill.since <= wish.since) {
            return Ok(());
        }
        loop {
            let seen = Instant::now();
            let table = leases.list().await?;
            let serves = |refill: &&RefillJob| refill.since <= wish.since && !table.has_begun(refill);
            if let Some(refill) = table.refills.iter().find(serves) {
                *last = Some(Unbegun { refill: *refill, seen });
                return Ok(());
            }
            let since = others(&table).map_or(wish.since, |others| others.min(wish.since));
            let refill = RefillJob { number: table.next_number(wish.now), since, segments: wish.segments };
            if leases.begin_refill(&refill).await? {
                meters::refill();
                warn!(refill.number, %since, "refilling from the table");
                *last = Some(Unbegun { refill, seen });
                self.asked.notify_one();
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        leases::{Checkpoint, Lease, Parent, Progress},
        memory::MemoryLeases,
        stream::Position,
    };

    #[tokio::test]
    async fn only_a_refill_that_nobody_has_begun_and_that_reaches_back_far_enough_serves_a_wish() {
        let (refills, leases) = (Refills::default(), MemoryLeases::default());
        let at = Timestamp::from_unix_micros;
        let wish = async |since, now| {
            let wish = Wish { since: at(since), now: at(now), segments: NonZeroU32::MIN };
            refills.wish(&leases, wish, |_| Some(at(50))).await.unwrap();
            leases.list().await.unwrap().refills
        };
        let begin = async |refill: &RefillJob| {
            let progress = Progress { checkpoint: Checkpoint::At(Position::TrimHorizon), time: refill.since };
            for shard in refill.segments() {
                let progress = progress.clone();
                let lease = Lease {
                    shard,
                    owner: None,
                    fence: 1,
                    expires_at: at(0),
                    progress,
                    parent: Parent::Unknown,
                    is_unlisted: false,
                };
                assert!(leases.create(&lease).await.unwrap());
            }
        };
        let first = wish(60, 100).await;
        assert_eq!(first, [RefillJob { number: 100, since: at(50), segments: NonZeroU32::MIN }]);
        assert_eq!(wish(50, 90).await, first, "it serves others");
        let both = wish(40, 90).await;
        assert_eq!((both[1].number, both[1].since), (101, at(40)), "the first does not reach back to there");
        begin(&both[0]).await;
        assert_eq!(wish(60, 110).await, both, "the second has not begun");
        begin(&both[1]).await;
        assert_eq!(wish(60, 110).await.last().map(|refill| refill.number), Some(110), "both have begun");
        for refill in leases.list().await.unwrap().refills {
            leases.end_refill(&refill).await.unwrap();
        }
        assert_eq!(wish(60, 120).await[0].number, 120, "no number is given twice");
    }
}
