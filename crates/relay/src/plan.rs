//! The leases that a replica should take or give up. Pure.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use millrace_core::Timestamp;
use tokio::time::Instant;

use super::{
    config::RelayConfig,
    leases::{Checkpoint, LOOKER, Lease, LeaseTable, Parent, Progress, RefillJob, Replica},
    look::lease_of_looker,
    stream::{Position, ShardId},
    time::{after, hash_of, since, whole_millis},
};

/// How long a finished lease is kept once its shard is no longer listed. Longer than the stream's retention, so that a
/// reader with an old list does not take the shard for a new one.
const KEEP_FINISHED: Duration = Duration::from_secs(48 * 60 * 60);

/// How long a vanished replica stays in the table.
const KEEP_VANISHED: Duration = Duration::from_secs(60 * 60);

/// A replica's view of the world.
pub(super) struct View<'a> {
    pub(super) config: &'a RelayConfig,
    pub(super) now: Timestamp,
    pub(super) table: &'a LeaseTable,
    /// The shards that this replica reads.
    pub(super) held: &'a HashSet<ShardId>,
    pub(super) sightings: &'a Sightings,
}

/// A replica's plan.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Leases to take.
    pub(super) claims: Vec<Claim>,
    /// The lease of the looker, if it is free.
    pub(super) look: Option<Claim>,
    /// Shards to leave to other replicas.
    pub(super) surplus: Vec<ShardId>,
    /// Finished leases of segments to delete.
    pub(super) forgotten: Vec<Lease>,
    /// Finished refills to delete.
    pub(super) ended: Vec<RefillJob>,
    /// Vanished replicas to delete.
    pub(super) vanished: Vec<Replica>,
    /// The longest time for which a readable shard has been without an owner.
    pub(super) unread: Duration,
}

/// A lease to take.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Claim {
    /// The first lease of its shard.
    Create(Lease),
    /// A lease without a living owner, as read from the table.
    Take(Lease),
}

impl Plan {
    /// Shares the readable shards and the open segments of refills out among the present replicas. Each replica plans
    /// alone; if two want the same lease, the table gives it to one of them.
    pub(super) fn of(view: &View<'_>) -> Self {
        let leases: HashMap<&ShardId, &Lease> = by_shard(&view.table.leases);
        let mut plan = Self { look: view.look(), ..Self::default() };
        // A shard that is readable has a lease.
        plan.share(view, view.preferred(view.readable(&leases)), &leases, usize::MAX, |shard| {
            view.new_lease(shard)
        });
        plan.refill(view);
        if plan.claims.is_empty() {
            (plan.forgotten, plan.ended) = (view.forgotten(), view.ended());
        }
        plan.vanished = view.vanished();
        plan
    }

    /// Takes this replica's share of the `open` leases, in their order, and gives up any beyond it. No replica holds
    /// more than `most` of them, so some may have to wait.
    fn share(
        &mut self,
        view: &View<'_>,
        open: Vec<ShardId>,
        leases: &HashMap<&ShardId, &Lease>,
        most: usize,
        first_lease: impl Fn(&ShardId) -> Lease,
    ) {
        let holdings = view.holdings(leases);
        let share = open.len().div_ceil(holdings.len()).min(most);
        let (held, others): (Vec<_>, Vec<_>) = open.iter().partition(|shard| view.held.contains(shard));

        let before = self.claims.len();
        for shard in &others {
            let overdue = most == usize::MAX && view.sightings.age(shard) >= 2 * view.config.lease_duration;
            let wanted = held.len() + self.claims.len() - before < share || overdue;
            match leases.get(shard) {
                _ if !wanted => {}
                None => self.claims.push(Claim::Create(first_lease(shard))),
                Some(lease) if view.is_free(lease) => self.claims.push(Claim::Take((*lease).clone())),
                Some(_) => {}
            }
        }
        // If all leases are taken and a replica has less than an equal share, rounded down, the others keep only that.
        let least = (open.len() / holdings.len()).min(most);
        let all_taken = open.iter().all(|shard| leases.get(shard).is_some_and(|lease| !view.is_free(lease)));
        let kept = if all_taken && holdings.values().any(|count| *count < least) { least } else { share };
        self.surplus.extend(held.into_iter().skip(kept).cloned());
        let unread =
            others.into_iter().filter(|shard| leases.get(shard).is_none_or(|lease| view.is_free(lease)));
        let unread = unread.map(|shard| view.sightings.age(shard)).max().unwrap_or_default();
        self.unread = self.unread.max(unread);
    }

