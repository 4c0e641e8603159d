//! Asking for a refill from the table.

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
/// After an outage of more than a day every shard of the stream wants one. One for all is written down in the table of
/// leases; its segments are then taken and done as shards are, by all replicas, beside what is new in the stream.
#[derive(Clone, Default)]
pub(super) struct Refills {
    last: Arc<Mutex<Option<Unbegun>>>,
    /// Tells that there is one more to be done.
    pub(super) asked: Arc<Notify>,
}

/// A refill that nobody had begun.
#[derive(Debug, Clone, Copy)]
struct Unbegun {
    refill: RefillJob,
    /// By this process's own sense of time, from then on or before.
    seen: Instant,
}

/// What a shard wants of a refill.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    /// From when on it wants the table's events.
    pub(super) since: Timestamp,
    pub(super) now: Timestamp,
    pub(super) segments: NonZeroU32,
}

impl Refills {
    /// Sees to it that every event which was stored before this call, and is as young as the wish says, is published from
    /// the table. The refill is in the table of leases then, so it will be done whatever becomes of this process.
    ///
    /// Only a refill that nobody has begun serves a wish: one that is under way may have passed what was stored, and lost,
    /// since it began. Where there is none, one is written down; `others` is from when on it should begin for all shards'
    /// sake.
    pub(super) async fn wish<L: Leases>(
        &self,
        leases: &L,
        wish: Wish,
        others: impl Fn(&LeaseTable) -> Option<Timestamp>,
    ) -> Result<(), AwsError> {
        let wished = Instant::now();
        let mut last = self.last.lock().await;
        // One asks, and the others that waited meanwhile find what it got.
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
        leases::{Checkpoint, Lease, Progress},
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
                let lease = Lease { shard, owner: None, fence: 1, expires_at: at(0), progress };
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