    /// Shares the segments of refills out as shards are, those of older refills first: a waiting refill also serves the
    /// shards that ask for one meanwhile.
    fn refill(&mut self, view: &View<'_>) {
        let leases = by_shard(&view.table.segments);
        let is_open = |segment: &ShardId| leases.get(segment).is_none_or(|lease| !lease.is_finished());
        let mut refills: Vec<&RefillJob> = view.table.refills.iter().collect();
        refills.sort_unstable_by_key(|refill| refill.number);
        let (mut open, mut since) = (Vec::new(), HashMap::new());
        for refill in refills {
            let segments = view.preferred(refill.segments().filter(is_open).collect());
            since.extend(segments.iter().map(|segment| (segment.clone(), refill.since)));
            open.extend(segments);
        }
        // A segment that waits for its turn does not count as an unread shard.
        let unread = self.unread;
        self.share(view, open, &leases, view.config.refills_at_once, |segment| Lease {
            progress: Progress {
                checkpoint: Checkpoint::At(Position::TrimHorizon),
                time: since.get(segment).copied().unwrap_or(view.now),
            },
            ..view.new_lease(segment)
        });
        self.unread = unread;
    }
}

fn by_shard(leases: &[Lease]) -> HashMap<&ShardId, &Lease> {
    leases.iter().map(|lease| (&lease.shard, lease)).collect()
}

impl View<'_> {
    /// Every replica has its own order of preference, so that few want the same lease at the same time.
    fn preferred(&self, mut shards: Vec<ShardId>) -> Vec<ShardId> {
        shards.sort_by_cached_key(|shard| hash_of((&self.config.owner, shard)));
        shards
    }

    /// Unfinished shards whose parents are finished, or gone from the table in two readings of it.
    ///
    /// A parent that vanished from the stream unfinished is refilled from the table. Its children do not wait for that:
    /// after a refill there is no order left to keep. A lease of a release that did not write parents waits for the
    /// looker to add the parent, unless the shard was read already.
    fn readable(&self, leases: &HashMap<&ShardId, &Lease>) -> Vec<ShardId> {
        let done = |lease: &Lease, parent: &ShardId| match leases.get(parent) {
            Some(parent) => parent.is_finished() || parent.is_unlisted,
            // A reading of the table is no snapshot: the one that meets a new child may have passed its parent's place
            // before the parent's lease was there. The next one has both, as had the reading of a replica that owns it.
            None => lease.owner.is_some() || !self.sightings.age(&lease.shard).is_zero(),
        };
        let is_begun = |lease: &Lease| lease.progress.checkpoint != Checkpoint::At(Position::TrimHorizon);
        let is_ready = |lease: &&Lease| match &lease.parent {
            _ if lease.is_finished() => false,
            _ if lease.is_unlisted || is_begun(lease) => true,
            Parent::Unknown => false,
            Parent::None => true,
            Parent::Shard(parent) => done(lease, parent),
        };
        self.table.leases.iter().filter(is_ready).map(|lease| lease.shard.clone()).collect()
    }

    fn look(&self) -> Option<Claim> {
        if self.held.contains(&ShardId::from(LOOKER)) {
            return None;
        }
        let expires_at = whole_millis(after(self.now, self.config.lease_duration));
        match &self.table.looker {
            None => Some(Claim::Create(lease_of_looker(&self.config.owner, expires_at, self.now))),
            Some(lease) => self.is_free(lease).then(|| Claim::Take(lease.clone())),
        }
    }

    /// How many of these leases each present replica holds. Present are this one, the announced ones, and all owners.
    fn holdings<'a>(&'a self, leases: &HashMap<&ShardId, &'a Lease>) -> HashMap<&'a str, usize> {
        let announced =
            self.table.replicas.iter().filter(|r| r.expires_at > self.now).map(|r| r.owner.as_str());
        let this = self.config.owner.as_str();
        let mut holdings: HashMap<&str, usize> = announced.chain([this]).map(|owner| (owner, 0)).collect();
        for lease in leases.values().filter(|lease| !lease.is_finished() && !self.is_free(lease)) {
            if let Some(owner) = &lease.owner {
                *holdings.entry(owner).or_default() += 1;
            }
        }
        holdings
    }

    /// Whether the lease is free: it has expired, or this process has seen no renewal for its whole life, which needs
    /// no agreement between clocks. A lease in our name for a shard that we do not read was taken by a call whose reply
    /// was lost.
    fn is_free(&self, lease: &Lease) -> bool {
        let Some(owner) = &lease.owner else { return true };
        let unrenewed =
            self.sightings.age(&lease.shard) > self.config.lease_duration + self.config.renew_interval;
        let ours_unread = *owner == self.config.owner && !self.held.contains(&lease.shard);
        lease.expires_at <= self.now || unrenewed || ours_unread
    }

    /// A lease of this replica.
    fn new_lease(&self, shard: &ShardId) -> Lease {
        Lease {
            shard: shard.clone(),
            owner: Some(self.config.owner.clone()),
            fence: 1,
            expires_at: whole_millis(after(self.now, self.config.lease_duration)),
            progress: Progress { checkpoint: Checkpoint::At(Position::TrimHorizon), time: self.now },
            parent: Parent::Unknown,
            is_unlisted: false,
        }
    }

    fn forgotten(&self) -> Vec<Lease> {
        // The refill goes first, or its segments would count as not yet begun.
        let refilled: HashSet<ShardId> = self.table.refills.iter().flat_map(RefillJob::segments).collect();
        let segments = self.table.segments.iter().filter(|lease| !refilled.contains(&lease.shard));
        segments.filter(|lease| is_over(lease, self.now)).cloned().collect()
    }

    fn ended(&self) -> Vec<RefillJob> {
        let over = self.table.segments.iter().filter(|lease| is_over(lease, self.now));
        let over: HashSet<&ShardId> = over.map(|lease| &lease.shard).collect();
        let is_over = |refill: &&RefillJob| refill.segments().all(|segment| over.contains(&segment));
        self.table.refills.iter().filter(is_over).copied().collect()
    }

    fn vanished(&self) -> Vec<Replica> {
        let old = |replica: &&Replica| since(replica.expires_at, self.now) > KEEP_VANISHED;
        self.table.replicas.iter().filter(old).cloned().collect()
    }
}

/// Whether a finished lease may be deleted, once its shard is no longer listed.
pub(super) fn is_over(lease: &Lease, now: Timestamp) -> bool {
    lease.is_finished() && since(lease.expires_at, now) > KEEP_FINISHED
}

/// When each lease was last seen to change, by this process's monotonic clock.
#[derive(Debug)]
pub(super) struct Sightings {
    seen: HashMap<ShardId, (u64, Timestamp, Instant)>,
    now: Instant,
}

impl Sightings {
    pub(super) fn new() -> Self {
        Self { seen: HashMap::new(), now: Instant::now() }
    }

    /// Looks at all leases that are not finished, and at the looker's.
    pub(super) fn look(&mut self, table: &LeaseTable) {
        self.now = Instant::now();
        let open = table.leases.iter().chain(&table.segments).filter(|lease| !lease.is_finished());
        let mut before = std::mem::take(&mut self.seen);
        for Lease { shard, fence, expires_at, .. } in open.chain(&table.looker) {
            let same = before.remove(shard).filter(|(f, e, _)| (f, e) == (fence, expires_at));
            let first = same.map_or(self.now, |(_, _, first)| first);
            self.seen.insert(shard.clone(), (*fence, *expires_at, first));
        }
    }

    /// How long the shard's lease has been unchanged.
    fn age(&self, shard: &ShardId) -> Duration {
        self.seen.get(shard).map_or(Duration::ZERO, |(_, _, first)| self.now.duration_since(*first))
    }
}

#[cfg(test)]
mod tests;
